"""Seven kinds of questions about boards of digits: a query, its answer and a hard negative."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from metaembed_lite.data import handwriting
from metaembed_lite.data.boards import Triple, place_names
from metaembed_lite.data.scans import CELL, render_digits
from metaembed_lite.data.task import Item

Facts = frozenset[Any]  # what a query asks or a candidate shows. Relevant if one contains the other
Render = Callable[[np.ndarray], Image.Image]  # paints a board

DIGITS = "0123456789"
PLACES = place_names(handwriting.SIDE)
CLASSIFIED = ("A2", "B2", "C2")  # a fourth digit would make 10,000 answers, all of them candidates


class Example(NamedTuple):
    """A query, its answer, a hard negative, and the facts of the three.

    Attributes:
        query: a text, or ``{"text", "image"}``.
        positive: the answer, a text or an image.
        negative: a wrong answer, of the same kind as ``positive``.
        facts: those of query, positive and negative.

    Example:
        >>> Example("which digit: A1?", "7", "3", facts=([], [], [])).positive
        '7'
    """

    query: Item
    positive: Item
    negative: Item
    facts: tuple[Facts, Facts, Facts]


def collect_facts(board: np.ndarray, places: np.ndarray | None = None) -> Facts:
    """Collect what a board holds at some places or at all, as a set of (place, content).

    Example:
        >>> sorted(collect_facts(np.array([7, 1, 2, 3, 4, 5, 6, 7, 8]), np.array([0, 2])))
        [(0, 7), (2, 2)]
    """
    chosen = range(len(board)) if places is None else places
    return frozenset((int(place), int(board[place])) for place in chosen)


def sample_example(kind: str, rng: np.random.Generator, split: str) -> Example:
    """Sample one example about boards of 4 x 4 digits, rendered with the scans of a split.

    Args:
        kind: one of ``MAKERS``, such as "vqa".
        rng: random generator of the sampling.
        split: "train", "validation" or "test".

    Example:
        >>> example = sample_example("ground", np.random.default_rng(0), "test")
        >>> example.query["text"], example.positive.size
        ('crop C3', (32, 32))
    """

    def render(board: np.ndarray) -> Image.Image:
        return render_digits(board, rng, split)

    return MAKERS[kind](handwriting.sample_triple(rng), render, rng)


def list_answers(kind: str) -> list[str] | None:
    """List all answers of ``classify`` or ``vqa``. None for other kinds.

    Example:
        >>> list_answers("classify")[345], list_answers("vqa")[345]
        ('3 4 5', '3, 4, 5')
    """
    if kind == "classify":
        return list(map(" ".join, itertools.product(DIGITS, repeat=len(CLASSIFIED))))
    if kind == "vqa":
        return list(map(", ".join, itertools.product(DIGITS, repeat=handwriting.NAMED_PLACES)))
    return None


def _make_t2i(triple: Triple, render: Render, rng: np.random.Generator) -> Example:
    board, places, negative = triple
    facts = (collect_facts(board, places), collect_facts(board), collect_facts(negative))
    query = f"find: {handwriting.describe(board, places)}"
    return Example(query, render(board), render(negative), facts)


def _make_i2t(triple: Triple, render: Render, rng: np.random.Generator) -> Example:
    board, places, negative = triple
    right, wrong = (handwriting.describe(b, places) for b in (board, negative))
    facts = (collect_facts(board), collect_facts(board, places), collect_facts(negative, places))
    return Example(_pose("what is true?", render(board)), right, wrong, facts)


def _make_i2i(triple: Triple, render: Render, rng: np.random.Generator) -> Example:
    board, _, negative = triple
    facts = (collect_facts(board), collect_facts(board), collect_facts(negative))
    return Example(_pose("find the same", render(board)), render(board), render(negative), facts)


def _make_composed(triple: Triple, render: Render, rng: np.random.Generator) -> Example:
    """Show the hard negative in the query, and describe how the answer differs from it."""
    board, _, negative = triple
    changed = np.flatnonzero(board != negative)
    query = _pose(f"change to {handwriting.describe(board, changed)}", render(negative))
    facts = (collect_facts(board), collect_facts(board), collect_facts(negative))
    return Example(query, render(board), render(negative), facts)


def _make_classify(triple: Triple, render: Render, rng: np.random.Generator) -> Example:
    board, other = triple.board, triple.board.copy()
    row = [PLACES.index(name) for name in CLASSIFIED]
    place = rng.choice(row)
    other[place] = (other[place] + rng.integers(1, len(DIGITS))) % len(DIGITS)
    right, wrong = (" ".join(DIGITS[b[p]] for p in row) for b in (board, other))
    query = _pose("name the first three digits of row 2", render(board))
    return _make_answered(query, right, wrong)


def _make_vqa(triple: Triple, render: Render, rng: np.random.Generator) -> Example:
    board, places, negative = triple
    right, wrong = (", ".join(DIGITS[b[p]] for p in places) for b in (board, negative))
    question = f"which digit: {', '.join(PLACES[p] for p in places)}?"
    return _make_answered(_pose(question, render(board)), right, wrong)


def _make_ground(triple: Triple, render: Render, rng: np.random.Generator) -> Example:
    image, (place, elsewhere) = render(triple.board), triple.places[:2]
    right, wrong = (crop_place(image, p) for p in (place, elsewhere))
    right_facts, wrong_facts = (Facts([crop.tobytes()]) for crop in (right, wrong))
    query = _pose(f"crop {PLACES[place]}", image)
    return Example(query, right, wrong, (right_facts, right_facts, wrong_facts))


def _make_answered(query: Item, right: str, wrong: str) -> Example:
    return Example(query, right, wrong, (Facts([right]), Facts([right]), Facts([wrong])))


def _pose(text: str, image: Image.Image) -> Item:
    return {"text": text, "image": image}


def crop_place(image: Image.Image, place: int) -> Image.Image:
    """Crop one place of a board, 32 x 32.

    Example:
        >>> crop_place(Image.new("RGB", (128, 128)), 4).size
        (32, 32)
    """
    row, column = divmod(place, handwriting.SIDE)
    x, y = CELL * column, CELL * row
    return image.crop((x, y, x + CELL, y + CELL))


MAKERS = {
    "t2i": _make_t2i,
    "i2t": _make_i2t,
    "i2i": _make_i2i,
    "composed": _make_composed,
    "classify": _make_classify,
    "vqa": _make_vqa,
    "ground": _make_ground,
}
