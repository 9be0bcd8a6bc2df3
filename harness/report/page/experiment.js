"use strict";
/* One experiment: why it was decided so, what it changed, its runs, and how to take it. */

const PYTHON = /(#.*$)|("""[\s\S]*?"""|'''[\s\S]*?'''|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|\b(and|as|assert|async|await|break|class|continue|def|del|elif|else|except|False|finally|for|from|global|if|import|in|is|lambda|None|nonlocal|not|or|pass|raise|return|True|try|while|with|yield)\b|\b(\d[\d_]*(?:\.\d+)?(?:e[+-]?\d+)?)\b/gm;
const KINDS = ["comment", "string", "keyword", "figure"];
const coloured = (text) => {
  const parts = [];
  let at = 0;
  for (const match of text.slice(0, 2000).matchAll(PYTHON)) {
    if (match.index > at) parts.push(text.slice(at, match.index));
    parts.push(el("span", { class: KINDS[match.slice(1).findIndex((found) => found !== undefined)] }, match[0]));
    at = match.index + match[0].length;
  }
  parts.push(text.slice(at));
  return parts;
};
const diff = (text) => el("pre", { class: "diff", tabindex: "0", role: "region", "aria-label": "Difference of train.py" }, !text ? "train.py is the same." : text.split("\n").map((line) => {
  const kind = /^(\+\+\+|---|@@)/.test(line) ? "hunk" : line[0] === "+" ? "added" : line[0] === "-" ? "removed" : "";
  return el("span", { class: `line ${kind}` }, kind === "hunk" ? line : [line.slice(0, 1), coloured(line.slice(1))]);
}));
const COLORS = { wait: "error", propose: "dropped", start: "discard", compile: "invalid", held: "begun", train: "confirmed", save: "crash", load: "keyword", score: "candidate", audit: "figure", own: "quiet" };
const SAYS = { wait: "waiting for others", propose: "no proposal yet", start: "starting", compile: "compiling", held: "waiting for its turn", train: "training", save: "saving", load: "loading", score: "scoring", audit: "audit", own: "harness" };
const stack = (phases) => {
  const whole = Object.values(phases).reduce((sum, seconds) => sum + seconds, 0) || 1;
  const parts = Object.entries(phases).filter(([, seconds]) => seconds / whole > 0.0005);
  return [
    el("div", { class: "stack", role: "img", "aria-label": parts.map(([name, seconds]) => `${SAYS[name] || name} ${page.span(seconds)}`).join(", ") }, parts.map(([name, seconds]) => {
      const part = el("span", { title: `${SAYS[name] || name}: ${page.span(seconds)}` });
      part.style.background = `var(--${COLORS[name] || "discard"})`;
      part.style.width = `${(100 * seconds) / whole}%`;
      return part;
    })),
    el("ul", { class: "legend" }, parts.map(([name, seconds]) => el("li", {}, page.swatch(COLORS[name] || "discard"), `${SAYS[name] || name} ${page.span(seconds)} (${page.percent(seconds / whole)})`))),
  ];
};
const command = (text) => {
  const button = el("button", { onclick: async () => { await navigator.clipboard.writeText(text); button.textContent = "copied"; } }, "copy");
  return el("div", { class: "bar" }, el("code", { class: "wrap" }, text), navigator.clipboard ? button : null);
};
const runOf = (run, several, metric) => el("article", { class: "card" },
  el("h3", {}, `seed ${run.seed}: `, run.value === null ? run.status : page.value(run.value, metric)),
  run.detail ? el("p", { class: "warning wrap" }, run.detail) : null,
  run.warnings.map((text) => el("p", { class: "warning wrap" }, text)), stack(run.phases),
  facts([["device", run.device], ["host", run.host], ["checked", run.checked], ...run.instead_of.map((text) => ["does not count", text])]),
  el("details", {}, el("summary", {}, "all figures"), facts(Object.entries(run.summary).map(([name, value]) => [name, value === null ? "–" : typeof value === "number" ? +value.toFixed(4) : value]))),
  run.log ? el("details", { open: !several && run.value === null }, el("summary", {}, "the end of its log"), el("pre", { tabindex: "0" }, run.log)) : null);

/** Those before and after it in the table as it was sorted last; else newest first, as the table is at first. */
const neighbours = (number) => {
  const all = page.columns().number, place = page.place(number);
  const listed = page.listed && page.listed.includes(place) ? page.listed : all.map((_, at) => at).reverse();
  const at = listed.indexOf(place);
  return [all[listed[at - 1]], all[listed[at + 1]]];
};

page.views.experiment = (room, which) => {
  const number = Number(which), charts = [];
  let gone = false;
  const draw = async () => {
    let found;
    if (!Number.isInteger(number)) { room.replaceChildren(section("No experiment", el("p", { class: "wrap" }, `${which} is no number of one. `, el("a", { href: "#/experiments" }, "All experiments")))); return; }
    try { found = await page.source.experiment(number); } catch (error) { room.replaceChildren(section(`Experiment ${which}`, el("p", { class: "warning wrap" }, String(error.message)))); return; }
    if (gone) return;
    charts.splice(0).forEach((chart) => chart.close());
    const [before, after] = neighbours(number), decision = found.decision, losses = el("div");
    const odds = decision && page.odds(decision, found.metric);
    room.replaceChildren(
      el("p", { class: "bar" }, el("a", { href: "#/experiments" }, "all experiments"), before === undefined ? null : page.link(before, `‹ ${page.digits(before)}`), after === undefined ? null : page.link(after, `${page.digits(after)} ›`),
        el("a", { href: `#/compare/${found.parent_number ?? "main"}/${number}` }, "compare"),
        el("button", { onclick: () => room.querySelector("#take").scrollIntoView() }, "take it")),
      el("h2", {}, `${page.digits(number)} ${found.title}`),
      el("p", {}, page.state(found.state), ` ${page.MEANING[found.state] || ""}`),
      el("p", {}, el("span", { class: "large" }, page.value(found.value, found.metric)), ` ${found.metric.words}`, decision && decision.effect !== null ? `; estimated effect ${page.change(decision.effect, found.metric)} ± ${page.value(decision.effect_sd, found.metric)}` : ""),
      found.hypothesis ? el("p", { class: "wrap" }, found.hypothesis) : null,
      section("Is it better?", found.why.map((line) => el("p", { class: "wrap" }, line)), odds, found.why.length ? null : el("p", { class: "quiet" }, "Nothing was decided.")),
      section("What it changed", diff(found.diff)), section("Loss", losses),
      section("Runs", found.runs.length ? el("div", { class: "cards" }, found.runs.map((run) => runOf(run, found.runs.length > 1, found.metric))) : el("p", { class: "quiet" }, "No run is recorded.")),
      el("span", { id: "take" }), section("Take it", found.brings.length ? el("p", {}, `It stands on ${found.brings.map(page.digits).join(", ")}, which main has not: the first command brings them along.`) : null, found.commands.map(command)),
      facts([["built on", found.parent_number === null ? found.parent.slice(0, 10) : page.link(found.parent_number)], ["branch", found.branch], ["commit", found.commit], ["agent", found.agent], ["author", found.author], ["when", page.time(found.at)], ["cost of the proposal", found.cost_usd === null ? null : `$${found.cost_usd.toFixed(4)}`]]),
      el("details", {}, el("summary", {}, "the commit's message"), el("pre", { tabindex: "0" }, found.message)));
    charts.push(page.curves(losses, [
      ...found.runs.map((run, place) => ({ name: `seed ${run.seed}`, points: run.curve, color: "candidate", width: place ? 1.2 : 2.2 })),
      { name: "what it is built on", points: found.parent_curve || [], color: "discard", dash: [8, 4] },
    ]));
  };
  draw();
  return {
    update: () => { if (["begun", "error"].includes(page.columns().state[page.place(number)]) || !room.querySelector("h2")) draw(); },
    step: (by) => { const next = neighbours(number)[by > 0 ? 1 : 0]; if (by && next !== undefined) page.go(`experiment/${next}`); },
    close: () => { gone = true; charts.forEach((chart) => chart.close()); },
  };
};

