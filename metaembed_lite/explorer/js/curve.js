// Quality against index bytes, with the point under the sliders.

import { bytesPerCandidate, isTrained, name, quality, three, whole } from "./choices.js";
import { s } from "./dom.js";

const BOX = { width: 380, height: 250, left: 40, right: 14, top: 14, bottom: 42 };

/** The chart: `update(budget)` paints it. */
export function curveView(page) {
  const viewBox = `0 0 ${BOX.width} ${BOX.height}`;
  const chart = s("svg", { viewBox, role: "img", class: "curve" });
  const log2Most = Math.log2(Math.max(page.r_c, 2));
  const innerWidth = BOX.width - BOX.left - BOX.right - 16;
  const x = (r_c) => BOX.left + 8 + (Math.log2(r_c) / log2Most) * innerWidth;
  const y = (value) => BOX.height - BOX.bottom - value * (BOX.height - BOX.top - BOX.bottom);
  const path = (points) =>
    points.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
  const counts = Array.from({ length: page.r_c }, (_, i) => i + 1);
  const point = (budget) => [x(budget[1]), y(quality(page, budget))];

  function frame() {
    const [left, right] = [BOX.left, BOX.width - BOX.right];
    const lines = [0, 0.25, 0.5, 0.75, 1].flatMap((value) => [
      s("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }),
      s("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, `${value}`),
    ]);
    const powers = counts.filter((r_c) => Number.isInteger(Math.log2(r_c)));
    const ticks = powers.map((r_c) =>
      s("text", { x: x(r_c), y: BOX.height - BOX.bottom + 16, "text-anchor": "middle" },
        whole(bytesPerCandidate(page, r_c))));
    return [...lines, ...ticks,
      s("text", { x: (left + right) / 2, y: BOX.height - 6, "text-anchor": "middle" },
        "index bytes per candidate (float32)"),
    ];
  }

  function trainedMarks() {
    return page.trained.flatMap((budget) => {
      const [px, py] = point(budget);
      const [dx, dy, anchor] = budget[1] === 1 ? [4, -10, "start"] : [-8, -8, "end"];
      const label = { class: "label", x: px + dx, y: py + dy, "text-anchor": anchor };
      return [
        s("rect", { class: "trained", x: px - 4, y: py - 4, width: 8, height: 8 }),
        s("text", label, name(budget)),
      ];
    });
  }

  const background = frame();
  const marks = trainedMarks();

  function update(budget) {
    const [px, py] = point(budget);
    chart.setAttribute("aria-label", "NDCG@5 against index bytes per candidate. " +
      `At ${name(budget)}${isTrained(page, budget) ? ", a trained budget" : ""}: ` +
      `${three(quality(page, budget))} at ${whole(bytesPerCandidate(page, budget[1]))} bytes.`);
    chart.replaceChildren(...background,
      s("path", { class: "between", d: path(counts.map((r_c) => point([budget[0], r_c]))) }),
      s("path", { class: "nested", d: path(page.trained.map(point)) }),
      ...marks,
      s("line", { class: "drop", x1: px, x2: px, y1: py, y2: y(0) }),
      s("circle", { class: "here", cx: px, cy: py, r: 7 }));
  }

  return { node: chart, update };
}
