// The parts of the explorer that need no page: scoring, choosing a budget and reading numbers.

import assert from "node:assert/strict";
import test from "node:test";

import { shade } from "../../metaembed_lite/explorer/js/alignment.js";
import * as cells from "../../metaembed_lite/explorer/js/cells.js";
import * as choices from "../../metaembed_lite/explorer/js/choices.js";
import * as explorer from "../../metaembed_lite/explorer/js/explorer.js";
import { crosses, placeLabel } from "../../metaembed_lite/explorer/js/labels.js";
import * as scan from "../../metaembed_lite/explorer/js/scan.js";
import * as stepper from "../../metaembed_lite/explorer/js/stepper.js";
import { tourSteps } from "../../metaembed_lite/explorer/js/tour.js";
import * as vectors from "../../metaembed_lite/explorer/js/vectors.js";

const base64 = (array) => Buffer.from(array.buffer).toString("base64");

function example() {
  const [nq, n, r_q, r_c, dim] = [2, 5, 3, 4, 6];
  let seed = 7;
  const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  const int8 = (length) => Int8Array.from({ length }, () => Math.round(random() * 254 - 127));
  const scales = (length) => Float32Array.from({ length }, () => 0.001 + random() / 100);
  const raw = {
    q: int8(nq * r_q * dim), qs: scales(nq * r_q), c: int8(n * r_c * dim), cs: scales(n * r_c),
  };
  const page = {
    dim, r_q, r_c, candidates: Array(n),
    vectors: {
      queries: base64(raw.q), query_scales: base64(raw.qs),
      candidates: base64(raw.c), candidate_scales: base64(raw.cs),
    },
  };
  return { nq, n, r_q, r_c, dim, raw, page };
}

/** MaxSim from the raw integers, one product at a time. */
function slowMaxsim({ r_q, r_c, dim, raw }, query, candidate, budget) {
  let total = 0;
  for (let i = 0; i < budget[0]; i++) {
    let best = -Infinity;
    for (let j = 0; j < budget[1]; j++) {
      const [a, b] = [query * r_q + i, candidate * r_c + j];
      let sum = 0;
      for (let d = 0; d < dim; d++) {
        sum += raw.q[a * dim + d] * raw.qs[a] * raw.c[b * dim + d] * raw.cs[b];
      }
      best = Math.max(best, sum);
    }
    total += best;
  }
  return total;
}

test("MaxSim at every budget equals a slow sum of maxima", () => {
  const sample = example();
  const data = vectors.unpack(sample.page);
  for (let q = 0; q < sample.nq; q++) {
    const similar = vectors.similarities(data, q);
    for (let r_q = 1; r_q <= sample.r_q; r_q++) {
      for (let r_c = 1; r_c <= sample.r_c; r_c++) {
        const scores = vectors.maxsim(data, similar, [r_q, r_c]);
        for (let c = 0; c < sample.n; c++) {
          const expected = slowMaxsim(sample, q, c, [r_q, r_c]);
          assert.ok(Math.abs(scores[c] - expected) < 1e-5);
        }
      }
    }
  }
});

test("the picks of a pair add up to its score", () => {
  const data = vectors.unpack(example().page);
  const similar = vectors.similarities(data, 1);
  const picks = vectors.winners(data, similar, 3, [2, 3]);
  const total = picks.reduce((sum, { value }) => sum + value, 0);
  assert.ok(Math.abs(total - vectors.maxsim(data, similar, [2, 3])[3]) < 1e-6);
  assert.ok(picks.every(({ vector }) => vector < 3));
});

test("a ranking is best first, keeps ties in order and omits excluded candidates", () => {
  assert.deepEqual(vectors.rank(Float64Array.of(1, 3, 2, 3)), [1, 3, 2, 0]);
  assert.deepEqual(vectors.rank(Float64Array.of(1, 3, 2, 3), [1]), [3, 2, 0]);
});

const page = {
  dim: 32, r_q: 2, r_c: 4, trained: [[1, 1], [2, 4]],
  quality: { ndcg_at_5: [[0.1, 0.3, 0.35, 0.4], [0.2, 0.5, 0.5, 0.8]] },
  cost: { encode_query_ms: 10, score_ms: [[1, 2, 3, 4], [2, 4, 6, 8]], measured_candidates: 1000 },
};

