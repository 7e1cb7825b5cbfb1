"use strict";
// The figures of a calibration: (plot element, data of its group, colours) -> drawn.

const PLOTS = {};

const STEPS = [-5, -4, -3, -2, -1, 0].flatMap((power) => [1, 2, 5].map((step) => step * 10 ** power));
const RATE = { type: "log", tickvals: STEPS, ticktext: STEPS.map((value) => Number((100 * value).toPrecision(1)) + "%") };

function curveOf(plot, group, size) {
  return group.curves[[option(plot, "label"), option(plot, "stratum"), size].join("/")];
}

PLOTS.roc = (plot, group, c) => {
  const label = option(plot, "label"), stratum = option(plot, "stratum");
  const area = group.areas[label + "/" + stratum];
  const some = [2, group.judges, group.runs];
  const shown = group.sizes.filter((size) => {
    if (!some.includes(size)) return false;
    const curve = curveOf(plot, group, size);
    return curve && curve.recall.every((value) => value !== null) && curve.false_alarm.every((value) => value !== null);
  });
  if (!shown.length) return nothing(plot, "Here all latents exist, or none does: there is nothing to tell apart.");
  const guess = line("guessing", [0, 1], [0, 1], c.muted, { quiet: true, hoverinfo: "skip", line: { color: c.muted, width: 1.5, dash: "dot" } });
  const traces = shown.map((size) => {
    const curve = curveOf(plot, group, size), main = size === group.judges;
    const at = area.m.indexOf(size);
    const colour = main ? c.observed : (size === 2 ? c.null : c.untrained);
    // the lowest threshold calls everything; a last point calls nothing
    return line("M = " + size + (main ? " (headline)" : "") + ", AUC " + Number(area.auc[at]).toFixed(3),
      [...curve.false_alarm, 0], [...curve.recall, 0], colour, {
        mode: "lines+markers", marker: { size: main ? 9 : 5, color: colour },
        line: { color: colour, width: main ? 3 : 1.2 },
        customdata: [...curve.n.map((n, i) => [n, curve.precision[i] === null ? "–" : (100 * curve.precision[i]).toFixed(1) + "%"]), ["none", "–"]],
        hovertemplate: "at least %{customdata[0]} of " + size + "<br>recall %{y:.1%}, false alarms %{x:.1%}<br>precision %{customdata[1]}<extra></extra>",
      });
  });
  return show(plot, [guess, ...traces], layout(c,
    axis(c, "false alarms", SHARE), axis(c, "recall", SHARE)));
};

PLOTS.rule = (plot, group, c) => {
  const curve = curveOf(plot, group, group.judges);
  if (!curve) return nothing(plot, "There are no such latents.");
  const x = curve.n, hover = (word) => ({ hovertemplate: word + " %{y:.1%}<extra></extra>" });
  const base = curve.precision[0];
  const traces = [
    ...band("precision", x, curve.precision_lo, curve.precision_hi, c.observed),
    ...band("recall", x, curve.recall_lo, curve.recall_hi, c.null),
    line("precision", x, curve.precision, c.observed, { mode: "lines+markers", marker: { size: 9, color: c.observed }, ...hover("precision") }),
    line("recall", x, curve.recall, c.null, { mode: "lines+markers", marker: { size: 9, color: c.null }, ...hover("recall") }),
    { type: "scatter", mode: "markers", name: "calling everything", x: [x[0]], y: [base], marker: { symbol: "diamond", size: 13, color: c.untrained, line: { width: 1, color: c.page } }, ...hover("base") },
  ];
  return show(plot, traces, layout(c,
    axis(c, "n, of " + group.judges, { dtick: 1, range: [0.8, group.judges + 0.2] }), axis(c, "share", SHARE)));
};

