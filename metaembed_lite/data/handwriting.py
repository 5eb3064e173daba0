"""Boards of real handwriting: k x k scanned digits, and queries that name three places.

The hard negative of a query is the same board with another digit at one named place. There are two
styles. Without gutters, a board has 3 x 3 places, and a query reads "4 top-left, 7 center, 1
right". With gutters, a board has any side, and a query reads "4 C1, 7 A3, 1 E5".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from PIL import Image

from metaembed_lite.arguments import whole_number
from metaembed_lite.data.boards import CELL, PLACES, Triple, grade_boards, place_names, render_rows
from metaembed_lite.data.rows import rows_from_stored
from metaembed_lite.data.scans import (
    MOST_SIDE,
    choose_scans,
    load_scans,
    render_digits,
    store_board,
)
from metaembed_lite.data.task import RetrievalTask, check_sizes, split_rng, training_rng

ABOUT = """\
Boards of real handwriting.

A board is a square of scanned digits, 3 x 3 by default. A query names three of its places, such as
"4 top-left, 7 center, 1 right". On boards with white gutters, places are named as in a spreadsheet,
such as "4 C1, 7 A3, 1 E5". A hard negative is the same board with another digit at one of the named
places. Test boards use the scans of writers who are not in the training boards.

The scans are "Optical Recognition of Handwritten Digits" by Ethem Alpaydin and Cenk Kaynak, UCI
Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, licensed under CC BY 4.0. They
are read from the installed scikit-learn.
"""
NAMED_PLACES = 3  # per query, so 1 of 1,000 random boards fits by chance


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


def describe(digits: np.ndarray, places: np.ndarray, names: Sequence[str] = PLACES) -> str:
    """Describe some places of a board, in the order given.

    Args:
        digits: (K,) int in reading order.
        places: the places to describe.
        names: K names of places. Defaults to those of a board without gutters.

    Example:
        >>> describe(np.arange(9), np.array([4, 0]))
        '4 center, 0 top-left'
        >>> describe(np.arange(9), np.array([4, 0]), place_names(3))
        '4 B2, 0 A1'
    """
    return ", ".join(f"{digits[place]} {names[place]}" for place in places)


def sample_triple(rng: np.random.Generator, side: int = 3) -> Triple:
    """Sample a board of digits, the three places that its query names, and a hard negative.

    Args:
        rng: random generator of the sampling.
        side: places per row and column, at least 2. Defaults to 3.

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


def name_places(side: int, gutters: bool) -> Sequence[str]:
    """Name the places of a board in reading order: in words, or with gutters as a spreadsheet does.

    Args:
        side: places per row and column: 3, or with gutters from 2 to 10.
        gutters: whether white gutters separate the digits.

    Raises:
        ValueError: on a side that boards of this style do not have.

    Example:
        >>> name_places(3, gutters=False)[:2], name_places(5, gutters=True)[:2]
        (('top-left', 'top'), ['A1', 'B1'])
    """
    whole_number(side, "side", least=2)
    if side > MOST_SIDE:
        raise ValueError(f"side={side}: use a whole number from 2 to {MOST_SIDE}")
    if gutters:
        return place_names(side)
    if side != 3:
        raise ValueError(
            f"side={side}: boards without gutters have side 3; pass gutters=True for another side"
        )
    return PLACES


def training_rows(n: int, seed: int = 0, side: int = 3, gutters: bool = False) -> Dataset:
    """Sample ``n`` rows (query, positive, negative): text, board, board with one digit changed.

    Boards with gutters are stored as ``store_board`` does and rendered when a row is read. Where
    metaembed_lite is installed and imported, the rows can be saved and read again.

    Args:
        n: number of rows.
        seed: random seed of the sampling. Defaults to 0.
        side: places per row and column. Defaults to 3.
        gutters: whether white gutters separate the digits. Defaults to False.

    Raises:
        ValueError: as ``name_places``.

    Example:
        >>> training_rows(2).column_names
        ['query', 'positive', 'negative']
        >>> training_rows(2, side=5, gutters=True)[0]["positive"].size
        (160, 160)
    """
    names, rng = name_places(side, gutters), training_rng(seed)
    triples = (sample_triple(rng, side) for _ in range(n))
    if not gutters:
        return render_rows(triples, describe, lambda digits: render_board(digits, rng, "train"))

    def store(digits: np.ndarray) -> bytes:
        return store_board(choose_scans(digits, rng, "train"))

    return rows_from_stored(
        (describe(t.board, t.places, names), store(t.board), store(t.negative)) for t in triples
    )


def load_handwriting(
    n_queries: int = 500,
    n_train: int = 16_000,
    seed: int = 0,
    split: str = "test",
    side: int = 3,
    gutters: bool = False,
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
        side: places per row and column: 3, or with gutters from 2 to 10. Defaults to 3.
        gutters: whether white gutters separate the digits. A place then has 32 x 32 pixels, and
            places are named as in a spreadsheet, "A1" at the top left. Defaults to False: a place
            has 16 x 16 pixels, and places are named in words.

    Raises:
        ValueError: on fewer than one query, a negative ``n_train``, an unknown split, or a
            ``side`` that boards of this style do not have.

    Example:
        >>> load_handwriting(n_queries=5, n_train=0).relevance.shape
        (5, 10)
        >>> load_handwriting(n_queries=5, n_train=0, side=5, gutters=True).queries[0]
        '9 E3, 0 B1, 2 E1'
    """
    check_sizes(n_queries, n_train)
    names, rng = name_places(side, gutters), split_rng(seed, split)
    render = render_digits if gutters else render_board
    triples = [sample_triple(rng, side) for _ in range(n_queries)]
    boards = [t.board for t in triples] + [t.negative for t in triples]
    return RetrievalTask(
        name="handwriting",
        queries=[describe(t.board, t.places, names) for t in triples],
        candidates=[render(board, rng, split) for board in boards],
        relevance=grade_boards(triples, boards),
        train=training_rows(n_train, seed, side, gutters) if n_train else None,
        about=ABOUT,
    )
