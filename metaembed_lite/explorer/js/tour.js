// "Try this": budgets worth a look, each with what happens there.

import { bytesPerCandidate, name, quality, three } from "./choices.js";
import { h } from "./dom.js";

const spaced = (budget) => name(budget).replace(" ", "\u00a0"); // stays on one line

/** The steps: [{ title, text, budget }]. */
export function tourSteps(page) {
  const trained = page.trained;
  const [first, last] = [trained[0], trained.at(-1)];
  const steps = [
    { title: "Start small", text: "Where is the first right item?", budget: first },
    trained.length > 2 && {
      title: "More on both sides", text: "Does the right item climb?", budget: trained[1],
    },
    trained.length > 1 && {
      title: "All vectors", budget: last,
      text: `NDCG@5 goes from ${three(quality(page, first))} to ${three(quality(page, last))}, ` +
        `the index takes ${bytesPerCandidate(page, last[1]) / bytesPerCandidate(page, first[1])}` +
        " times the bytes.",
    },
    offDiagonal(page),
  ];
  return steps.filter(Boolean);
}

/** More query vectors than candidate vectors, where that hurts a trained budget most. */
function offDiagonal(page) {
  const moves = page.trained.flatMap((budget) => {
    const from = Math.max(...budget) + 1;
    return Array.from({ length: Math.max(page.r_q - from + 1, 0) }, (_, i) => {
      const longer = [from + i, budget[1]];
      return { budget, longer, change: quality(page, longer) - quality(page, budget) };
    });
  });
  if (!moves.length) return null;
  const worst = moves.reduce((low, move) => (move.change < low.change ? move : low));
  const [before, after] = [worst.budget, worst.longer].map((at) => three(quality(page, at)));
  const verb = after < before ? "falls" : after > before ? "rises" : "goes";
  return {
    title: verb === "falls" ? "Too many query vectors" : "More query vectors",
    text: `NDCG@5 ${verb} from ${before} at ${spaced(worst.budget)} to ${after}` +
      (verb === "falls" ? ": more can hurt." : "."),
    budget: worst.longer,
  };
}

/** The steps as buttons. `go(budget)` moves the sliders, and `update(budget)` marks the step. */
export function tourView(page, go) {
  const steps = tourSteps(page).map((step) => ({ ...step, button: h("button",
    { type: "button", onclick: () => go(step.budget) },
    h("span", { class: "title" }, `${step.title}: ${spaced(step.budget)}`), " ",
    h("span", { class: "note" }, step.text)) }));
  const node = h("div", { class: "tour", role: "group", "aria-label": "Try this" },
    h("h3", {}, "Try this"),
    h("ol", {}, ...steps.map(({ button }) => h("li", {}, button))));
  const update = (budget) => {
    for (const step of steps) {
      step.button.setAttribute("aria-pressed", name(step.budget) === name(budget));
    }
  };
  return { node, update };
}