PLOTS.recall = (plot, group, c) => {
  const { rate_lo, rate_hi, any, mean, all, mean_lo, mean_hi } = group.recall;
  const x = rate_lo.flatMap((low, at) => [low, rate_hi[at], null]);
  const flat = (values) => values.flatMap((value) => [value, value, null]);
  const middle = rate_lo.map((low, at) => Math.sqrt(low * rate_hi[at]));
  const bars = mean.map((value, at) => (mean_hi[at] === null ? 0 : mean_hi[at] - value));
  const down = mean.map((value, at) => (mean_lo[at] === null ? 0 : value - mean_lo[at]));
  const traces = [
    line("in any run", x, flat(any), c.untrained, { line: { color: c.untrained, width: 2.5, dash: "2px,2px" }, hovertemplate: "any %{y:.1%}<extra></extra>" }),
    line("in a run", x, flat(mean), c.observed, { line: { color: c.observed, width: 3 }, hovertemplate: "a run %{y:.1%}<extra></extra>" }),
    { type: "scatter", mode: "markers", name: "in a run", quiet: true, x: middle, y: mean, hoverinfo: "skip", marker: { size: 1, color: c.observed }, error_y: { type: "data", symmetric: false, array: bars, arrayminus: down, color: c.observed, thickness: 2, width: 5 } },
    line("in every run", x, flat(all), c.null, { line: { color: c.null, width: 2.5, dash: "5px,3px" }, hovertemplate: "every %{y:.1%}<extra></extra>" }),
  ];
  return show(plot, traces, layout(c,
    axis(c, "firing probability", RATE), axis(c, "share of true features", SHARE)));
};

PLOTS.reliability = (plot, group, c) => {
  const rules = Object.entries(group.reliability);
  if (!rules.length) return nothing(plot, "Too few runs were held out to judge the intervals.");
  const colours = [c.null, c.observed];
  const guess = line("right", [0, 1], [0, 1], c.muted, { quiet: true, hoverinfo: "skip", line: { color: c.muted, width: 1.5, dash: "dot" } });
  const traces = rules.map(([rule, row], at) => ({
    type: "scatter", mode: "markers", name: rule, x: row.held_out, y: row.said,
    marker: { size: 9, color: colours[at], symbol: at ? "circle" : "diamond" },
    error_y: { type: "data", symmetric: false, array: row.hi.map((hi, i) => hi - row.said[i]), arrayminus: row.lo.map((lo, i) => row.said[i] - lo), color: colours[at], thickness: 2, width: 5 },
    customdata: row.n.map((n, i) => [n, row.latents[i]]),
    hovertemplate: "found by %{customdata[0]} of " + group.judges + " (%{customdata[1]} latents a run)<br>predicted %{y:.1%}, in held-out runs %{x:.1%}<extra></extra>",
  }));
  return show(plot, [guess, ...traces], layout(c,
    axis(c, "share of the held-out runs", SHARE), axis(c, "predicted, with 95% interval", SHARE)));
};

PLOTS.subspaces = (plot, group, c) => {
  const planted = group.subspaces, colours = { stable: c.always, partial: c.middle, absent: c.never };
  const pick = (values, verdict) => values.filter((_, at) => planted.verdict[at] === verdict);
  const dots = Object.keys(colours).filter((verdict) => planted.verdict.includes(verdict)).map((verdict) => ({
    type: "scatter", mode: "markers", name: verdict, x: pick(planted.rate, verdict), y: pick(planted.agreement, verdict),
    marker: { size: 9, color: colours[verdict] },
    customdata: pick(planted.latents, verdict).map((n, at) => [n, pick(planted.dimensions, verdict)[at]]),
    hovertemplate: "fires on %{x:.3~%}<br>agreement %{y:.3f}<br>%{customdata[0]} latents span %{customdata[1]} dimensions, a run<extra>" + verdict + "</extra>",
  }));
  const chance = { type: "scatter", mode: "markers", name: "random latents", x: planted.rate, y: planted.null_hi, marker: { symbol: "diamond", size: 6, color: c.null }, hovertemplate: "random %{y:.3f}<extra></extra>" };
  return show(plot, [chance, ...dots], layout(c,
    axis(c, "firing probability of the subspace", RATE), axis(c, "agreement of two runs", { range: [-0.02, 1.02], nticks: 6 })));
};

