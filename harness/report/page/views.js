"use strict";
/* What is to be seen, a function a view: it fills a room and returns what to do when something changes. */

const section = (title, ...children) => el("section", {}, el("h2", {}, title), children);
const facts = (pairs, kind) => el("dl", { class: kind }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
  .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
const empty = () => page.columns().number.length === 0;
const nothing = () => el("p", {}, "There is no experiment yet. ", el("code", {}, "harness loop"), " begins.");

// ── now, and progress ────────────────────────────────────────────────────────────────────────

const PHASE = { starting: "starting: imports, compilation, warm-up", waiting: "waiting for the GPU" };

page.views.overview = (room) => {
  const now = el("div", { class: "cards" }), last = el("div"), session = el("p", { class: "quiet" });
  const curves = new Map();
  if (!page.isReport) room.append(section("Now", session, now));
  const progress = el("div");
  room.append(section("Progress", empty() ? nothing() : null, progress), last);
  const chart = empty() ? null : page.progress(progress);

  const curvesOf = (run) => [
    { name: "this run", points: run.curve, color: "candidate", width: 2.5 },
    ...page.overview.runs.map((each) => each.name === "frontier"
      ? { name: "the frontier's head", points: each.curve, color: "confirmed", dash: [8, 4], width: 2 }
      : { name: `${each.name}`, points: each.curve, color: "discard", width: 1 }),
  ];
  const card = (key, run) => {
    const body = el("div"), bar = el("progress", { max: 1, "aria-label": "part of the budget that is spent" });
    const made = el("article", { class: "card" }, el("h3", {}, run.title), bar, body);
    const drawn = el("div");
    made.append(drawn);
    const entry = { made, body, bar, chart: null, points: -1, drawn };
    curves.set(key, entry);
    return entry;
  };
  const tick = () => {
    const running = page.running, budget = page.overview.budget_seconds;
    const limits = Object.entries(running.limits || {}).map(([name, most]) => `${name} ${most}`).join(", ");
    session.textContent = running.process
      ? `A session has run for ${page.span(Date.now() / 1000 - running.began)} (process ${running.process}): ${page.many(running.measured, "experiment")} measured` +
        `${running.spent_usd ? `, $${running.spent_usd.toFixed(2)} spent` : ""}; ${limits ? `limits: ${limits}` : "no limit"}.`
      : "Nothing runs. harness loop begins a session.";
    const keys = new Set();
    for (const run of running.runs) {
      const key = `${run.commit} ${run.seed} ${run.name}`;
      keys.add(key);
      const entry = curves.get(key) || card(key, run);
      if (!entry.made.isConnected) now.append(entry.made);
      const training = run.phase === "training", spent = run.seconds + Date.now() / 1000 - running.told;
      entry.bar.value = training && budget ? Math.min(1, spent / budget) : run.phase === "scoring" || run.phase === "auditing" ? 1 : 0;
      entry.body.replaceChildren(facts([
        ["phase", PHASE[run.phase] || run.phase || "begins"],
        ["left", training && budget ? page.span(Math.max(0, budget - spent)) : null],
        ["step", run.step === null ? null : run.step.toLocaleString()],
        ["loss", run.loss === null ? null : run.loss.toFixed(4)],
        ["worker", running.runs.length > 1 ? run.place : null], ["seed", run.seed],
      ], "row"));
      if (entry.points !== run.curve.length) {
        entry.points = run.curve.length;
        if (entry.chart) entry.chart.update(curvesOf(run));
        else if (run.curve.length > 1) entry.chart = page.curves(entry.drawn, curvesOf(run), 200);
      }
    }
    for (const [key, entry] of curves) if (!keys.has(key)) { entry.chart?.close(); entry.made.remove(); curves.delete(key); }
  };
  const results = () => {
    const all = page.columns(), places = all.number.map((_, place) => place).slice(-6).reverse();
    const tried = {};
    for (const state of all.state) tried[state] = (tried[state] || 0) + 1;
    const counts = Object.entries(tried).map(([state, count]) => `${count.toLocaleString()} ${state}`).join(", ");
    const gain = all.state.lastIndexOf("confirmed");
    last.replaceChildren(
      section("Last results", el("p", {}, `Tried: ${counts || "none"}.`),
        gain < 0 ? null : el("p", {}, "Last on main: ", page.link(all.number[gain]), ` ${all.title[gain]} (${page.change(all.effect[gain])}). `,
          el("a", { href: "#/real" }, "Is it real?")),
        el("ul", { class: "tree" }, places.map((place) => el("li", {}, page.link(all.number[place]), " ", page.state(all.state[place]), " ",
          `${page.value(all.value[place])} (${page.change(all.effect[place])}) ${all.title[place]}`)))));
    if (page.overview.trouble) last.prepend(el("p", { class: "warning wrap" }, page.overview.trouble));
  };
  results();
  tick();
  const clock = page.isReport ? null : setInterval(tick, 1000);
  return {
    tick, update: () => { if (!chart && !empty()) { page.current.close(); location.hash = "#/overview"; dispatchEvent(new Event("hashchange")); return; } chart?.update(); results(); },
    close: () => { clearInterval(clock); chart?.close(); curves.forEach((entry) => entry.chart?.close()); }, plot: () => chart?.plot(),
  };
};

// ── the table ────────────────────────────────────────────────────────────────────────────────

const COLUMNS = [
  ["number", "no.", "number"], ["state", "state", ""], ["value", "score", "number"], ["effect", "effect", "number wide"],
  ["title", "title", "title"], ["agent", "agent", "wide"], ["at", "when", "wide"],
];
const ROW = 34;
const chosen = { text: "", state: "", agent: "", by: "number", down: true, at: 0 }; // kept from one look to the next

page.views.experiments = (room, words) => {
  if (words !== undefined) chosen.text = words;
  if (empty()) { room.append(section("Experiments", nothing())); return {}; }
  let found = [];
  const count = el("p", { class: "quiet", role: "status" });
  const search = el("input", { type: "search", placeholder: "words in titles and hypotheses", "aria-label": "Search titles and hypotheses", oninput: () => {
    chosen.text = search.value;
    chosen.at = 0;
    history.replaceState(null, "", `#/experiments/${encodeURIComponent(chosen.text)}`);
    pick();
  }, onkeydown: (event) => { if (event.key === "Enter") { event.preventDefault(); rows.focus(); } } });
  const choice = (name, label) => {
    const values = [...new Set(page.columns()[name])].filter(Boolean).sort();
    const made = el("select", { "aria-label": label, onchange: () => { chosen[name] = made.value; pick(); } },
      el("option", { value: "" }, label), values.map((value) => el("option", { value }, value)));
    made.value = values.includes(chosen[name]) ? chosen[name] : "";
    chosen[name] = made.value;
    return made;
  };
  const body = el("tbody"), heads = COLUMNS.map(([key, text, kind]) => el("th", { class: kind, scope: "col" },
    el("button", { onclick: () => { chosen.down = chosen.by === key ? !chosen.down : ["number", "at"].includes(key); chosen.by = key; pick(); } }, text)));
  const rows = el("div", { class: "scroll rows", tabindex: "0", role: "region", "aria-label": "Experiments" },
    el("table", {}, el("thead", {}, el("tr", {}, heads)), body));
  search.value = chosen.text;
  room.append(section("Experiments", el("div", { class: "bar" }, search, choice("state", "any state"), choice("agent", "any agent")), count, rows));

  const pick = () => {
    const all = page.columns(), words = chosen.text.toLowerCase().split(/\s+/).filter(Boolean);
    found = all.number.map((_, place) => place).filter((place) =>
      (!chosen.state || all.state[place] === chosen.state) && (!chosen.agent || all.agent[place] === chosen.agent) &&
      words.every((word) => `${page.digits(all.number[place])} ${all.title[place]} ${all.hypothesis[place]}`.toLowerCase().includes(word)));
    const column = all[chosen.by], down = chosen.down ? -1 : 1;
    const said = (place) => words.length && chosen.by === "number" && words.every((word) => all.title[place].toLowerCase().includes(word));
    const known = (value) => value !== null && value !== undefined;
    found.sort((one, other) => {
      const a = column[one], b = column[other], first = said(other) - said(one); // titles before hypotheses
      if (first) return first;
      if (!known(a) || !known(b)) return known(a) ? -1 : known(b) ? 1 : 0;
      return down * (typeof a === "string" ? a.localeCompare(b) : a - b);
    });
    heads.forEach((head, place) => head.setAttribute("aria-sort", COLUMNS[place][0] !== chosen.by ? "none" : chosen.down ? "descending" : "ascending"));
    count.textContent = `${found.length.toLocaleString()} of ${all.number.length.toLocaleString()} experiments`;
    chosen.at = Math.min(chosen.at, Math.max(0, found.length - 1));
    page.listed = found;
    drawn = "";
    draw();
  };
  let drawn = "";
  const draw = () => {
    const first = Math.max(0, Math.floor(rows.scrollTop / ROW) - 4), last = Math.min(found.length, first + Math.ceil((rows.clientHeight || 600) / ROW) + 8);
    const now = `${first} ${last} ${chosen.at}`;
    if (now === drawn) return;
    drawn = now;
    const all = page.columns();
    const spacer = (height) => { const cell = el("td", { colspan: COLUMNS.length }); cell.style.height = `${height}px`; return el("tr", { class: "spacer", "aria-hidden": "true" }, cell); };
    body.replaceChildren(spacer(first * ROW), ...found.slice(first, last).map((place, at) =>
      el("tr", { "aria-selected": first + at === chosen.at ? "true" : null, onclick: () => { chosen.at = first + at; } },
        el("td", { class: "number" }, page.link(all.number[place])), el("td", {}, page.state(all.state[place])),
        el("td", { class: "number" }, page.value(all.value[place])), el("td", { class: "number wide" }, page.change(all.effect[place])),
        el("td", { class: "title", title: all.title[place] }, all.elsewhere[place] ? "(another setting) " : "", all.title[place]),
        el("td", { class: "wide" }, all.agent[place] || "–"), el("td", { class: "wide" }, page.time(all.at[place])))), spacer((found.length - last) * ROW));
  };
  rows.addEventListener("scroll", draw, { passive: true });
  pick();
  return {
    update: pick, search: () => { search.focus(); search.select(); }, open: () => found.length && page.go(`experiment/${page.columns().number[found[chosen.at]]}`),
    step: (by) => {
      chosen.at = Math.max(0, Math.min(found.length - 1, chosen.at + by));
      const top = chosen.at * ROW;
      if (top < rows.scrollTop || top > rows.scrollTop + rows.clientHeight - 3 * ROW) rows.scrollTop = Math.max(0, top - rows.clientHeight / 2);
      draw();
    },
  };
};

// ── what was built on what ───────────────────────────────────────────────────────────────────

const SHOWN = 200;

page.views.tree = (room) => {
  const all = page.columns(), above = new Map();
  all.number.forEach((_, place) => {
    const key = page.places.has(all.parent[place]) ? all.parent[place] : "main";
    above.set(key, [...(above.get(key) || []), place]);
  });
  const isKept = (place) => ["confirmed", "candidate", "dropped"].includes(all.state[place]);
  const onLine = (place) => all.state[place] === "confirmed" ? 2 : all.state[place] === "candidate" ? 1 : 0;
  const others = (key) => {
    const places = (above.get(key) || []).filter((place) => !isKept(place));
    if (!places.length) return null;
    const counts = {};
    for (const place of places) counts[all.state[place]] = (counts[all.state[place]] || 0) + 1;
    const list = el("ul"), details = el("details", {}, el("summary", {}, `${places.length.toLocaleString()} more tried on it: ${Object.entries(counts).map(([state, count]) => `${count} ${state}`).join(", ")}`), list);
    details.addEventListener("toggle", () => {
      if (list.childElementCount) return;
      list.append(...places.slice(-SHOWN).reverse().map((place) => el("li", {}, page.link(all.number[place]), " ", page.state(all.state[place]), ` ${page.value(all.value[place])} ${all.title[place]}`)));
      if (places.length > SHOWN) list.append(el("li", { class: "quiet" }, `and ${places.length - SHOWN} earlier ones, see Experiments`));
    });
    return details;
  };
  const branch = (key) => { // the line goes on at the same depth; what leads elsewhere is indented
    const items = [];
    for (let at = key, seen = new Set(); at !== undefined && !seen.has(at);) {
      seen.add(at);
      const kept = (above.get(at) || []).filter(isKept).sort((one, other) => onLine(other) - onLine(one) || (above.get(all.number[other]) || []).length - (above.get(all.number[one]) || []).length);
      const [next, ...aside] = kept;
      const rest = others(at);
      if (rest) items.push(el("li", {}, rest));
      for (const place of aside) items.push(el("li", {}, el("ul", {}, node(place), branch(all.number[place]))));
      if (next === undefined) break;
      items.push(node(next));
      at = all.number[next];
    }
    return items;
  };
  const node = (place) => el("li", {}, page.link(all.number[place]), " ", page.state(all.state[place]), ` ${page.value(all.value[place])} (${page.change(all.effect[place])}) ${all.title[place]}`);
  room.append(section("What was built on what", empty() ? nothing() : [
    el("p", { class: "quiet" }, "From the first baseline down; each stands on the one above it at the same depth."),
    el("ul", { class: "tree" }, el("li", {}, el("strong", {}, page.overview.since ? "what is not in this report" : "main at the start, or commits by hand")), branch("main"))]));
  return {};
};

// ── is it real ───────────────────────────────────────────────────────────────────────────────

page.views.real = (room) => {
  const { noise_sd: noise, holdout, kept, main_scores: scores } = page.overview, all = page.columns();
  const table = (heads, rows, label) => el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, el("table", {}, el("thead", {}, el("tr", {}, heads.map(([text, kind]) => el("th", { class: kind, scope: "col" }, text)))), el("tbody", {}, rows)));
  const number = (text) => el("td", { class: "number" }, text);
  room.append(
    section("The noise", el("p", {}, noise === null ? "No commit was measured twice yet, so the noise of a run is not known." : `By all repeats so far, one run differs from the next, with nothing changed, by an sd of ${page.value(noise)}. A gain of less than twice that, seen once, may be luck.`),
      scores.length ? el("p", {}, `main has ${scores.length} run${scores.length > 1 ? "s" : ""}: ${scores.map((score) => page.value(score)).join(", ")}.`) : null),
    section("What was claimed, and what is thought by now", kept.length ? table(
      [["no.", "number"], ["state", ""], ["claimed", "number"], ["by now", "number"], ["scores then, now", "number wide"], ["title", "title"]],
      kept.slice().reverse().map((each) => el("tr", {}, el("td", { class: "number" }, page.link(each.number)), el("td", {}, page.state(each.state)),
        number(`${page.change(each.claimed)}${each.claimed_sd === null ? "" : ` ± ${page.value(each.claimed_sd)}`}`), number(page.change(each.later)),
        el("td", { class: "number wide" }, `${each.scores_then}, ${each.scores_now ?? "–"}`), el("td", { class: "title" }, all.title[page.place(each.number)]))), "Kept experiments")
      : el("p", {}, "Nothing was kept yet.")));
  if (holdout) {
    const words = holdout.words.map((line) => el("p", { class: line.startsWith("WARNING") ? "warning" : "" }, line));
    room.append(section("The holdout, which no decision sees", words, holdout.failed ? el("p", { class: "warning wrap" }, holdout.failed) : null,
      holdout.scores.length ? table([["main, oldest first", "number"], ["on val", "number"], ["on the holdout", "number"]],
        holdout.scores.map((each, place) => el("tr", {}, number(place + 1), number(page.value(each.val)), number(page.value(each.holdout)))), "Holdout") : el("p", {}, "main was not scored there yet.")));
  } else if (page.isReport) room.append(section("The holdout", el("p", { class: "quiet" }, "Left out of this report; harness report --holdout takes it along.")));
  return {};
};

