"use strict";
/* Pictures: all experiments with the frontier, loss curves, two estimates beside each other. */

const WHOLE = [1, 2, 5].flatMap((n) => [0, 1, 2, 3, 4, 5].map((zeros) => n * 10 ** zeros)).sort((a, b) => a - b);
const FONT = "12px system-ui, sans-serif";
const ratio = () => devicePixelRatio || 1;
const axes = (labels) => ["x", "y"].map((scale, place) => ({
  scale, label: labels[place], labelFont: FONT, font: FONT, stroke: page.css("ink"), size: place ? 62 : 42,
  labelSize: 20, grid: { stroke: page.css("rule"), width: 1 }, ticks: { stroke: page.css("rule"), width: 1 },
}));
const fitted = (room, plot, height) => {
  const fit = new ResizeObserver(() => {
    const width = Math.floor(room.clientWidth);
    if (width > 0 && width !== plot.width) plot.setSize({ width, height });
  });
  fit.observe(room);
  return () => { fit.disconnect(); plot.destroy(); };
};

// ── every experiment a dot ───────────────────────────────────────────────────────────────────

const ring = (c, x, y, r) => { c.moveTo(x + r, y); c.arc(x, y, r, 0, 7); };
const SHAPES = { // parts of a path: all of a kind are filled or drawn at once
  confirmed: (c, x, y, r) => ring(c, x, y, 1.5 * r),
  candidate: (c, x, y, r) => {
    c.moveTo(x, y - 1.8 * r); c.lineTo(x + 1.8 * r, y); c.lineTo(x, y + 1.8 * r); c.lineTo(x - 1.8 * r, y); c.closePath();
  },
  dropped: (c, x, y, r) => ring(c, x, y, 1.3 * r),
  worse: (c, x, y, r) => { c.moveTo(x - r, y + r); c.lineTo(x + r, y + r); c.lineTo(x, y - r); c.closePath(); },
  failed: (c, x, y, r) => { c.moveTo(x - r, y - r); c.lineTo(x + r, y + r); c.moveTo(x + r, y - r); c.lineTo(x - r, y + r); },
};
const HOLLOW = { dropped: true, crash: true, invalid: true, error: true };
const ORDER = ["discard", "crash", "invalid", "error", "dropped", "candidate", "confirmed"]; // what lies on top comes last

/** Of one state: error bars, and a mark each. At the edge those that would cover one another are one. */
const marks = (c, state, group, { px, py, over, size, inside, isFar, step }) => {
  const runs = page.columns().runs, edge = { failed: -9, worse: -9 }, many = group.length > 500, half = Math.max(1, Math.round((many ? 0.5 : 0.75) * size));
  c.beginPath();
  if (!many) for (const dot of group) {
    const ends = runs[dot.place];
    if (!ends || !inside(px(dot.x)) || isFar(dot.y)) continue;
    c.moveTo(px(dot.x), py(Math.min(...ends))); c.lineTo(px(dot.x), py(Math.max(...ends)));
  }
  c.stroke();
  c.beginPath();
  for (const dot of group) {
    const x = px(dot.x), kind = dot.y === null ? "failed" : state === "discard" && isFar(dot.y) ? "worse" : state;
    if (!inside(x)) continue;
    if (kind in edge) {
      if (many && x - edge[kind] < step) continue;
      edge[kind] = x;
    }
    const y = kind in edge ? over : py(dot.y);
    if (SHAPES[kind] && !(many && kind in edge)) SHAPES[kind](c, x, y, size);
    else c.fillRect(Math.round(x - half), Math.round(y - half), 2 * half, 2 * half); // the fastest mark there is
  }
  if (state in HOLLOW) c.stroke(); else c.fill();
};

/** What is drawn: by number, by time or by hours of a device; in the order of x. */
const dots = (by) => {
  const all = page.columns(), found = [];
  let hours = 0;
  for (let place = 0; place < all.number.length; place++) {
    if (all.elsewhere[place] || all.is_copy[place]) continue;
    hours += (all.device_seconds[place] || 0) / 3600;
    const x = by === "time" ? all.at[place] : by === "hours" ? hours : all.number[place];
    const failed = ["crash", "invalid", "error"].includes(all.state[place]);
    if (all.value[place] !== null || failed) found.push({ x, y: all.value[place], place, state: all.state[place] });
  }
  return found.sort((one, other) => one.x - other.x);
};

