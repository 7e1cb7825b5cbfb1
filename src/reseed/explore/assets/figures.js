"use strict";
// The map and the scatter of two runs. Colours, axes and legend are those of the report.

function opens(plot) {
  plot.on("plotly_click", ({ points }) => {
    const [run, latent] = points[0].customdata;
    location.assign("feature/" + latent + "/" + encodeURIComponent(run));
  });
}

function pointsOf(name, rows, colour, more) {
  return Object.assign({
    type: "scatter", mode: "markers", name, x: rows.map((row) => row.x), y: rows.map((row) => row.y),
    text: rows.map((row) => row.text), customdata: rows.map((row) => [row.run, row.latent]),
    hovertemplate: "%{text}<extra></extra>", marker: { size: 5, opacity: 0.7, color: colour },
  }, more || {});
}

function pairTraces(colours) {
  const rows = DATA.latent.map((latent, at) => ({
    x: DATA.x[at], y: DATA.y[at], latent, run: DATA.a, shared: DATA.shared[at],
    text: "latent " + latent + ", counterpart " + DATA.partner[at] + "<br>decoder " + DATA.x[at] + ", encoder " + DATA.y[at],
  }));
  const at = (x, y) => line("tau", x, y, colours.muted, { line: { color: colours.muted, width: 1, dash: "dash" }, quiet: true, hoverinfo: "skip" });
  return [
    pointsOf("not shared", rows.filter((row) => !row.shared), colours.never),
    pointsOf("shared", rows.filter((row) => row.shared), colours.always),
    at([DATA.tau, DATA.tau], [-1, 1]), at([-1, 1], [DATA.tau, DATA.tau]),
  ];
}

function mapRows() {
  return DATA.latent.map((latent, at) => ({
    x: DATA.x[at], y: DATA.y[at], latent, run: DATA.runs[DATA.run[at]], value: DATA.value[at], at,
    text: "latent " + latent + ", " + plain(DATA.names[DATA.run[at]]) + "<br>" + plain(DATA.title) + ": " + plain(DATA.value[at] ?? "–"),
  }));
}

function mapTraces(colours) {
  const rows = mapRows(), known = rows.filter((row) => row.value !== null && !(DATA.log && row.value <= 0));
  const none = rows.filter((row) => !known.includes(row));
  const traces = none.length ? [pointsOf("not known", none, colours.middle)] : [];
  if (known.some((row) => typeof row.value !== "number")) {
    const palette = [...colours.runs, colours.middle];
    const names = [...new Set(known.map((row) => String(row.value)))].sort();
    names.forEach((name, at) => traces.push(pointsOf(plain(DATA.title === "run" ? DATA.names[DATA.runs.indexOf(name)] : name.replaceAll("_", " ")),
      known.filter((row) => String(row.value) === name), palette[at % palette.length],
      { marker: { size: 6, opacity: 0.75, color: palette[at % palette.length], symbol: at < palette.length ? "circle" : "diamond" } })));
    return traces;
  }
  const color = known.map((row) => (DATA.log ? Math.log10(row.value) : row.value));
  return [...traces, pointsOf(plain(DATA.title), known, "", { quiet: true, marker: {
    size: 5, opacity: 0.8, color, colorscale: [[0, colours.never], [0.5, colours.middle], [1, colours.always]], showscale: true,
    colorbar: { title: { text: plain(DATA.title) + (DATA.log ? " (log10)" : ""), side: "top" }, thickness: 12, outlinewidth: 0 },
  } })];
}

async function drawFigures() {
  const plot = document.querySelector("[data-plot]");
  if (!plot) return;
  await load();
  const colours = theme(), pair = DATA.kind === "pair";
  const name = (n) => (pair ? ["decoder cosine", "encoder cosine"][n] : DATA.shares.length ? "component " + (n + 1) + " (" + (100 * (DATA.shares[n] || 0)).toFixed(1) + "% of variance)" : "UMAP " + (n + 1));
  const range = pair ? { range: [Math.min(0, ...DATA.x, ...DATA.y) - 0.03, 1.03] } : {};
  await show(plot, pair ? pairTraces(colours) : mapTraces(colours), layout(colours, axis(colours, name(0), range), axis(colours, name(1), range)));
  opens(plot);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawFigures());
