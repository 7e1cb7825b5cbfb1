"use strict";
// What every figure shares: colours of the theme, layout, legend below the plot, error record.

window.__errors = [];
window.addEventListener("error", (event) => window.__errors.push(String(event.message)));
window.addEventListener("unhandledrejection", (event) => window.__errors.push(String(event.reason)));

let DATA = null;

// A large page has its data and the library deflated, in base64. The policy names the library's hash.
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (sign) => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).text();
}

async function load() {
  const data = document.getElementById("data");
  if (data.type === "application/json") {
    DATA = JSON.parse(data.textContent);
    return;
  }
  if (typeof DecompressionStream === "undefined") {
    const words = document.createElement("p");
    words.textContent = "Figures and the table of latents are packed in this large page, and this browser cannot unpack them: "
      + "open it in a browser of 2023 or later. Tables of numbers below are complete.";
    document.body.prepend(words);
    throw new Error(words.textContent);
  }
  DATA = JSON.parse(await unpacked("data"));
  const library = document.createElement("script");
  library.textContent = await unpacked("library");
  document.head.append(library);
}

function theme() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue("--" + name).trim();
  return {
    ink: of("ink"), muted: of("muted"), grid: of("grid"), page: of("page"),
    observed: of("observed"), null: of("null"), untrained: of("untrained"), font: of("font"),
    never: of("never"), middle: of("middle"), always: of("always"),
    runs: ["run1", "run2", "run3", "run4", "run5", "run6"].map(of),
  };
}

// Plotly reads a few tags inside labels; names of sites come from outside.
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");
}

function rgba(hex, alpha) {
  const part = (at) => parseInt(hex.slice(at, at + 2), 16);
  return `rgba(${part(1)},${part(3)},${part(5)},${alpha})`;
}

function between(from, to, share) {
  const part = (hex, at) => parseInt(hex.slice(at, at + 2), 16);
  const mixed = [1, 3, 5].map((at) => Math.round(part(from, at) + share * (part(to, at) - part(from, at))));
  return "#" + mixed.map((value) => value.toString(16).padStart(2, "0")).join("");
}

// Never found, half of the other runs, all of them: readable for every kind of colour vision.
function foundColour(colours, n, others) {
  const share = others ? n / others : 0;
  return share < 0.5
    ? between(colours.never, colours.middle, 2 * share)
    : between(colours.middle, colours.always, 2 * share - 1);
}

function axis(colours, title, more) {
  return Object.assign({
    title: { text: title, standoff: 10, font: { size: 13, color: colours.muted } },
    gridcolor: colours.grid, linecolor: colours.grid, zeroline: false, automargin: true,
    tickfont: { size: 12, color: colours.muted }, fixedrange: coarse(),
  }, more || {});
}

// Enough digits that no two ticks of a narrow axis read the same; none that say nothing.
const PERCENT = ".3~%";
const SHARE = { range: [-0.02, 1.02], tickformat: PERCENT, nticks: 6 };

function coarse() {
  return matchMedia("(pointer: coarse)").matches;
}

function layout(colours, x, y, more) {
  return Object.assign({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: colours.font, color: colours.ink, size: 13 },
    margin: { l: 12, r: 12, t: 12, b: 12 }, showlegend: false,
    hovermode: "closest", dragmode: coarse() ? false : "zoom", bargap: 0.06,
    hoverlabel: { font: { family: colours.font, size: 13 } },
    xaxis: x, yaxis: y,
  }, more || {});
}

function line(name, x, y, colour, more) {
  return Object.assign(
    { type: "scatter", mode: "lines", name, x, y, line: { color: colour, width: 2 } }, more || {});
}

// The area between two curves, in the legend with the curve it belongs to.
function band(name, x, low, high, colour) {
  if (!low || low.every((value) => value === null)) return [];
  const edge = { type: "scatter", mode: "lines", name, x, line: { width: 0 }, hoverinfo: "skip", quiet: true };
  return [
    Object.assign({}, edge, { y: low }),
    Object.assign({}, edge, { y: high, fill: "tonexty", fillcolor: rgba(colour, 0.18) }),
  ];
}

function swatch(trace) {
  const mark = document.createElement("span");
  const marker = trace.marker && (!trace.mode || trace.mode === "markers");
  const symbol = marker ? trace.marker.symbol || (trace.type === "bar" ? "bar" : "dot") : "";
  const shapes = { circle: "dot", "circle-open": "ring", dot: "dot", bar: "bar", diamond: "diamond", "x-thin-open": "cross" };
  mark.className = "swatch " + (marker ? shapes[symbol] : trace.line.dash ? "dashed" : "");
  mark.style.setProperty("--c", marker ? trace.marker.swatch || trace.marker.color : trace.line.color);
  return mark;
}

// A button for each name; it hides and shows everything of that name.
function legend(plot, traces) {
  const box = plot.parentElement.querySelector(".legend");
  if (!box) return;
  const off = new Set([...box.querySelectorAll("[aria-pressed=false]")].map((b) => b.textContent));
  const entries = traces.filter((t, at) => t.name && !t.quiet
    && traces.findIndex((other) => other.name === t.name && !other.quiet) === at);
  box.replaceChildren(...entries.map((trace) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(swatch(trace), document.createTextNode(trace.name));
    button.setAttribute("aria-pressed", String(!off.has(trace.name)));
    button.addEventListener("click", () => {
      const show = button.getAttribute("aria-pressed") === "false";
      button.setAttribute("aria-pressed", String(show));
      const same = traces.flatMap((other, at) => (other.name === trace.name ? [at] : []));
      Plotly.restyle(plot, { visible: show }, same);
    });
    return button;
  }));
  for (const trace of traces) if (off.has(trace.name)) trace.visible = false;
}

function nothing(plot, why) {
  Plotly.purge(plot);
  plot.classList.add("nothing");
  plot.textContent = why;
  const box = plot.parentElement.querySelector(".legend");
  if (box) box.replaceChildren();
}

async function show(plot, traces, lay) {
  if (plot.classList.contains("nothing")) {
    plot.classList.remove("nothing");
    plot.replaceChildren();
  }
  legend(plot, traces);
  const clean = traces.map(({ quiet, ...trace }) => trace);
  await Plotly.react(plot, clean, lay, { displayModeBar: false, responsive: true });
}
