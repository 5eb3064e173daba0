// The search page: a query, two sliders, the best candidates, and why each one matched.

import { alignmentView } from "../../explorer/js/alignment.js";
import { duration, memory, name, plural, whole } from "../../explorer/js/choices.js";
import { h, itemView } from "../../explorer/js/dom.js";
import { rankingView } from "../../explorer/js/ranking.js";
import { sliderView } from "../../explorer/js/slider.js";
import { followTheme } from "../../explorer/js/theme.js";
import { attention, match, newest, search, thumbnailPath } from "./requests.js";
import { STYLE } from "./style.js";

const MAX_TEXT_CHARS = 300;
const NARROW = "(max-width: 899px)"; // why it matched is below the results then, as in search.css

/** The page in `el`. `index` is what `describe_index` says of the index. */
export function start(el, index) {
  const page = { candidates: [], cells: null }; // every candidate that was a result
  const positions = new Map(); // id -> position in page.candidates
  let query = null; // { token, text, image }
  let budget = [index.r_q, index.r_c];
  let shown = null; // the ranking on the page
  let origin = null; // the ranking before the budget moves, or before the whole drag
  let base = null; // the ranking that the arrows compare with
  let selection = null; // position of the chosen candidate, or null for the best
  let isHeld = false; // a pointer is on a slider

  const form = queryForm(index, (content) => {
    query = content;
    selection = null;
    update();
  }, () => {
    origin = null;
    if (query) update();
  });
  const move = (r_q, r_c) => {
    budget = [r_q, r_c];
    if (!isHeld) origin = shown;
    paintBudget();
    if (query) update();
  };
  const hold = (value) => {
    isHeld = value;
    if (isHeld) origin = shown;
  };
  const sliders = [
    sliderView({
      label: "Query vectors r_q", note: "cost time per score", most: index.r_q, key: "rq",
      trained: index.budgets.map(([r_q]) => r_q), move: (r_q) => move(r_q, budget[1]), hold,
    }),
    sliderView({
      label: "Candidate vectors r_c", note: "cost bytes and time", most: index.r_c, key: "rc",
      trained: index.budgets.map(([, r_c]) => r_c), move: (r_c) => move(budget[0], r_c), hold,
    }),
  ];
  const presets = index.budgets.map((preset) =>
    h("button", { type: "button", onclick: () => move(...preset) }, name(preset)));
  const figures = figuresView(index);
  const error = h("p", { class: "error", role: "alert" });
  const ranking = rankingView(page, (position) => {
    selection = position;
    paint();
    if (matchMedia(NARROW).matches) why.node.scrollIntoView();
  }, index.most_results);
  const note = h("p", { class: "note" });
  const why = whyView(index);
  const sample = sampleView(index);
  const results = h("div", { class: "body", hidden: true },
    h("section", { "aria-label": "Results" }, h("h2", {}, "Results"), note, ranking.node),
    why.node);
  const spoken = h("p", { class: "spoken", "aria-live": "polite" });

  function paintBudget() {
    sliders.forEach((slider, i) => slider.set(budget[i]));
    presets.forEach((button, i) =>
      button.setAttribute("aria-pressed", name(index.budgets[i]) === name(budget)));
  }

  const update = newest(async () => {
    const asked = query;
    const settings = { budget, ...form.settings() };
    root.classList.add("busy");
    try {
      const answer = await search(asked, settings).catch((problem) => {
        if (!asked.token || problem.status !== 404) throw problem;
        return search({ ...asked, token: null }, settings); // the server has forgotten it
      });
      asked.token = answer.query;
      receive(asked, answer);
      error.textContent = "";
    } catch (problem) {
      error.textContent = problem.message;
    }
    root.classList.remove("busy");
  });

  function receive(asked, { results: rows, budget: used, stats }) {
    const scores = [];
    const order = rows.map((row) => {
      const position = place(row);
      scores[position] = row.score;
      return position;
    });
    const ranked = { asked, order, scores, budget: used };
    base = origin?.asked === asked ? origin : ranked;
    shown = ranked;
    figures.update(stats, used);
    ranking.node.classList.toggle("wide", !rows.some((row) => row.has_thumbnail));
    sample.hidden = true;
    results.hidden = false;
    paint();
    const best = order.length ? `Best: ${describe(page.candidates[order[0]])}. ` : "";
    spoken.textContent = `${plural(order.length, "result")} at ${name(used)}. ${best}` +
      `${memory(stats.bytes_read)} read.`;
  }

  function place(row) {
    if (!positions.has(row.id)) {
      positions.set(row.id, page.candidates.length);
      page.candidates.push(toCandidate(row));
    }
    return positions.get(row.id);
  }

  function paint() {
    const { asked, order, scores, budget: used } = shown;
    const selected = order.includes(selection) ? selection : order[0];
    ranking.update({ query: 0, order, scores, relevant: null, selected, before: base.order });
    note.textContent = !order.length
      ? "No candidate passes the filter."
      : `The best ${order.length} at ${name(used)}` +
        (name(base.budget) === name(used) ? "." : `, ▲▼ places moved since ${name(base.budget)}.`);
    why.node.hidden = selected === undefined;
    if (selected !== undefined) {
      why.update(page.candidates[selected], asked.token, used, order.indexOf(selected) + 1);
    }
  }

  const root = h("div", { class: "instrument search" },
    h("header", {},
      h("h1", {}, index.name),
      h("p", { class: "note" },
        `${plural(index.candidates, "candidate")}, each of ${plural(index.r_c, "vector")} with ` +
        `${index.dim} ${index.dtype} values, from the model ${index.model}`)),
    form.node,
    h("div", { class: "panel" },
      ...sliders.map((slider) => slider.node),
      h("div", { class: "row presets", role: "group", "aria-label": "Trained budgets" },
        h("span", { "aria-hidden": "true" }, "Budget"), ...presets)),
    error, sample, figures.node, results, spoken,
    index.credit ? h("footer", { class: "note" }, index.credit) : "");
  const shadow = el.attachShadow({ mode: "open" });
  shadow.replaceChildren(h("style", {}, STYLE), root);
  followTheme(root, why.redraw);
  paintBudget();
  form.focus();
}

