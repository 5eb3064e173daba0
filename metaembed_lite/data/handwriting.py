"""Boards of real handwriting: k x k scanned digits, and queries that name three places.

A query reads "4 C1, 7 A3, 1 D4": places are named as in a spreadsheet. The hard negative of a query
is the same board with another digit at one named place.
"""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from metaembed_lite.arguments import whole_number
from metaembed_lite.data.boards import Triple, grade_boards, place_names
from metaembed_lite.data.rows import rows_from_stored
from metaembed_lite.data.scans import MOST_SIDE, choose_scans, render_digits, store_board
from metaembed_lite.data.task import RetrievalTask, check_sizes, split_rng, training_rng

ABOUT = """\
Boards of real handwriting.

A board is a square of scanned digits, 4 x 4 by default, with white gutters between them. A query
names three of its places as in a spreadsheet, such as "4 C1, 7 A3, 1 D4". A hard negative is the
same board with another digit at one of the named places. Test boards use the scans of writers who
are not in the training boards.

The scans are "Optical Recognition of Handwritten Digits" by Ethem Alpaydin and Cenk Kaynak, UCI
Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, licensed under CC BY 4.0. They
are read from the installed scikit-learn.
"""
SIDE = 4  # places per row and column
NAMED_PLACES = 3  # per query, so 1 of 1,000 random boards fits by chance


def describe(digits: np.ndarray, places: np.ndarray) -> str:
    """Describe some places of a board, in the order given.

    Args:
        digits: (K,) int in reading order, K a square number.
        places: the places to describe.

    Example:
        >>> describe(np.arange(9), np.array([4, 0]))
        '4 B2, 0 A1'
    """
    names = place_names(round(len(digits) ** 0.5))
    return ", ".join(f"{digits[place]} {names[place]}" for place in places)


def sample_triple(rng: np.random.Generator, side: int = SIDE) -> Triple:
    """Sample a board of digits, the three places that its query names, and a hard negative.

    Args:
        rng: random generator of the sampling.
        side: places per row and column, at least 2. Defaults to 4.

    Example:
        >>> triple = sample_triple(np.random.default_rng(0))
        >>> int((triple.board != triple.negative).sum())
        1
    """
    digits = rng.integers(10, size=side * side)
    places = rng.permutation(side * side)[:NAMED_PLACES]
    negative = digits.copy()
    negative[places[0]] = (digits[places[0]] + rng.integers(1, 10)) % 10
    return Triple(digits, rng.permutation(places), negative)


def check_side(side: int) -> int:
    """Check the number of places per row and column of a board, and return it as an int.

    Raises:
        ValueError: unless it is a whole number from 2 to 10.

    Example:
        >>> check_side(4)
        4
    """
    side = whole_number(side, "side", least=2)
    if side > MOST_SIDE:
        raise ValueError(f"side={side}: use a whole number from 2 to {MOST_SIDE}")
    return side


def training_rows(n: int, seed: int = 0, side: int = SIDE) -> Dataset:
    """Sample ``n`` rows (query, positive, negative): text, board, board with one digit changed.

    Boards are stored as ``store_board`` does and rendered when a row is read. Where metaembed_lite
    is installed and imported, the rows can be saved and read again.

    Args:
        n: number of rows.
        seed: random seed of the sampling. Defaults to 0.
        side: places per row and column. Defaults to 4.

    Raises:
        ValueError: as ``check_side``.

    Example:
        >>> rows = training_rows(2, side=5)
        >>> rows.column_names, rows[0]["positive"].size
        (['query', 'positive', 'negative'], (160, 160))
    """
    side, rng = check_side(side), training_rng(seed)
    triples = (sample_triple(rng, side) for _ in range(n))

    def store(digits: np.ndarray) -> bytes:
        return store_board(choose_scans(digits, rng, "train"))

    return rows_from_stored(
        (describe(t.board, t.places), store(t.board), store(t.negative)) for t in triples
    )


def load_handwriting(
    n_queries: int = 500,
    n_train: int = 16_000,
    seed: int = 0,
    split: str = "test",
    side: int = SIDE,
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
        side: places per row and column, from 2 to 10. A place has 32 x 32 pixels, as a sticker.
            Defaults to 4.

    Raises:
        ValueError: on fewer than one query, a negative ``n_train``, an unknown split, or a
            ``side`` out of range.

    Example:
        >>> load_handwriting(n_queries=5, n_train=0).relevance.shape
        (5, 10)
        >>> load_handwriting(n_queries=5, n_train=0, side=5).queries[0]
        '9 E3, 0 B1, 2 E1'
    """
    check_sizes(n_queries, n_train)
    side, rng = check_side(side), split_rng(seed, split)
    triples = [sample_triple(rng, side) for _ in range(n_queries)]
    boards = [t.board for t in triples] + [t.negative for t in triples]
    return RetrievalTask(
        name="handwriting",
        queries=[describe(t.board, t.places) for t in triples],
        candidates=[render_digits(board, rng, split) for board in boards],
        relevance=grade_boards(triples, boards),
        train=training_rows(n_train, seed, side) if n_train else None,
        about=ABOUT,
    )
