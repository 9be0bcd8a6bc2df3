"use strict";
/* What the other scripts share: elements, words, data, routes, keys. Whatever comes from a repository becomes
   text nodes; nothing here ever parses it as markup. */

const page = { views: {}, overview: null, running: { runs: [] }, listed: null };

// ── elements ─────────────────────────────────────────────────────────────────────────────────

page.el = (tag, about, ...children) => {
  const made = tag.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(about || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity))
    if (child !== null && child !== undefined && child !== false) made.append(child);
  return made;
};
const el = page.el;

page.link = (number, text) => el("a", { href: `#/experiment/${number}` }, text || page.digits(number));

// ── words ────────────────────────────────────────────────────────────────────────────────────

page.SYMBOLS = {
  confirmed: "●", candidate: "◆", dropped: "○", discard: "▪", crash: "×", invalid: "⊘", error: "△",
  begun: "…", "by hand": "✎",
};
page.MEANING = {
  confirmed: "kept, and main has it", candidate: "kept, on the frontier, not proven yet",
  dropped: "kept once, later results made it look worse", discard: "not kept",
  crash: "no score: its own fault", invalid: "no score: it broke a rule",
  error: "no score: the machine's fault; repeated", begun: "not measured yet",
  "by hand": "made by a person, not measured",
};
page.state = (state) =>
  el("span", { class: `state ${state.replace(" ", "-")}` }, Object.hasOwn(page.SYMBOLS, state) ? page.SYMBOLS[state] : "", el("span", { class: "word" }, ` ${state}`));
page.digits = (number) => String(number).padStart(4, "0");
page.metric = () => page.overview.metric;
page.many = (count, what) => `${count.toLocaleString()} ${what}${count === 1 ? "" : "s"}`;
page.value = (value, metric) =>
  value === null || value === undefined ? "–" : value.toFixed((metric || page.metric()).decimals);
page.change = (value, metric) =>
  value === null || value === undefined ? "–"
    : (value < 0 ? "−" : "+") + page.value(Math.abs(value), metric);
const CLOCK = new Intl.DateTimeFormat([], { dateStyle: "medium", timeStyle: "short" });
page.time = (seconds) => Math.abs(seconds) > 8e12 ? "–" : CLOCK.format(new Date(1000 * seconds));
page.span = (seconds) => {
  if (seconds === null || seconds === undefined) return "–";
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]])
    if (seconds >= 2 * size) return `${(seconds / size).toFixed(unit === "min" ? 0 : 1)} ${unit}`;
  return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
};
page.percent = (share) => (share >= 0.9995 ? "over 99.9%" : `${(100 * share).toFixed(1)}%`);
page.css = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// ── data: of a server that is there, or what the page was sent with ──────────────────────────

const GONE = "The server does not answer. Start harness ui again and open the new address: each start has a new token.";
const fetched = async (path) => {
  const answer = await fetch(path).catch(() => { throw new Error(GONE); });
  if (!answer.ok) throw new Error((await answer.text()).slice(0, 300) || `the server says ${answer.status}`);
  return answer.json();
};
const served = {
  overview: () => fetched("overview"),
  experiment: (number) => fetched(`experiment/${number}`),
  compare: (one, other) => fetched(`compare/${one}/${other}`),
};
const side = (found) => {
  const scores = found.runs.map((run) => run.value).filter((value) => value !== null);
  return {
    commit: found.commit, title: found.title, number: found.number, scores,
    value: scores.length ? scores.reduce((sum, score) => sum + score, 0) / scores.length : null,
    curve: found.runs.length ? found.runs[found.runs.length - 1].curve : null,
  };
};
const inlined = (all) => ({
  overview: async () => all.overview,
  experiment: async (number) => {
    if (!all.experiments[number])
      throw new Error(`this report has no details of it; harness report --top N takes more along`);
    return all.experiments[number];
  },
  compare: async (one, other) => {
    const sides = [one, other].map((each) => (each === "main" ? all.main : all.experiments[Number(each)]));
    const missing = [one, other].find((_, place) => !sides[place]);
    if (missing !== undefined) throw new Error(`this report has no details of ${missing}`);
    return { sides: sides.map((found) => (found === all.main ? found : side(found))), diff: null };
  },
});

