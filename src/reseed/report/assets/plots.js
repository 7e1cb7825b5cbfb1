"use strict";
// One function for each kind of figure: (plot element, data of its group, colours) -> drawn.

const PLOTS = {};

const CHANCE = "chance", UNTRAINED = "untrained pair";

PLOTS.forest = (plot, _, c) => {
  const groups = DATA.groups.filter((group) => group.headline);
  const place = groups.map((_, at) => groups.length - at);
  const shares = groups.map((group) => group.headline);
  const wide = (key) => shares.map((share) => (share.interval ? Math.abs(share.interval[key] - share.value) : 0));
  const mark = (name, x, symbol, colour, size, below) => ({
    type: "scatter", mode: "markers", name, x, y: place.map((y) => y - below),
    marker: { symbol, size, color: colour, line: { width: symbol.startsWith("x") ? 0 : 1, color: c.page } },
    customdata: groups.map((group) => plain(group.label)),
    hovertemplate: "%{customdata}<br>" + name + " %{x:.1%}<extra></extra>",
  });
  const shared = mark(shares.some((share) => share.interval) ? "shared, 95% interval" : "shared", shares.map((share) => share.value), "circle", c.observed, 12, 0);
  shared.error_x = { type: "data", symmetric: false, array: wide(1), arrayminus: wide(0), color: c.observed, thickness: 2, width: 5 };
  const traces = [
    mark(CHANCE, shares.map((share) => (share.null ? share.null[0] : null)), "diamond", c.null, 9, 0.2),
    mark(UNTRAINED, shares.map((share) => share.untrained), "x-thin-open", c.untrained, 7, 0.36),
    shared,
  ];
  traces[1].marker.line = { width: 2, color: c.untrained };
  if (shares.every((share) => share.untrained === null)) traces.splice(1, 1);
  const names = groups.map((group, at) => ({
    text: plain(group.label), x: 0, y: place[at], xref: "paper", xanchor: "left", yanchor: "bottom",
    yshift: 9, showarrow: false, font: { size: 13, color: c.ink },
  }));
  plot.style.height = 70 + 58 * groups.length + "px";
  return show(plot, traces, layout(c,
    axis(c, "share of latents", SHARE),
    { visible: false, range: [0.5, groups.length + 0.8], fixedrange: true }, { annotations: names }));
};

PLOTS.cosines = (plot, group, c) => {
  const { bin } = group.cosines, counts = group.cosines[plot.dataset.view];
  const steps = { line: { width: 2, shape: "hv" } };
  const full = Object.keys(counts).flatMap((kind) => counts[kind].map((n, at) => (n > 0 ? at : Infinity)));
  const first = bin[Math.min(...full, 25)];
  const hover = { hovertemplate: "from %{x:.2f}: %{y:.4~g} latents<extra></extra>" };
  const middle = bin.map((edge) => edge + 0.01);
  const traces = [
    Object.assign({ type: "bar", name: "trained pair", x: middle, y: counts.observed, width: 0.02, marker: { color: rgba(c.observed, 0.75), swatch: c.observed } }, hover),
  ];
  if (counts.null) traces.push(line(CHANCE, bin, counts.null, c.null, { ...hover, line: { ...steps.line, color: c.null, dash: "5px,3px" } }));
  if (counts.untrained) traces.push(line(UNTRAINED, bin, counts.untrained, c.untrained, { ...hover, line: { ...steps.line, color: c.untrained, dash: "2px,2px" } }));
  return show(plot, traces, layout(c,
    axis(c, "cosine to the partner", { range: [Math.min(first, 0) - 0.02, 1.02] }),
    axis(c, "latents", { rangemode: "tozero" }), { hovermode: "x" }));
};