/** From the best to what most reached; the few far worse are drawn at the edge. */
const bounds = (found, sign) => {
  const scored = found.filter((dot) => dot.y !== null);
  const losses = scored.map((dot) => sign * dot.y).sort((a, b) => a - b);
  const line = page.overview.line.flatMap((step) => [step.value - 2 * (step.sd || 0), step.value + 2 * (step.sd || 0)]);
  if (!losses.length) losses.push(...line.map((value) => sign * value).sort((a, b) => a - b));
  if (!losses.length) return [0, 1];
  const kept = scored.filter((dot) => dot.state !== "discard").map((dot) => sign * dot.y);
  const high = Math.max(losses[Math.round(0.9 * (losses.length - 1))], ...kept.slice(-2000));
  const low = losses[0], room = 0.06 * (high - low) || 0.01 * Math.abs(high) || 0.01;
  return sign > 0 ? [low - room, high + room] : [-high - room, -low + room];
};

page.progress = (room) => {
  let by = "number", found = [], groups = [], plot = null, close = () => {}, near = null, home = null;
  const chart = el("div", { class: "chart", tabindex: "0", role: "img", "aria-roledescription": "chart" });
  const tip = el("div", { class: "tip", hidden: true });
  const buttons = [["number", "by number"], ["time", "by time"], ["hours", "by hours of training"]].map(([key, text]) =>
    el("button", { "data-by": key, onclick: () => { by = key; build(); } }, text));
  const zooms = [["Zoom in", 0.6], ["Zoom out", 1 / 0.6]].map(([text, factor]) =>
    el("button", { onclick: () => zoom(factor, null) }, text));
  room.append(
    el("div", { class: "bar" }, buttons, zooms, el("button", { onclick: () => reset() }, "Whole picture")), chart,
    el("ul", { class: "legend", "aria-label": "Marks" }, Object.keys(page.SYMBOLS).slice(0, 7).map((state) =>
      el("li", { title: page.MEANING[state] }, page.state(state), ` ${page.MEANING[state]}`)),
      el("li", {}, "▲ at the edge: far worse"),
      el("li", {}, "line: the frontier's head, as estimated while it was built on; band: ± 2 sd; ticks below: main moved"),
      el("li", { class: "quiet" }, "drag to zoom, double click for the whole picture")));

  const xOf = (number) => {
    if (by === "number") return number;
    const next = found.find((dot) => page.columns().number[dot.place] >= number);
    return next ? next.x : found.length ? found[found.length - 1].x : 0;
  };
  const reset = () => {
    if (!home) return;
    plot.setScale("x", { min: home.x[0], max: home.x[1] });
    plot.setScale("y", { min: home.y[0], max: home.y[1] });
  };
  const zoom = (factor, centre) => {
    for (const scale of ["x", "y"]) {
      const { min, max } = plot.scales[scale];
      const middle = centre ? centre[scale] : (min + max) / 2;
      plot.setScale(scale, { min: middle - (middle - min) * factor, max: middle + (max - middle) * factor });
    }
  };

  const draw = (u) => {
    const c = u.ctx, k = ratio(), { left, top, width, height } = u.bbox, colors = {};
    const color = (name) => (colors[name] = colors[name] || page.css(name));
    const xs = u.scales.x, ys = u.scales.y, over = page.metric().goal === "max" ? top + height - 7 * k : top + 7 * k;
    const px = (x) => left + ((x - xs.min) / (xs.max - xs.min)) * width;
    const py = (y) => top + (1 - (y - ys.min) / (ys.max - ys.min)) * height;
    const whole = ys.min === home.y[0] && ys.max === home.y[1];
    const isFar = (y) => whole && (page.metric().goal === "max" ? y < ys.min : y > ys.max);
    const inside = (x) => x >= left - 9 && x <= left + width + 9;
    c.save();
    c.beginPath(); c.rect(left, top, width, height); c.clip();
    c.lineWidth = 1.3 * k;
    const steps = page.overview.line.map((step) => ({ ...step, x: xOf(step.number) }));
    const end = found.length ? found[found.length - 1].x : 0;
    steps.forEach((step, place) => {
      const to = place + 1 < steps.length ? steps[place + 1].x : end + (xs.max - end) / 2;
      if (step.sd) {
        c.fillStyle = color("band");
        c.fillRect(px(step.x), py(step.value + 2 * step.sd), px(to) - px(step.x), py(step.value - 2 * step.sd) - py(step.value + 2 * step.sd));
      }
    });
    c.strokeStyle = color("candidate"); c.lineWidth = 2 * k; c.beginPath();
    steps.forEach((step, place) => {
      const to = place + 1 < steps.length ? steps[place + 1].x : end + (xs.max - end) / 2;
      if (place) c.lineTo(px(step.x), py(step.value)); else c.moveTo(px(step.x), py(step.value));
      c.lineTo(px(to), py(step.value));
    });
    c.stroke();
    c.fillStyle = color("confirmed");
    for (const dot of found) if (dot.state === "confirmed" && inside(px(dot.x))) c.fillRect(px(dot.x) - k, top + height - 9 * k, 2 * k, 9 * k);
    const count = found.filter((dot) => inside(px(dot.x))).length;
    const size = (count > 2000 ? 2.4 : count > 300 ? 3.2 : 4.2) * k;
    for (const [state, group] of groups) {
      c.fillStyle = c.strokeStyle = color(state); c.lineWidth = 1.4 * k;
      marks(c, state, group, { px, py, over, size, inside, isFar, step: 2 * k });
    }
    if (near) {
      c.strokeStyle = color("ink"); c.lineWidth = 2 * k; c.beginPath();
      c.arc(px(near.x), near.y === null ? over : py(near.y), 3 * size, 0, 7); c.stroke();
    }
    c.restore();
  };

  const describe = (dot) => {
    const all = page.columns(), place = dot.place;
    return [
      el("strong", {}, page.digits(all.number[place])), " ", page.state(all.state[place]), el("br"),
      all.title[place], el("br"),
      `${page.metric().name} ${page.value(all.value[place])}, estimated effect ${page.change(all.effect[place])}` +
        (all.effect_sd[place] === null ? "" : ` ± ${page.value(all.effect_sd[place])}`), el("br"), page.time(all.at[place]),
    ];
  };
  const point = (dot) => {
    if (dot === near) return;
    near = dot;
    tip.hidden = !dot;
    if (dot) {
      tip.replaceChildren(...describe(dot));
      const x = plot.valToPos(dot.x, "x"), left = plot.over.offsetLeft;
      const y = dot.y === null ? 0 : Math.max(0, Math.min(plot.over.clientHeight, plot.valToPos(dot.y, "y")));
      const right = x > plot.over.clientWidth / 2;
      tip.style.left = right ? "auto" : `${left + x + 14}px`;
      tip.style.right = right ? `${chart.clientWidth - left - x + 14}px` : "auto";
      tip.style.top = `${Math.min(y + 10, plot.over.clientHeight - 60)}px`;
    }
    plot.redraw(false);
  };
  const hover = (u) => {
    const { left, top } = u.cursor;
    if (left === undefined || left < 0) { point(null); return; }
    const from = u.posToVal(left - 14, "x"), to = u.posToVal(left + 14, "x");
    let low = 0, high = found.length;
    while (low < high) { const middle = (low + high) >> 1; if (found[middle].x < from) low = middle + 1; else high = middle; }
    let best = null, distance = 20 * 20;
    for (; low < found.length && found[low].x <= to; low++) {
      const dot = found[low], y = dot.y === null ? 7 : Math.min(u.over.clientHeight, Math.max(7, u.valToPos(dot.y, "y")));
      const away = (u.valToPos(dot.x, "x") - left) ** 2 + (y - top) ** 2;
      if (away < distance) { distance = away; best = dot; }
    }
    point(best);
  };

  const build = () => {
    for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.by === by);
    close();
    found = dots(by);
    groups = ORDER.map((state) => [state, found.filter((dot) => dot.state === state)]).filter(([, group]) => group.length);
    near = null;
    const sign = page.metric().goal === "max" ? -1 : 1, last = found.length ? found[found.length - 1].x : 1;
    const first = !found.length ? 0 : by === "number" ? Math.max(0, found[0].x - 1) : found[0].x, side = 0.02 * (last - first) || 1;
    home = { x: [first - side, last + side], y: bounds(found, sign) };
    const label = { number: "experiment", time: "time", hours: "hours of training on one device" }[by];
    const height = Math.max(260, Math.min(520, Math.round(innerHeight * 0.5)));
    chart.replaceChildren(tip);
    plot = new uPlot({
      width: Math.max(200, Math.floor(chart.clientWidth)), height, ms: 1e-3, legend: { show: false },
      cursor: { drag: { x: true, y: true, uni: 24 }, points: { show: false } },
      scales: { x: { time: by === "time", auto: false, min: home.x[0], max: home.x[1] }, y: { auto: false, min: home.y[0], max: home.y[1] } },
      series: [{}, { paths: () => null, points: { show: false } }], axes: axes([label, page.metric().words]).map((axis) => axis.scale !== "x" ? axis : by === "number" ? { ...axis, incrs: WHOLE } : by === "time" ? { ...axis, size: 56, space: 90 } : axis),
      hooks: { draw: [draw], setCursor: [hover] },
    }, [found.map((dot) => dot.x), found.map((dot) => dot.y)], chart);
    plot.setScale("x", { min: home.x[0], max: home.x[1] });
    plot.setScale("y", { min: home.y[0], max: home.y[1] });
    plot.over.addEventListener("dblclick", reset);
    plot.over.addEventListener("click", () => { if (near && !plot.select.width) page.go(`experiment/${page.columns().number[near.place]}`); });
    plot.over.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const box = plot.over.getBoundingClientRect();
      zoom(event.deltaY < 0 ? 0.85 : 1 / 0.85, {
        x: plot.posToVal(event.clientX - box.left, "x"), y: plot.posToVal(event.clientY - box.top, "y"),
      });
    }, { passive: false });
    const kept = found.filter((dot) => ["confirmed", "candidate"].includes(dot.state)).length;
    chart.setAttribute("aria-label", `${found.length} experiments, ${kept} of them on main or the frontier; the table of experiments has the same figures. Arrow keys go from one to the next.`);
    close = fitted(chart, plot, height);
  };
  chart.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && near) { event.stopPropagation(); page.go(`experiment/${page.columns().number[near.place]}`); }
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    event.preventDefault();
    const at = near ? found.indexOf(near) : event.key === "ArrowRight" ? -1 : found.length;
    point(found[Math.max(0, Math.min(found.length - 1, at + (event.key === "ArrowRight" ? 1 : -1)))] || null);
  });
  build();
  return { update: build, close: () => close(), plot: () => plot };
};

