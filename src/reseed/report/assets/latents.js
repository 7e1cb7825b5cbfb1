"use strict";
// The table of all latents: filters, search, sorting, pages. A row opens a card with its partners.

const PAGE = 25;
// `reseed explore` shows this page beside its own.
const SERVED = location.protocol !== "file:" && location.pathname.endsWith("/report");
const STATES = { 0: "dead", 1: "", 2: "dense" };

function element(name, className, ...inside) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...inside.filter((part) => part !== null && part !== ""));
  return made;
}

function share(value) {
  if (value === null || value === undefined) return "–";
  if (value > 0 && value < 0.0005) return "<0.1%";
  if (value < 1 && value >= 0.9995) return ">99.9%";
  return (100 * value).toFixed(1) + "%";
}

function rarely(value) {
  return value >= 0.01 || value === 0 ? share(value) : Number((100 * value).toPrecision(2)) + "%";
}

function cosine(value) {
  return value === null || value === undefined ? "–" : value.toFixed(3);
}

function placeText([before, token, after]) {
  const mark = element("mark", "", token);
  mark.style.setProperty("--a", "0.7");
  return element("span", "", before, mark, after);
}

function summed(steps) {
  let sum = 0;
  return steps.map((step) => (step === null ? null : (sum += step)));
}

function listOf(section) {
  const number = Number(section.closest("[data-group]").dataset.group);
  const group = DATA.groups[number], rows = group.listing;
  for (const name of rows.steps ?? []) rows[name] = summed(rows[name]);
  rows.steps = [];
  const at = new Map(rows.latent.map((latent, row) => [rows.run[row] + ":" + latent, row]));
  const words = rows.texts.map((texts) => texts.map((text) => text.join("")).join("\n").toLowerCase());
  return { section, number, group, rows, at, words, sort: rows.sort, down: true, page: 0, open: null };
}

const LISTS = new Map();

function listIn(section) {
  if (!LISTS.has(section)) LISTS.set(section, listOf(section));
  return LISTS.get(section);
}

function chosen(list) {
  const { rows, section, words } = list;
  const inputs = [...section.querySelectorAll("select[data-list]")].filter((input) => input.value !== "")
    .map((input) => [input.dataset.list, input.value]);
  const search = section.querySelector("[data-list=search]").value.trim().toLowerCase();
  const number = /^\d+$/.test(search) ? Number(search) : null;
  const keep = (row) =>
    inputs.every(([name, value]) => (value === "live" ? rows[name][row] > 0 : String(rows[name][row]) === value))
    && (search === "" || rows.latent[row] === number || (words[row] || "").includes(search));
  return rows.latent.map((_, row) => row).filter(keep);
}

function sorted(list, places) {
  const { rows, sort, down } = list, sign = down ? -1 : 1;
  const key = (name, row) => (name === "partner" ? rows.partners[row][2] ?? null : rows[name][row]);
  return places.sort((a, b) => {
    for (const name of [...sort, "run", "latent"]) {
      const x = key(name, a), y = key(name, b);
      if (x === y) continue;
      if (x === null) return 1;
      if (y === null) return -1;
      return (sort.includes(name) ? sign : 1) * (x < y ? -1 : 1);
    }
    return 0;
  });
}

function partnersOf(list, row) {
  const flat = list.rows.partners[row], out = [];
  for (let at = 0; at < flat.length; at += 3) out.push({ run: flat[at], latent: flat[at + 1], cosine: flat[at + 2] });
  return out;
}

function texts(list, row) {
  const places = row === undefined ? [] : list.rows.texts[row] || [];
  return places.length
    ? element("div", "", ...places.map((place) => element("p", "context", placeText(place))))
    : element("p", "caption", "no text");
}

function toLatent(run, latent, name) {
  const made = element("button", "link", name);
  made.type = "button";
  made.dataset.latent = run + ":" + latent;
  return made;
}

function said(rows, row) {
  if (rows.kind) return [rows.words[rows.kind[row]] + "."];
  return ["Found in " + rows.found[row] + " of " + rows.others[row] + " other runs. Reproducibility " + share(rows.recurrence_mean[row])
    + " (95% interval " + share(rows.recurrence_lo[row]) + " to " + share(rows.recurrence_hi[row]) + ")."];
}

// The latent on the left, its nearest in each other run on the right, text under both.
function card(list, row) {
  const { rows, group, at } = list;
  const others = partnersOf(list, row).map(({ run, latent, cosine: cos }) => element("div", "side",
    element("h4", "", toLatent(run, latent, "Latent " + latent.toLocaleString("en")),
      element("small", "", group.runs[run] + ", decoder cosine " + cosine(cos))),
    texts(list, at.get(run + ":" + latent))));
  const family = rows.family ? rows.family[row] : null;
  const kin = family === null ? [] : rows.family.flatMap((other, place) => (other === family && place !== row ? [place] : []));
  const words = element("p", "caption", ...said(rows, row));
  if (rows.family) words.append(kin.length ? " Same feature: " : " No counterpart that counts as the same feature.");
  kin.forEach((place, n) => words.append(n ? ", " : "",
    toLatent(rows.run[place], rows.latent[place], rows.latent[place].toLocaleString("en") + " (" + group.runs[rows.run[place]] + ")")));
  if (rows.ids && SERVED) {
    const there = element("a", "", "in the explorer");
    there.href = "feature/" + rows.latent[row] + "/" + encodeURIComponent(rows.ids[rows.run[row]]);
    words.append(" ", there);
  }
  const own = element("div", "side",
    element("h4", "", "Latent " + rows.latent[row].toLocaleString("en"), element("small", "", group.runs[rows.run[row]])), texts(list, row));
  return element("div", "", words, element("div", "sides", own, ...others));
}