PLOTS.shares = (plot, group, c) => {
  const { tau, curves } = group.shares;
  const curve = curves[option(plot, "measure") + "/" + option(plot, "stratum")];
  if (!curve || curve.share.every((value) => value === null)) {
    return nothing(plot, "Some run has no such latents, so there is no share.");
  }
  const hover = { hovertemplate: "%{y:.1%}" };
  const traces = curve.lo ? [...band("share", tau, curve.lo, curve.hi, c.observed)] : [];
  if (curve.null.some((value) => value !== null)) {
    traces.push(...band(CHANCE, tau, curve.null_lo, curve.null_hi, c.null),
      line(CHANCE, tau, curve.null, c.null, { ...hover, line: { color: c.null, width: 2, dash: "5px,3px" } }));
  }
  if (curve.untrained) traces.push(line(UNTRAINED, tau, curve.untrained, c.untrained, { ...hover, line: { color: c.untrained, width: 2, dash: "2px,2px" } }));
  traces.push(
    line("share", tau, curve.share, c.observed, { ...hover, line: { color: c.observed, width: 2.5 } }));
  const mark = { type: "line", x0: group.tau, x1: group.tau, y0: 0, y1: 1, yref: "paper", line: { color: c.muted, width: 1.5, dash: "dot" } };
  const word = { text: "tau " + group.tau, x: group.tau, y: 1, yref: "paper", xanchor: "left", yanchor: "top", xshift: 4, showarrow: false, font: { size: 12, color: c.muted } };
  return show(plot, traces, layout(c,
    axis(c, "tau", { range: [0, 1] }), axis(c, "share of latents", SHARE),
    { hovermode: "x unified", shapes: [mark], annotations: [word],
      hoverlabel: { bgcolor: c.page, bordercolor: c.grid, font: { color: c.ink, family: c.font, size: 13 } } }));
};

PLOTS["n-of-m"] = (plot, group, c) => {
  const counts = group.n_of_m[option(plot, "stratum")];
  const x = counts.n.map((n, at) => n + " of " + counts.m[at]);
  const traces = [
    { type: "bar", name: "latents", x, y: counts.share, marker: { color: rgba(c.observed, 0.75), swatch: c.observed }, customdata: counts.latents, hovertemplate: "%{x} runs: %{y:.1%}, %{customdata} latents a run<extra></extra>" },
    { type: "scatter", mode: "markers", name: "beta-binomial", x, y: counts.beta_binomial, marker: { symbol: "circle-open", size: 15, color: c.untrained, line: { width: 2, color: c.untrained } }, hovertemplate: "beta-binomial: %{y:.1%}<extra></extra>" },
    { type: "scatter", mode: "markers", name: "binomial", x, y: counts.binomial, marker: { symbol: "diamond", size: 11, color: c.null, line: { width: 1.5, color: c.page } }, hovertemplate: "independent: %{y:.1%}<extra></extra>" },
  ];
  return show(plot, traces, layout(c,
    axis(c, "runs in which the latent is found", { type: "category", showgrid: false }),
    axis(c, "share of latents", { tickformat: PERCENT, rangemode: "tozero", nticks: 6 }), { bargap: 0.35 }));
};

// Whole powers of ten over a wide range, 1-2-5 steps over a narrow one.
function rateTicks(bins) {
  const low = Math.min(...bins.rate_lo), high = Math.max(...bins.rate_hi);
  const steps = high / low > 200 ? [1] : [1, 2, 5];
  const values = [-7, -6, -5, -4, -3, -2, -1, 0].flatMap((power) => steps.map((step) => step * 10 ** power));
  return { tickvals: values, ticktext: values.map((value) => Number((100 * value).toPrecision(1)) + "%") };
}

