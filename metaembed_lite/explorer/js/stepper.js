// MaxSimStepper: each query vector scans the candidate's vectors, and its maximum joins the sum.

import { h, mayMove } from "./dom.js";
import { framesView } from "./frames.js";
import { mount } from "./mount.js";
import { describeStep, scanRows, two } from "./scan.js";
import { STYLE } from "./style.js";
import { followTheme } from "./theme.js";

const SCAN = { cell: 180, row: 2400 }; // milliseconds per cell, and at most per row
const REST = 1300; // milliseconds between two steps while it plays
const WIDE = 8; // columns: with more, their names are vertical, and the image stands above

/** The table of similarities: `update(picks, step, scanned)` marks the cells. */
function tableView({ similarities, query_labels, candidate_labels }) {
  const all = similarities.flat();
  const [least, most] = [Math.min(...all), Math.max(...all)];
  const tint = (value) => (most > least ? Math.round((40 * (value - least)) / (most - least)) : 20);
  const rows = similarities.map((values, i) => {
    const cells = values.map((value) => h("td", { style: `--tint: ${tint(value)}%` }, two(value)));
    const most = h("td", { class: "most" });
    return { cells, most, node: h("tr", {},
      h("th", { scope: "row" }, query_labels[i]), ...cells, most) };
  });
  const node = h("div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Similarities" },
    h("table", {},
      h("thead", {}, h("tr", {}, h("td"),
        ...candidate_labels.map((label) => h("th", { scope: "col" }, label)),
        h("th", { scope: "col", class: "most" }, "max"))),
      h("tbody", {}, ...rows.map((row) => row.node))));

  function update(picks, step, { row, column, best }) {
    rows.forEach(({ cells, most, node: tr }, i) => {
      const isDone = i < step;
      tr.className = i === row || (row === null && i === step - 1) ? "active" : "";
      most.textContent = isDone ? two(picks[i].value) : "";
      cells.forEach((cell, j) => {
        cell.className = isDone && j === picks[i].column ? "won"
          : i === row && j === column ? "now" : i === row && j === best ? "best" : "";
      });
    });
    if (row !== null) show(rows[row].cells[column]);
    else if (step) show(rows[step - 1].cells[picks[step - 1].column]);
  }

  /** Scroll sideways only, so that the page stays where it is. */
  function show(cell) {
    const [inner, outer] = [cell, node].map((part) => part.getBoundingClientRect());
    if (inner.right > outer.right) node.scrollLeft += inner.right - outer.right;
    const left = outer.left + cell.parentElement.firstChild.offsetWidth; // the names stay in place
    if (inner.left < left) node.scrollLeft -= left - inner.left;
  }

  return { node, update };
}

/** The candidate's image: `update(picks, step, scanned)` lights up its places. */
function boardView({ image, columns, candidate_labels }) {
  const frames = framesView();
  const rows = columns && candidate_labels.length / columns;
  const node = image && h("div", { class: "board" },
    h("img", { src: image, alt: "the candidate" }), frames.node);
  function update(picks, step, { row, column }) {
    if (!columns) return;
    const found = picks.slice(0, step).map((pick, i) => ({
      place: pick.column, kind: row === null && i === step - 1 ? "lit" : "has",
    }));
    const now = row === null ? [] : [{ place: column, kind: "now" }];
    frames.update([...found, ...now], columns, rows);
  }
  return { node, update };
}

