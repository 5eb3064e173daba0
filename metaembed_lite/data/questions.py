"""Seven kinds of questions about boards and scenes: a query, its answer and a hard negative."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from metaembed_lite.data import handwriting, scenes
from metaembed_lite.data.boards import CELL, PLACES, Triple
from metaembed_lite.data.task import Item

Facts = frozenset[Any]  # what a query asks or a candidate shows. Relevant if one contains the other
Render = Callable[[np.ndarray], Image.Image]  # paints a board


@dataclass(frozen=True)
class Domain:
    """What differs between boards of digits and scenes of objects.

    Attributes:
        sample_triple: samples a board, the places that a query names, and a hard negative.
        render: (board, rng, split) to an image, 48 x 48 RGB.
        describe: (board, places) to a text, such as "4 top-left, 7 center".
        n_named: how many places a query names.
        words: the names of each attribute's values.
        noun: what a place holds.
        class_places: the places that ``classify`` reads.
        class_phrase: what ``classify`` calls these places.
        class_attribute: the attribute that ``classify`` reads.

    Example:
        >>> DOMAINS["scenes"].noun
        'object'
    """

    sample_triple: Callable[[np.random.Generator], Triple]
    render: Callable[[np.ndarray, np.random.Generator, str], Image.Image]
    describe: Callable[[np.ndarray, np.ndarray], str]
    n_named: int
    words: tuple[tuple[str, ...], ...]
    noun: str
    class_places: tuple[int, ...]
    class_phrase: str
    class_attribute: int

    def name_content(self, content: np.ndarray) -> str:
        """Name what one place holds, such as "7" or "red ring".

        Example:
            >>> DOMAINS["scenes"].name_content(np.array([0, 5]))
            'red ring'
        """
        values = zip(self.words, np.atleast_1d(content), strict=True)
        return " ".join(words[value] for words, value in values)

    def label_board(self, board: np.ndarray) -> str:
        """Name a board's class: the attribute's values at the classified places.

        Example:
            >>> DOMAINS["handwriting"].label_board(np.arange(9))
            '3 4 5'
        """
        values = board.reshape(9, -1)[list(self.class_places), self.class_attribute]
        return " ".join(self.words[self.class_attribute][value] for value in values)

    def list_answers(self, kind: str) -> list[str] | None:
        """List all answers of ``classify`` or ``vqa``. None for other kinds.

        Example:
            >>> len(DOMAINS["handwriting"].list_answers("classify"))
            1000
        """
        if kind == "classify":
            labels = self.words[self.class_attribute]
            return list(map(" ".join, itertools.product(labels, repeat=len(self.class_places))))
        if kind == "vqa":
            contents = tuple(map(" ".join, itertools.product(*self.words)))
            return list(map(", ".join, itertools.product(contents, repeat=self.n_named)))
        return None


DOMAINS = {
    "handwriting": Domain(
        handwriting.sample_triple,
        handwriting.render_board,
        handwriting.describe,
        n_named=handwriting.NAMED_PLACES,
        words=(tuple("0123456789"),),
        noun="digit",
        class_places=(3, 4, 5),
        class_phrase="the middle row",
        class_attribute=0,
    ),
    "scenes": Domain(
        scenes.sample_triple,
        lambda scene, rng, split: scenes.render_scene(scene, rng),
        scenes.describe,
        n_named=scenes.NAMED_OBJECTS,
        words=(tuple(scenes.COLORS), scenes.SHAPES),
        noun="object",
        class_places=(0, 2, 6, 8),
        class_phrase="the corners",
        class_attribute=1,
    ),
}


class Example(NamedTuple):
    """A query, its answer, a hard negative, and the facts of the three.

    Attributes:
        query: a text, or ``{"text", "image"}``.
        positive: the answer, a text or an image.
        negative: a wrong answer, of the same kind as ``positive``.
        facts: those of query, positive and negative.

    Example:
        >>> Example("which digit is top?", "7", "3", facts=([], [], [])).positive
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
    chosen = range(9) if places is None else places
    return frozenset((int(p), *np.atleast_1d(board[p]).tolist()) for p in chosen)


def sample_example(suite: str, kind: str, rng: np.random.Generator, split: str) -> Example:
    """Sample one example of a task, rendered with the scans of a split.

    Args:
        suite: "handwriting" or "scenes".
        kind: one of ``MAKERS``, such as "vqa".
        rng: random generator of the sampling.
        split: "train", "validation" or "test".

    Example:
        >>> example = sample_example("scenes", "ground", np.random.default_rng(0), "test")
        >>> example.query["text"], example.positive.size
        ('crop top-right', (16, 16))
    """
    domain = DOMAINS[suite]

    def render(board: np.ndarray) -> Image.Image:
        return domain.render(board, rng, split)

    return MAKERS[kind](domain, domain.sample_triple(rng), render, rng)


