"""Handwriting and scenes in MMEB's four meta-tasks: fourteen tasks, seven a suite.

Each has an instruction, which opens every query as in MMEB, and one kind of question:

    Retrieval         t2i       a text that names some places    -> a board that fits it
                      i2t       a board                          -> a text that fits it
                      i2i       a board                          -> the same, drawn anew
                      composed  a board, and a change in words   -> the changed board, drawn anew
    Classification    classify  a board                          -> what a row, or the corners, hold
    VQA               vqa       a board, and names of places     -> what stands there
    Visual grounding  ground    a board, and the name of a place -> the crop of that place

A hard negative is one digit, one attribute or one place away. The candidates of ``classify`` and
``vqa`` are all answers there are; the others' are every query's answer and hard negative. Four
tasks are held out of training, each trained in the other suite only: out of distribution.

Half of a query does not do: a model that sees one half alone has to guess among the candidates
that fit it. In ``ground`` the picture alone gets one right in two: two crops of its board are
candidates.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from metaembed_lite.data import handwriting, scenes
from metaembed_lite.data.boards import CELL, PLACES, Triple
from metaembed_lite.data.mmeb import by_meta_task
from metaembed_lite.data.rows import rows
from metaembed_lite.data.task import Item, RetrievalTask, check_sizes, split_rng, training_rng

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

Facts = frozenset[Any]  # what a query asks, or a candidate is: relevant if one holds the other


@dataclass(frozen=True)
class World:
    """What boards of digits and scenes of objects differ in.

    Attributes:
        triple: draws a board, the places that a query names, and a hard negative.
        draw: (board, rng, split) to an image, 48 x 48 RGB.
        describe: (board, places) to a text, such as "4 top-left, 7 center".
        words: the names of each attribute's values.
        noun: what stands at a place.
        classified: the places that ``classify`` reads, and what it calls them.
        attribute: which attribute it reads.
    """

    triple: Callable[[np.random.Generator], Triple]
    draw: Callable[[np.ndarray, np.random.Generator, str], Image.Image]
    describe: Callable[[np.ndarray, np.ndarray], str]
    words: tuple[tuple[str, ...], ...]
    noun: str
    classified: tuple[tuple[int, ...], str]
    attribute: int

    def name(self, content: np.ndarray) -> str:
        """A place's content in words, such as "7" or "red ring"."""
        return " ".join(w[i] for w, i in zip(self.words, np.atleast_1d(content), strict=True))

    def label(self, board: np.ndarray) -> str:
        """A board's class: the attribute's values at the classified places."""
        values = board.reshape(9, -1)[list(self.classified[0]), self.attribute]
        return " ".join(self.words[self.attribute][value] for value in values)

    def answers(self, kind: str) -> list[str] | None:
        """All answers of ``classify`` or ``vqa``; None for a kind whose answers are not listed."""
        if kind == "classify":
            values, times, between = self.words[self.attribute], len(self.classified[0]), " "
        elif kind == "vqa":
            named = len(self.triple(np.random.default_rng(0)).places)
            values, times, between = (
                tuple(map(" ".join, itertools.product(*self.words))),
                named,
                ", ",
            )
        else:
            return None
        return [between.join(answer) for answer in itertools.product(values, repeat=times)]


WORLDS = {
    "handwriting": World(
        handwriting.draw_triple,
        handwriting.draw_board,
        handwriting.draw_query,
        words=(tuple("0123456789"),),
        noun="digit",
        classified=((3, 4, 5), "the middle row"),
        attribute=0,
    ),
    "scenes": World(
        scenes.draw_triple,
        lambda scene, rng, split: scenes.draw_scene(scene, rng),
        scenes.describe,
        words=(tuple(scenes.COLORS), scenes.SHAPES),
        noun="object",
        classified=((0, 2, 6, 8), "the corners"),
        attribute=1,
    ),
}