// How a cell of each kind is written: (list, its column, row) to words.
const CELLS = {
  found: ({ rows }, _, row) => rows.found[row] + " of " + rows.others[row],
  share: ({ rows }, key, row) => share(rows[key][row]),
  cosine: ({ rows }, key, row) => cosine(rows[key][row]),
  p: ({ rows }, key, row) => (rows[key][row] === null ? "–" : String(Number(rows[key][row].toPrecision(2)))),
  word: ({ rows }, key, row) => rows.words[rows[key][row]],
  rate: ({ rows }, key, row) => (rows.state[row] === 0 ? "dead" : STATES[rows.state[row]] + " " + rarely(rows[key][row])).trim(),
  partner: (list, _, row) => {
    const [first] = partnersOf(list, row);
    return first ? first.latent.toLocaleString("en") + " (" + list.group.runs[first.run] + ") " + cosine(first.cosine) : "–";
  },
};

function rowOf(list, row) {
  const { rows, group } = list;
  const name = element("th", "latent", toLatent(rows.run[row], rows.latent[row], rows.latent[row].toLocaleString("en")),
    element("small", "", " " + group.runs[rows.run[row]]));
  name.scope = "row";
  const cells = rows.columns.slice(1).map(([key, , kind]) => element("td", key, CELLS[kind](list, key, row)));
  if (rows.texts.length) {
    const text = rows.texts[row][0];
    cells.push(element("td", "text", text ? placeText([text[0].slice(-28), text[1], text[2].slice(0, 28)]) : ""));
  }
  const line = element("tr", "", name, ...cells);
  line.dataset.row = row;
  return line;
}

function fill(list) {
  const { section } = list, places = sorted(list, chosen(list)), pages = Math.max(1, Math.ceil(places.length / PAGE));
  if (list.open !== null && list.seek) {
    list.page = Math.max(0, Math.floor(places.indexOf(list.open) / PAGE));
    list.seek = false;
  }
  list.page = Math.min(Math.max(list.page, 0), pages - 1);
  const body = section.querySelector("tbody"), width = section.querySelectorAll("thead th").length;
  body.replaceChildren();
  for (const row of places.slice(list.page * PAGE, (list.page + 1) * PAGE)) {
    const line = rowOf(list, row);
    body.append(line);
    if (row !== list.open) continue;
    line.classList.add("open");
    const cell = element("td", "", card(list, row));
    cell.colSpan = width;
    body.append(element("tr", "detail", cell));
  }
  section.querySelector(".shown").textContent = places.length
    ? places.length.toLocaleString("en") + " latents, page " + (list.page + 1) + " of " + pages : "no latent like that";
  section.querySelectorAll("[data-page]").forEach((button) => {
    const next = list.page + Number(button.dataset.page);
    button.disabled = next < 0 || next >= pages;
  });
  section.querySelectorAll("thead th").forEach((head) => {
    const button = head.querySelector("[data-sort]");
    if (button && button.dataset.sort === list.sort[0]) head.setAttribute("aria-sort", list.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

// Shows a latent of a group wherever it was clicked, or named in the address: #latent-GROUP-RUN-LATENT.
function openLatent(number, run, latent) {
  const section = document.querySelector(`[data-group="${number}"] [data-latents]`);
  if (!section) return;
  if (section.closest("[hidden]")) choose(number);
  const list = listIn(section), row = list.at.get(run + ":" + latent);
  if (row === undefined) return;
  if (!chosen(list).includes(row)) section.querySelectorAll("[data-list]").forEach((input) => { input.value = ""; });
  list.open = row;
  list.seek = true;
  fill(list);
  history.replaceState(null, "", "#latent-" + number + "-" + run + "-" + latent);
  section.querySelector("tr.open").scrollIntoView({ block: "center" });
}

function fillVisible() {
  for (const section of document.querySelectorAll("[data-latents]")) if (!section.closest("[hidden]")) fill(listIn(section));
}

function openNamed() {
  const named = /^#latent-(\d+)-(\d+)-(\d+)$/.exec(location.hash);
  if (named) openLatent(Number(named[1]), Number(named[2]), Number(named[3]));
}

document.addEventListener("click", (event) => {
  const section = event.target.closest("[data-latents]"), link = event.target.closest("[data-latent]");
  if (link) {
    const group = link.closest("[data-group]").dataset.group, [run, latent] = link.dataset.latent.split(":").map(Number);
    const list = section && listIn(section);
    if (list && list.open === list.at.get(run + ":" + latent) && link.closest("th")) {
      list.open = null;
      return fill(list);
    }
    return openLatent(Number(group), run, latent);
  }
  if (!section) return undefined;
  const list = listIn(section), sort = event.target.closest("[data-sort]"), page = event.target.closest("[data-page]");
  if (sort) {
    list.down = list.sort[0] === sort.dataset.sort ? !list.down : sort.dataset.sort !== "latent";
    list.sort = [sort.dataset.sort];
    list.page = 0;
  } else if (page) list.page += Number(page.dataset.page);
  else return undefined;
  return fill(list);
});

document.addEventListener("input", (event) => {
  if (!event.target.dataset.list) return;
  const list = listIn(event.target.closest("[data-latents]"));
  list.page = 0;
  fill(list);
});