test("the cheapest budget has the fewest bytes, then the fewest query vectors", () => {
  assert.deepEqual(choices.cheapest(page, 0.2, 1e6, false).budget, [2, 1]);
  assert.deepEqual(choices.cheapest(page, 0.3, 1e6, false).budget, [1, 2]);
  assert.deepEqual(choices.cheapest(page, 0.3, 1e6, true).budget, [2, 4]);
});

test("a search starts with the trained budgets if there are several to choose from", () => {
  assert.equal(choices.startsTrainedOnly(page), true);
  assert.equal(choices.startsTrainedOnly({ ...page, trained: [[2, 4]] }), false);
});

test("the answer to an unreachable quality names the best one", () => {
  const { budget, text } = choices.cheapest(page, 0.9, 1e6, false);
  assert.equal(budget, null);
  assert.match(text, /No budget reaches NDCG@5 0\.900 .* best is 0\.800, at \(2, 4\)/);
});

test("the best budget under a size is the cheapest of the best, and the next one is named", () => {
  const { budget, text } = choices.bestUnder(page, (3 * 128 * 1e6) / 2 ** 30, 1e6, false);
  assert.deepEqual(budget, [2, 2]);
  assert.match(text, /next better budget, \(2, 4\)/);
});

test("the answer to a size that is too small names the smallest size", () => {
  const { budget, text } = choices.bestUnder(page, 0.001, 1e6, false);
  assert.equal(budget, null);
  assert.match(text, /No budget fits into 0\.001 GiB: 1 vector per candidate already takes 122/);
  assert.match(text, /takes 122 MiB\. The best of that size has NDCG@5/);
  assert.match(text, /0\.200, at \(2, 1\)/);
});

test("a corpus size is read as people write it", () => {
  const sizes = {
    "1000": 1e3, "1,000,000": 1e6, "1e6": 1e6, "10^9": 1e9, " 2.5e4 ": 25000,
  };
  for (const [text, value] of Object.entries(sizes)) {
    assert.deepEqual(choices.readCorpus(text), { value });
  }
  const message = /is not a corpus size: write a whole number from 1,000 to 1,000,000,000/;
  for (const text of ["", "abc", "999", "1e10", "1000.5", "-5000", "0x1000", "1e6e6"]) {
    assert.match(choices.readCorpus(text).error, message);
  }
});

test("a target is a number above zero and within its range", () => {
  assert.deepEqual(choices.readTarget("0.75", 1, "a number"), { value: 0.75 });
  assert.deepEqual(choices.readTarget("12", Infinity, "GiB"), { value: 12 });
  for (const text of ["", "0", "1.2", "x", "-1"]) {
    assert.ok(choices.readTarget(text, 1, "a number").error);
  }
});

test("latency adds encoding to scoring scaled to the corpus", () => {
  assert.equal(choices.latency(page, [2, 3], 1e6), 10 + 6 * 1000);
});

test("sizes and times have the unit that reads best", () => {
  assert.equal(choices.memory(512), "512 bytes");
  assert.equal(choices.memory(2 ** 30 * 1.5), "1.5 GiB");
  assert.equal(choices.memory(2 ** 30 * 1234.5), "1,235 GiB");
  assert.equal(choices.duration(9.876), "9.88 ms");
  assert.equal(choices.duration(2500), "2.5 s");
  assert.equal(choices.duration(90000), "1.5 min");
});

test("the tour goes from the smallest budget to the full one, and to where more hurts", () => {
  const grid = [[0.3, 0.4, 0.45, 0.5], [0.4, 0.6, 0.6, 0.6], [0.2, 0.35, 0.7, 0.9]];
  const task = { r_q: 3, r_c: 4, dim: 8, trained: [[1, 1], [2, 2], [3, 4]],
    quality: { ndcg_at_5: grid } };
  const steps = tourSteps(task);
  assert.deepEqual(steps.map(({ budget }) => budget), [[1, 1], [2, 2], [3, 4], [3, 2]]);
  assert.match(steps[2].text, /from 0\.300 to 0\.900, the index takes 4 times the bytes/);
  assert.match(steps[3].text, /falls from 0\.600 at \(2,\u00a02\) to 0\.350: more can hurt/);
});