/** A row of an answer as the ranking shows it. */
function toCandidate({ id, has_thumbnail: hasThumbnail, metadata }) {
  const file = metadata.path ? id : ""; // a path below the indexed folder
  let text = metadata.text || file.split("/").at(-1) || (hasThumbnail ? "" : id);
  if (text.length > MAX_TEXT_CHARS) text = `${text.slice(0, MAX_TEXT_CHARS).trimEnd()} …`;
  return { id, file, text, image: hasThumbnail ? thumbnailPath(id) : null };
}

function exampleFilter({ sample }) {
  const metadata = sample[0]?.metadata ?? {};
  const column = ["path", "text"].find((column) => column in metadata) ?? "id";
  return `${column} LIKE '%a%'`;
}

const describe = ({ id, text }) => text || `candidate ${id}`;

/** Some candidates, before the first search. */
function sampleView({ sample, candidates }) {
  const items = sample.map(toCandidate);
  return h("section", { class: "sample", "aria-label": "From this index" },
    h("h2", {}, candidates ? "From this index" : "The index is empty"),
    h("ul", { class: items.some(({ image }) => image) ? "" : "wide" },
      ...items.map((item) => h("li", {}, itemView(item, `candidate ${item.id}`, "item")))));
}

/** Text, image, number of results and filter. `ask({ text, image })` and `change()` are called. */
function queryForm(index, ask, change) {
  let image = null;
  const text = h("input", {
    type: "search", id: "text", autocomplete: "off", spellcheck: "false", enterkeyhint: "search",
    placeholder: "What do you look for?",
  });
  const file = h("input", {
    type: "file", accept: "image/*", hidden: true, tabindex: "-1",
    onchange: () => take(file.files[0]),
  });
  const preview = h("img", { alt: "" });
  const title = h("span", {});
  const chip = h("div", { class: "chip", hidden: true }, preview, title,
    h("button", { type: "button", "aria-label": "Remove the image", onclick: () => drop() }, "×"));
  const problem = h("p", { class: "error", role: "alert" });
  const k = h("input", {
    type: "number", id: "k", min: 1, max: index.most_results, value: 10, onchange: change,
  });
  const where = h("input", {
    type: "text", id: "where", autocomplete: "off", spellcheck: "false", onchange: change,
    placeholder: `SQL, such as ${exampleFilter(index)}`,
  });

  function drop() {
    URL.revokeObjectURL(preview.src);
    image = null;
    file.value = "";
    chip.hidden = true;
    text.focus();
  }

  function take(chosen) {
    if (!chosen || !index.reads_images) return;
    problem.textContent = chosen.size > index.image_limit
      ? `${chosen.name} has ${whole(chosen.size)} bytes: the limit is ${whole(index.image_limit)}.`
      : "";
    if (problem.textContent) return;
    URL.revokeObjectURL(preview.src);
    image = chosen;
    preview.src = URL.createObjectURL(chosen);
    title.textContent = chosen.name;
    chip.hidden = false;
    submit();
  }

  function submit() {
    const content = { text: text.value.trim(), image, token: null };
    problem.textContent = content.text || image ? "" : "Write what you look for" +
      (index.reads_images ? ", or add an image." : ".");
    if (!problem.textContent) ask(content);
  }

  const node = h("form", {
    role: "search",
    onsubmit: (event) => {
      event.preventDefault();
      submit();
    },
    onpaste: (event) => take(event.clipboardData.files[0]),
    ondragover: (event) => {
      if (event.dataTransfer.types.includes("Files")) event.preventDefault();
    },
    ondrop: (event) => {
      const [dropped] = event.dataTransfer.files;
      if (!dropped) return; // a text, which goes into the field
      event.preventDefault();
      take(dropped);
    },
  },
  h("div", { class: "ask" },
    h("label", { class: "spoken", for: "text" }, "Query"), text, file,
    index.reads_images && h("button", { type: "button", onclick: () => file.click() }, "Image"),
    h("button", { type: "submit", class: "go" }, "Search")),
  chip, problem,
  h("div", { class: "settings" },
    h("label", { for: "k" }, "Results"), k, h("label", { for: "where" }, "Filter"), where));
  const settings = () => ({ k: k.value, where: where.value });
  return { node, settings, focus: () => text.focus() };
}

