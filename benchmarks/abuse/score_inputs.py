"""Inputs of maxsim and of the metrics, against loops in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from abuse.draws import ODD, draw
from abuse.tally import Effort, Row
from abuse.things import unit
from metaembed_lite import maxsim
from metaembed_lite.data.task import RetrievalTask
from metaembed_lite.evaluation import mrr_at_10, ndcg_at_5, precision_at_1

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
WHOLE = [torch.int8, torch.uint8, torch.int16, torch.int32]


def maxsim_cases() -> Any:
    """Shapes, types, layouts, masks and budgets of a call of maxsim."""
    return st.fixed_dictionaries(
        {
            "n_q": st.integers(1, 4), "n_c": st.integers(1, 40), "r_q": st.integers(1, 5),
            "r_c": st.integers(1, 6), "dim": st.integers(1, 9), "seed": st.integers(0, 2**31),
            "q_type": st.sampled_from(FLOATS + WHOLE), "c_type": st.sampled_from(FLOATS + WHOLE),
            "scale": st.sampled_from([1.0, 1e-4, 100.0]), "turned": st.booleans(),
            "as_list": st.booleans(), "q_mask": st.booleans(), "c_mask": st.booleans(),
            "budget": st.none() | st.tuples(st.integers(1, 5), st.integers(1, 6)),
            "poison": st.booleans(),
        }
    )  # fmt: skip


def make_maxsim(case: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | None]:
    """The arguments, and what float64 loops give. None if the budget is too large."""
    rng = np.random.default_rng(case["seed"])
    budget = case["budget"] or (case["r_q"], case["r_c"])
    sides, masks = [], []
    for n, r, kind, used in (
        (case["n_q"], case["r_q"], case["q_type"], budget[0]),
        (case["n_c"], case["r_c"], case["c_type"], budget[1]),
    ):
        values = rng.normal(size=(n, r, case["dim"])) * case["scale"]
        values = np.abs(values).clip(max=100) if kind in WHOLE else values
        tensor = torch.from_numpy(values).to(kind)
        if case["poison"] and kind in FLOATS and case["budget"]:
            tensor[:, used:] = torch.nan  # beyond the budget nothing is read
        if case["turned"]:
            tensor = tensor.transpose(0, 2).contiguous().transpose(0, 2)
        mask = torch.from_numpy(rng.random((n, r)) < 0.7)
        mask[:, 0] = True
        sides.append(tensor)
        masks.append(mask)
    arguments = {
        "queries": list(sides[0]) if case["as_list"] else sides[0], "candidates": sides[1],
        "budget": case["budget"],
        "query_mask": masks[0] if case["q_mask"] else None,
        "candidate_mask": masks[1] if case["c_mask"] else None,
    }  # fmt: skip
    if budget[0] > case["r_q"] or budget[1] > case["r_c"]:
        return arguments, None
    return arguments, score_by_loops(sides, arguments, budget)


def score_by_loops(sides: list[Any], arguments: dict[str, Any], budget: Any) -> np.ndarray:
    """MaxSim from its definition, in float64."""
    queries, candidates = (side.double().numpy() for side in sides)
    scores = np.zeros((len(queries), len(candidates)))
    q_mask, c_mask = arguments["query_mask"], arguments["candidate_mask"]
    for q, query in enumerate(queries):
        for c, candidate in enumerate(candidates):
            for i in range(budget[0]):
                if q_mask is not None and not q_mask[q, i]:
                    continue
                kept = [j for j in range(budget[1]) if c_mask is None or c_mask[c, j]]
                scores[q, c] += max(float(query[i] @ candidate[j]) for j in kept)
    return scores


def tolerance(case: dict[str, Any], expected: np.ndarray) -> float:
    """Half-precision inputs are exact in float32, so only sums and products round."""
    kinds = {case["q_type"], case["c_type"]}
    exact = kinds <= set(WHOLE) or torch.float64 in {case["q_type"]}
    largest = float(np.abs(expected).max()) + case["scale"] ** 2 * case["dim"] * case["r_q"] * 10
    return (1e-12 if exact and torch.float32 not in kinds else 2e-6) * largest


def scores(effort: Effort) -> Row:
    """maxsim against loops in float64."""
    row = Row("maxsim against float64 loops: types, layouts, masks, budgets, NaN beyond them", 8000)

    def body(case: dict[str, Any]) -> None:
        arguments, expected = make_maxsim(case)
        if expected is None:
            row.attempt(str(case), lambda: maxsim(**arguments), names=["budget"])
            return
        near = tolerance(case, expected)
        row.attempt(
            str(case), lambda: maxsim(**arguments),
            is_right=lambda s: bool(np.abs(s.double().numpy() - expected).max() <= near),
        )  # fmt: skip

    draw(effort.count(row.planned, 150), maxsim_cases(), body)
    return row


def odd_scores(effort: Effort) -> Row:
    """maxsim with an odd value in one place: refused by name, or finite scores."""
    row = Row("maxsim with an odd argument", 700)
    places = ("queries", "candidates", "budget", "query_mask", "candidate_mask", "products")

    def body(case: tuple[str, Any, float]) -> None:
        place, odd, scale = case
        arguments: dict[str, Any] = {
            "queries": unit(2, 3, 4) * scale, "candidates": unit(5, 4, 4), place: odd,
        }  # fmt: skip
        row.attempt(
            f"{place}={odd!r:.80}, scale {scale}", lambda: maxsim(**arguments),
            is_right=lambda s: s.ndim == 2 and bool(torch.isfinite(s).all()),
            names=[place, "budget", "scores", "score of", "mask"],
        )  # fmt: skip

    strategy = st.tuples(
        st.sampled_from(places), st.sampled_from(ODD), st.sampled_from([1.0, 1e30, 1e-40])
    )
    draw(effort.count(row.planned, 200), strategy, body)
    return row


# Metrics


def naive_metrics(s: np.ndarray, grades: np.ndarray, pool: np.ndarray) -> dict[str, float]:
    """P@1, MRR@10 and NDCG@5 by loops and sorting. Ties as the docstrings have them."""
    p, mrr, ndcg = [], [], []
    for scores, grade, inside in zip(s, grades, pool, strict=True):
        ranked = [(scores[j], grade[j]) for j in range(len(scores)) if inside[j]]
        right = [score for score, g in ranked if g > 0]
        wrong = [score for score, g in ranked if g == 0]
        best = max(right, default=None)
        p.append(best is not None and all(best > score for score in wrong))
        rank = 1 + sum(score >= best for score in wrong) if best is not None else 11
        mrr.append(1 / rank if rank <= 10 else 0)
        ideal = sum(g / np.log2(i + 2) for i, g in enumerate(sorted(grade, reverse=True)[:5]))
        gain, place = 0.0, 0
        for score in sorted({score for score, _ in ranked}, reverse=True):
            tied = [g for other, g in ranked if other == score]
            for i in range(place, min(place + len(tied), 5)):
                gain += np.mean(tied) / np.log2(i + 2)
            place += len(tied)
        ndcg.append(gain / ideal if ideal > 0 else 0)
    means = {"p": p, "mrr": mrr, "ndcg": ndcg}
    return {name: float(np.mean(values)) for name, values in means.items()}


METRICS = {"p": precision_at_1, "mrr": mrr_at_10, "ndcg": ndcg_at_5}
GRADE_TYPES = (np.float64, np.float32, np.uint8, np.int8, np.int64)


def metrics(effort: Effort) -> Row:
    """Three metrics on random scores with ties, grades of all types, and pools."""
    row = Row("P@1, MRR@10 and NDCG@5 against naive loops: ties, grades of 5 types, pools", 4000)

    def body(case: tuple[int, int, int, Any, Any, bool]) -> None:
        n_q, n_c, seed, kind, score_type, has_pool = case
        rng = np.random.default_rng(seed)
        s = rng.integers(0, 12, (n_q, n_c)).astype(score_type)
        grades = rng.integers(0, 3, (n_q, n_c)).astype(kind)
        pool = rng.random((n_q, n_c)) < 0.7 if has_pool else np.ones((n_q, n_c), bool)
        expected = naive_metrics(s.astype(float), grades.astype(float), pool)
        row.attempt(
            str(case),
            lambda: {name: f(s, grades, pool if has_pool else None) for name, f in METRICS.items()},
            is_right=lambda got: all(abs(got[name] - expected[name]) < 1e-9 for name in expected),
        )

    strategy = st.tuples(
        st.integers(1, 4), st.integers(1, 15), st.integers(0, 2**31),
        st.sampled_from(GRADE_TYPES), st.sampled_from([np.float32, np.float64, np.int32]),
        st.booleans(),
    )  # fmt: skip
    draw(effort.count(row.planned, 60), strategy, body)
    return row


def odd_metrics(effort: Effort) -> Row:
    """Odd scores, grades and pools, also as a task."""
    row = Row("metrics and tasks with an odd argument", 500)

    def body(case: tuple[str, str, Any]) -> None:
        name, place, odd = case
        arguments = {
            "scores": np.eye(2),
            "relevance": np.eye(2),
            "pool": np.ones((2, 2)),
            place: odd,
        }
        words = [place, "queries", "candidates"]
        if name == "task":
            del arguments["scores"]
            arguments = {"queries": ["a", "b"], "candidates": ["c", "d"], **arguments}
            row.attempt(
                f"{name}: {place}={odd!r:.80}",
                lambda: RetrievalTask("odd", **arguments),
                is_right=lambda task: task.relevance.shape == (2, 2), names=words,
            )  # fmt: skip
            return
        row.attempt(
            f"{name}: {place}={odd!r:.80}", lambda: METRICS[name](**arguments),
            is_right=lambda value: 0 <= value <= 1, names=words,
        )  # fmt: skip

    strategy = st.one_of(
        st.tuples(
            st.sampled_from(list(METRICS)), st.sampled_from(["scores", "relevance", "pool"]),
            st.sampled_from(ODD),
        ),
        st.tuples(
            st.just("task"), st.sampled_from(["queries", "candidates", "relevance", "pool"]),
            st.sampled_from(ODD),
        ),
    )  # fmt: skip
    draw(effort.count(row.planned, 150), strategy, body)
    return row