class Example(NamedTuple):
    """A query, its answer, a hard negative, and the facts of the three."""

    query: Item
    positive: Item
    negative: Item
    facts: tuple[Facts, Facts, Facts]


def facts_of(board: np.ndarray, places: np.ndarray | None = None) -> Facts:
    """What a board holds at some places, or at all: a set of (place, content)."""
    chosen = range(9) if places is None else places
    return frozenset((int(p), *np.atleast_1d(board[p]).tolist()) for p in chosen)


def example(suite: str, kind: str, rng: np.random.Generator, split: str) -> Example:
    """One example of a task, drawn with the scans of a split."""
    world = WORLDS[suite]

    def draw(board: np.ndarray) -> Image.Image:
        return world.draw(board, rng, split)

    return EXAMPLES[kind](world, world.triple(rng), draw, rng)


Draw = Callable[[np.ndarray], Image.Image]


def _t2i(world: World, triple: Triple, draw: Draw, rng: np.random.Generator) -> Example:
    board, places, negative = triple
    facts = (facts_of(board, places), facts_of(board), facts_of(negative))
    said = f"find: {world.describe(board, places)}"
    return Example(said, draw(board), draw(negative), facts)


def _i2t(world: World, triple: Triple, draw: Draw, rng: np.random.Generator) -> Example:
    board, places, negative = triple
    right, wrong = (world.describe(b, places) for b in (board, negative))
    facts = (facts_of(board), facts_of(board, places), facts_of(negative, places))
    return Example(_ask("what is true?", draw(board)), right, wrong, facts)


def _i2i(world: World, triple: Triple, draw: Draw, rng: np.random.Generator) -> Example:
    board, _, negative = triple
    facts = (facts_of(board), facts_of(board), facts_of(negative))
    return Example(_ask("find the same", draw(board)), draw(board), draw(negative), facts)


def _composed(world: World, triple: Triple, draw: Draw, rng: np.random.Generator) -> Example:
    """The query shows the hard negative, and says how the answer differs from it."""
    board, _, negative = triple
    changed = np.flatnonzero((board != negative).reshape(9, -1).any(axis=1))
    query = _ask(f"change to {world.describe(board, changed)}", draw(negative))
    facts = (facts_of(board), facts_of(board), facts_of(negative))
    return Example(query, draw(board), draw(negative), facts)


def _classify(world: World, triple: Triple, draw: Draw, rng: np.random.Generator) -> Example:
    board, (places, called) = triple.board, world.classified
    other, values = board.copy(), len(world.words[world.attribute])
    changed = other.reshape(9, -1)[rng.choice(places)]  # a view
    changed[world.attribute] = (changed[world.attribute] + rng.integers(1, values)) % values
    return _answered(_ask(f"name {called}", draw(board)), world.label(board), world.label(other))


def _vqa(world: World, triple: Triple, draw: Draw, rng: np.random.Generator) -> Example:
    board, places, negative = triple
    right, wrong = (", ".join(world.name(b[p]) for p in places) for b in (board, negative))
    said = f"which {world.noun}: {', '.join(PLACES[p] for p in places)}?"
    return _answered(_ask(said, draw(board)), right, wrong)


def _ground(world: World, triple: Triple, draw: Draw, rng: np.random.Generator) -> Example:
    image, (place, elsewhere) = draw(triple.board), triple.places[:2]
    right, wrong = (crop(image, p) for p in (place, elsewhere))
    facts = (Facts([scan(right)]), Facts([scan(right)]), Facts([scan(wrong)]))
    return Example(_ask(f"crop {PLACES[place]}", image), right, wrong, facts)


EXAMPLES = {
    "t2i": _t2i,
    "i2t": _i2t,
    "i2i": _i2i,
    "composed": _composed,
    "classify": _classify,
    "vqa": _vqa,
    "ground": _ground,
}


def _answered(query: Item, right: str, wrong: str) -> Example:
    return Example(query, right, wrong, (Facts([right]), Facts([right]), Facts([wrong])))