// ── loss curves ──────────────────────────────────────────────────────────────────────────────

/** Of all curves but their beginning, where a loss is far above the rest. */
const usual = (u) => {
  let low = Infinity, high = -Infinity;
  for (const column of u.data.slice(1)) {
    const known = column.filter((value) => value !== null && value !== undefined);
    for (const value of known.slice(Math.floor(known.length / 12))) { low = Math.min(low, value); high = Math.max(high, value); }
  }
  const side = 0.05 * (high - low) || 0.1;
  return [low - side, high + side];
};

/** Each curve: { name, points: [[seconds, loss]], color, width, dash }. Returns how to change and how to close it. */
page.curves = (room, first, height = 240) => {
  const chart = el("div", { class: "chart" }), legend = el("ul", { class: "legend" });
  room.append(chart, legend);
  let close = () => {}, plot = null, names = "";
  const tables = (curves) => curves.length === 1
    ? [curves[0].points.map((p) => p[0]), curves[0].points.map((p) => p[1])]
    : uPlot.join(curves.map((each) => [each.points.map((p) => p[0]), each.points.map((p) => p[1])]));
  const describe = (curves) => {
    const ends = curves.map((each) => { // one batch's loss says little
      const last = each.points.slice(-Math.ceil(each.points.length / 10));
      return [last[last.length - 1][0], last.reduce((sum, point) => sum + point[1], 0) / last.length];
    });
    chart.setAttribute("role", "img");
    chart.setAttribute("aria-label", curves.map((each, place) => `${each.name}: loss ${ends[place][1].toFixed(3)} after ${ends[place][0].toFixed(0)} s`).join("; "));
    legend.replaceChildren(...curves.map((each, place) => el("li", {}, swatch(each.color), `${each.dash ? "┄ " : ""}${each.name}: ${ends[place][1].toFixed(3)}`)), el("li", { class: "quiet" }, "(the mean of the last tenth)"));
  };
  const update = (given) => {
    const curves = given.filter((each) => each.points && each.points.length);
    const now = JSON.stringify(curves.map((each) => [each.name, each.color]));
    if (curves.length) describe(curves);
    if (plot && now === names && curves.length) { plot.setData(tables(curves)); return; }
    close();
    close = () => {};
    plot = null;
    names = now;
    if (!curves.length) { legend.replaceChildren(); chart.replaceChildren(el("p", { class: "quiet" }, "No loss was noted.")); return; }
    chart.replaceChildren();
    plot = new uPlot({
      width: Math.max(200, Math.floor(chart.clientWidth)), height, legend: { show: false },
      cursor: { drag: { x: true, y: true, uni: 24 } }, scales: { x: { time: false }, y: { range: usual } },
      series: [{}, ...curves.map((each) => ({
        stroke: page.css(each.color), width: each.width || 1.5, dash: each.dash, spanGaps: true, points: { show: false },
      }))], axes: axes(["seconds of training", "training loss"]),
    }, tables(curves), chart);
    close = fitted(chart, plot, height);
  };
  update(first);
  return { update, close: () => close() };
};

