"use strict";
// Histograms that filter, texts of the page, keys, stars. Every choice becomes an address.

window.__errors = [];
window.addEventListener("error", (event) => window.__errors.push(String(event.message)));
window.addEventListener("unhandledrejection", (event) => window.__errors.push(String(event.reason)));

const NS = "http://www.w3.org/2000/svg";

function made(name, className, ...inside) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...inside.filter((part) => part !== null && part !== ""));
  return element;
}

async function json(address) {
  const answer = await fetch(address);
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error || answer.statusText);
  return value;
}

// -- histograms ------------------------------------------------------------------------------

function value(histogram, share) {
  const at = histogram.lo + share * (histogram.hi - histogram.lo);
  return histogram.log ? 10 ** at : at;
}

function short(number) {
  return String(Number(number.toPrecision(3)));
}

function edge(histogram, share, up) {
  const at = value(histogram, share);
  return histogram.whole ? String(up ? Math.floor(at) : Math.ceil(at)) : short(at);
}

function within(histogram, bin) {
  if (!histogram.range) return true;
  const [low, high] = histogram.range.includes("..") ? histogram.range.split("..") : [histogram.range, histogram.range];
  const middle = value(histogram, (bin + 0.5) / histogram.counts.length);
  return (low === "" || middle >= Number(low)) && (high === "" || middle <= Number(high));
}

function rectangle(className, x, y, width, height) {
  const made = document.createElementNS(NS, "rect");
  for (const [name, number] of Object.entries({ x, y, width, height })) made.setAttribute(name, number);
  made.setAttribute("class", className);
  return made;
}

function filtered(query, name, range) {
  const search = new URLSearchParams(query);
  search.delete(name);
  search.delete("page");
  if (range) search.set(name, range);
  location.assign("latents?" + search.toString());
}

function drawn(histogram, query) {
  const { counts } = histogram, most = Math.max(1, ...counts), width = 100 / counts.length;
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", "0 0 100 60");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", histogram.title + ": histogram; filter by keyboard below");
  counts.forEach((count, bin) => {
    const height = count ? Math.max(1, (58 * count) / most) : 0;
    const bar = rectangle("bar" + (within(histogram, bin) ? "" : " out"), bin * width, 60 - height, width * 0.88, height);
    const title = document.createElementNS(NS, "title");
    title.textContent = edge(histogram, bin / counts.length, false) + " to " + edge(histogram, (bin + 1) / counts.length, true) + ": " + count.toLocaleString("en");
    bar.append(title);
    svg.append(bar);
  });
  const brush = rectangle("brush", 0, 0, 0, 60);
  svg.append(brush);
  let from = null;
  const share = (event) => {
    const box = svg.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  };
  svg.addEventListener("pointerdown", (event) => {
    from = share(event);
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    if (from === null) return;
    const to = share(event);
    brush.setAttribute("x", 100 * Math.min(from, to));
    brush.setAttribute("width", 100 * Math.abs(to - from));
  });
  svg.addEventListener("pointercancel", () => { from = null; });
  svg.addEventListener("pointerup", (event) => {
    if (from === null) return;
    const to = share(event), [low, high] = [Math.min(from, to), Math.max(from, to)];
    from = null;
    if (high - low < 0.015) return filtered(query, histogram.name, "");
    const [first, last] = histogram.whole
      ? [Math.floor(low * counts.length), Math.ceil(high * counts.length)].map((bin) => bin / counts.length) : [low, high];
    return filtered(query, histogram.name, edge(histogram, first, false) + ".." + edge(histogram, last, true));
  });
  const ends = made("span", "ends", made("span", "", edge(histogram, 0, false)), made("span", "", edge(histogram, 1, true)));
  return made("div", "histogram", made("b", "", histogram.title), svg, ends);
}

async function fillHistograms(box) {
  const { histograms } = await json(box.dataset.histograms);
  box.replaceChildren(...histograms.map((histogram) => drawn(histogram, box.dataset.query)));
}

// -- texts -----------------------------------------------------------------------------------

async function fillTexts(table) {
  const { texts } = await json(table.dataset.texts);
  for (const row of table.querySelectorAll("[data-row]")) {
    const place = texts[row.dataset.row];
    if (!place) continue;
    const mark = made("mark", "", place[1]);
    mark.style.setProperty("--a", "0.7");
    row.querySelector("td.text").replaceChildren(place[0].slice(-40), mark, place[2].slice(0, 40));
  }
}

