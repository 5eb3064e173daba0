// Costs for a corpus of the reader's size, and the budget that meets a target.

import {
  bestUnder, bytesPerCandidate, cheapest, duration, latency, memory, name, quality, readCorpus,
  readTarget, startsTrainedOnly, three, whole,
} from "./choices.js";
import { h } from "./dom.js";

/** A text field with its label and its error. `change(value)` is called with valid values. */
function field({ label, value, read, change, key, hint }) {
  const error = h("span", { class: "error", id: `${key}-error`, role: "alert" });
  const input = h("input", {
    type: "text", id: key, value, autocomplete: "off", spellcheck: "false",
    "aria-describedby": `${key}-error`,
    oninput: () => {
      const result = read(input.value);
      error.textContent = result.error ?? "";
      input.setAttribute("aria-invalid", Boolean(result.error));
      if (!result.error) change(result.value);
    },
  });
  return h("div", { class: "field" },
    h("label", { for: key }, label), input, hint && h("span", { class: "unit" }, hint), error);
}

/** Five figures of the budget, and the size of the corpus that two of them are for. */
export function figuresView(page) {
  const figures = [
    ["NDCG@5", (budget) => three(quality(page, budget))],
    ["P@1", (budget) => three(quality(page, budget, "p_at_1"))],
    ["per candidate", (budget) => `${whole(bytesPerCandidate(page, budget[1]))} B`],
    ["index", (budget, corpus) => memory(bytesPerCandidate(page, budget[1]) * corpus)],
    ["latency", (budget, corpus) => duration(latency(page, budget, corpus))],
  ].map(([label, text]) => ({ text, label: h("dt", {}, label), value: h("dd", {}) }));
  const scale = h("p", { class: "note scale" });
  const node = h("div", {},
    h("dl", { class: "figures" },
      ...figures.map(({ label, value }) => h("div", {}, label, value))),
    scale);
  const update = (budget, corpus) => {
    for (const { text, value } of figures) value.textContent = text(budget, corpus);
    scale.textContent = `Index and latency: for a corpus of ${whole(corpus)} candidates. You can ` +
      "change this number at the end.";
  };
  return { node, update };
}

/** The field for the corpus size, and a note on how the latency was measured. */
export function corpusView(page, key, corpus, change) {
  const { encode_query_ms, measured_candidates, where } = page.cost;
  return {
    field: field({
      label: "Candidates in your corpus", key: `${key}-corpus`, value: whole(corpus),
      read: readCorpus, change,
    }),
    note: h("p", { class: "note" },
      `Latency is the time to encode one query, ${duration(encode_query_ms)}, plus the time to ` +
      `score it against ${whole(measured_candidates)} candidates, scaled linearly to your corpus ` +
      `(exhaustive search). Both were measured on ${where}, the scoring at powers of two with ` +
      "interpolation between them. Index size and latency are for float32 vectors."),
  };
}

/** Target mode: `update(corpus)` solves again. `go(budget)` is called to move the sliders. */
export function targetView(page, key, go) {
  const target = { mode: "quality", quality: 0.75, gib: 1, trainedOnly: startsTrainedOnly(page) };
  let corpus = 0;
  let solution = null;
  const answer = h("p", { class: "answer", "aria-live": "polite" });
  const button = h("button", { type: "button", class: "go", onclick: () => go(solution.budget) });
  const solve = () => {
    solution = target.mode === "quality"
      ? cheapest(page, target.quality, corpus, target.trainedOnly)
      : bestUnder(page, target.gib, corpus, target.trainedOnly);
    answer.textContent = solution.text;
    answer.classList.toggle("impossible", !solution.budget);
    button.hidden = !solution.budget;
    if (solution.budget) button.textContent = `Set the sliders to ${name(solution.budget)}`;
  };
  const change = (setting) => (value) => {
    target[setting] = value;
    solve();
  };
  const fields = {
    quality: field({
      label: "NDCG@5 of at least", key: `${key}-quality`, value: target.quality,
      change: change("quality"), read: (text) => readTarget(text, 1, "a number"),
    }),
    gib: field({
      label: "Index of at most", key: `${key}-gib`, value: target.gib, hint: "GiB",
      change: change("gib"), read: (text) => readTarget(text, Infinity, "a number of GiB"),
    }),
  };
  const pickMode = (mode) => {
    target.mode = mode;
    for (const [key, node] of Object.entries(fields)) node.hidden = key !== mode;
    solve();
  };
  const choice = (mode, text) => h("label", {},
    h("input", {
      type: "radio", name: `${key}-mode`, checked: mode === target.mode,
      onchange: () => pickMode(mode),
    }), text);
  fields.gib.hidden = true;
  const node = h("fieldset", { class: "target" },
    h("legend", {}, "Find a budget"),
    h("div", { class: "modes" },
      choice("quality", "cheapest for a quality"), choice("gib", "best for a size")),
    fields.quality, fields.gib,
    h("label", { class: "only" },
      h("input", {
        type: "checkbox", checked: target.trainedOnly,
        onchange: (event) => change("trainedOnly")(event.target.checked),
      }), "trained budgets only"),
    answer, button);
  const update = (newCorpus) => {
    corpus = newCorpus;
    solve();
  };
  return { node, update };
}
