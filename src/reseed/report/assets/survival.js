"use strict";
// What survives: (plot element, data of its group, colours) -> drawn.

const PLOTS = {};

const KIND_COLOURS = (c) => ({ reproducible: c.always, partly: c.middle, orphan: c.never });

const NAMES = (c, names) => axis(c, "", { autorange: "reversed", type: "category", categoryorder: "array", categoryarray: names });

function whiskers(of, colour, ways) {
  const bar = { type: "data", symmetric: false, color: colour, thickness: 1.5, width: 4,
    array: of.value.map((v, i) => (of.hi[i] === null || v === null ? 0 : of.hi[i] - v)),
    arrayminus: of.value.map((v, i) => (of.lo[i] === null || v === null ? 0 : v - of.lo[i])) };
  return ways === "x" ? { error_x: bar } : { error_y: bar };
}

function chosen(of, places) {
  const pick = (values) => places.map((at) => values[at]);
  return { value: pick(of.value), lo: pick(of.lo), hi: pick(of.hi) };
}

PLOTS["survival-by"] = (plot, group, c) => {
  const name = option(plot, "axis"), what = option(plot, "what"), x = group.axes[name];
  const known = x.flatMap((value, at) => (value === null ? [] : [at]));
  if (!known.length) return nothing(plot, "No variant has this number.");
  const methods = [...new Set(known.map((at) => group.method[at]))];
  const palette = [c.observed, c.null, c.untrained, ...c.runs.slice(3), c.muted];
  const traces = methods.map((method, number) => {
    const places = known.filter((at) => group.method[at] === method).sort((a, b) => x[a] - x[b]);
    const of = chosen(group.shown[what], places), colour = palette[number % palette.length];
    return line(method, places.map((at) => x[at]), of.value, colour, {
      mode: "lines+markers", marker: { size: 9, color: colour, symbol: "circle" }, ...whiskers(of, colour, "y"),
      customdata: places.map((at) => group.variant[at]),
      hovertemplate: "%{customdata}<br>" + name + " %{x}<br>" + what + " %{y:.3~f}<extra></extra>",
    });
  });
  const order = [...known].sort((a, b) => x[a] - x[b]);
  const nulls = [["null_shuffled", c.muted, "tokens shuffled"], ["untrained", c.ink, "untrained SAE"]];
  for (const [of, colour, words] of what === "mean r" ? [] : nulls) {
    const values = group.nulls[of].value;
    traces.push({ type: "scatter", mode: "markers", name: words, x: order.map((at) => x[at]), y: order.map((at) => values[at]),
      marker: { symbol: "diamond", size: 7, color: colour }, hovertemplate: words + " %{y:.1%}<extra></extra>" });
  }
  const way = name === "share taken out" ? { tickformat: PERCENT, rangemode: "tozero" } : { type: "log" };
  return show(plot, traces, layout(c, axis(c, name, way), axis(c, what, what === "mean r" ? { nticks: 6 } : SHARE)));
};

PLOTS["survival-kinds"] = (plot, group, c) => {
  const colours = KIND_COLOURS(c);
  const traces = Object.entries(group.kinds).filter(([, of]) => of.value.some((v) => v !== null)).map(([kind, of]) => ({
    type: "scatter", mode: "markers", name: kind, x: of.value, y: group.variant, marker: { size: 9, color: colours[kind] },
    ...whiskers(of, colours[kind], "x"), hovertemplate: "%{y}, " + kind + "<br>survive %{x:.1%}<extra></extra>",
  }));
  if (!traces.length) return nothing(plot, "One run says nothing about what comes back.");
  return show(plot, traces, layout(c, axis(c, "latents that survive", SHARE), NAMES(c, group.variant)));
};

PLOTS["survival-areas"] = (plot, group, c) => {
  const of = group.areas[option(plot, "area")], places = of.value.flatMap((value, at) => (value === null ? [] : [at]));
  if (!places.length) return nothing(plot, "There are no pairs of latents to compare: all survive or none does, or all are found or none is.");
  const names = places.map((at) => group.variant[at]), own = chosen(of, places);
  const band = { value: names.map(() => 0.5), lo: places.map((at) => of.null_lo[at]), hi: places.map((at) => of.null_hi[at]) };
  const traces = [
    { type: "scatter", mode: "markers", name: "shuffled inside strata", x: band.value, y: names, marker: { symbol: "diamond", size: 7, color: c.null }, ...whiskers(band, c.null, "x"), hoverinfo: "skip" },
    { type: "scatter", mode: "markers", name: "as it is", x: own.value, y: names, marker: { size: 9, color: c.observed }, ...whiskers(own, c.observed, "x"), hovertemplate: "%{y}<br>AUROC %{x:.3f}<extra></extra>" }];
  return show(plot, traces, layout(c, axis(c, "AUROC inside strata", { nticks: 6 }), NAMES(c, names)));
};

PLOTS["survival-curve"] = (plot, group, c) => {
  const variant = option(plot, "variant"), kinds = KIND_COLOURS(c);
  const looks = {
    latents: [c.ink, 3.5, null], reproducible: [kinds.reproducible, 2, null], partly: [kinds.partly, 2, null], orphan: [kinds.orphan, 2, null],
    "tokens shuffled": [c.muted, 2, "dot"], "untrained SAE": [c.untrained, 2, "dash"],
    dimension: [c.runs[3], 2, "dash"], "equal variance": [c.runs[4], 2, "dashdot"], "combination of rows": [c.runs[5], 2, "longdash"],
  };
  const traces = Object.entries(looks).flatMap(([name, [colour, width, dash]]) => {
    const of = group.curves[variant + "/" + name];
    if (!of) return [];
    const drawn = line(name, of.r, of.share, colour, { line: dash ? { color: colour, width, dash } : { color: colour, width }, hovertemplate: name + ": %{y:.1%} have r ≥ %{x}<extra></extra>" });
    return [...band(name, of.r, of.lo, of.hi, colour), drawn];
  });
  const mark = line("survives", [0.7, 0.7], [0, 1], c.muted, { quiet: true, hoverinfo: "skip", line: { color: c.muted, width: 1.5, dash: "dot" } });
  return show(plot, [mark, ...traces], layout(c, axis(c, "r on the same tokens, at least", { range: [-0.02, 1.02] }), axis(c, "share", SHARE)));
};
