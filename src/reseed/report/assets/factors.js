"use strict";
// Figures over all groups of a study: what width, k and tokens do.

const FACTORS = { width: "latents", k: "k", "tokens seen": "tokens" };

// The other factors of a cell, as the name of the line that it lies on.
function lineOf(cells, at, by) {
  const differ = (name) => new Set(cells[name]).size > 1;
  const parts = [];
  if (differ("site")) parts.push(plain(cells.site[at]));
  if (differ("architecture")) parts.push(plain(cells.architecture[at]));
  if (by !== "latents" && differ("latents")) parts.push(cells.latents[at].toLocaleString("en") + " latents");
  if (by !== "k" && differ("k")) parts.push("k " + cells.k[at]);
  return parts.join(", ") || "all groups";
}

PLOTS.factors = (plot, _, c) => {
  const { cells: all, mean } = DATA.groups[0].factors;
  const measure = option(plot, "measure"), by = FACTORS[option(plot, "against")], cells = all[measure];
  const last = Math.max(...cells.tokens), lines = new Map();
  if (by === "tokens" && cells.tokens.every((tokens) => tokens === last)) {
    return nothing(plot, "This is known at the end of training only.");
  }
  cells.value.forEach((value, at) => {
    if (by !== "tokens" && cells.tokens[at] !== last) return;
    const name = lineOf(cells, at, by);
    lines.set(name, [...(lines.get(name) || []), at]);
  });
  const levels = [...new Set(cells[by])].sort((a, b) => a - b);
  const format = measure === mean ? ".3f" : ".1%";
  const traces = [...lines].map(([name, places], number) => {
    const colour = c.runs[number % c.runs.length], shift = 2 ** (0.05 * (number - (lines.size - 1) / 2));
    const ordered = places.sort((a, b) => cells[by][a] - cells[by][b]);
    const of = (key) => ordered.map((at) => cells[key][at]);
    return line(name, of(by).map((x) => x * shift), of("value"), colour, {
      mode: "lines+markers", marker: { size: 9, color: colour },
      error_y: whiskers(of("value"), of("lo"), of("hi"), colour),
      customdata: of(by).map((x, i) => [plain(of("label")[i]), x.toLocaleString("en")]),
      hovertemplate: "%{customdata[0]}<br>" + option(plot, "against") + " %{customdata[1]}: %{y:" + format + "}<extra></extra>" });
  });
  const ends = traces.flatMap((trace) => trace.y.map((y, at) => y + trace.error_y.array[at]));
  const lows = traces.flatMap((trace) => trace.y.map((y, at) => y - trace.error_y.arrayminus[at]));
  const y = measure === mean
    ? { nticks: 6 }
    : { tickformat: PERCENT, nticks: 6, range: [Math.min(0, ...lows), 1.08 * Math.max(...ends, 0.01)] };
  const edge = 0.25 * Math.log10(2), log = levels.map(Math.log10);
  return show(plot, traces, layout(c,
    axis(c, by === "latents" ? "latents" : option(plot, "against"), { type: "log", tickvals: levels,
      ticktext: levels.map((level) => level.toLocaleString("en")), range: [log[0] - edge, log[log.length - 1] + edge] }),
    axis(c, measure, y)));
};

PLOTS["factor-spread"] = (plot, _, c) => {
  const { name, share, by_seeds: seeds } = DATA.groups[0].factors.spread[option(plot, "measure")];
  if (share.every((value) => value === null)) return nothing(plot, "All groups share alike, so there is no difference to divide.");
  const traces = [{ type: "bar", orientation: "h", name: "part of the differences", y: name, x: share,
    marker: { color: rgba(c.observed, 0.75), swatch: c.observed }, hovertemplate: "%{y}: %{x:.1%}<extra></extra>" }];
  if (seeds.some((value) => value !== null)) traces.push({ type: "scatter", mode: "markers", name: "other seeds alone", y: name, x: seeds,
    marker: { symbol: "diamond", size: 11, color: c.null, line: { width: 1.5, color: c.page } }, hovertemplate: "other seeds alone: %{x:.1%}<extra></extra>" });
  plot.style.height = 90 + 44 * name.length + "px";
  const most = Math.max(1, ...share, ...seeds.filter((value) => value !== null));
  return show(plot, traces, layout(c,
    axis(c, "part of the sum of squares", { tickformat: PERCENT, nticks: 6, range: [Math.min(0, ...share), most * 1.02] }),
    axis(c, "", { type: "category", autorange: "reversed", showgrid: false }), { bargap: 0.35 }));
};