// ── time and cost ────────────────────────────────────────────────────────────────────────────

page.views.time = (room) => {
  const { time } = page.overview, all = page.columns(), agents = new Map();
  let seconds = 0, paid = 0;
  all.number.forEach((_, place) => {
    const name = all.agent[place] || "by hand", entry = agents.get(name) || { count: 0, kept: 0, usd: 0, seconds: 0 };
    entry.count += 1;
    entry.kept += ["confirmed", "candidate"].includes(all.state[place]);
    entry.usd += all.cost_usd[place] || 0;
    entry.seconds += all.device_seconds[place] || 0;
    seconds += all.device_seconds[place] || 0;
    paid += all.cost_usd[place] || 0;
    agents.set(name, entry);
  });
  room.append(
    section("Where the time went", time.runs ? [el("p", {}, `Of the last ${time.runs} runs; on a GPU a start may lie beside the run before it.`), stack(time.phases),
      time.training_share === null ? null : el("p", {}, `${page.percent(time.training_share)} of the device's time was training: ${page.span(time.between_seconds)} between two trainings, on average of ${time.followed}.`),
      time.disturbed ? el("p", { class: "warning" }, `${time.disturbed} of the last runs waited long for a processor.`) : null] : el("p", {}, "No run is recorded yet.")),
    section("What it cost", el("p", {}, `${(seconds / 3600).toFixed(1)} hours of training on a device, $${paid.toFixed(2)} for proposals.`),
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Cost by agent" }, el("table", {}, el("thead", {}, el("tr", {}, ["agent", "experiments", "on main or the frontier", "hours", "$"].map((text, place) => el("th", { class: place ? "number" : "", scope: "col" }, text)))),
        el("tbody", {}, [...agents].map(([name, entry]) => el("tr", {}, el("td", {}, name), ...[entry.count.toLocaleString(), entry.kept, (entry.seconds / 3600).toFixed(1), entry.usd.toFixed(2)].map((text) => el("td", { class: "number" }, text)))))))));
  return {};
};