test("the tour promises no fall where there is none, and omits what a model cannot do", () => {
  const quality = { ndcg_at_5: [[0.3], [0.4]] };
  const rising = { r_q: 2, r_c: 1, dim: 8, trained: [[1, 1]], quality };
  assert.equal(tourSteps(rising)[1].title, "More query vectors");
  assert.match(tourSteps(rising)[1].text, /rises from 0\.300 at \(1,\u00a01\) to 0\.400\.$/);
  const single = { ...rising, r_q: 1, quality: { ndcg_at_5: [[0.3]] } };
  assert.deepEqual(tourSteps(single).map(({ budget }) => budget), [[1, 1]]);
});

const named = [
  [{ name: "kiwi", content: 5, place: null }, { name: "ant", content: 7, place: null }],
  [{ name: "4 B1", content: 4, place: 1 }],
];

test("a named thing is found in its cell, and a hard negative shows where it is missing", () => {
  const sheets = { named, contents: [[1, 5, 7, 2], [1, 5, 9, 2], [3, 8, 9, 2], null] };
  const match = (candidate) => cells.matchCells(sheets, 0, candidate, new Set([0]));
  const kiwi = { name: "kiwi", has: true, place: 1 };
  assert.deepEqual(match(0), [kiwi, { name: "ant", has: true, place: 2 }]);
  assert.deepEqual(match(1), [kiwi, { name: "ant", has: false, place: 2 }]);
  assert.deepEqual(match(2).map(({ has, place }) => [has, place]), [[false, null], [false, null]]);
  assert.equal(match(3), null);
  assert.equal(cells.matchCells(null, 0, 0, new Set()), null);
  assert.equal(cells.describeMatch(match(1)), "has kiwi; misses ant");
});

test("a named place matches only with the named content", () => {
  const boards = { named, contents: [[1, 4, 4, 2], [4, 1, 4, 2]] };
  const match = (candidate) => cells.matchCells(boards, 1, candidate, new Set());
  assert.deepEqual(match(0), [{ name: "4 B1", has: true, place: 1 }]);
  assert.deepEqual(match(1), [{ name: "4 B1", has: false, place: 1 }]);
});

test("a label avoids lines, other labels and the edge", () => {
  const bounds = { left: 0, right: 200, top: 0, bottom: 120 };
  const rising = [[0, 120], [100, 70], [200, 20]];
  const taken = [];
  for (const point of [[190, 25], [100, 70], [20, 110]]) {
    const { box } = placeLabel(point, 30, { bounds, taken, lines: [rising] });
    assert.ok(!crosses(rising[0], rising[1], box) && !crosses(rising[1], rising[2], box));
    for (const other of taken) {
      const [left, top, right, bottom] = other;
      assert.ok(box[0] >= right || box[2] <= left || box[1] >= bottom || box[3] <= top);
    }
    taken.push(box);
  }
  assert.ok(crosses([0, 0], [10, 10], [4, 4, 6, 6]));
  assert.ok(!crosses([0, 0], [10, 0], [4, 4, 6, 6]));
  assert.ok(!crosses([0, 0], [3, 3], [4, 4, 6, 6]));
});

test("the color of a similarity goes from dark to bright, and a single one is not dark", () => {
  assert.deepEqual([shade(-1, -1, 3), shade(1, -1, 3), shade(3, -1, 3)], [0, 128, 255]);
  assert.ok(shade(0.71, 0.71, 0.71) > 127);
});

test("the steps take each row's first maximum and add it", () => {
  const { picks, sums } = scan.scanRows([[0.1, 0.9, 0.9], [-0.4, -0.5, -0.2]]);
  assert.deepEqual(picks, [{ column: 1, value: 0.9 }, { column: 2, value: -0.2 }]);
  assert.deepEqual(sums.map(scan.two), ["0.00", "0.90", "0.70"]);
  assert.equal(scan.two(-0.001), "0.00");
  const page = { query_labels: ["q1", "q2"], candidate_labels: ["c1", "c2", "c3"] };
  const text = (step) => scan.describeStep(page, { picks, sums }, step);
  assert.match(text(1), /^q1: the largest of 3 similarities is 0\.90, at c2\. Sum so far 0\.90/);
  assert.match(text(2), /^q2: .* -0\.20, at c3\. .* MaxSim score, 0\.70\.$/);
});

test("the entry modules are valid before they are bundled", () => {
  assert.equal(typeof stepper.default.render, "function");
  assert.equal(typeof stepper.start, "function");
  assert.equal(typeof explorer.default.render, "function");
  assert.equal(typeof explorer.start, "function");
});
