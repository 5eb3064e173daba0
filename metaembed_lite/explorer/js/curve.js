// Quality against index bytes, with the point under the sliders.

import { bytesPerCandidate, isTrained, name, quality, three, whole } from "./choices.js";
import { s } from "./dom.js";

const BOX = { width: 380, height: 250, left: 40, right: 14, top: 14, bottom: 42 };

/** The chart: `update(budget)` paints. */
export function curveView(page) {
  const chart = s("svg", { viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "img", class: "curve" });
  const most = Math.log2(Math.max(page.r_c, 2));
  const x = (r_c) => BOX.left + 8 + (Math.log2(r_c) / most) * (BOX.width - BOX.left - BOX.right - 16);
  const y = (value) => BOX.height - BOX.bottom - value * (BOX.height - BOX.top - BOX.bottom);
  const path = (points) => points.map(([a, b], i) => `${i ? "L" : "M"}${a.toFixed(1)} ${b.toFixed(1)}`).join("");
  const all = Array.from({ length: page.r_c }, (_, i) => i + 1);
  const at = (budget) => [x(budget[1]), y(quality(page, budget))];

  function frame() {
    const lines = [0, 0.25, 0.5, 0.75, 1].flatMap((value) => [
      s("line", { class: "grid", x1: BOX.left, x2: BOX.width - BOX.right, y1: y(value), y2: y(value) }),
      s("text", { x: BOX.left - 6, y: y(value) + 4, "text-anchor": "end" }, `${value}`),
    ]);
    const ticks = all.filter((r_c) => Number.isInteger(Math.log2(r_c))).map((r_c) =>
      s("text", { x: x(r_c), y: BOX.height - BOX.bottom + 16, "text-anchor": "middle" },
        whole(bytesPerCandidate(page, r_c))));
    return [...lines, ...ticks,
      s("text", { x: (BOX.left + BOX.width - BOX.right) / 2, y: BOX.height - 6, "text-anchor": "middle" },
        "index bytes per candidate (float32)"),
    ];
  }

  function trained() {
    return page.trained.flatMap((budget) => {
      const [a, b] = at(budget);
      const [dx, dy, anchor] = budget[1] === 1 ? [4, -10, "start"] : [-8, -8, "end"];
      return [
        s("rect", { class: "trained", x: a - 4, y: b - 4, width: 8, height: 8 }),
        s("text", { class: "label", x: a + dx, y: b + dy, "text-anchor": anchor }, name(budget)),
      ];
    });
  }

  const still = frame();
  const marks = trained();

  function update(budget) {
    const [a, b] = at(budget);
    chart.setAttribute("aria-label",
      `NDCG@5 against index bytes per candidate. At ${name(budget)}${isTrained(page, budget) ? ", a trained budget" : ""}: ` +
      `${three(quality(page, budget))} at ${whole(bytesPerCandidate(page, budget[1]))} bytes.`);
    chart.replaceChildren(...still,
      s("path", { class: "between", d: path(all.map((r_c) => at([budget[0], r_c]))) }),
      s("path", { class: "nested", d: path(page.trained.map(at)) }),
      ...marks,
      s("line", { class: "drop", x1: a, x2: a, y1: b, y2: y(0) }),
      s("circle", { class: "here", cx: a, cy: b, r: 7 }));
  }

  return { node: chart, update };
}