const unpacked = async (element) => {
  const bytes = Uint8Array.from(atob(element.textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
};

page.columns = () => page.overview.experiments;
page.place = (number) => page.places.get(number); // of an experiment in the columns
const take = (overview) => {
  page.overview = overview;
  page.places = new Map(overview.experiments.number.map((number, place) => [number, place]));
  document.getElementById("name").textContent = overview.repository;
  document.title = `${overview.repository} · autoresearch`;
  const main = overview.main_estimate ?? overview.main_scores[0];
  document.getElementById("headline").textContent =
    `${page.many(overview.experiments.number.length, "experiment")}` +
    (main === undefined ? "" : `, main ${page.metric().name} estimated ${page.value(main)}`) +
    (overview.setting ? ` (${overview.setting})` : "");
};

page.complain = (text) => {
  const banner = document.getElementById("banner");
  banner.textContent = text || "";
  banner.hidden = !text;
};

const follow = () => {
  let stale = false, busy = false;
  const again = async () => {
    if (busy) { stale = true; return; }
    busy = true;
    try {
      take(await page.source.overview());
      page.current.update?.();
      page.complain("");
    } catch (error) { page.complain(String(error.message)); }
    busy = false;
    if (stale) { stale = false; again(); }
  };
  const events = new EventSource("live");
  events.addEventListener("running", (event) => {
    page.running = { ...JSON.parse(event.data), told: Date.now() / 1000 };
    page.complain("");
    page.current.tick?.();
  });
  events.addEventListener("changed", again);
  events.onerror = () => page.complain(GONE);
};

// ── routes ───────────────────────────────────────────────────────────────────────────────────

const TABS = [
  ["overview", "Overview"], ["experiments", "Experiments"], ["tree", "Tree"], ["real", "Is it real?"],
  ["time", "Time and cost"], ["compare", "Compare"],
];

page.current = {};
const show = (moved) => {
  let parts = location.hash.replace(/^#\/?/, "").split("/").filter(Boolean);
  try { parts = parts.map(decodeURIComponent); } catch { parts = []; }
  const [name, ...rest] = Object.hasOwn(page.views, parts[0] || "") ? parts : ["overview"];
  const view = page.views[name], tab = name === "experiment" ? "experiments" : name;
  const tabs = document.getElementById("tabs");
  tabs.replaceChildren(...TABS.map(([key, text]) =>
    el("a", { href: `#/${key}`, "aria-current": key === tab ? "page" : null }, text)));
  const room = document.getElementById("content");
  page.current.close?.();
  page.current = {};
  room.replaceChildren();
  page.current = view(room, ...rest) || {};
  if (moved) { room.focus({ preventScroll: true }); scrollTo(0, 0); }
};
page.go = (route) => { location.hash = `#/${route}`; };

// ── keys ─────────────────────────────────────────────────────────────────────────────────────

const KEYS = [
  ["j, k", "next, previous experiment"], ["enter", "open it"], ["← →", "in the picture: from dot to dot"], ["/", "search"], ["esc", "back"],
  ["g, then o, e, t, r, w, c", "overview, experiments, tree, is it real, time and cost, compare"], ["?", "these keys"],
];
const GO = { o: "overview", e: "experiments", t: "tree", r: "real", w: "time", c: "compare" };

const help = () => {
  const dialog = document.getElementById("help");
  dialog.replaceChildren(
    el("h2", { id: "help-title" }, "Keys"),
    el("dl", {}, KEYS.map(([key, text]) => el("div", {}, el("dt", {}, key), el("dd", {}, text)))),
    el("button", { onclick: () => dialog.close() }, "Close"));
  dialog.showModal();
};

let going = false;
const pressed = (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.getElementById("help").open) return;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.key === "Escape") {
    if (typing) event.target.blur();
    else if (location.hash.startsWith("#/experiment/")) page.go("experiments");
    return;
  }
  if (typing) return;
  if (going) { going = false; if (GO[event.key]) page.go(GO[event.key]); return; }
  if (event.key === "g") { going = true; setTimeout(() => { going = false; }, 1000); }
  else if (event.key === "?") help();
  else if (event.key === "/") { event.preventDefault(); page.search(); }
  else if (event.key === "j" || event.key === "k") page.step(event.key === "j" ? 1 : -1);
  else if (event.key === "Enter" && event.target.closest("a, button, summary") === null) page.current.open?.();
};
page.search = () => {
  if (!page.current.search) page.go("experiments");
  setTimeout(() => page.current.search?.(), 0);
};
page.step = (by) => {
  if (page.current.step) { page.current.step(by); return; }
  page.go("experiments");
  setTimeout(() => page.current.step?.(0), 0);
};

// ── start ────────────────────────────────────────────────────────────────────────────────────

const start = async () => {
  const packed = document.getElementById("packed");
  try {
    page.source = packed ? inlined(await unpacked(packed)) : served;
    take(await page.source.overview());
  } catch (error) {
    document.getElementById("content").replaceChildren(el("p", { class: "warning wrap" }, String(error.message)));
    return;
  }
  page.isReport = packed !== null;
  addEventListener("hashchange", () => show(true));
  addEventListener("keydown", pressed);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(false));
  show(false);
  if (!packed) follow();
};
addEventListener("DOMContentLoaded", start);
