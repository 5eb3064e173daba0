// BudgetExplorer: two sliders that re-rank by MaxSim in the browser, with or without a kernel.

import { alignmentView } from "./alignment.js";
import { bytesPerCandidate, isTrained, name, plural, quality, three, whole } from "./choices.js";
import { curveView } from "./curve.js";
import { h, itemView } from "./dom.js";
import { mount } from "./mount.js";
import { firstRightView, rankingView } from "./ranking.js";
import { sliderView } from "./slider.js";
import { STYLE } from "./style.js";
import { corpusView, figuresView, targetView } from "./targets.js";
import { followTheme } from "./theme.js";
import { tourView } from "./tour.js";
import { maxsim, rank, similarities, unpack } from "./vectors.js";

const ANNOUNCE_AFTER = 500; // milliseconds without a move
let instances = 0;

/**
 * anywidget's entry. `model` has get, set, on, off and save_changes. Returns a function that
 * cleans up.
 */
function render({ model, el }) {
  const page = model.get("page");
  const data = unpack(page);
  const key = `explorer-${(instances += 1)}`;
  const queryPositions = new Map(page.queries.map((query, i) => [query.id, i]));
  const candidatePositions = new Map(page.candidates.map((candidate, i) => [candidate.id, i]));
  const similarityCache = new Map(); // query -> its similarities
  let corpus = 1e6;
  let painted = { query: null, order: [], budget: null };
  let base = null; // the ranking before this move, which the arrows compare with
  let isHeld = false; // a pointer is on a slider
  let hasMoved = false; // it has moved the slider, so arrows compare with the drag's start
  let timer = 0; // of the announcement

  const assign = (traits) => {
    for (const [trait, value] of Object.entries(traits)) model.set(trait, value);
    model.save_changes();
  };
  const move = (r_q, r_c) => assign({ budget: [r_q, r_c] });
  const hold = (value) => {
    isHeld = value;
    hasMoved = false;
  };
  const setQuery = (i) => assign({ query: page.queries[i].id, selection: null });
  const stepQuery = (by) => {
    const position = queryPositions.get(model.get("query"));
    setQuery((position + by + page.queries.length) % page.queries.length);
  };

  const select = h("select",
    { id: `${key}-query`, onchange: () => setQuery(select.selectedIndex) },
    ...page.queries.map(({ id, text }) => h("option", {}, `${id}: ${text || "an image"}`)));
  const question = h("div", { class: "question" });
  const sliders = [
    sliderView({
      label: "Query vectors r_q", note: "costs time per score",
      most: page.r_q, key: `${key}-rq`, trained: page.trained.map(([r_q]) => r_q),
      move: (r_q) => move(r_q, model.get("budget")[1]), hold,
    }),
    sliderView({
      label: "Candidate vectors r_c", note: "costs bytes and time",
      most: page.r_c, key: `${key}-rc`, trained: page.trained.map(([, r_c]) => r_c),
      move: (r_c) => move(model.get("budget")[0], r_c), hold,
    }),
  ];
  const presets = page.trained.map((budget) =>
    h("button", { type: "button", onclick: () => move(...budget) }, name(budget)));
  const tour = tourView(page, (budget) => move(...budget));
  const firstRight = firstRightView();
  const figures = figuresView(page);
  const ranking = rankingView(page, (i) => assign({ selection: page.candidates[i].id }));
  const gap = h("p", { class: "gap" }); // what this query's ranking lacks
  const moves = h("p", { class: "note" });
  const pairTitle = h("p", { class: "pair" });
  const unpin = h("button", { type: "button", onclick: () => assign({ selection: null }) },
    "Follow the best");
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
    const query = queryPositions.get(model.get("query"));
    if (!similarityCache.has(query)) similarityCache.set(query, similarities(data, query));
    const scores = maxsim(data, similarityCache.get(query), budget);
    const order = rank(scores, page.excluded?.[query]);
    if (painted.query !== query) base = { order, budget };
    else if (name(painted.budget) !== name(budget)) {
      if (!hasMoved) base = painted;
      hasMoved = isHeld;
    }
    const relevant = new Set(page.relevant[query]);
    const selection = model.get("selection");
    // Undefined if there is nothing to rank.
    const selected = selection === null ? order[0] : candidatePositions.get(selection);
    const note = page.notes[query];
    if (painted.query !== query) {
      const item = page.queries[query];
      select.selectedIndex = query;
      question.replaceChildren(itemView(item, `query ${item.id}`, "item"));
    }
    sliders.forEach((slider, i) => slider.set(budget[i]));
    presets.forEach((button, i) =>
      button.setAttribute("aria-pressed", name(page.trained[i]) === name(budget)));
    tour.update(budget);
    firstRight.update({ order, relevant });
    figures.update(budget, corpus);
    ranking.update({ query, order, scores, relevant, selected, before: base.order });
    gap.textContent = note;
    gap.hidden = !note;
    moves.hidden = !order.length;
    moves.textContent = `The best of ${plural(order.length, "candidate")} at ${name(budget)}` +
      (relevant.size ? "; ✓ marks relevant ones" : "") +
      (name(base.budget) === name(budget)
        ? "."
        : `, ▲▼ places moved since ${name(base.budget)}.`) +
      (page.cells ? " Named by the query: green frames are there, dashed orange is missing." : "");
    unpin.hidden = selection === null;
    match.hidden = selected === undefined;
    if (selected !== undefined) {
      const place = order.indexOf(selected) + 1;
      pairTitle.textContent = `Candidate ${page.candidates[selected].id}, ` +
        (place ? `place ${place}` : "not ranked, because it is not in this query’s pool") +
        `: the picks add up to its score, ${scores[selected].toFixed(3)}.`;
      alignment.update(similarityCache.get(query), query, selected, budget);
    }
    curve.update(budget);
    painted = { query, order, budget };
    clearTimeout(timer);
    timer = setTimeout(() => announce(order, scores, relevant, budget, note), ANNOUNCE_AFTER);
  }

  function announce(order, scores, relevant, budget, note) {
    const best = order[0];
    const firstRelevant = order.findIndex((candidate) => relevant.has(candidate)) + 1;
    const bestText = best === undefined ? "" :
      `Best: candidate ${page.candidates[best].id}, ` +
      `${relevant.has(best) ? "relevant" : "not relevant"}, score ${scores[best].toFixed(3)}. `;
    const kind = isTrained(page, budget) ? "trained" : "between trained budgets";
    spoken.textContent = `Budget ${name(budget)}, ${kind}. ` + bestText +
      (firstRelevant ? `First relevant at place ${firstRelevant}. ` : `${note} `) +
      `NDCG@5 ${three(quality(page, budget))}, ` +
      `${whole(bytesPerCandidate(page, budget[1]))} bytes per candidate.`;
  }

  const section = (title, ...children) => h("section", {}, h("h3", {}, title), ...children);
  const stepButton = (label, sign, by) =>
    h("button", { type: "button", "aria-label": label, onclick: () => stepQuery(by) }, sign);
  const match = section("Who matched whom",
    h("div", { class: "row" }, pairTitle, unpin), alignment.node);
  const root = h("div",
    { class: "instrument explorer", role: "group", "aria-label": `Budget explorer: ${page.task}` },
    h("div", { class: "row ask" },
      h("label", { for: `${key}-query` }, "Query"), select,
      stepButton("Previous query", "‹", -1), stepButton("Next query", "›", 1)),
    question,
    tour.node,
    h("div", { class: "panel" },
      h("div", { class: "sliders" }, ...sliders.map((slider) => slider.node)),
      firstRight.node, curve.node),
    h("div", { class: "row presets", role: "group", "aria-label": "Trained budgets" },
      h("span", { "aria-hidden": "true" }, "Trained:"), ...presets),
    figures.node,
    section("Ranking", gap, moves, ranking.node, h("p", { class: "note" }, page.about)),
    match,
    section("Cost for your corpus",
      corpusField.field, target.node, corpusField.note),
    spoken);

  const shadow = el.shadowRoot ?? el.attachShadow({ mode: "open" });
  shadow.replaceChildren(h("style", {}, STYLE), root);
  const stopFollowing = followTheme(root, alignment.redraw);
  const events = ["budget", "query", "selection"].map((trait) => `change:${trait}`);
  let isScheduled = false;
  const schedulePaint = () => { // several traits that change together are painted once
    if (isScheduled) return;
    isScheduled = true;
    queueMicrotask(() => {
      isScheduled = false;
      paint();
    });
  };
  for (const event of events) model.on(event, schedulePaint);
  target.update(corpus);
  paint();
  return () => {
    clearTimeout(timer);
    stopFollowing();
    alignment.close();
    curve.close();
    for (const event of events) model.off(event, schedulePaint);
  };
}

/** The same on a page without a kernel: `state` replaces the traits. */
const start = (el, state) => mount(el, state, render);

export default { render };
export { maxsim, rank, similarities, start, unpack };
