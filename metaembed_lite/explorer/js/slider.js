// A slider for one side of the budget.

import { h } from "./dom.js";

const MAGNET = 7; // pixels within which a pointer is drawn to a trained value

/** A labelled range from 1 to most: `set(value)` moves it, `move(value)` is called when it moves, `hold` when a pointer takes and leaves it. */
export function sliderView({ label, note, most, trained, key, move, hold }) {
  const ticks = [...new Set(trained)].sort((a, b) => a - b);
  let dragging = false;
  const drag = (now) => {
    dragging = now;
    hold(now);
  };
  const input = h("input", {
    type: "range", id: key, min: 1, max: most, step: 1, list: `${key}-ticks`, "aria-describedby": `${key}-note`,
    onpointerdown: () => drag(true),
    onpointerup: () => drag(false),
    onpointercancel: () => drag(false),
    oninput: () => move(dragging ? drawn(Number(input.value)) : Number(input.value)),
    onkeydown: (event) => jump(event),
  });
  const output = h("output", { for: key, "aria-live": "off" }); // the slider itself says its value
  const node = h("div", { class: "slider" },
    h("div", { class: "named" }, h("label", { for: key }, label), output),
    input,
    h("datalist", { id: `${key}-ticks` }, ...ticks.map((value) => h("option", { value }))),
    h("div", { class: "ticks", "aria-hidden": "true" }, ...ticks.map((value) =>
      h("span", { style: `--at: ${most > 1 ? (value - 1) / (most - 1) : 0}` }, `${value}`))),
    h("p", { class: "note", id: `${key}-note` }, note));

  /** The trained value next to a pointer, if it is close on the screen. */
  function drawn(value) {
    const step = input.clientWidth / Math.max(most - 1, 1);
    const near = ticks.find((tick) => Math.abs(tick - value) * step <= MAGNET);
    return near ?? value;
  }

  /** Page up and page down go from one trained value to the next. */
  function jump(event) {
    const value = Number(input.value);
    const next = {
      PageUp: ticks.find((tick) => tick > value),
      PageDown: ticks.findLast((tick) => tick < value),
    }[event.key];
    if (event.key !== "PageUp" && event.key !== "PageDown") return;
    event.preventDefault();
    if (next !== undefined) move(next);
  }

  function set(value) {
    input.value = value;
    const kind = ticks.includes(value) ? "trained" : "between trained ones";
    input.setAttribute("aria-valuetext", `${value} of ${most}, ${kind}`);
    output.textContent = `${value}`;
  }

  return { node, set };
}