/** What a search read and took: `update(stats, budget)` paints it. */
function figuresView(index) {
  const figures = [
    ["bytes read", ({ bytes_read: bytes }) => memory(bytes)],
    ["per candidate", (_, [, r_c]) => `${whole(index.bytes[r_c - 1])} B`],
    ["candidates", ({ candidates }) => whole(candidates)],
    ["search", ({ search_ms: ms }) => duration(ms)],
    ["encoding", ({ encode_ms: ms }) => duration(ms)],
  ].map(([label, text]) => ({ text, label: h("dt", {}, label), value: h("dd", {}) }));
  const node = h("dl", { class: "figures", hidden: true },
    ...figures.map(({ label, value }) => h("div", {}, label, value)));
  const update = (stats, budget) => {
    node.hidden = false;
    for (const { text, value } of figures) value.textContent = text(stats, budget);
  };
  return { node, update };
}

/** Why a candidate matched: `update(candidate, token, budget, place)` paints it. */
function whyView(index) {
  const title = h("p", { class: "pair" });
  const body = h("div", {});
  const node = h("section", { "aria-label": "Why it matched" },
    h("h2", {}, "Why it matched"), title, body);
  const [rq, rc] = [index.r_q, index.r_c];
  const maps = new Map(); // id -> its attention, or null
  let painted = { id: null, token: null, view: null, similar: null };
  let wanted = null; // the newest arguments of update

  const load = newest(async (candidate, token) => {
    const { id, image } = candidate;
    try {
      const { similarities } = await match(id, token);
      const similar = Float32Array.from(similarities.flat());
      paint(candidate, token, similar);
      if (!image || maps.has(id)) return;
      maps.set(id, await attention(id));
      if (maps.get(id)) paint(candidate, token, similar);
    } catch (problem) {
      title.textContent = problem.message;
    }
  });

  function paint(candidate, token, similar) {
    painted.view?.close();
    const { id, image } = candidate;
    const view = alignmentView(
      { r_q: rq, r_c: rc, attention: maps.get(id) ?? null, candidates: [{ image }] },
      { n: 1, rq, rc });
    body.replaceChildren(view.node);
    painted = { id, token, view, similar };
    refresh();
  }

  /** The newest budget on what is painted, if that is what the reader wants to see. */
  function refresh() {
    const { candidate, token, budget, place } = wanted;
    if (painted.id !== candidate.id || painted.token !== token) return false;
    painted.view.update(painted.similar, 0, 0, budget);
    let score = 0;
    for (let i = 0; i < budget[0]; i++) {
      score += Math.max(...painted.similar.subarray(i * rc, i * rc + budget[1]));
    }
    title.textContent = `Place ${place}${candidate.file && `, ${candidate.file}`}. Each query vector picks the candidate vector that is ` +
      `most similar. The picks add up to the score, ${score.toFixed(3)}.`;
    return true;
  }

  function update(candidate, token, budget, place) {
    wanted = { candidate, token, budget, place };
    if (!refresh()) load(candidate, token);
  }

  return { node, update, redraw: () => painted.view?.redraw() };
}