PLOTS.frequency = (plot, group, c) => {
  const { parts, others } = group.latents, bins = group.frequency;
  if (!parts.length) return nothing(plot, "No latent is live, so there is nothing to draw.");
  const dots = parts.map((part) => ({
    type: "scatter", mode: "markers", name: "found in " + part.n + " of " + others,
    x: part.firing_rate, y: part.max_decoder_cos,
    marker: { size: 5, opacity: 0.6, color: foundColour(c, part.n, others) },
    customdata: part.latent.map((latent, at) => [latent, group.runs[part.run[at]], part.run[at]]),
    hovertemplate: "latent %{customdata[0]} (%{customdata[1]})<br>fires on %{x:.3~%} of " + group.rows_are + "<br>cosine %{y:.3f}<extra>" + part.n + " of " + others + "</extra>",
  }));
  const x = bins.rate_lo.flatMap((low, at) => [low, bins.rate_hi[at], null]);
  const flat = (values) => values.flatMap((value) => [value, value, null]);
  const traces = [...dots,
    line("mean cosine", x, flat(bins.max_decoder_cos), c.ink, { line: { color: c.ink, width: 3 }, hovertemplate: "mean cosine %{y:.3f}<extra></extra>" }),
    line("mean share of other runs found in", x, flat(bins.recurrence), c.ink, { line: { color: c.ink, width: 2, dash: "2px,2px" }, hovertemplate: "found in %{y:.1%} of the other runs<extra></extra>" }),
  ];
  return showPoints(plot, traces, layout(c,
    axis(c, "firing rate on held-out " + group.rows_are, { type: "log", ...rateTicks(bins) }),
    axis(c, "best decoder cosine", { nticks: 6 })));
};

async function showPoints(plot, traces, lay) {
  await show(plot, traces, lay);
  plot.removeAllListeners("plotly_click");
  plot.on("plotly_click", (event) => openPoint(plot, event));
}

// A point of the scatter opens its latent in the table.
function openPoint(plot, event) {
  const [latent, , run] = event.points[0].customdata || [];
  if (run !== undefined) openLatent(Number(plot.closest("[data-group]").dataset.group), run, latent);
}

// 1-2-5 steps over a wide range; over a narrow one Plotly chooses well.
function lossTicks(runs) {
  const all = runs.flatMap((run) => run.fvu).filter((value) => value > 0);
  if (Math.max(...all) / Math.min(...all) < 4) return {};
  const values = [-4, -3, -2, -1, 0, 1].flatMap((power) => [1, 2, 5].map((step) => step * 10 ** power));
  return { tickvals: values, ticktext: values.map((value) => String(Number(value.toPrecision(1)))) };
}

PLOTS.training = (plot, group, c) => {
  const metric = plot.dataset.metric, many = group.training.length > c.runs.length;
  const traces = group.training.map((run, at) => line(group.runs[at], run.tokens, run[metric],
    many ? rgba(c.observed, 0.5) : c.runs[at],
    { quiet: many, line: { width: 1.5, color: many ? rgba(c.observed, 0.5) : c.runs[at] }, hovertemplate: group.runs[at] + "<br>%{x:.4~s} tokens: %{y:.4~g}<extra></extra>" }));
  const y = metric === "fvu"
    ? { type: "log", nticks: 6, exponentformat: "none", ...lossTicks(group.training) }
    : { tickformat: PERCENT, rangemode: "tozero", nticks: 5 };
  const flat = metric === "dead" && group.training.every((run) => run.dead.every((value) => value === 0));
  if (flat) y.range = [-0.02, 1];
  const title = metric === "fvu" ? "FVU" : "dead share";
  return show(plot, traces, layout(c, axis(c, "tokens seen", { nticks: 6, rangemode: "tozero" }), axis(c, title, y)));
};

PLOTS.trend = (plot, group, c) => {
  const { tokens, value, lo, hi } = group.trend;
  const top = Math.max(...value, ...hi);
  const traces = [...band("shared", tokens, lo, hi, c.observed),
    line("shared", tokens, value, c.observed, { mode: "lines+markers", marker: { size: 8, color: c.observed }, hovertemplate: "%{x:,} tokens: %{y:.1%}<extra></extra>" })];
  return show(plot, traces, layout(c,
    axis(c, "tokens seen", { nticks: 6, rangemode: "tozero" }),
    axis(c, "shared", { ...SHARE, range: [0, top > 0 ? Math.min(1.02, 1.15 * top) : 1] })));
};

// A 95% interval as whiskers; none where it could not be told.
function whiskers(value, lo, hi, colour) {
  const reach = (end, sign) => value.map((v, at) => (v === null || end[at] === null ? 0 : Math.max(sign * (end[at] - v), 0)));
  const visible = lo.some((end) => end !== null);
  return { type: "data", visible, symmetric: false, array: reach(hi, 1), arrayminus: reach(lo, -1), color: colour, thickness: 1.5, width: 3 };
}

