// BudgetExplorer: two sliders that re-rank by MaxSim in the page, with a kernel behind it or without.

import { alignmentView } from "./alignment.js";
import { bytesPerCandidate, isTrained, name, plural, quality, three, whole } from "./choices.js";
import { curveView } from "./curve.js";
import { h, itemView } from "./dom.js";
import { rankingView } from "./ranking.js";
import { sliderView } from "./slider.js";
import { corpusView, figuresView, targetView } from "./targets.js";
import { maxsim, ranked, similarities, unpack } from "./vectors.js";

const SETTLED = 500; // milliseconds after which a move is announced
let instances = 0;

/** Dark or light: as the book says, as JupyterLab says, or as the system says. */
function theme() {
  const book = document.documentElement.dataset.theme;
  if (book === "dark" || book === "light") return book;
  const lab = document.body.dataset.jpThemeLight;
  if (lab) return lab === "false" ? "dark" : "light";
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

function followTheme(root, changed) {
  const apply = () => {
    root.dataset.theme = theme();
    changed();
  };
  const observer = new MutationObserver(apply);
  observer.observe(document.documentElement, { attributeFilter: ["data-theme"] });
  observer.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
  const system = matchMedia("(prefers-color-scheme: dark)");
  system.addEventListener("change", apply);
  apply();
  return () => {
    observer.disconnect();
    system.removeEventListener("change", apply);
  };
}

/** anywidget's entry: `model` has get, set, on, off and save_changes; returns what cleans up. */
function render({ model, el }) {
  const page = model.get("page");
  const data = unpack(page);
  const key = `explorer-${(instances += 1)}`;
  const queryAt = new Map(page.queries.map((query, i) => [query.id, i]));
  const candidateAt = new Map(page.candidates.map((candidate, i) => [candidate.id, i]));
  const known = new Map(); // query -> its similarities
  let corpus = 1e6;
  let shown = { query: null, order: [], budget: null };
  let base = null; // what the arrows compare with: the ranking before this move
  let held = false; // a pointer is on a slider
  let kept = false; // and has moved it: the arrows still compare with where it began
  let waiting = 0;

  const tell = (changes) => {
    for (const [trait, value] of Object.entries(changes)) model.set(trait, value);
    model.save_changes();
  };
  const move = (r_q, r_c) => tell({ budget: [r_q, r_c] });
  const hold = (now) => {
    held = now;
    kept = false;
  };
  const ask = (i) => tell({ query: page.queries[i].id, selection: null });

  const select = h("select", { id: `${key}-query`, onchange: () => ask(select.selectedIndex) },
    ...page.queries.map(({ id, text }) => h("option", {}, `${id}: ${text || "a picture"}`)));
  const step = (by) => ask((queryAt.get(model.get("query")) + by + page.queries.length) % page.queries.length);
  const question = h("div", { class: "question" });
  const sliders = [
    sliderView({ label: "Query vectors r_q", note: "paid when a query is scored", most: page.r_q, key: `${key}-rq`,
      trained: page.trained.map((b) => b[0]), move: (r_q) => move(r_q, model.get("budget")[1]), hold }),
    sliderView({ label: "Candidate vectors r_c", note: "paid in the index, and when scored", most: page.r_c, key: `${key}-rc`,
      trained: page.trained.map((b) => b[1]), move: (r_c) => move(model.get("budget")[0], r_c), hold }),
  ];
  const presets = page.trained.map((budget) =>
    h("button", { type: "button", onclick: () => move(...budget) }, name(budget)));
  const figures = figuresView(page);
  const ranking = rankingView(page, (c) => tell({ selection: page.candidates[c].id }));
  const gap = h("p", { class: "gap" }); // what this query's ranking lacks
  const moves = h("p", { class: "note" });
  const pairTitle = h("p", { class: "pair" });
  const unpin = h("button", { type: "button", onclick: () => tell({ selection: null }) }, "Follow the best");
  const alignment = alignmentView(page, data);
  const curve = curveView(page);
  const target = targetView(page, key, (budget) => move(...budget));
  const corpusField = corpusView(page, key, corpus, (value) => {
    corpus = value;
    figures.update(model.get("budget"), corpus);
    target.update(corpus);
  });
  const spoken = h("p", { class: "spoken", "aria-live": "polite" });

  function paint() {
    const budget = model.get("budget");
    const q = queryAt.get(model.get("query"));
    if (!known.has(q)) known.set(q, similarities(data, q));
    const scores = maxsim(data, known.get(q), budget);
    const order = ranked(scores, page.excluded?.[q]);
    if (shown.query !== q) base = { order, budget };
    else if (name(shown.budget) !== name(budget)) {
      if (!kept) base = shown;
      kept = held;
    }
    const relevant = new Set(page.relevant[q]);
    const selection = model.get("selection");
    const chosen = selection === null ? order[0] : candidateAt.get(selection); // undefined: nothing to rank
    const note = page.notes?.[q] ?? "";
    if (shown.query !== q) {
      select.selectedIndex = q;
      question.replaceChildren(itemView(page.queries[q], `query ${page.queries[q].id}`, "item"));
    }
    sliders.forEach((slider, i) => slider.set(budget[i]));
    presets.forEach((button, i) => button.setAttribute("aria-pressed", name(page.trained[i]) === name(budget)));
    figures.update(budget, corpus);
    ranking.update({ order, scores, relevant, chosen, before: base.order });
    gap.textContent = note;
    gap.hidden = !note;
    moves.hidden = !order.length;
    moves.textContent = `The best of ${plural(order.length, "candidate")} at ${name(budget)}` +
      (relevant.size ? "; ✓ marks the relevant" : "") +
      (name(base.budget) === name(budget) ? "." : `, ▲▼ places moved since ${name(base.budget)}.`);
    unpin.hidden = selection === null;
    match.hidden = chosen === undefined;
    if (chosen !== undefined) {
      const place = order.indexOf(chosen) + 1;
      pairTitle.textContent = `Candidate ${page.candidates[chosen].id}, ` +
        (place ? `place ${place}` : "not ranked, because it is not in this query’s pool") +
        `: the picks add up to its score, ${scores[chosen].toFixed(3)}.`;
      alignment.update(known.get(q), q, chosen, budget);
    }
    curve.update(budget);
    shown = { query: q, order, budget };
    clearTimeout(waiting);
    waiting = setTimeout(() => announce(order, scores, relevant, budget, note), SETTLED);
  }

  function announce(order, scores, relevant, budget, note) {
    const top = order[0];
    const right = order.findIndex((candidate) => relevant.has(candidate)) + 1;
    const best = top === undefined ? "" :
      `Best: candidate ${page.candidates[top].id}, ${relevant.has(top) ? "relevant" : "not relevant"}, ` +
      `score ${scores[top].toFixed(3)}. `;
    spoken.textContent = `Budget ${name(budget)}, ${isTrained(page, budget) ? "trained" : "between trained budgets"}. ` +
      best + (right ? `First relevant at place ${right}. ` : `${note} `) +
      `NDCG@5 ${three(quality(page, budget))}, ${whole(bytesPerCandidate(page, budget[1]))} bytes per candidate.`;
  }

  const part = (title, ...children) => h("section", {}, h("h3", {}, title), ...children);
  const match = part("Who matched whom", h("div", { class: "row" }, pairTitle, unpin), alignment.node);
  const root = h("div", { class: "explorer", role: "group", "aria-label": `Budget explorer: ${page.task}` },
    h("div", { class: "row ask" }, h("label", { for: `${key}-query` }, "Query"), select,
      h("button", { type: "button", "aria-label": "Previous query", onclick: () => step(-1) }, "‹"),
      h("button", { type: "button", "aria-label": "Next query", onclick: () => step(1) }, "›")),
    question,
    h("div", { class: "sliders" }, ...sliders.map((slider) => slider.node)),
    h("div", { class: "row presets", role: "group", "aria-label": "Trained budgets" },
      h("span", { "aria-hidden": "true" }, "Trained:"), ...presets),
    figures.node,
    part("Ranking", gap, moves, ranking.node, h("p", { class: "note" }, page.about)),
    match,
    part("Quality and cost",
      h("div", { class: "columns" },
        h("div", {}, curve.node,
          h("p", { class: "legend" },
            h("span", { class: "key nested" }, "trained budgets"),
            h("span", { class: "key between" }, "this r_q, any r_c"),
            h("span", { class: "key here" }, "the sliders"))),
        h("div", {}, corpusField.field, target.node)),
      corpusField.note),
    spoken);

  const shadow = el.shadowRoot ?? el.attachShadow({ mode: "open" });
  shadow.replaceChildren(h("style", {}, STYLE), root);
  const unfollow = followTheme(root, alignment.redraw);
  const heard = ["budget", "query", "selection"].map((trait) => `change:${trait}`);
  let due = false;
  const soon = () => { // several traits that change together are painted once
    if (due) return;
    due = true;
    queueMicrotask(() => {
      due = false;
      paint();
    });
  };
  for (const event of heard) model.on(event, soon);
  target.update(corpus);
  paint();
  return () => {
    clearTimeout(waiting);
    unfollow();
    alignment.close();
    for (const event of heard) model.off(event, soon);
  };
}

/** The same on a page without a kernel: `state` stands in for the traits. */
function start(el, state) {
  const listeners = {};
  const model = {
    get: (trait) => state[trait],
    set(trait, value) {
      state[trait] = value;
      for (const listener of listeners[`change:${trait}`] ?? []) listener();
    },
    save_changes() {},
    on: (event, listener) => (listeners[event] ??= []).push(listener),
    off: (event, listener) => (listeners[event] = listeners[event].filter((one) => one !== listener)),
  };
  return render({ model, el });
}

export default { render };
export { maxsim, ranked, similarities, start, unpack };
