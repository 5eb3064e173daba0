"""The chosen threshold equals the best of all thresholds, which are tried one by one."""

import numpy as np
import pytest

from metaembed_lite import choose_threshold


def every_threshold(scores, relevance, pool):
    """(score, precision, recall, f1) of each score as a threshold, counted pair by pair."""
    pairs = [
        (scores[q][c], relevance[q][c] > 0)
        for q in range(len(scores))
        for c in range(len(scores[0]))
        if pool is None or pool[q][c]
    ]
    n_relevant = sum(right for _, right in pairs)
    rows = []
    for least in sorted({score for score, _ in pairs}, reverse=True):
        found = [right for score, right in pairs if score >= least]
        precision, recall = sum(found) / len(found), sum(found) / n_relevant
        f1 = 2 * precision * recall / (precision + recall) if sum(found) else 0.0
        rows.append((least, precision, recall, f1))
    return rows


def sample(seed):
    rng = np.random.default_rng(seed)
    relevance = rng.integers(0, 3, (5, 7)) * (rng.random((5, 7)) < 0.4)
    relevance[0, 0] = 1
    scores = np.round(relevance + rng.normal(0, 1.2, (5, 7)), 1)  # rounded, so some are equal
    pool = (rng.random((5, 7)) < 0.7) | (relevance > 0) if seed % 2 else None
    return scores, relevance, pool


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("aim", ["f1", "precision", "recall"])
def test_no_other_threshold_is_better(seed, aim):
    scores, relevance, pool = sample(seed)
    rows = every_threshold(scores, relevance, pool)
    if aim == "f1":
        chosen, best = choose_threshold(scores, relevance, pool), max(rows, key=lambda r: r[3])
    elif aim == "precision":
        least = 0.9 * max(row[1] for row in rows)
        chosen = choose_threshold(scores, relevance, pool, precision=least)
        best = max((row for row in rows if row[1] >= least), key=lambda r: r[2])
    else:
        chosen = choose_threshold(scores, relevance, pool, recall=0.7)
        best = max((row for row in rows if row[2] >= 0.7), key=lambda r: r[1])
    np.testing.assert_allclose(chosen[1:], best[1:])
    in_pool = scores if pool is None else scores[pool]
    assert (np.ravel(in_pool) >= chosen.score).sum() == (np.ravel(in_pool) >= best[0]).sum()


def test_the_threshold_is_midway_to_the_next_lower_score():
    chosen = choose_threshold([[0.9, 0.5, 0.1]], [[1, 1, 0]])
    assert chosen == (0.3, 1.0, 1.0, 1.0)
    every_pair = choose_threshold([[0.9, 0.5]], [[1, 1]])
    assert every_pair.score == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": 0}, "precision=0: use a number above 0 and up to 1"),
        ({"recall": 1.5}, r"recall=1\.5: use a number"),
        ({"recall": "high"}, "recall='high'"),
        ({"precision": 0.5, "recall": 0.5}, "give one of them"),
        (
            {"precision": 0.9},
            r"precision=0\.9: no threshold reaches it.*highest precision is 0\.50",
        ),
    ],
)
def test_aims_that_cannot_be_met_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        choose_threshold([[0.9, 0.5]], [[0, 1]], **settings)


def test_a_threshold_needs_a_relevant_pair():
    with pytest.raises(ValueError, match="no pair is relevant"):
        choose_threshold([[0.9, 0.5]], [[1, 0]], pool=[[0, 1]])