PLOTS.strata = (plot, group, c) => {
  const strata = group.strata, x = strata.name;
  const bar = (name, key, colour) => ({
    type: "bar", name, x, y: strata[key], marker: { color: rgba(colour, 0.75), swatch: colour },
    error_y: whiskers(strata[key], strata[key + "_lo"], strata[key + "_hi"], c.ink), customdata: strata.latents,
    hovertemplate: "%{x}, %{customdata:.4~g} latents a run<br>" + name + ": %{y:.1%}<extra></extra>",
  });
  const traces = [bar("shared at tau " + group.tau, "shared", c.observed)];
  if (strata.found.some((value) => value !== null)) traces.push(bar("match at FDR 5%", "found", c.always === c.observed ? c.runs[3] : c.always));
  traces.push({ type: "scatter", mode: "markers", name: UNTRAINED, x, y: strata.untrained,
    marker: { symbol: "x-thin-open", size: 9, color: c.untrained, line: { width: 2, color: c.untrained } }, hovertemplate: UNTRAINED + ": %{y:.1%}<extra></extra>" });
  if (strata.null !== null) {
    traces.push(line(CHANCE, x, x.map(() => strata.null), c.null, { line: { color: c.null, width: 2, dash: "5px,3px" }, hovertemplate: CHANCE + ", live: %{y:.1%}<extra></extra>" }));
  }
  return show(plot, traces, layout(c,
    axis(c, "latents; firing rate of the live ones", { type: "category", showgrid: false }),
    axis(c, "share of latents", { tickformat: PERCENT, range: [0, 1.02], nticks: 6 }), { bargap: 0.25, bargroupgap: 0.05 }));
};

// From rarely (orange) to often (blue), as for what is found never to always; the dead are grey.
function rateColours(c, bins) {
  const live = bins.filter((bin) => bin.name !== "dead").length;
  const first = bins.length - live;
  return bins.map((bin, at) => (bin.name === "dead" ? c.grid : foundColour(c, at - first, Math.max(live - 1, 1))));
}

function rateName(bin) {
  return bin.name === "dead" ? "dead" : "fires on " + bin.name;
}

PLOTS.recurrence = (plot, group, c) => {
  const { bins } = group.reproducibility;
  if (!bins.length) return nothing(plot, "No latent has an independent other run, so nothing can be said.");
  const colours = rateColours(c, bins);
  const traces = bins.map((bin, at) => {
    const colour = colours[at];
    return { type: "histogram", histfunc: "sum", name: rateName(bin), x: bin.recurrence_mean, y: bin.latents,
      xbins: { start: 0, end: 1.0001, size: 0.05 }, autobinx: false, marker: { color: colour, swatch: colour, symbol: "bar" },
      hovertemplate: rateName(bin) + "<br>%{x}: %{y} latents<extra></extra>" };
  });
  return show(plot, traces, layout(c,
    axis(c, "reproducibility (posterior mean)", { range: [0, 1], tickformat: PERCENT, nticks: 6 }),
    axis(c, "latents of all runs", { rangemode: "tozero", nticks: 6 }), { barmode: "stack" }));
};

PLOTS.posterior = (plot, group, c) => {
  const { bins, trials } = group.reproducibility;
  if (!bins.length) return nothing(plot, "No latent has an independent other run, so nothing can be said.");
  const most = Math.max(...bins.flatMap((bin) => bin.latents));
  const colours = rateColours(c, bins);
  const traces = bins.map((bin, at) => {
    const colour = colours[at], shift = 0.13 * (at - (bins.length - 1) / 2);
    return { type: "scatter", mode: "markers", name: rateName(bin), x: bin.n_matched.map((n) => n + shift), y: bin.recurrence_mean,
      error_y: whiskers(bin.recurrence_mean, bin.recurrence_lo, bin.recurrence_hi, colour),
      marker: { color: colour, size: bin.latents.map((n) => 5 + 9 * Math.sqrt(n / most)), swatch: colour, line: { width: 1, color: c.page } },
      customdata: bin.latents.map((n, i) => [n, bin.n_matched[i], bin.recurrence_lo[i], bin.recurrence_hi[i]]),
      hovertemplate: rateName(bin) + "<br>found in %{customdata[1]} of " + trials + ": %{y:.1%} (%{customdata[2]:.1%} to %{customdata[3]:.1%})<br>%{customdata[0]} latents<extra></extra>" };
  });
  const ticks = [...Array(trials + 1).keys()];
  return show(plot, traces, layout(c,
    axis(c, "other runs that found it, of " + trials, { tickvals: ticks, range: [-0.6, trials + 0.6], showgrid: false }),
    axis(c, "reproducibility", SHARE)));
};

