"""Boards of real handwriting, the running example of the book.

A board is a 3 x 3 image of scanned digits. A query names three places, "4 top-left, 7 center,
1 right". Its hard negative is the same board with another digit at one named place.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from datasets import Dataset
from PIL import Image

from metaembed_lite.data.boards import CELL, PLACES, Triple, grade_boards, render_rows
from metaembed_lite.data.task import (
    RetrievalTask,
    check_sizes,
    check_split,
    split_rng,
    training_rng,
)

ABOUT = """\
Boards of real handwriting.

A board is a 3 x 3 image of scanned digits. A query names three of its places, such as "4 top-left,
7 center, 1 right". A hard negative is the same board with another digit at one of the named places.
Test boards use the scans of writers who are not in the training boards.

The scans are "Optical Recognition of Handwritten Digits" by Ethem Alpaydin and Cenk Kaynak, UCI
Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, licensed under CC BY 4.0. They
are read from the installed scikit-learn.
"""
NAMED_PLACES = 3  # per query, so 1 of 1,000 random boards fits by chance

GUTTERED_CELL, ENLARGED_SCAN = 32, 24  # pixels: a place of render_digits, and the scan inside it

# Scans are ordered by writer (13 writers, about 138 each). A gap of one writer keeps train and test
# writers disjoint. The gap is the validation split: it may share writers with either side, so use
# it for tuning only.
SCAN_RANGES = {"train": (0, 1100), "validation": (1100, 1240), "test": (1240, 1797)}


@cache
def load_scans(split: str) -> tuple[np.ndarray, ...]:
    """Load the scans of a split, by digit.

    Returns:
        Ten arrays (n, 8, 8), uint8, ink from 0 (none) to 255.

    Raises:
        ValueError: on an unknown split.

    Example:
        >>> scans = load_scans("test")
        >>> len(scans), scans[0].shape[1:]
        (10, (8, 8))
    """
    from sklearn.datasets import load_digits  # importing sklearn takes seconds

    check_split(split)
    digits = load_digits()
    part = slice(*SCAN_RANGES[split])
    scans = (digits.images[part] * 255 / 16).round().astype(np.uint8)
    return tuple(scans[digits.target[part] == digit] for digit in range(10))


def render_board(digits: np.ndarray, rng: np.random.Generator, split: str) -> Image.Image:
    """Render nine digits as a board, 48 x 48 RGB. Each digit is a random scan of the split.

    Example:
        >>> render_board(np.arange(9), np.random.default_rng(0), "train").size
        (48, 48)
    """
    scans = load_scans(split)
    cells = [scans[digit][rng.integers(len(scans[digit]))] for digit in digits.ravel()]
    rows = [np.hstack(cells[i : i + 3]) for i in (0, 3, 6)]
    board = Image.fromarray(255 - np.vstack(rows)).convert("RGB")
    return board.resize((3 * CELL, 3 * CELL), Image.Resampling.BILINEAR)


def render_digits(digits: np.ndarray, rng: np.random.Generator, split: str) -> Image.Image:
    """Render k x k digits with white gutters, 32 pixels per place, the size of a sticker.

    Args:
        digits: (k * k,) int in reading order.
        rng: chooses a scan of each digit.
        split: whose scans, "train", "validation" or "test".

    Returns:
        An RGB image of edge ``32 * k``.

    Raises:
        ValueError: if the digits do not fill a square.

    Example:
        >>> render_digits(np.arange(25) % 10, np.random.default_rng(0), "train").size
        (160, 160)
    """
    side = round(len(digits) ** 0.5)
    if side < 1 or side * side != len(digits):
        raise ValueError(f"{len(digits)} digits do not fill a square: give 1, 4, 9, 16, 25, ...")
    scans = _load_enlarged_scans(split)
    cells = np.stack([scans[digit][rng.integers(len(scans[digit]))] for digit in digits])
    edge = side * GUTTERED_CELL
    board = cells.reshape(side, side, GUTTERED_CELL, GUTTERED_CELL).swapaxes(1, 2)
    return Image.fromarray(board.reshape(edge, edge)).convert("RGB")


@cache
def _load_enlarged_scans(split: str) -> tuple[np.ndarray, ...]:
    """The scans of a split, by digit, (n, 32, 32) uint8: dark ink of 24 x 24 pixels on white."""
    gutter = (GUTTERED_CELL - ENLARGED_SCAN) // 2

    def enlarge(scan: np.ndarray) -> np.ndarray:
        size = (ENLARGED_SCAN, ENLARGED_SCAN)
        ink = Image.fromarray(scan).resize(size, Image.Resampling.BILINEAR)
        return np.pad(255 - np.asarray(ink), gutter, constant_values=255)

    return tuple(np.stack([enlarge(scan) for scan in scans]) for scans in load_scans(split))


def describe(digits: np.ndarray, places: np.ndarray) -> str:
    """Describe some places of a board, in the order given.

    Example:
        >>> describe(np.arange(9), np.array([4, 0]))
        '4 center, 0 top-left'
    """
    return ", ".join(f"{digits[place]} {PLACES[place]}" for place in places)


def sample_triple(rng: np.random.Generator) -> Triple:
    """Sample a board of digits (9,), the places that its query names (3,), and a hard negative.

    Example:
        >>> triple = sample_triple(np.random.default_rng(0))
        >>> int((triple.board != triple.negative).sum())
        1
    """
    digits = rng.integers(10, size=9)
    places = rng.permutation(9)[:NAMED_PLACES]
    negative = digits.copy()
    negative[places[0]] = (digits[places[0]] + rng.integers(1, 10)) % 10
    return Triple(digits, rng.permutation(places), negative)


def training_rows(n: int, seed: int = 0) -> Dataset:
    """Sample ``n`` rows (query, positive, negative): text, board, board with one digit changed.

    Example:
        >>> training_rows(2).column_names
        ['query', 'positive', 'negative']
    """
    rng = training_rng(seed)
    triples = (sample_triple(rng) for _ in range(n))
    return render_rows(triples, describe, lambda digits: render_board(digits, rng, "train"))


def load_handwriting(
    n_queries: int = 500, n_train: int = 16_000, seed: int = 0, split: str = "test"
) -> RetrievalTask:
    """Load the task: text query to board image, over ``2 * n_queries`` candidates.

    Half of the candidates are the queries' boards. The other half are hard negatives, one per
    query, which differ in one named digit. Every board that satisfies a query is relevant, even
    one that satisfies it by chance. Training boards use other writers' scans than test boards.

    Args:
        n_queries: number of queries. Defaults to 500.
        n_train: number of training rows. Defaults to 16,000.
        seed: random seed of the sampling. Defaults to 0.
        split: "train", "validation" or "test". Defaults to "test".

    Raises:
        ValueError: on fewer than one query, a negative ``n_train``, or an unknown split.

    Example:
        >>> load_handwriting(n_queries=5, n_train=0).relevance.shape
        (5, 10)
    """
    check_sizes(n_queries, n_train)
    rng = split_rng(seed, split)
    triples = [sample_triple(rng) for _ in range(n_queries)]
    boards = [t.board for t in triples] + [t.negative for t in triples]
    return RetrievalTask(
        name="handwriting",
        queries=[describe(t.board, t.places) for t in triples],
        candidates=[render_board(board, rng, split) for board in boards],
        relevance=grade_boards(triples, boards),
        train=training_rows(n_train, seed) if n_train else None,
        about=ABOUT,
    )
