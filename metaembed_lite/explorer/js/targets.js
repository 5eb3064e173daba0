// Costs for a corpus that the reader names, and the budget that meets a target.

import {
  bestUnder, bytesPerCandidate, cheapest, duration, latency, memory, name, quality, readCorpus, readTarget, three, whole,
} from "./choices.js";
import { h } from "./dom.js";

/** A text field with its label and a place for its complaint; `changed(value)` gets good values. */
function field({ label, value, read, changed, key, hint }) {
  const error = h("span", { class: "error", id: `${key}-error`, role: "alert" });
  const input = h("input", {
    type: "text", id: key, value, autocomplete: "off", spellcheck: "false",
    "aria-describedby": `${key}-error`,
    oninput: () => {
      const result = read(input.value);
      error.textContent = result.error ?? "";
      input.setAttribute("aria-invalid", Boolean(result.error));
      if (!result.error) changed(result.value);
    },
  });
  return h("div", { class: "field" }, h("label", { for: key }, label), input, hint && h("span", { class: "unit" }, hint), error);
}

/** Five figures of the budget: `update(budget, corpus)` paints. */
export function figuresView(page) {
  const parts = [
    ["NDCG@5", (budget) => three(quality(page, budget))],
    ["P@1", (budget) => three(quality(page, budget, "p_at_1"))],
    ["per candidate", (budget) => `${whole(bytesPerCandidate(page, budget[1]))} B`],
    ["index", (budget, corpus) => memory(bytesPerCandidate(page, budget[1]) * corpus)],
    ["latency", (budget, corpus) => duration(latency(page, budget, corpus))],
  ].map(([label, value]) => ({ value, shown: h("dd", {}), label: h("dt", {}, label) }));
  const node = h("dl", { class: "figures" }, ...parts.map((part) => h("div", {}, part.label, part.shown)));
  const update = (budget, corpus) => {
    for (const part of parts) part.shown.textContent = part.value(budget, corpus);
  };
  return { node, update };
}

/** The corpus field, and the note that says what its latency means. */
export const corpusView = (page, key, corpus, changed) => ({
  field: field({ label: "Candidates in your corpus", key: `${key}-corpus`, value: whole(corpus), read: readCorpus, changed }),
  note: h("p", { class: "note" },
    `Latency is the measured encoding of one query, ${duration(page.cost.encode_query_ms)}, plus the measured ` +
    `scoring of one query against ${whole(page.cost.measured_candidates)} candidates, scaled linearly to your corpus: ` +
    `brute force, nothing pruned. Measured on ${page.cost.where}, at powers of two and interpolated between them. ` +
    "Index size and latency are those of float32 vectors."),
});

/** Target mode: `update(corpus)` solves again; `go(budget)` is called to move the sliders. */
export function targetView(page, key, go) {
  const wanted = { mode: "quality", quality: 0.75, gib: 1, trainedOnly: false };
  let corpus = 0;
  let solved = null;
  const answer = h("p", { class: "answer", "aria-live": "polite" });
  const move = h("button", { type: "button", class: "go", onclick: () => go(solved.budget) });
  const solve = () => {
    solved = wanted.mode === "quality"
      ? cheapest(page, wanted.quality, corpus, wanted.trainedOnly)
      : bestUnder(page, wanted.gib, corpus, wanted.trainedOnly);
    answer.textContent = solved.text;
    answer.classList.toggle("impossible", !solved.budget);
    move.hidden = !solved.budget;
    if (solved.budget) move.textContent = `Set the sliders to ${name(solved.budget)}`;
  };
  const change = (name) => (value) => {
    wanted[name] = value;
    solve();
  };
  const rows = {
    quality: field({ label: "NDCG@5 of at least", key: `${key}-quality`, value: wanted.quality, changed: change("quality"),
      read: (text) => readTarget(text, 1, "a number") }),
    gib: field({ label: "Index of at most", key: `${key}-gib`, value: wanted.gib, changed: change("gib"), hint: "GiB",
      read: (text) => readTarget(text, Infinity, "a number of GiB") }),
  };
  const pickMode = (mode) => {
    wanted.mode = mode;
    for (const [other, row] of Object.entries(rows)) row.hidden = other !== mode;
    solve();
  };
  const choice = (mode, text) => h("label", {},
    h("input", { type: "radio", name: `${key}-mode`, checked: mode === wanted.mode, onchange: () => pickMode(mode) }), text);
  rows.gib.hidden = true;
  const node = h("fieldset", { class: "target" }, h("legend", {}, "Find a budget"),
    h("div", { class: "modes" }, choice("quality", "cheapest for a quality"), choice("gib", "best for a size")),
    rows.quality, rows.gib,
    h("label", { class: "only" }, h("input", { type: "checkbox",
      onchange: (event) => change("trainedOnly")(event.target.checked) }), "trained budgets only"),
    answer, move);
  const update = (size) => {
    corpus = size;
    solve();
  };
  return { node, update };
}
