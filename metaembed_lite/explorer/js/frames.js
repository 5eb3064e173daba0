// Frames over an image that is divided into cells.

import { h } from "./dom.js";

/** `update(frames, columns, rows)` paints [{ place, kind }]. `kind` is a CSS class. */
export function framesView() {
  const node = h("span", { class: "frames", "aria-hidden": "true" });
  function update(frames, columns, rows) {
    const [width, height] = [100 / columns, 100 / rows];
    node.replaceChildren(...frames.map(({ place, kind }) => h("span", {
      class: kind,
      style: `left: ${(place % columns) * width}%; width: ${width}%; ` +
        `top: ${Math.floor(place / columns) * height}%; height: ${height}%`,
    })));
  }
  return { node, update };
}
