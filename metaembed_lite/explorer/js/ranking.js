// The best candidates of a query, and how they moved.

import { describeMatch, matchCells } from "./cells.js";
import { whole } from "./choices.js";
import { h, itemView, mayMove } from "./dom.js";
import { framesView } from "./frames.js";

const MAX_CARDS = 10;

/**
 * The list of the best: `update` paints it. `choose(candidate)` is called on a click. `relevant` is
 * null if nobody knows which candidates are.
 */
export function rankingView(page, choose, most = MAX_CARDS) {
  const hasImages = page.candidates.some(({ image }) => image);
  const list = h("ol", { class: hasImages ? "cards" : "cards wide" });
  const cards = new Map(); // candidate -> its parts, created when it first appears

  function createCard(candidate) {
    const item = page.candidates[candidate];
    const place = h("span", { class: "place" });
    const moved = h("span", { class: "moved" });
    const score = h("span", { class: "score" });
    const mark = h("span", { class: "mark" }, "✓", h("span", { class: "word" }, " relevant"));
    const frames = framesView();
    const missing = h("span", { class: "missing" });
    const picture = itemView(item, `candidate ${item.id}`, "item");
    picture.append(frames.node);
    const button = h("button", { type: "button", onclick: () => choose(candidate) },
      h("span", { class: "top" }, place, moved), picture, missing,
      h("span", { class: "bottom" }, score, mark));
    const li = h("li", { "data-candidate": item.id }, button);
    return { li, button, place, moved, score, mark, frames, missing };
  }

  /** Frame what the query names, and write what is missing. Returns it in words. */
  function markCells({ frames, missing }, query, candidate, relevant) {
    const facts = matchCells(page.cells, query, candidate, relevant) ?? [];
    const side = Math.sqrt(page.cells?.contents[candidate]?.length ?? 1);
    frames.update(facts.filter(({ place }) => place !== null)
      .map(({ place, has }) => ({ place, kind: has ? "has" : "misses" })), side, side);
    missing.replaceChildren(...facts.filter(({ has }) => !has)
      .map((fact) => h("span", {}, `no ${fact.name}`)));
    return describeMatch(facts);
  }

  function update({ query, order, scores, relevant, selected, before }) {
    const top = order.slice(0, most);
    const placesBefore = new Map(before.map((candidate, i) => [candidate, i]));
    const boxesBefore = new Map(
      Array.from(list.children, (li) => [li, li.getBoundingClientRect()]));
    top.forEach((candidate, i) => {
      if (!cards.has(candidate)) cards.set(candidate, createCard(candidate));
      const card = cards.get(candidate);
      const { li, button, place, moved, score, mark } = card;
      const isRelevant = relevant?.has(candidate) ?? false;
      const steps = placesBefore.get(candidate) - i;
      place.textContent = `${i + 1}`;
      moved.textContent = steps > 0 ? `▲${steps}` : steps < 0 ? `▼${-steps}` : "";
      moved.className = steps > 0 ? "moved up" : "moved down";
      score.textContent = scores[candidate].toFixed(3);
      mark.hidden = !isRelevant;
      li.className = isRelevant ? "relevant" : "";
      button.setAttribute("aria-pressed", candidate === selected);
      button.setAttribute("aria-label", [
        `Place ${i + 1}`, `candidate ${page.candidates[candidate].id}`,
        page.candidates[candidate].text, markCells(card, query, candidate, relevant),
        relevant && (isRelevant ? "relevant" : "not relevant"),
        `score ${scores[candidate].toFixed(3)}`,
        steps > 0 ? `up ${steps}` : steps < 0 ? `down ${-steps}` : "",
      ].filter(Boolean).join(", "));
    });
    const focused = list.getRootNode().activeElement;
    const rows = top.map((candidate) => cards.get(candidate).li);
    for (const li of Array.from(list.children)) if (!rows.includes(li)) li.remove();
    rows.forEach((li, i) => {
      if (list.children[i] !== li) list.insertBefore(li, list.children[i] ?? null);
    });
    if (focused && list.contains(focused)) focused.focus({ preventScroll: true });
    if (mayMove()) rows.forEach((li) => glide(li, boxesBefore.get(li)));
  }

  return { node: list, update };
}

/** The rank of the first right item, the largest number on the page: `update` paints it. */
export function firstRightView() {
  const rank = h("strong", {});
  const total = h("span", { class: "note" });
  const node = h("p", { class: "first" }, h("span", {}, "first right item: "), rank, total);
  const update = ({ order, relevant }) => {
    const place = order.findIndex((candidate) => relevant.has(candidate)) + 1;
    rank.textContent = place ? whole(place) : "none";
    rank.className = place === 1 ? "best" : place ? "" : "none";
    total.textContent = ` of ${whole(order.length)}`;
  };
  return { node, update };
}

/** Move a card from its previous place to the new one. A new card fades in. */
function glide(li, from) {
  for (const animation of li.getAnimations()) animation.cancel();
  const to = li.getBoundingClientRect();
  const options = { duration: 260, easing: "cubic-bezier(0.2, 0, 0, 1)" };
  if (!from) return li.animate([{ opacity: 0 }, { opacity: 1 }], options);
  const [x, y] = [from.left - to.left, from.top - to.top];
  if (!x && !y) return;
  li.animate([{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }], options);
}
