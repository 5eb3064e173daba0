// Which query vector picked which candidate vector, and where that one looks.

import { h } from "./dom.js";
import { decode, winners } from "./vectors.js";

// Five shades of cividis, which color-blind readers tell apart, from low to high.
const SHADES = [[0, 34, 78], [66, 78, 107], [125, 124, 120], [187, 173, 108], [254, 232, 56]];

const GUTTER = { left: 26, top: 16 }; // pixels for the vectors' names

/** 256 colors from low to high. */
const PALETTE = Array.from({ length: 256 }, (_, i) => {
  const at = (i / 255) * (SHADES.length - 1);
  const low = Math.min(Math.floor(at), SHADES.length - 2);
  const mix = SHADES[low].map((value, k) => value + (SHADES[low + 1][k] - value) * (at - low));
  return `rgb(${mix.map(Math.round).join(" ")})`;
});

/** Heat map, picks and looks of one pair: `update(similar, query, candidate, budget)` paints. */
export function alignmentView(page, data) {
  const canvas = h("canvas", { role: "img" });
  const scale = h("p", { class: "note" });
  const picks = h("ol", { class: "picks" });
  const slots = Array.from({ length: page.r_q }, (_, i) => slot(i)); // one a query vector, kept
  const cells = h("details", { ontoggle: () => tabulate() },
    h("summary", {}, "All similarities as a table"), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Similarities" }));
  const maps = page.attention && decode(page.attention.maps);
  let now = null;

  function update(similar, query, candidate, budget) {
    const won = winners(data, similar, candidate, budget);
    now = { similar, candidate, budget, won };
    heatMap();
    won.forEach((one, i) => slots[i].update(one, candidate));
    if (picks.children.length !== won.length) picks.replaceChildren(...slots.slice(0, won.length).map((one) => one.node));
    canvas.setAttribute("aria-label",
      `Heat map of ${budget[0]} query by ${budget[1]} candidate vectors; the picks are listed below.`);
    tabulate();
  }

  function value(i, j) {
    return now.similar[(i * data.n + now.candidate) * data.rc + j];
  }

  function heatMap() {
    const [rows, columns] = now.budget;
    const width = canvas.clientWidth;
    if (!width) return; // not laid out: the observer draws it when it is
    const wide = (width - GUTTER.left) / columns;
    const high = Math.min(Math.max(wide * 0.7, 20), 30);
    const height = GUTTER.top + rows * high;
    const sharp = window.devicePixelRatio || 1;
    canvas.width = width * sharp;
    canvas.height = height * sharp;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(sharp, sharp);
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = getComputedStyle(scale).color;
    pen.textBaseline = "middle";
    for (let i = 0; i < rows; i++) pen.fillText(`q${i + 1}`, 0, GUTTER.top + (i + 0.5) * high);
    pen.textAlign = "center";
    const every = Math.ceil(24 / wide);
    for (let j = 0; j < columns; j += every) pen.fillText(`c${j + 1}`, GUTTER.left + (j + 0.5) * wide, 6);
    pen.translate(GUTTER.left, GUTTER.top);
    const all = Array.from({ length: rows }, (_, i) => Array.from({ length: columns }, (_, j) => value(i, j)));
    const [least, most] = [Math.min(...all.flat()), Math.max(...all.flat())];
    all.forEach((row, i) => row.forEach((one, j) => {
      pen.fillStyle = PALETTE[Math.round((255 * (one - least)) / (most - least || 1))];
      pen.fillRect(j * wide, i * high, wide - 0.6, high - 0.6);
    }));
    const line = Math.min(3, wide / 3);
    now.won.forEach(({ vector }, i) => {
      for (const [thick, color] of [[line, "#000"], [line / 2, "#fff"]]) {
        pen.lineWidth = thick;
        pen.strokeStyle = color;
        pen.strokeRect(vector * wide + line / 2, i * high + line / 2, wide - line, high - line);
      }
    });
    scale.textContent = "Rows are query vectors, columns candidate vectors. " +
      `Dark is ${least.toFixed(2)}, bright ${most.toFixed(2)}; a frame marks each row’s maximum, its pick.`;
  }

  /** One query vector's pick: the candidate's picture, tinted and framed, and the similarity. */
  function slot(i) {
    const image = h("img", { alt: "" });
    const tint = h("span", { class: "tint" });
    const look = h("span", { class: "look" }, image, tint);
    const arrow = h("span", {});
    const best = h("b", {});
    let drawn = null;

    function update({ vector, value: found }, candidate) {
      arrow.textContent = `q${i + 1} → c${vector + 1}`;
      best.textContent = found.toFixed(2);
      if (drawn === `${candidate} ${vector}`) return;
      drawn = `${candidate} ${vector}`;
      const grid = page.candidates[candidate].image && page.attention?.grids[candidate];
      look.hidden = !grid;
      if (!grid) return;
      const [at, height, width] = grid;
      const map = maps.subarray(at + vector * height * width, at + (vector + 1) * height * width);
      const most = map.indexOf(Math.max(...map));
      if (image.src !== page.candidates[candidate].image) image.src = page.candidates[candidate].image;
      image.alt = `looks most at row ${Math.floor(most / width) + 1}, column ${(most % width) + 1}`;
      tint.style.grid = `repeat(${height}, 1fr) / repeat(${width}, 1fr)`;
      while (tint.children.length > map.length) tint.lastChild.remove();
      while (tint.children.length < map.length) tint.append(h("span"));
      map.forEach((weight, k) => {
        tint.children[k].style.backgroundColor = `rgb(224 106 0 / ${((0.7 * weight) / 255).toFixed(3)})`;
        tint.children[k].className = k === most ? "most" : "";
      });
    }

    return { node: h("li", {}, look, arrow, best), update };
  }

  function tabulate() {
    if (!cells.open || !now) return;
    const [rows, columns] = now.budget;
    const number = (n) => Array.from({ length: n }, (_, i) => i);
    cells.lastElementChild.replaceChildren(h("table", {},
      h("tr", {}, h("td"), ...number(columns).map((j) => h("th", { scope: "col" }, `c${j + 1}`))),
      ...number(rows).map((i) => h("tr", {}, h("th", { scope: "row" }, `q${i + 1}`),
        ...number(columns).map((j) => h("td", { class: j === now.won[i].vector ? "won" : null },
          value(i, j).toFixed(2)))))));
  }

  // A canvas follows neither width nor theme by itself, and a new theme is laid out a frame later.
  const redraw = () => requestAnimationFrame(() => now && heatMap());
  const resized = new ResizeObserver(redraw);
  resized.observe(canvas);
  const node = h("div", { class: "columns" },
    h("div", {}, canvas, scale, cells),
    h("div", {}, picks, page.attention && h("p", { class: "note" },
      "Each picked candidate vector over the picture: tinted where its meta token attends, framed where most.")));
  return { node, update, redraw, close: () => resized.disconnect() };
}
