// Quality against index bytes, with the point under the sliders.

import { bytesPerCandidate, isTrained, name, quality, three, whole } from "./choices.js";
import { h, s } from "./dom.js";
import { placeLabel } from "./labels.js";

const MARGIN = { left: 32, right: 10, top: 18, bottom: 36 };
const TITLE = [0, 0, 44, 12]; // the box of the axis title
const SIZE = { width: 340, height: 200 }; // before the page has a layout

/** The chart: `update(budget)` paints it in the pixels that it has. */
export function curveView(page) {
  const chart = s("svg", { role: "img", class: "curve" });
  const box = h("div", { class: "chart" }, chart);
  const counts = Array.from({ length: page.r_c }, (_, i) => i + 1);
  const { least, heights } = heightTicks(Math.min(...page.quality.ndcg_at_5.flat()));
  let painted = null; // the budget

  function scales() {
    const width = box.clientWidth || SIZE.width;
    const height = box.clientHeight || SIZE.height;
    const [left, right] = [MARGIN.left, width - MARGIN.right];
    const [top, bottom] = [MARGIN.top, height - MARGIN.bottom];
    const log2Most = Math.log2(Math.max(page.r_c, 2));
    const x = (r_c) => left + 8 + (Math.log2(r_c) / log2Most) * (right - left - 16);
    const y = (value) => bottom - ((value - least) / (1 - least)) * (bottom - top);
    const point = (budget) => [x(budget[1]), y(quality(page, budget))];
    return { width, height, left, right, top, bottom, x, y, point };
  }

  function axes({ height, left, right, bottom, x, y }) {
    const lines = heights.flatMap((value) => [
      s("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }),
      s("text", { x: left - 5, y: y(value) + 4, "text-anchor": "end" }, `${value}`),
    ]);
    const powers = counts.filter((r_c) => Number.isInteger(Math.log2(r_c)));
    const ticks = powers.map((r_c) =>
      s("text", { x: x(r_c), y: bottom + 14, "text-anchor": "middle" },
        whole(bytesPerCandidate(page, r_c))));
    return [...lines, ...ticks,
      s("text", { x: 0, y: 9 }, "NDCG@5"),
      s("text", { x: (left + right) / 2, y: height - 5, "text-anchor": "middle" },
        "index bytes per candidate"),
    ];
  }

  function trainedMarks({ left, right, bottom, point }, lines, here) {
    const bounds = { left, right, top: 0, bottom };
    const taken = [TITLE, [here[0] - 8, here[1] - 8, here[0] + 8, here[1] + 8]];
    const points = page.trained.map(point);
    for (const [px, py] of points) taken.push([px - 4, py - 4, px + 4, py + 4]);
    const labels = page.trained.map(name).map((text, i) => ({ text, point: points[i] }))
      .reverse() // the points near the right edge have the fewest free places
      .map(({ text, point: at }) => {
        const label = placeLabel(at, text.length * 6.4, { bounds, taken, lines });
        taken.push(label.box);
        return s("text", { class: "label", x: label.x, y: label.y }, text);
      });
    const marks = points.map(([px, py]) =>
      s("rect", { class: "trained", x: px - 4, y: py - 4, width: 8, height: 8 }));
    return [...marks, ...labels];
  }

  function draw() {
    const plot = scales();
    const here = plot.point(painted);
    const between = counts.map((r_c) => plot.point([painted[0], r_c]));
    const nested = page.trained.map(plot.point);
    chart.setAttribute("viewBox", `0 0 ${plot.width} ${plot.height}`);
    chart.replaceChildren(...axes(plot),
      s("path", { class: "between", d: toPath(between) }),
      s("path", { class: "nested", d: toPath(nested) }),
      s("line", { class: "drop", x1: here[0], x2: here[0], y1: here[1], y2: plot.bottom }),
      ...trainedMarks(plot, [between, nested, [here, [here[0], plot.bottom]]], here),
      s("circle", { class: "here", cx: here[0], cy: here[1], r: 7 }));
  }

  function update(budget) {
    painted = budget;
    chart.setAttribute("aria-label", "NDCG@5 against index bytes per candidate. " +
      `At ${name(budget)}${isTrained(page, budget) ? ", a trained budget" : ""}: ` +
      `${three(quality(page, budget))} at ${whole(bytesPerCandidate(page, budget[1]))} bytes.`);
    draw();
  }

  const observer = new ResizeObserver(() => painted && draw());
  observer.observe(box);
  const key = (kind, text) => h("span", { class: `key ${kind}` }, text);
  const node = h("div", {}, box, h("p", { class: "legend" },
    key("nested", "trained"), key("between", "this r_q"), key("here", "sliders")));
  return { node, update, close: () => observer.disconnect() };
}

/** Where the axis starts, and its lines: in tenths if all values are above one half. */
function heightTicks(smallest) {
  const parts = smallest > 0.5 ? 10 : 4;
  const first = Math.min(Math.floor(smallest * parts), parts - 1);
  const heights = Array.from({ length: parts - first + 1 }, (_, i) => (first + i) / parts);
  return { least: heights[0], heights };
}

const toPath = (points) =>
  points.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
