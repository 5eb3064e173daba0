// The parts of the explorer that need no page: scoring, choosing a budget and reading numbers.

import assert from "node:assert/strict";
import test from "node:test";

import * as choices from "../../metaembed_lite/explorer/js/choices.js";
import * as explorer from "../../metaembed_lite/explorer/js/explorer.js";
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

test("the entry module is valid before it is bundled", () => {
  assert.equal(typeof explorer.default.render, "function");
  assert.equal(typeof explorer.start, "function");
});
