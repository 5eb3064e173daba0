// What a budget costs and gives, which one to choose, and how numbers are read and written.

export const CORPUS = { least: 1e3, most: 1e9 };
const GIB = 2 ** 30;
const BYTES_PER_VALUE = 4; // the index in float32

export const bytesPerCandidate = (page, r_c) => r_c * page.dim * BYTES_PER_VALUE;
export const gib = (page, r_c, corpus) => (bytesPerCandidate(page, r_c) * corpus) / GIB;

/** Milliseconds per query: encoding as measured, scoring as measured times the corpus size. */
export function latency(page, [r_q, r_c], corpus) {
  const { encode_query_ms, score_ms, measured_candidates } = page.cost;
  return encode_query_ms + (score_ms[r_q - 1][r_c - 1] * corpus) / measured_candidates;
}

export const quality = (page, [r_q, r_c], measure = "ndcg_at_5") =>
  page.quality[measure][r_q - 1][r_c - 1];

export const isTrained = (page, [r_q, r_c]) =>
  page.trained.some(([q, c]) => q === r_q && c === r_c);

/** Whether "Find a budget" starts with the trained ones only: if there are several of them. */
export const startsTrainedOnly = (page) => page.trained.length > 1;

/** All budgets, or only the trained ones, by index bytes and then by multiply-adds. */
export function budgets(page, trainedOnly) {
  const all = [];
  for (let c = 1; c <= page.r_c; c++) for (let q = 1; q <= page.r_q; q++) all.push([q, c]);
  return trainedOnly ? all.filter((budget) => isTrained(page, budget)) : all;
}

const best = (page, choices) =>
  choices.reduce((top, budget) => (quality(page, budget) > quality(page, top) ? budget : top));

/** The cheapest budget that reaches the quality: { budget, text }. Budget is null if none does. */
export function cheapest(page, target, corpus, trainedOnly) {
  const choices = budgets(page, trainedOnly);
  const kind = trainedOnly ? "trained budget" : "budget";
  const budget = choices.find((choice) => quality(page, choice) >= target);
  if (!budget) {
    const top = best(page, choices);
    return {
      budget: null,
      text: `No ${kind} reaches NDCG@5 ${three(target)} on this task. The best is ` +
        `${three(quality(page, top))}, at ${name(top)}.`,
    };
  }
  const full = [page.r_q, page.r_c];
  const times = full[1] / budget[1];
  return {
    budget,
    text: `${name(budget)} is the cheapest ${kind} with NDCG@5 of at least ${three(target)}. ` +
      `It has ${three(quality(page, budget))} and takes ${size(page, budget[1], corpus)}` +
      (times > 1 ? `, ${round(times)} times less than the full ${name(full)}.` : "."),
  };
}

/** The best budget within a limit in GiB: { budget, text }. Budget is null if none fits. */
export function bestUnder(page, limit, corpus, trainedOnly) {
  const choices = budgets(page, trainedOnly);
  const kind = trainedOnly ? "trained budget" : "budget";
  const fitting = choices.filter((choice) => gib(page, choice[1], corpus) <= limit);
  if (!fitting.length) {
    const smallest = choices.filter((choice) => choice[1] === choices[0][1]);
    const top = best(page, smallest);
    return {
      budget: null,
      text: `No ${kind} fits into ${round(limit)} GiB: ${plural(top[1], "vector")} per candidate ` +
        `already take${top[1] === 1 ? "s" : ""} ${size(page, top[1], corpus)}. The best of that ` +
        `size has NDCG@5 ${three(quality(page, top))}, at ${name(top)}.`,
    };
  }
  const budget = best(page, fitting);
  const better = choices.filter((choice) => quality(page, choice) > quality(page, budget));
  return {
    budget,
    text: `${name(budget)} is the best ${kind} within ${round(limit)} GiB: NDCG@5 ` +
      `${three(quality(page, budget))} in ${size(page, budget[1], corpus)}. ` +
      (better.length
        ? `The next better budget, ${name(better[0])}, takes ${size(page, better[0][1], corpus)}.`
        : "No larger budget is better."),
  };
}

/** A corpus size as people write it, "1,000,000", "1e6", "10^6": { value } or { error }. */
export function readCorpus(text) {
  const plain = text.trim().replace(/[\s,_]/g, "").replace(/^10\^(\d+)$/, "1e$1");
  const value = /^\d+(\.\d+)?(e\+?\d+)?$/i.test(plain) ? Number(plain) : NaN;
  if (Number.isInteger(value) && value >= CORPUS.least && value <= CORPUS.most) return { value };
  const input = text.trim() ? `“${text.trim()}”` : "Nothing";
  return {
    error: `${input} is not a corpus size: write a whole number from ${whole(CORPUS.least)} to ` +
      `${whole(CORPUS.most)}, such as 1,000,000 or 1e6.`,
  };
}

/** A target: { value } or { error }. */
export function readTarget(text, most, unit) {
  const value = /^\d*\.?\d+$/.test(text.trim()) ? Number(text) : NaN;
  if (value > 0 && value <= most) return { value };
  const input = text.trim() ? `“${text.trim()}”` : "Nothing";
  const range = most === Infinity ? "above 0" : `above 0 and up to ${most}`;
  return { error: `${input} is not a target: write ${unit} ${range}, such as 0.5.` };
}

export const name = ([r_q, r_c]) => `(${r_q}, ${r_c})`;
export const plural = (n, word) => `${whole(n)} ${word}${n === 1 ? "" : "s"}`;
export const whole = (value) => Math.round(value).toLocaleString("en-US");
export const three = (value) => value.toFixed(3);

/** Three significant digits, with thousands separated. */
export function round(value) {
  if (value >= 100) return whole(value);
  return Number(value.toPrecision(3)).toLocaleString("en-US", { maximumSignificantDigits: 3 });
}

const size = (page, r_c, corpus) => memory(bytesPerCandidate(page, r_c) * corpus);

/** Bytes in the unit that reads best. */
export function memory(bytes) {
  for (const [unit, unitBytes] of [["GiB", GIB], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (bytes >= unitBytes) return `${round(bytes / unitBytes)} ${unit}`;
  }
  return `${whole(bytes)} bytes`;
}

/** Milliseconds in the unit that reads best. */
export function duration(ms) {
  if (ms >= 60000) return `${round(ms / 60000)} min`;
  return ms >= 1000 ? `${round(ms / 1000)} s` : `${round(ms)} ms`;
}