def _make_t2i(domain: Domain, triple: Triple, render: Render, rng: np.random.Generator) -> Example:
    board, places, negative = triple
    facts = (collect_facts(board, places), collect_facts(board), collect_facts(negative))
    query = f"find: {domain.describe(board, places)}"
    return Example(query, render(board), render(negative), facts)


def _make_i2t(domain: Domain, triple: Triple, render: Render, rng: np.random.Generator) -> Example:
    board, places, negative = triple
    right, wrong = (domain.describe(b, places) for b in (board, negative))
    facts = (collect_facts(board), collect_facts(board, places), collect_facts(negative, places))
    return Example(_pose("what is true?", render(board)), right, wrong, facts)


def _make_i2i(domain: Domain, triple: Triple, render: Render, rng: np.random.Generator) -> Example:
    board, _, negative = triple
    facts = (collect_facts(board), collect_facts(board), collect_facts(negative))
    return Example(_pose("find the same", render(board)), render(board), render(negative), facts)


def _make_composed(
    domain: Domain, triple: Triple, render: Render, rng: np.random.Generator
) -> Example:
    """Show the hard negative in the query, and describe how the answer differs from it."""
    board, _, negative = triple
    changed = np.flatnonzero((board != negative).reshape(9, -1).any(axis=1))
    query = _pose(f"change to {domain.describe(board, changed)}", render(negative))
    facts = (collect_facts(board), collect_facts(board), collect_facts(negative))
    return Example(query, render(board), render(negative), facts)


def _make_classify(
    domain: Domain, triple: Triple, render: Render, rng: np.random.Generator
) -> Example:
    board, attribute = triple.board, domain.class_attribute
    other, n_values = board.copy(), len(domain.words[attribute])
    changed = other.reshape(9, -1)[rng.choice(domain.class_places)]  # a view into other
    changed[attribute] = (changed[attribute] + rng.integers(1, n_values)) % n_values
    query = _pose(f"name {domain.class_phrase}", render(board))
    return _make_answered(query, domain.label_board(board), domain.label_board(other))


def _make_vqa(domain: Domain, triple: Triple, render: Render, rng: np.random.Generator) -> Example:
    board, places, negative = triple
    right, wrong = (", ".join(domain.name_content(b[p]) for p in places) for b in (board, negative))
    question = f"which {domain.noun}: {', '.join(PLACES[p] for p in places)}?"
    return _make_answered(_pose(question, render(board)), right, wrong)


def _make_ground(
    domain: Domain, triple: Triple, render: Render, rng: np.random.Generator
) -> Example:
    image, (place, elsewhere) = render(triple.board), triple.places[:2]
    right, wrong = (crop_place(image, p) for p in (place, elsewhere))
    right_facts, wrong_facts = (Facts([identify_crop(crop)]) for crop in (right, wrong))
    query = _pose(f"crop {PLACES[place]}", image)
    return Example(query, right, wrong, (right_facts, right_facts, wrong_facts))


def _make_answered(query: Item, right: str, wrong: str) -> Example:
    return Example(query, right, wrong, (Facts([right]), Facts([right]), Facts([wrong])))


def _pose(text: str, image: Image.Image) -> Item:
    return {"text": text, "image": image}


def crop_place(image: Image.Image, place: int) -> Image.Image:
    """Crop one place of a board, 16 x 16.

    Example:
        >>> crop_place(Image.new("RGB", (48, 48)), 4).size
        (16, 16)
    """
    x, y = CELL * (place % 3), CELL * (place // 3)
    return image.crop((x, y, x + CELL, y + CELL))


def identify_crop(crop: Image.Image) -> bytes:
    """Return the pixels that identify the scan of a crop: without the rim that neighbors blur.

    Example:
        >>> len(identify_crop(Image.new("L", (16, 16))))
        144
    """
    return np.asarray(crop)[2:-2, 2:-2].tobytes()


MAKERS = {
    "t2i": _make_t2i,
    "i2t": _make_i2t,
    "i2i": _make_i2i,
    "composed": _make_composed,
    "classify": _make_classify,
    "vqa": _make_vqa,
    "ground": _make_ground,
}
