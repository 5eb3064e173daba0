"""Quality and cost per budget, against a slow and obvious computation."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from metaembed_lite import build, evaluation, load_task, sweep
from metaembed_lite.data import RetrievalTask
from metaembed_lite.evaluation import Encoded, encode, every_budget, ndcg_at_5, precision_at_1


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
    table = sweep(model, task, encoded=encoded)
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
        ValueError, match=r"budget \(4, 8\): there are 2 query vectors; ask for r_q <= 2"
    ):
        sweep(model, task, [(1, 1), (4, 8)])


def test_embeddings_that_are_not_finite_are_named(model, task):
    encoded = encode(model, task)
    broken = encoded.candidates.clone()
    broken[3, 1, 7] = float("nan")
    with pytest.raises(ValueError, match=r"candidates\[3, 1, 7\] is nan"):
        sweep(model, task, encoded=Encoded(encoded.queries, broken, 1.0, 1.0))


@pytest.mark.parametrize(
    ("queries", "relevance", "message"),
    [
        ([], np.zeros((0, 2)), "0 queries and 2 candidates"),
        (["a"], np.ones((1, 3)), r"shape \(1, 3\), expected .* \(1, 2\)"),
        (["a"], np.zeros((1, 2)), "1 queries have no relevant candidate, first index 0"),
    ],
)
def test_a_task_that_does_not_fit_together_is_named(queries, relevance, message):
    with pytest.raises(ValueError, match=message):
        RetrievalTask("mine", queries, ["x", "y"], relevance)


def test_ndcg_is_scikit_learns_also_with_ties_and_grades():
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(0)
    for n in (2, 4, 5, 9, 40):
        relevance = rng.integers(0, 4, (30, n)).astype(float)
        relevance[:, 0] = 1
        for scores in (rng.normal(size=(30, n)), rng.integers(0, 3, (30, n)), np.zeros((30, n))):
            expected = ndcg_score(relevance, scores, k=5)
            assert ndcg_at_5(scores, relevance) == pytest.approx(expected, abs=1e-12)


def test_one_relevant_candidate_alone_is_in_perfect_order():
    assert ndcg_at_5(np.zeros((3, 1)), np.ones((3, 1))) == 1.0


def test_every_budget_at_once_is_what_sweep_measures_one_by_one(model, task):
    encoded = encode(model, task)
    grid = [(q, c) for q in (1, 2) for c in (1, 2, 3, 4)]
    columns = ["r_q", "r_c", "p_at_1", "ndcg_at_5", "bytes_per_candidate"]
    one_by_one = sweep(model, task, grid, encoded=encoded)[columns]
    pd.testing.assert_frame_equal(every_budget(task, encoded), one_by_one)


def test_every_budget_agrees_with_scores_in_float64_and_keeps_to_the_pools(monkeypatch):
    rng = np.random.default_rng(1)
    queries, candidates = rng.normal(size=(7, 3, 8)), rng.normal(size=(11, 4, 8))
    relevance = (rng.random((7, 11)) < 0.2).astype(float)
    relevance[:, 0] = 2
    pool = (rng.random((7, 11)) < 0.5) | (relevance > 0)
    task = RetrievalTask("mine", list("abcdefg"), list("abcdefghijk"), relevance, pool=pool)
    encoded = Encoded(torch.tensor(queries).float(), torch.tensor(candidates).float(), 1.0, 1.0)
    monkeypatch.setattr(evaluation, "RUNNING_VALUES", 3 * 11 * 2)  # two queries at a time
    for row in every_budget(task, encoded).itertuples():
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
