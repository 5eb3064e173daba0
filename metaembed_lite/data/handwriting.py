"""Boards of real handwriting: the running example of the book.

A board is a 3 x 3 image of scanned digits (scikit-learn's copy of the UCI optical digits). A query
names a few of its places, "4 top-left, 7 center, 1 right"; a hard negative is the same board with
another digit at one of the named places.

The scans are "Optical Recognition of Handwritten Digits" by Ethem Alpaydin and Cenk Kaynak, UCI
Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, licensed under CC BY 4.0.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from metaembed_lite.data.boards import CELL, PLACES, Triple, satisfied, table
from metaembed_lite.data.task import (
    RetrievalTask,
    check_sizes,
    check_split,
    split_rng,
    training_rng,
)

if TYPE_CHECKING:
    from datasets import Dataset

NAMED = 3  # places a query names: of 1,000 random boards, one fits by chance

# The scans come writer after writer (13 writers, about 138 scans each), not shuffled. The gap
# between train and test is as wide as a writer, so that no hand is in both; it is the validation
# split, which may share a hand with either side and is used to choose settings, never to report.
SPLITS = {"train": (0, 1100), "validation": (1100, 1240), "test": (1240, 1797)}


@cache
def digit_scans(split: str) -> tuple[np.ndarray, ...]:
    """The scans of a split, by digit: ten arrays (n, 8, 8), ink 0 to 255, uint8."""
    from sklearn.datasets import load_digits

    check_split(split)
    digits = load_digits()
    part = slice(*SPLITS[split])
    scans = (digits.images[part] * 255 / 16).round().astype(np.uint8)
    return tuple(scans[digits.target[part] == d] for d in range(10))


def draw_board(digits: np.ndarray, rng: np.random.Generator, split: str) -> Image.Image:
    """A board image, 48 x 48 RGB, each digit a scan drawn at random from the split's writers."""
    scans = digit_scans(split)
    cells = [scans[d][rng.integers(len(scans[d]))] for d in digits.ravel()]
    rows = [np.hstack(cells[i : i + 3]) for i in (0, 3, 6)]
    board = Image.fromarray(255 - np.vstack(rows)).convert("RGB")
    return board.resize((3 * CELL, 3 * CELL), Image.Resampling.BILINEAR)


def draw_query(digits: np.ndarray, places: np.ndarray) -> str:
    """The query that names the given places of a board, in the order given."""
    return ", ".join(f"{digits[p]} {PLACES[p]}" for p in places)


def draw_triple(rng: np.random.Generator) -> Triple:
    """A random board of digits (9,), the places a query names (NAMED,), and its hard negative."""
    digits = rng.integers(10, size=9)
    places = rng.permutation(9)[:NAMED]
    negative = digits.copy()
    negative[places[0]] = (digits[places[0]] + rng.integers(1, 10)) % 10
    return Triple(digits, rng.permutation(places), negative)


def training_rows(n: int, seed: int = 0) -> Dataset:
    """``n`` rows (query, positive, negative): text, board, board with one named digit changed."""
    rng = training_rng(seed)
    triples = (draw_triple(rng) for _ in range(n))
    return table(triples, draw_query, lambda digits: draw_board(digits, rng, "train"))


def handwriting(
    n_queries: int = 500, n_train: int = 16_000, seed: int = 0, split: str = "test"
) -> RetrievalTask:
    """Text query to board image, over ``2 * n_queries`` candidates.

    Half of the candidates are the queries' boards, half are hard negatives, one a query, that
    differ in one named digit. Every board that satisfies a query counts as relevant, also one that
    does so by chance. Training boards use other writers' scans than test boards.

    Raises:
        ValueError: on sizes below one or an unknown split.
    """
    check_sizes(n_queries, n_train)
    rng = split_rng(seed, split)
    triples = [draw_triple(rng) for _ in range(n_queries)]
    boards = [t.board for t in triples] + [t.negative for t in triples]
    return RetrievalTask(
        name="handwriting",
        queries=[draw_query(t.board, t.places) for t in triples],
        candidates=[draw_board(board, rng, split) for board in boards],
        relevance=satisfied(triples, boards),
        train=training_rows(n_train, seed) if n_train else None,
        about=__doc__ or "",
    )
