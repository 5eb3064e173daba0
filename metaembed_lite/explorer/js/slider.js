// A slider for one side of the budget.

import { h } from "./dom.js";

const MAGNET = 7; // pixels within which a drag snaps to a trained value

/**
 * A labeled range from 1 to most. `set(value)` moves it. `move(value)` is called when the reader
 * moves it, `hold(isHeld)` when a pointer takes it and lets it go.
 */
export function sliderView({ label, note, most, trained, key, move, hold }) {
  const ticks = [...new Set(trained)].sort((a, b) => a - b);
  let dragging = false;
  const setDragging = (isDragging) => {
    dragging = isDragging;
    hold(isDragging);
  };
  const input = h("input", {
    type: "range", id: key, min: 1, max: most, step: 1,
    list: `${key}-ticks`, "aria-describedby": `${key}-note`,
    onpointerdown: () => setDragging(true),
    onpointerup: () => setDragging(false),
    onpointercancel: () => setDragging(false),
    oninput: () => move(dragging ? snap(Number(input.value)) : Number(input.value)),
    onkeydown: (event) => jump(event),
  });
  const output = h("output", { for: key, "aria-live": "off" }); // the slider reads its value itself
  const position = (value) => (most > 1 ? (value - 1) / (most - 1) : 0);
  const node = h("div", { class: "slider" },
    h("div", { class: "named" }, h("label", { for: key }, label), output),
    input,
    h("datalist", { id: `${key}-ticks` }, ...ticks.map((value) => h("option", { value }))),
    h("div", { class: "ticks", "aria-hidden": "true" }, ...ticks.map((value) =>
      h("span", { style: `--at: ${position(value)}` }, `${value}`))),
    h("p", { class: "note", id: `${key}-note` }, note));

  /** The trained value next to the pointer, if it is close on the screen. */
  function snap(value) {
    const step = input.clientWidth / Math.max(most - 1, 1);
    const near = ticks.find((tick) => Math.abs(tick - value) * step <= MAGNET);
    return near ?? value;
  }

  /** Page up and page down go from one trained value to the next. */
  function jump(event) {
    if (event.key !== "PageUp" && event.key !== "PageDown") return;
    event.preventDefault();
    const value = Number(input.value);
    const next = event.key === "PageUp"
      ? ticks.find((tick) => tick > value)
      : ticks.findLast((tick) => tick < value);
    if (next !== undefined) move(next);
  }

  function set(value) {
    input.value = value;
    const kind = ticks.includes(value) ? "trained" : "between trained values";
    input.setAttribute("aria-valuetext", `${value} of ${most}, ${kind}`);
    output.textContent = `${value}`;
  }

  return { node, set };
}
