// Which query vector picked which candidate vector, and where that vector attends.

import { h } from "./dom.js";
import { decode, winners } from "./vectors.js";

// Five shades of cividis, which color-blind readers tell apart, from low to high.
const SHADES = [[0, 34, 78], [66, 78, 107], [125, 124, 120], [187, 173, 108], [254, 232, 56]];

const GUTTER = { left: 26, top: 16 }; // pixels for the vectors' names

/** 256 colors from low to high. */
const PALETTE = Array.from({ length: 256 }, (_, i) => {
  const position = (i / 255) * (SHADES.length - 1);
  const low = Math.min(Math.floor(position), SHADES.length - 2);
  const mix = SHADES[low].map(
    (value, k) => value + (SHADES[low + 1][k] - value) * (position - low));
  return `rgb(${mix.map(Math.round).join(" ")})`;
});

/** The color of a similarity, as its index in the palette. A single similarity is not dark. */
export const shade = (value, least, most) =>
  (most > least ? Math.round((255 * (value - least)) / (most - least)) : 191);

/** Heat map and picks of one pair: `update(similar, query, candidate, budget)` paints them. */
export function alignmentView(page, data) {
  const canvas = h("canvas", { role: "img" });
  const scale = h("p", { class: "note" });
  const picks = h("ol", { class: "picks" });
  const slots = Array.from({ length: page.r_q }, (_, i) => slot(i)); // one per query vector, reused
  const details = h("details", { ontoggle: () => tabulate() },
    h("summary", {}, "All similarities as a table"),
    h("div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Similarities" }));
  const maps = page.attention && decode(page.attention.maps);
  let pair = null; // what is painted

  function update(similar, query, candidate, budget) {
    const best = winners(data, similar, candidate, budget);
    pair = { similar, candidate, budget, best };
    Object.assign(pair, extremes());
    drawHeatMap();
    best.forEach((pick, i) => slots[i].update(pick, candidate));
    if (picks.children.length !== best.length) {
      picks.replaceChildren(...slots.slice(0, best.length).map(({ node }) => node));
    }
    canvas.setAttribute("aria-label",
      `Heat map of ${budget[0]} query by ${budget[1]} candidate vectors; ` +
      "the picks are listed below.");
    tabulate();
  }

  function similarity(i, j) {
    return pair.similar[(i * data.n + pair.candidate) * data.rc + j];
  }

  /** Over all vectors of the pair, so that a cell keeps its color when a slider moves. */
  function extremes() {
    const values = Array.from({ length: data.rq }, (_, i) =>
      Array.from({ length: data.rc }, (_, j) => similarity(i, j))).flat();
    return { least: Math.min(...values), most: Math.max(...values) };
  }

  function drawHeatMap() {
    const [rows, columns] = pair.budget;
    const width = canvas.clientWidth;
    if (!width) return; // without a layout there is no size: the observer draws it later
    const cellWidth = (width - GUTTER.left) / columns;
    const cellHeight = Math.min(Math.max(cellWidth * 0.7, 20), 30);
    const height = GUTTER.top + rows * cellHeight;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = getComputedStyle(scale).color;
    pen.textBaseline = "middle";
    for (let i = 0; i < rows; i++) {
      pen.fillText(`q${i + 1}`, 0, GUTTER.top + (i + 0.5) * cellHeight);
    }
    pen.textAlign = "center";
    const step = Math.ceil(24 / cellWidth); // names need 24 pixels
    for (let j = 0; j < columns; j += step) {
      pen.fillText(`c${j + 1}`, GUTTER.left + (j + 0.5) * cellWidth, 6);
    }
    pen.translate(GUTTER.left, GUTTER.top);
    const { least, most } = pair;
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < columns; j++) {
        pen.fillStyle = PALETTE[shade(similarity(i, j), least, most)];
        pen.fillRect(j * cellWidth, i * cellHeight, cellWidth - 0.6, cellHeight - 0.6);
      }
    }
    const line = Math.min(3, cellWidth / 3);
    pair.best.forEach(({ vector }, i) => {
      for (const [thickness, color] of [[line, "#000"], [line / 2, "#fff"]]) {
        pen.lineWidth = thickness;
        pen.strokeStyle = color;
        pen.strokeRect(vector * cellWidth + line / 2, i * cellHeight + line / 2,
          cellWidth - line, cellHeight - line);
      }
    });
    scale.textContent = "Rows are query vectors, columns are candidate vectors. " +
      (most > least ? `Dark is ${least.toFixed(2)}, bright is ${most.toFixed(2)}. ` : "") +
      "A frame marks the maximum of each row, its pick.";
  }

  /** One query vector's pick: the candidate's image with its attention, and the similarity. */
  function slot(i) {
    const image = h("img", { alt: "" });
    const tint = h("span", { class: "tint" });
    const look = h("span", { class: "look" }, image, tint);
    const arrow = h("span", {});
    const score = h("b", {});
    let drawn = null; // candidate and vector of the drawn image

    function update({ vector, value }, candidate) {
      arrow.textContent = `q${i + 1} → c${vector + 1}`;
      score.textContent = value.toFixed(2);
      if (drawn === `${candidate} ${vector}`) return;
      drawn = `${candidate} ${vector}`;
      const picture = page.candidates[candidate].image;
      const grid = picture && page.attention?.grids[candidate];
      look.hidden = !grid;
      if (!grid) return;
      const [offset, height, width] = grid;
      const start = offset + vector * height * width;
      const map = maps.subarray(start, start + height * width);
      const peak = map.indexOf(Math.max(...map));
      if (image.src !== picture) image.src = picture;
      const [row, column] = [Math.floor(peak / width) + 1, (peak % width) + 1];
      image.alt = `attends most to row ${row}, column ${column}`;
      tint.style.grid = `repeat(${height}, 1fr) / repeat(${width}, 1fr)`;
      while (tint.children.length > map.length) tint.lastChild.remove();
      while (tint.children.length < map.length) tint.append(h("span"));
      map.forEach((weight, k) => {
        const opacity = ((0.7 * weight) / 255).toFixed(3);
        tint.children[k].style.backgroundColor = `rgb(224 106 0 / ${opacity})`;
        tint.children[k].className = k === peak ? "most" : "";
      });
    }

    return { node: h("li", {}, look, arrow, score), update };
  }

  function tabulate() {
    if (!details.open || !pair) return;
    const [rows, columns] = pair.budget;
    const range = (n) => Array.from({ length: n }, (_, i) => i);
    details.lastElementChild.replaceChildren(h("table", {},
      h("tr", {}, h("td"), ...range(columns).map((j) => h("th", { scope: "col" }, `c${j + 1}`))),
      ...range(rows).map((i) => h("tr", {},
        h("th", { scope: "row" }, `q${i + 1}`),
        ...range(columns).map((j) => h("td",
          { class: j === pair.best[i].vector ? "won" : null }, similarity(i, j).toFixed(2)))))));
  }

  // A canvas follows neither width nor theme by itself, and a new theme is laid out a frame later.
  const redraw = () => requestAnimationFrame(() => pair && drawHeatMap());
  const observer = new ResizeObserver(redraw);
  observer.observe(canvas);
  const node = h("div", { class: "columns" },
    h("div", {}, canvas, scale, details),
    h("div", {}, picks, page.attention && h("p", { class: "note" },
      "Each picked candidate vector over its image. The tint shows where its meta token " +
      "attends, and the frame where it attends most.")));
  return { node, update, redraw, close: () => observer.disconnect() };
}
