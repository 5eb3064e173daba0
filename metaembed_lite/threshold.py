"""Chooses the score from which a candidate counts as found, from judged scores."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from metaembed_lite.arguments import is_finite_number
from metaembed_lite.evaluation import check_judged


class Threshold(NamedTuple):
    """A threshold, and its quality on the pairs that it was chosen on.

    Attributes:
        score: a candidate counts as found if its score is at least this.
        precision: the share of found pairs that are relevant.
        recall: the share of relevant pairs that are found.
        f1: the harmonic mean of both.

    Example:
        >>> Threshold(score=0.5, precision=1.0, recall=0.5, f1=2 / 3).recall
        0.5
    """

    score: float
    precision: float
    recall: float
    f1: float


def choose_threshold(
    scores: Any,
    relevance: Any,
    pool: Any = None,
    *,
    precision: float | None = None,
    recall: float | None = None,
) -> Threshold:
    """Choose the score from which a candidate counts as found, for queries that may have no answer.

    Every pair of a query and a candidate counts once. Scores change with the budget, also with
    ``maxsim(..., reduce="mean")``, so choose a threshold per budget. Choose it on validation data,
    and measure its precision and recall on the test::

        for budget in [(1, 1), (4, 8), (8, 16)]:
            scores = maxsim(encoded.queries, encoded.candidates, budget, reduce="mean")
            print(budget, choose_threshold(scores, task.relevance, task.pool, precision=0.95))

    Args:
        scores: (Q, N), all finite.
        relevance: (Q, N) grades of any real type, above 0 where relevant.
        pool: (Q, N) bool or 0/1, which pairs count at all. Defaults to all.
        precision: find as much as possible with at least this precision, above 0 and up to 1.
        recall: find at least this share, above 0 and up to 1, as precisely as possible. Defaults to
            neither, the highest F1.

    Returns:
        The threshold and its quality. Its score is midway between the lowest score that is found
        and the next lower one, so a rounded score does not cross it. Of equally good thresholds,
        it is the highest.

    Raises:
        ValueError: on arguments that ``precision_at_1`` refuses, or if no pair is relevant. Also on
            a precision or recall out of range, on both together, or on a precision that no
            threshold reaches.

    Example:
        >>> scores, relevance = [[0.9, 0.6, 0.2], [0.7, 0.3, 0.1]], [[1, 0, 0], [1, 1, 0]]
        >>> threshold = choose_threshold(scores, relevance, precision=1.0)
        >>> round(threshold.score, 2), round(threshold.recall, 2)
        (0.65, 0.67)
        >>> round(choose_threshold(scores, relevance, recall=1.0).score, 2)
        0.25
    """
    _check_aims(precision, recall)
    values, found, relevant_found, n_relevant = _count_found(*check_judged(scores, relevance, pool))
    precisions, recalls = relevant_found / found, relevant_found / n_relevant
    f1 = 2 * relevant_found / (found + n_relevant)
    if precision is not None:
        reached = np.flatnonzero(precisions >= precision)
        if not len(reached):
            raise ValueError(
                f"precision={precision}: no threshold reaches it, and the highest precision is "
                f"{precisions.max():.3f}; ask for less, or take a larger budget"
            )
        best = reached[recalls[reached].argmax()]  # the first of equal ones, so the highest score
    elif recall is not None:
        enough = np.flatnonzero(recalls >= recall)
        best = enough[precisions[enough].argmax()]
    else:
        best = f1.argmax()
    lowest, next_lower = values[best], values[min(best + 1, len(values) - 1)]
    score = float(lowest) / 2 + float(next_lower) / 2
    return Threshold(score, float(precisions[best]), float(recalls[best]), float(f1[best]))


def _check_aims(precision: Any, recall: Any) -> None:
    if precision is not None and recall is not None:
        raise ValueError(
            f"precision={precision} and recall={recall}: give one of them, and read the other"
        )
    for name, aim in (("precision", precision), ("recall", recall)):
        if aim is not None and not (is_finite_number(aim) and 0 < aim <= 1):
            raise ValueError(f"{name}={aim!r}: use a number above 0 and up to 1, or None")


def _count_found(
    scores: np.ndarray, grades: np.ndarray, pool: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Each different score, highest first, with how many pairs and relevant pairs reach it."""
    in_pool = np.ones(scores.shape, dtype=bool) if pool is None else pool
    pairs, is_relevant = scores[in_pool], grades[in_pool] > 0
    n_relevant = int(is_relevant.sum())
    if not n_relevant:
        raise ValueError("no pair is relevant: a threshold needs relevant and other pairs")
    values, group = np.unique(-pairs, return_inverse=True)  # ascending, so highest score first
    found = np.bincount(group).cumsum()
    relevant_found = np.bincount(group, weights=is_relevant).cumsum()
    return -values, found, relevant_found, n_relevant