// The instrument in worlds whose truth is known; not of one group.
const WORLD_COLOURS = (c) => [c.observed, c.null, c.untrained, c.middle, c.muted];

PLOTS["by-count"] = (plot, _, c) => {
  const colours = WORLD_COLOURS(c), worlds = Object.entries(DATA.groups[0].instrument.counts);
  const names = [...new Set(worlds.map(([key]) => key.slice(0, key.lastIndexOf("/"))))];
  const traces = names.map((name, at) => {
    const x = [], y = [], size = [], about = [];
    for (const [key, row] of worlds) {
      if (key.slice(0, key.lastIndexOf("/")) !== name) continue;
      const runs = Number(key.slice(key.lastIndexOf("/") + 1));
      row.n.forEach((n, i) => {
        if (row.coverage[i] === null || row.share[i] < 0.01) return;
        x.push(row.said[i]); y.push(row.coverage[i]); size.push(6 + 16 * Math.sqrt(row.share[i]));
        about.push([n, runs - 1, row.share[i], row.true[i]]);
      });
    }
    return { type: "scatter", mode: "markers", name, x, y, marker: { size, color: rgba(colours[at], 0.7), swatch: colours[at] }, customdata: about,
      hovertemplate: "found by %{customdata[0]} of %{customdata[1]} others (%{customdata[2]:.1%} of latents)<br>said %{x:.1%}, true %{customdata[3]:.1%}<br>intervals that hold it %{y:.1%}<extra></extra>" };
  });
  const claim = line("claim", [0, 1], [0.95, 0.95], c.muted, { quiet: true, hoverinfo: "skip", line: { color: c.muted, width: 1.5, dash: "dot" } });
  return show(plot, [claim, ...traces], layout(c,
    axis(c, "said of the latents of a count", SHARE), axis(c, "intervals that hold the truth", { tickformat: "~p", range: [0, 1.03] })));
};

PLOTS["by-distribution"] = (plot, _, c) => {
  const rows = DATA.groups[0].instrument.rows, widths = [...new Set(rows.widths)];
  const pick = (values, of) => values.filter((_value, at) => rows.widths[at] === of);
  const traces = widths.map((of, at) => ({
    type: "scatter", mode: "markers", name: of + " latents", y: pick(rows.name, of), x: pick(rows.fdr, of),
    marker: { size: 9, color: at ? c.null : c.observed, symbol: at ? "diamond" : "circle" },
    customdata: pick(rows.power, of), hovertemplate: "%{y}<br>false among what is found %{x:.1%}<br>of the planted found %{customdata:.1%}<extra>" + of + "</extra>",
  }));
  const names = [...new Set(rows.name)];
  const level = line("nominal", [rows.nominal[0], rows.nominal[0]], [names[0], names[names.length - 1]], c.muted, { quiet: true, hoverinfo: "skip", line: { color: c.muted, width: 1.5, dash: "dot" } });
  return show(plot, [...traces, level], layout(c,
    axis(c, "false among what is found", { tickformat: "~p", rangemode: "tozero" }), axis(c, "", { automargin: true, autorange: "reversed" })));
};

PLOTS["by-crowding"] = (plot, _, c) => {
  const colours = WORLD_COLOURS(c);
  const traces = Object.entries(DATA.groups[0].instrument.crowds).map(([key, row], at) => {
    const [noise, runs] = key.split("/");
    return line(runs + " runs, noise " + noise, row.crowd, row.recall, colours[at], { mode: "lines+markers", marker: { size: 8, color: colours[at] }, hovertemplate: "recall %{y:.1%}<extra></extra>" });
  });
  return show(plot, traces, layout(c,
    axis(c, "cosine of a feature to three others", { range: [-0.03, 0.75] }), axis(c, "pairs of one feature in one family", SHARE)));
};