/** anywidget's entry. Returns a function that cleans up. */
function render({ model, el }) {
  const page = model.get("page");
  const scan = scanRows(page.similarities);
  const last = scan.picks.length;
  const nothing = { row: null, column: null, best: null };
  let scanned = nothing; // the cell under the scan
  let isPlaying = false;
  let timer = 0;

  const board = boardView(page);
  const table = tableView(page);
  const status = h("p", { class: "status" });
  const spoken = h("p", { class: "spoken", "aria-live": "polite" });
  const label = h("span", {});
  const sum = h("strong", {});
  const terms = h("span", { class: "terms" });
  const isWide = page.candidate_labels.length > WIDE;
  const stage = `stage${board.node ? " pictured" : ""}${isWide ? " wide" : ""}`;
  const button = (text, onclick) => h("button", { type: "button", onclick }, text);
  const buttons = {
    play: button("Play", toggle), back: button("‹ Back", back),
    forward: button("Step ›", forward), reset: button("Reset", reset),
  };
  const keys = { ArrowRight: forward, ArrowLeft: back, Home: reset, " ": toggle };
  const root = h("div", {
    class: "instrument stepper", role: "group", tabindex: "0", "aria-label": "MaxSim, step by step",
    "aria-keyshortcuts": "ArrowRight ArrowLeft Home Space",
    onkeydown: (event) => {
      const isPress = event.key === " " && event.target.tagName === "BUTTON"; // a click follows
      if (!keys[event.key] || isPress || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      keys[event.key]();
    },
  },
  h("div", { class: "row" }, buttons.play, buttons.back, buttons.forward, buttons.reset,
    h("span", { class: "note keys" }, "Keys: ← → step, space plays, Home resets")),
  h("div", { class: stage }, board.node, table.node,
    h("div", { class: "told" }, status, h("p", { class: "total" }, label, " ", sum, " ", terms))),
  spoken);

  function goTo(step) {
    model.set("step", step); // calls stop and paints, if it is another step
    model.save_changes();
  }

  function forward() {
    const step = model.get("step");
    if (scanned.row !== null || !mayMove()) land();
    else if (step < last) look(step, 0, 0);
  }

  /** Scan a row from a column on, then take its maximum. */
  function look(row, column, best) {
    const values = page.similarities[row];
    if (column === values.length) return land();
    scanned = { row, column, best: values[column] > values[best] ? column : best };
    paint();
    wait(Math.min(SCAN.cell, SCAN.row / values.length), () => look(row, column + 1, scanned.best));
  }

  /** Take the maximum of the row, without the rest of its scan. */
  function land() {
    const step = Math.min(model.get("step") + 1, last);
    isPlaying &&= step < last;
    goTo(step);
    if (isPlaying) wait(REST, forward);
  }

  function back() {
    const isScanning = scanned.row !== null;
    halt();
    if (!isScanning) goTo(Math.max(model.get("step") - 1, 0));
  }

  function reset() {
    halt();
    goTo(0);
  }

  function toggle() {
    if (isPlaying) return halt();
    isPlaying = true;
    if (model.get("step") === last) goTo(0);
    forward();
  }

  function halt() {
    isPlaying = false;
    stop();
  }

  /** Leave the scan. */
  function stop() {
    clearTimeout(timer);
    scanned = nothing;
    paint();
  }

  function wait(ms, then) {
    clearTimeout(timer);
    timer = setTimeout(then, ms);
  }

  function paint() {
    const step = model.get("step");
    const [{ row, column }, text] = [scanned, describeStep(page, scan, step)];
    table.update(scan.picks, step, scanned);
    board.update(scan.picks, step, scanned);
    status.textContent = row === null ? text
      : `${page.query_labels[row]} looks at ${page.candidate_labels[column]}: ` +
        `${two(page.similarities[row][column])}`;
    if (row === null && spoken.textContent !== text) spoken.textContent = text;
    label.textContent = step === last ? "MaxSim score" : "sum";
    sum.textContent = two(scan.sums[step]);
    terms.textContent = step > 1
      ? `= ${scan.picks.slice(0, step).map(({ value }) => two(value)).join(" + ")}` : "";
    buttons.play.textContent = isPlaying ? "Pause" : "Play";
    buttons.back.setAttribute("aria-disabled", step === 0 && row === null);
    buttons.forward.setAttribute("aria-disabled", step === last);
  }

  const shadow = el.shadowRoot ?? el.attachShadow({ mode: "open" });
  shadow.replaceChildren(h("style", {}, STYLE), root);
  el.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab's keys stay out
  const stopFollowing = followTheme(root);
  model.on("change:step", stop); // also when Python sets the step;
  paint();
  return () => {
    clearTimeout(timer);
    stopFollowing();
    model.off("change:step", stop);
  };
}

/** The same on a page without a kernel: `state` replaces the traits. */
const start = (el, state) => mount(el, state, render);

export default { render };
export { start };