async function fillFragment(box) {
  const answer = await fetch(box.dataset.fragment || box.dataset.look);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  box.replaceChildren(...page.querySelector("main").childNodes);
}

// -- stars and notes -------------------------------------------------------------------------

// One after the other, so that what was chosen last is what stays, also if the page is left.
let saving = Promise.resolve(), waiting = 0;

function keep(mine) {
  waiting += 1;
  mine.querySelector("[role=status]").textContent = "";
  saving = saving.then(() => send(mine));
  return saving;
}

async function send(mine) {
  const star = mine.querySelector("[data-star]"), said = mine.querySelector("[role=status]");
  const body = JSON.stringify({
    run: mine.dataset.run, latent: Number(mine.dataset.latent),
    star: star.getAttribute("aria-pressed") === "true", note: mine.querySelector("textarea").value,
  });
  const answer = await fetch(mine.dataset.keep, {
    method: "POST", headers: { "Content-Type": "application/json" }, body, keepalive: true,
  });
  const value = await answer.json();
  waiting -= 1;
  if (!answer.ok) said.textContent = value.error;
  else if (!waiting) said.textContent = "kept";
}

function turnStar(mine) {
  const star = mine.querySelector("[data-star]"), on = star.getAttribute("aria-pressed") !== "true";
  star.setAttribute("aria-pressed", String(on));
  star.textContent = on ? "★ starred" : "☆ star";
  return keep(mine);
}

// -- keys ------------------------------------------------------------------------------------

function follow(selector) {
  const link = document.querySelector(selector);
  if (link) link.click();
}

function step(by) {
  const rows = [...document.querySelectorAll("tbody [data-row]")];
  if (!rows.length) return;
  const now = rows.findIndex((row) => row.classList.contains("at"));
  const next = now < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, now + by));
  rows.forEach((row, at) => row.classList.toggle("at", at === next));
  rows[next].querySelector("a").focus({ preventScroll: true });
  rows[next].scrollIntoView({ block: "nearest" });
}

function help() {
  const keys = document.getElementById("keys"), button = document.querySelector("[data-help]");
  keys.hidden = !keys.hidden;
  button.setAttribute("aria-expanded", String(!keys.hidden));
}

const KEYS = {
  "/": () => { const search = document.querySelector("[data-search]"); if (search) search.focus(); },
  j: () => step(1), k: () => step(-1),
  n: () => follow("a[rel=next]"), p: () => follow("a[rel=prev]"),
  u: () => follow("a[rel=up]"), "?": help,
  s: () => { const mine = document.querySelector("[data-keep]"); if (mine) turnStar(mine); },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-help]")) help();
  const look = event.target.closest("[data-look] button");
  if (look) {
    look.disabled = true;
    fillFragment(look.closest("[data-look]"));
  }
  const star = event.target.closest("[data-star]");
  if (star) turnStar(star.closest("[data-keep]"));
});

document.addEventListener("change", (event) => {
  const mine = event.target.closest("[data-keep]");
  if (mine) keep(mine);
  if (event.target.matches("[data-now]")) event.target.form.requestSubmit();
});

// What is empty stays out of the address.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.matches("[data-columns]")) {
    const boxes = [...form.querySelectorAll("[data-column]")];
    if (boxes.some((box) => box.checked !== box.defaultChecked)) {
      form.elements.columns.value = boxes.filter((box) => box.checked).map((box) => box.dataset.column).join(",");
    }
  }
  for (const input of form.elements) if (input.name && input.value === "") input.disabled = true;
});
window.addEventListener("pageshow", () => {
  for (const input of document.querySelectorAll("form [disabled][name]")) input.disabled = false;
});

async function ready() {
  const tasks = [];
  for (const box of document.querySelectorAll("[data-histograms]")) tasks.push(fillHistograms(box));
  for (const table of document.querySelectorAll("[data-texts]")) tasks.push(fillTexts(table));
  for (const box of document.querySelectorAll("[data-fragment]")) tasks.push(fillFragment(box));
  if (typeof drawFigures === "function") tasks.push(drawFigures());
  await Promise.allSettled(tasks).then((ends) => {
    for (const end of ends) if (end.status === "rejected") window.__errors.push(String(end.reason));
  });
  document.body.dataset.ready = "true";
}
ready();