const swatch = (color) => {
  const made = el("span", { class: "swatch" });
  made.style.background = `var(--${color})`;
  return made;
};
page.swatch = swatch;

// ── two estimates as curves over the values ──────────────────────────────────────────────────

page.odds = (decision, metric) => {
  const { incumbent_value: mean, incumbent_sd: sd, effect, effect_sd: wide } = decision;
  if ([mean, effect].some((figure) => figure === null) || !(wide > 0)) return null;
  const W = 560, H = 150, narrow = sd || wide / 3;
  const low = Math.min(mean - 3.2 * narrow, mean + effect - 3.2 * wide), high = Math.max(mean + 3.2 * narrow, mean + effect + 3.2 * wide);
  const x = (value) => ((value - low) / (high - low)) * (W - 20) + 10;
  const top = 1 / Math.min(narrow, wide);
  const shape = (centre, width) => {
    const points = [];
    for (let at = 0; at <= 120; at++) {
      const value = low + ((high - low) * at) / 120;
      points.push(`${x(value).toFixed(1)},${(H - 34 - ((H - 50) * Math.exp(-0.5 * ((value - centre) / width) ** 2)) / width / top).toFixed(1)}`);
    }
    return `M${points.join("L")}`;
  };
  const words = `Before the change ${page.value(mean, metric)}, with it ${page.value(mean + effect, metric)}; the change ${page.change(effect, metric)} ± ${page.value(wide, metric)}` +
    (decision.p_better === null ? "" : `; P(better) ${page.percent(decision.p_better)}`);
  const picture = el("svg:svg", { viewBox: `0 0 ${W} ${H}`, width: "100%", role: "img", "aria-label": words },
    el("svg:path", { d: shape(mean, narrow), fill: "none", stroke: page.css("discard"), "stroke-width": 2, "stroke-dasharray": "6 4" }),
    el("svg:path", { d: shape(mean + effect, wide), fill: page.css("band"), stroke: page.css("candidate"), "stroke-width": 2 }),
    el("svg:line", { x1: 10, x2: W - 10, y1: H - 34, y2: H - 34, stroke: page.css("quiet") }),
    el("svg:text", { x: x(mean), y: H - 18, "text-anchor": "middle" }, `without: ${page.value(mean, metric)}`),
    el("svg:text", { x: x(mean + effect), y: H - 3, "text-anchor": "middle" }, `with: ${page.value(mean + effect, metric)}`));
  const why = "± is one sd. P(better) also counts the chance that a change does nothing at all, as most do.";
  return el("figure", {}, picture, el("figcaption", {}, `${words}. ${metric.goal === "min" ? "Left" : "Right"} is better. ${why}`));
};
