// The vectors on the page, and MaxSim over them.

/** The bytes of a base64 text. */
export function decode(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

/** int8 values, `dim` per vector, times the scale of their vector: Float32Array. */
export function dequantize(values, scales, dim) {
  const int8 = new Int8Array(decode(values).buffer);
  const scale = new Float32Array(decode(scales).buffer);
  return Float32Array.from(int8, (value, i) => value * scale[Math.floor(i / dim)]);
}

/** The page's query vectors (nq, rq, dim) and candidate vectors (n, rc, dim), dequantized. */
export function unpack(page) {
  const { dim, r_q: rq, r_c: rc, vectors } = page;
  return {
    dim, rq, rc,
    n: page.candidates.length,
    queries: dequantize(vectors.queries, vectors.query_scales, dim),
    candidates: dequantize(vectors.candidates, vectors.candidate_scales, dim),
  };
}

/** Dot products of one query's vectors with those of all candidates: Float32Array (rq, n, rc). */
export function similarities(data, query) {
  const { dim, rq, rc, n, queries, candidates } = data;
  const result = new Float32Array(rq * n * rc);
  for (let i = 0; i < rq; i++) {
    const start = (query * rq + i) * dim;
    const vector = queries.subarray(start, start + dim);
    for (let j = 0, offset = 0; j < n * rc; j++) {
      let sum = 0;
      for (let d = 0; d < dim; d++) sum += vector[d] * candidates[offset++];
      result[i * n * rc + j] = sum;
    }
  }
  return result;
}

/** MaxSim on prefixes: per candidate, sum over i < r_q of max over j < r_c: Float64Array (n). */
export function maxsim(data, similar, [r_q, r_c]) {
  const { rc, n } = data;
  const scores = new Float64Array(n);
  for (let i = 0; i < r_q; i++) {
    for (let c = 0; c < n; c++) {
      const start = (i * n + c) * rc;
      let best = similar[start];
      for (let j = start + 1; j < start + r_c; j++) if (similar[j] > best) best = similar[j];
      scores[c] += best;
    }
  }
  return scores;
}

/** For each of the first r_q query vectors, the candidate vector it picks: [{ vector, value }]. */
export function winners(data, similar, candidate, [r_q, r_c]) {
  return Array.from({ length: r_q }, (_, i) => {
    const start = (i * data.n + candidate) * data.rc;
    let vector = 0;
    for (let j = 1; j < r_c; j++) if (similar[start + j] > similar[start + vector]) vector = j;
    return { vector, value: similar[start + vector] };
  });
}

/** The candidates that are not excluded, best first. Ties keep their order. */
export function rank(scores, excluded) {
  const ignored = new Set(excluded);
  return Array.from(scores.keys())
    .filter((candidate) => !ignored.has(candidate))
    .sort((a, b) => scores[b] - scores[a]);
}