def _ask(said: str, image: Image.Image) -> Item:
    return {"text": said, "image": image}


def crop(image: Image.Image, place: int) -> Image.Image:
    """A place of a board, 16 x 16."""
    x, y = CELL * (place % 3), CELL * (place // 3)
    return image.crop((x, y, x + CELL, y + CELL))


def scan(crop: Image.Image) -> bytes:
    """What tells which scan or drawing a crop shows: its pixels, less a rim that neighbors blur."""
    return np.asarray(crop)[2:-2, 2:-2].tobytes()


META_TASKS = {
    "Retrieval": ("t2i", "i2t", "i2i", "composed"),
    "Classification": ("classify",),
    "VQA": ("vqa",),
    "Visual grounding": ("ground",),
}
KINDS = tuple(kind for kinds in META_TASKS.values() for kind in kinds)
TASKS = tuple(f"{suite}/{kind}" for suite in WORLDS for kind in KINDS)
HELD_OUT = frozenset(
    {"handwriting/composed", "handwriting/classify", "scenes/i2t", "scenes/ground"}
)


def meta_task(
    name: str, n_queries: int = 500, n_train: int = 0, seed: int = 0, split: str = "test"
) -> RetrievalTask:
    """One of the fourteen tasks.

    Args:
        name: suite/kind, such as "scenes/vqa"; ``TASKS`` lists them.
        n_queries: the candidates are every query's answer and hard negative, ``2 * n_queries``; of
            ``classify`` and ``vqa`` all answers there are, 1,000 to 2,304.
        n_train: training rows, also of a task that is held out.
        seed: of the drawing.
        split: "train", "validation" or "test"; handwriting's by writers.

    Raises:
        ValueError: on an unknown task or split, or sizes below one.
    """
    suite, kind = _known(name)
    check_sizes(n_queries, n_train)
    rng = split_rng(seed, split, TASKS.index(name))
    examples = [example(suite, kind, rng, split) for _ in range(n_queries)]
    candidates = [e.positive for e in examples] + [e.negative for e in examples]
    facts = [e.facts[1] for e in examples] + [e.facts[2] for e in examples]
    answers = WORLDS[suite].answers(kind)
    if answers is not None:
        candidates, facts = answers, [Facts([answer]) for answer in answers]
    fits = [[e.facts[0] <= f or f <= e.facts[0] for f in facts] for e in examples]
    return RetrievalTask(
        name=name,
        queries=[e.query for e in examples],
        candidates=candidates,
        relevance=np.array(fits, dtype=np.float32),
        train=training_rows(name, n_train, seed) if n_train else None,
        about=__doc__ or "",
    )


def training_rows(name: str, n: int, seed: int = 0) -> Dataset:
    """``n`` rows (query, positive, negative) of a task, drawn with the training writers' scans."""
    suite, kind = _known(name)
    rng = training_rng(seed, TASKS.index(name))
    return rows(example(suite, kind, rng, "train")[:3] for _ in range(n))


def training_sets(n_train: int, seed: int = 0) -> dict[str, Dataset]:
    """``n_train`` rows of each task that is not held out, for ``train``."""
    return {name: training_rows(name, n_train, seed) for name in TASKS if name not in HELD_OUT}


def meta_task_table(p_at_1: Mapping[str, float]) -> pd.DataFrame:
    """P@1 by task and the averages that MMEB reports, of any of the fourteen tasks.

    Columns and rows are ``mmeb_table``'s.

    Raises:
        ValueError: on a name that is no task.
    """
    groups = {
        meta: tuple(name for name in TASKS if name.partition("/")[2] in kinds)
        for meta, kinds in META_TASKS.items()
    }
    return by_meta_task(p_at_1, groups, HELD_OUT)


def _known(name: str) -> tuple[str, str]:
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; choose from {', '.join(TASKS)}")
    suite, _, kind = name.partition("/")
    return suite, kind
