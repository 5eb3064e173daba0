"""Quality and cost per budget, against a slow and obvious computation."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from metaembed_lite import build, evaluation, load_task, sweep
from metaembed_lite.data import RetrievalTask
from metaembed_lite.evaluation import (
    EncodedTask,
    encode,
    evaluate,
    evaluate_all,
    mrr_at_10,
    ndcg_at_5,
    precision_at_1,
)

METRICS = [precision_at_1, mrr_at_10, ndcg_at_5]


@pytest.fixture(scope="module")
def model():
    return build("tiny-vlm", r_q=2, r_c=4, dim=16, device="cpu").eval()


@pytest.fixture(scope="module")
def task():
    return load_task("handwriting", n_queries=12, n_train=0)


def slow_score(query, candidate, r_q, r_c):
    return sum(max(float(np.dot(q, c)) for c in candidate[:r_c]) for q in query[:r_q])


def test_sweep_agrees_with_scores_computed_one_by_one(model, task):
    encoded = encode(model, task)
    table = evaluate(encoded)
    assert list(zip(table.r_q, table.r_c, strict=True)) == [(1, 1), (2, 4)]
    queries, candidates = encoded.queries.double().numpy(), encoded.candidates.double().numpy()
    for row in table.itertuples():
        hits, gains = 0, []
        for query, relevant in zip(queries, task.relevance, strict=True):
            scores = [slow_score(query, c, row.r_q, row.r_c) for c in candidates]
            order = sorted(range(len(scores)), key=lambda i: -scores[i])
            hits += relevant[order[0]] > 0
            dcg = sum(relevant[i] / math.log2(rank + 2) for rank, i in enumerate(order[:5]))
            best = sum(g / math.log2(rank + 2) for rank, g in enumerate(sorted(relevant)[::-1][:5]))
            gains.append(dcg / best)
        assert row.p_at_1 == pytest.approx(hits / len(queries))
        assert row.ndcg_at_5 == pytest.approx(np.mean(gains), abs=1e-6)
        assert row.bytes_per_candidate == row.r_c * 16 * 4
        assert row.multiply_adds == row.r_q * row.r_c * 16
    assert (table[["encode_query_ms", "encode_candidate_ms", "score_ms"]] > 0).all().all()


def test_a_constant_scorer_has_no_hits():
    relevance = np.eye(3, 5)
    assert precision_at_1(np.zeros((3, 5)), relevance) == 0.0
    assert precision_at_1(relevance, relevance) == 1.0


def test_a_budget_beyond_the_model_is_named(model, task):
    with pytest.raises(
        ValueError, match=r"budget \(4, 8\): there are 2 query vectors; use r_q <= 2"
    ):
        sweep(model, task, [(1, 1), (4, 8)])


def test_embeddings_that_are_not_finite_are_named(model, task):
    encoded = encode(model, task)
    broken = encoded.candidates.clone()
    broken[3, 1, 7] = float("nan")
    with pytest.raises(ValueError, match=r"candidates\[3, 1, 7\] is nan"):
        EncodedTask(task, encoded.queries, broken)


@pytest.mark.parametrize(
    ("queries", "relevance", "message"),
    [
        ([], np.zeros((0, 2)), "0 queries and 2 candidates"),
        (["a"], np.ones((1, 3)), r"shape \(1, 3\), expected .* \(1, 2\)"),
        (["a"], np.zeros((1, 2)), "1 queries have no relevant candidate, first index 0"),
    ],
)
def test_queries_and_relevance_that_do_not_fit_are_named(queries, relevance, message):
    with pytest.raises(ValueError, match=message):
        RetrievalTask("mine", queries, ["x", "y"], relevance)


def test_ndcg_equals_scikit_learns_also_with_ties_and_grades():
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(0)
    for n in (2, 4, 5, 9, 40):
        relevance = rng.integers(0, 4, (30, n)).astype(float)
        relevance[:, 0] = 1
        for scores in (rng.normal(size=(30, n)), rng.integers(0, 3, (30, n)), np.zeros((30, n))):
            expected = ndcg_score(relevance, scores, k=5)
            assert ndcg_at_5(scores, relevance) == pytest.approx(expected, abs=1e-12)


def test_a_single_relevant_candidate_has_the_best_ndcg():
    assert ndcg_at_5(np.zeros((3, 1)), np.ones((3, 1))) == 1.0


def test_evaluate_all_equals_evaluate_at_every_budget(model, task):
    encoded = encode(model, task)
    grid = [(q, c) for q in (1, 2) for c in (1, 2, 3, 4)]
    columns = ["r_q", "r_c", "p_at_1", "ndcg_at_5", "bytes_per_candidate"]
    one_by_one = evaluate(encoded, grid)[columns]
    pd.testing.assert_frame_equal(evaluate_all(encoded), one_by_one)


def test_evaluate_all_agrees_with_scores_in_float64_and_uses_the_pools(monkeypatch):
    rng = np.random.default_rng(1)
    queries, candidates = rng.normal(size=(7, 3, 8)), rng.normal(size=(11, 4, 8))
    relevance = (rng.random((7, 11)) < 0.2).astype(float)
    relevance[:, 0] = 2
    pool = (rng.random((7, 11)) < 0.5) | (relevance > 0)
    task = RetrievalTask("mine", list("abcdefg"), list("abcdefghijk"), relevance, pool=pool)
    encoded = EncodedTask(task, torch.tensor(queries).float(), torch.tensor(candidates).float())
    monkeypatch.setattr(evaluation, "RUNNING_VALUES", 3 * 11 * 2)  # two queries at a time
    for row in evaluate_all(encoded).itertuples():
        scores = np.array(
            [[slow_score(q, c, row.r_q, row.r_c) for c in candidates] for q in queries]
        )
        scores[~pool] = -100
        hits = relevance[np.arange(7), scores.argmax(axis=1)] > 0
        assert row.p_at_1 == pytest.approx(hits.mean())
        order = np.argsort(-scores, axis=1)[:, :5]
        gains = np.take_along_axis(relevance, order, axis=1) / np.log2(np.arange(5) + 2)
        ideal = -np.sort(-relevance, axis=1)[:, :5] / np.log2(np.arange(5) + 2)
        assert row.ndcg_at_5 == pytest.approx((gains.sum(1) / ideal.sum(1)).mean())


def judge_lists(scores, relevance, pool):
    """P@1, MRR@10 and NDCG@5 from one list per query, which holds only its pool."""
    from sklearn.metrics import ndcg_score

    measures = []
    for query_scores, grades, counts in zip(scores, relevance, pool, strict=True):
        ranked = [(s, g) for s, g, c in zip(query_scores, grades, counts, strict=True) if c]
        best = max((s for s, g in ranked if g > 0), default=None)
        if best is None:
            measures.append((0, 0, 0))
            continue
        n_above = sum(s >= best for s, g in ranked if g <= 0)
        # scikit-learn needs at least two candidates. One more, below all others, changes nothing.
        places = np.unique([s for s, _ in ranked], return_inverse=True)[1]
        ndcg = ndcg_score([[*(g for _, g in ranked), 0]], [[*places, -1]], k=5)
        measures.append((n_above == 0, 1 / (n_above + 1) if n_above < 10 else 0, ndcg))
    return np.mean(measures, axis=0)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("size", [1.0, 1e-30, 1e9, 1e30])
def test_metrics_with_pools_equal_those_of_one_list_per_query(seed, size):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 30))
    scores = (rng.normal(size=(6, n)) if seed % 2 else rng.integers(0, 3, (6, n))) * size
    relevance = (rng.random((6, n)) < 0.2) * rng.integers(1, 4, (6, n))
    relevance[:, 0] = 1
    pool = (rng.random((6, n)) < 0.4) | (relevance > 0)
    measured = [metric(scores.astype(np.float32), relevance, pool) for metric in METRICS]
    np.testing.assert_allclose(measured, judge_lists(scores, relevance, pool), atol=1e-12)


@pytest.mark.parametrize("size", [1.0, 1e9, 1e30])
def test_a_candidate_outside_the_pool_neither_ties_nor_wins(size):
    relevance, pool = np.eye(3), np.eye(3, dtype=bool)
    for scores in (np.full((3, 3), size), -size * relevance, np.full((3, 3), size, np.float32)):
        for metric in METRICS:
            assert metric(scores, relevance, pool) == 1.0
    task = RetrievalTask("mine", list("abc"), list("xyz"), relevance, pool=pool)
    root = math.sqrt(size)  # every score at the full budget is 2 * size
    encoded = EncodedTask(task, torch.full((3, 2, 1), root), torch.full((3, 4, 1), root))
    columns = ["p_at_1", "ndcg_at_5"]
    assert (evaluate(encoded)[[*columns, "mrr_at_10"]] == 1).all().all()
    assert (evaluate_all(encoded)[columns] == 1).all().all()


def test_a_query_whose_relevant_candidates_are_not_in_the_pool_counts_as_0():
    scores, relevance = np.array([[3.0, 2.0, 1.0]]), np.array([[1, 0, 0]])
    for metric in METRICS:
        assert metric(scores, relevance, [[0, 1, 1]]) == 0.0
        assert metric(scores, np.zeros((1, 3))) == 0.0


@pytest.mark.parametrize("kind", [
    np.uint8, np.uint64, np.int8, np.int64, np.float16, np.float32, bool, list, torch.tensor,
])  # fmt: skip
def test_grades_of_any_real_type_give_the_value_of_float64(kind):
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(3)
    scores, grades = rng.normal(size=(9, 7)), rng.integers(0, 2 if kind is bool else 4, (9, 7))
    grades[:, 2] = 1
    given = grades.astype(kind) if isinstance(kind, type) and kind is not list else kind(grades)
    given = grades.tolist() if kind is list else given
    assert ndcg_at_5(scores, given) == pytest.approx(ndcg_score(grades, scores, k=5), abs=1e-12)
    everything = np.ones((9, 7))
    measured = [metric(scores.tolist(), given) for metric in METRICS]
    np.testing.assert_allclose(measured, judge_lists(scores, grades, everything), atol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused_with_their_place(metric, bad):
    scores = np.zeros((3, 4), dtype=np.float32)
    scores[1, 2] = bad
    with pytest.raises(ValueError, match=rf"scores\[1, 2\] is {bad}.*finite"):
        metric(scores, np.eye(3, 4))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("scores", "relevance", "pool", "message"),
    [
        (np.zeros((3, 4)), np.eye(3), None, r"relevance has shape \(3, 3\)"),
        (np.zeros((3, 4)), np.eye(3, 4), np.ones((4, 3)), r"pool has shape \(4, 3\)"),
        (np.zeros(4), np.zeros(4), None, r"scores has shape \(4,\)"),
        (np.zeros((0, 4)), np.zeros((0, 4)), None, r"scores has shape \(0, 4\)"),
        (np.zeros((3, 4)) * 1j, np.eye(3, 4), None, "type complex128"),
        (np.zeros((3, 4)), np.eye(3, 4) * 1j, None, "relevance has type complex128"),
        (np.full((3, 4), "a"), np.eye(3, 4), None, "type <U1"),
        (np.full((1, 2), 2**53 + 1), np.eye(1, 2), None, r"beyond 2\*\*53"),
        (np.zeros((3, 4)), -np.eye(3, 4), None, r"relevance\[0, 0\] is -1.0"),
        (np.zeros((3, 4)), np.eye(3, 4), np.full((3, 4), 0.5), "pool holds 0.5"),
        (np.ma.masked_array(np.zeros((3, 4)), mask=True), np.eye(3, 4), None, "masked array"),
        (np.zeros((3, 4)), [[1], [1, 2]], None, "relevance is not a"),
    ],
)
def test_inputs_of_metrics_that_cannot_be_judged_are_refused(
    metric, scores, relevance, pool, message
):
    with pytest.raises(ValueError, match=message):
        metric(scores, relevance, pool)


def test_whole_scores_of_any_type_are_ranked_as_numbers():
    scores = np.array([[0, 1, 255, 3, 4, 5, 6]], dtype=np.uint8)
    relevance = np.ones((1, 7)) - np.eye(1, 7)
    for metric in METRICS:
        assert metric(scores, relevance) == metric(scores.astype(float), relevance) == 1.0


@pytest.mark.parametrize("measure", [evaluate, evaluate_all])
def test_embeddings_that_give_no_finite_score_are_refused(model, task, measure):
    encoded = encode(model, task)
    broken = encoded.queries.clone()
    broken[2, 1, 0] = torch.nan
    huge = (1e30 * encoded.queries, 1e30 * encoded.candidates)
    few = (encoded.queries[:1], encoded.candidates)
    for bad, message in (
        ((broken, encoded.candidates), r"queries\[2, 1, 0\] is nan"),
        (huge, "finite|too large"),
        (few, "1 embeddings of queries, and task .* has 12 queries"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(EncodedTask(task, *bad))


def test_every_way_of_writing_one_budget_is_evaluated(model, task):
    encoded = encode(model, task)
    for budgets in ("2x4", (2, 4), np.array([2, 4]), ["2x4"], [(2, 4)]):
        table = evaluate(encoded, budgets)
        assert list(zip(table.r_q, table.r_c, strict=True)) == [(2, 4)]
    for budgets in ([], {(2, 4)}, 4, {"2x4": 1}):
        with pytest.raises(ValueError, match="budget"):
            evaluate(encoded, budgets)
        with pytest.raises(ValueError, match="budget"):
            sweep(model, task, budgets)


@pytest.mark.parametrize("size", [0, 1e1, "8", None])
def test_a_batch_size_that_is_not_a_whole_number_is_named(model, task, size):
    with pytest.raises(ValueError, match="batch_size="):
        encode(model, task, batch_size=size)