// ── compare ──────────────────────────────────────────────────────────────────────────────────

page.views.compare = (room, one = "", other = "") => {
  let chart = null, gone = false;
  const inputs = [one, other].map((value, place) => el("input", { value, "aria-label": place ? "the other experiment" : "one experiment", placeholder: place ? "12, or a commit" : "7, or main", size: 14 }));
  const result = el("div");
  const form = el("form", { class: "bar", onsubmit: (event) => { event.preventDefault(); page.go(`compare/${inputs.map((input) => encodeURIComponent(input.value.trim())).join("/")}`); } },
    inputs[0], "and", inputs[1], el("button", {}, "Compare"));
  room.append(section("Compare", form, result));
  const draw = async () => {
    let found;
    try { found = await page.source.compare(encodeURIComponent(one), encodeURIComponent(other)); } catch (error) { result.replaceChildren(el("p", { class: "warning wrap" }, String(error.message))); return; }
    if (gone) return;
    const losses = el("div");
    result.replaceChildren(
      el("div", { class: "cards" }, found.sides.map((side) => el("article", { class: "card" }, el("h3", {}, side.number === null ? side.title : page.link(side.number, `${page.digits(side.number)} ${side.title}`)),
        el("p", { class: "large" }, page.value(side.value)), facts([["scores", side.scores.map((score) => page.value(score)).join(", ") || "–"], ["commit", side.commit]])))),
      section("Loss", losses), section("From the first to the second", found.diff === null ? el("p", {}, el("code", {}, `harness diff ${one} ${other}`), " shows the difference.") : diff(found.diff)));
    chart = page.curves(losses, found.sides.map((side, place) => ({ name: side.number === null ? side.title : page.digits(side.number), points: side.curve || [], color: place ? "candidate" : "discard", width: 2, dash: place ? undefined : [8, 4] })));
  };
  if (one && other) draw();
  else result.append(el("p", { class: "quiet" }, "Two of: an experiment's number, the beginning of a commit, main."));
  return { close: () => { gone = true; chart?.close(); } };
};