PLOTS["only-in-one"] = (plot, group, c) => {
  const all = group.only_in_one.all, live = group.only_in_one.live;
  if (!all || !all.m.length) return nothing(plot, "No run has another one to look into.");
  const hover = { hovertemplate: "%{x} runs: %{y:.1%}<extra></extra>" };
  const traces = [...band("all latents", all.m, all.lo, all.hi, c.observed)];
  traces.push(line("all latents", all.m, all.share, c.observed, { ...hover, mode: "lines+markers", marker: { size: 8, color: c.observed } }));
  if (live && live.share.some((value, at) => value !== null && Math.abs(value - all.share[at]) > 0.01)) {
    traces.push(line("live latents", live.m, live.share, c.untrained, { ...hover, mode: "lines+markers", marker: { size: 6, color: c.untrained } }));
  }
  if (all.c !== null) {
    const dashed = { color: c.null, width: 2, dash: "5px,3px" }, ends = [all.m[0], all.m[all.m.length - 1]];
    traces.push(line("fit", all.m, all.fitted, c.null, { ...hover, line: dashed }),
      line("its offset c", ends, [all.c, all.c], c.muted, { line: { color: c.muted, width: 1.5, dash: "2px,2px" }, hovertemplate: "offset %{y:.1%}<extra></extra>" }));
  }
  return show(plot, traces, layout(c,
    axis(c, "M, runs looked at", { dtick: 1 }), axis(c, "found in one run only", { tickformat: PERCENT, rangemode: "tozero", nticks: 6 })));
};

PLOTS.accumulation = (plot, group, c) => {
  const { m, features, chao2 } = group.accumulation;
  const hover = { hovertemplate: "%{x} runs: %{y:.4~s} features<extra></extra>" };
  const traces = [
    line("Chao2, an estimate", [m[0], m[m.length - 1]], [chao2, chao2], c.null, { line: { color: c.null, width: 2, dash: "5px,3px" }, hovertemplate: "Chao2: %{y:.4~s}<extra></extra>" }),
    line("found", m, features, c.observed, { ...hover, mode: "lines+markers", marker: { size: 8, color: c.observed } }),
  ];
  return show(plot, traces, layout(c,
    axis(c, "runs", { dtick: 1 }), axis(c, "features", { rangemode: "tozero", nticks: 6, tickformat: "~s" })));
};

PLOTS.components = (plot, group, c) => {
  const { name, value, lo, hi } = group.components;
  const traces = [{ type: "bar", orientation: "h", name: "part of what one run finds", y: name, x: value,
    marker: { color: rgba(c.observed, 0.75), swatch: c.observed }, error_x: whiskers(value, lo, hi, c.ink),
    hovertemplate: "%{y}: %{x:.1%}<extra></extra>" }];
  plot.style.height = "240px";
  const low = Math.min(0, ...value, ...lo.filter((v) => v !== null)), high = Math.max(1, ...value, ...hi.filter((v) => v !== null));
  return show(plot, traces, layout(c,
    axis(c, "share of what one run finds", { tickformat: PERCENT, nticks: 6, zeroline: true, zerolinecolor: c.muted, range: [low - 0.02, high + 0.02] }),
    axis(c, "", { type: "category", autorange: "reversed", showgrid: false }), { bargap: 0.35 }));
};
