"""Seven kinds of questions about sheets of stickers: a query, its answer and a hard negative."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from metaembed_lite.data.questions import Example, Facts
from metaembed_lite.data.sheets import Sheet, render_sheet
from metaembed_lite.data.sticker_art import ARTISTS, KIND_SIZE, KINDS, SEEN, kind_of, load_names
from metaembed_lite.data.stickers import SIDE, describe, sample_neighbor, sample_triple

Show = Callable[[Sheet], Any]  # turns a sheet into an item

TIMES = 3  # classify: three kinds are on a sheet three times each, and the others at most once
SEEN_BY_ALL = tuple(sorted(set.intersection(*map(set, SEEN.values()))))
STEPS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}


def sample_example(kind: str, rng: np.random.Generator, show: Show = render_sheet) -> Example:
    """Sample one example about sheets of 4 x 4 stickers. They show drawings of training only.

    The facts of a sheet are its things, so neither the artist nor the order counts.

    Args:
        kind: one of ``MAKERS``, such as "vqa".
        rng: random generator of the sampling.
        show: turns a sheet into an item. ``store_sheet`` makes small rows. Defaults to
            ``render_sheet``.

    Raises:
        ValueError: on an unknown kind.

    Example:
        >>> example = sample_example("vqa", np.random.default_rng(0))
        >>> example.query["text"], example.positive, example.negative
        ('what is right of the tropical drink?', 'pushpin', 'pretzel')
    """
    if kind not in MAKERS:
        raise ValueError(f"unknown kind {kind!r}; choose from {', '.join(MAKERS)}")
    return MAKERS[kind](rng, show)


def list_answers(kind: str) -> list[str] | None:
    """List all answers of ``classify`` or ``vqa``. None for other kinds.

    Example:
        >>> len(list_answers("classify")), len(list_answers("vqa"))
        (4060, 300)
    """
    if kind == "classify":
        return list(map(", ".join, itertools.combinations(KINDS, TIMES)))
    return list(load_names()) if kind == "vqa" else None


def _make_t2i(rng: np.random.Generator, show: Show) -> Example:
    sheet, named, negative = sample_triple(rng)
    facts = (_collect(named), _collect(sheet.things), _collect(negative.things))
    return Example(f"find: {describe(named)}", show(sheet), show(negative), facts)


def _make_i2t(rng: np.random.Generator, show: Show) -> Example:
    sheet, named, negative = sample_triple(rng)
    replacement = negative.things[sheet.things != negative.things]
    wrong = np.where(np.isin(named, negative.things), named, replacement)
    facts = (_collect(sheet.things), _collect(named), _collect(wrong))
    return Example(_pose("what is shown?", show(sheet)), describe(named), describe(wrong), facts)


def _make_i2i(rng: np.random.Generator, show: Show) -> Example:
    """Show the same things by the other artist in another order."""
    artist, other = rng.permutation(ARTISTS).tolist()
    things = rng.permutation(SEEN_BY_ALL)[: SIDE * SIDE]
    moved, place = rng.permutation(things), rng.integers(len(things))
    changed = moved.copy()
    changed[place] = sample_neighbor(rng, int(moved[place]), things, SEEN_BY_ALL)
    query = _pose("find the same things", show(Sheet(artist, things)))
    right, wrong = (show(Sheet(other, each)) for each in (moved, changed))
    return Example(query, right, wrong, (_collect(things), _collect(moved), _collect(changed)))


def _make_composed(rng: np.random.Generator, show: Show) -> Example:
    """Replace one thing. The hard negative has a third thing of that kind at its place."""
    sheet, _, right = sample_triple(rng)
    changed = sheet.things != right.things
    old, new = int(sheet.things[changed][0]), int(right.things[changed][0])
    other = sample_neighbor(rng, old, np.append(sheet.things, new), SEEN[sheet.artist])
    wrong = np.where(changed, other, sheet.things)
    names = load_names()
    query = _pose(f"replace {names[old]} by {names[new]}", show(sheet))
    facts = (_collect(right.things), _collect(right.things), _collect(wrong))
    return Example(query, show(right), show(Sheet(sheet.artist, wrong)), facts)


def _make_classify(rng: np.random.Generator, show: Show) -> Example:
    """Draw three kinds three times and all others once. The hard negative names one of those."""
    artist = str(rng.choice(ARTISTS))
    kinds = rng.permutation(len(KINDS))
    repeated, single = kinds[:TIMES], kinds[TIMES : TIMES + SIDE * SIDE - TIMES * TIMES]

    def draw(kind: int, n: int) -> np.ndarray:
        seen = sorted(set(kind_of(kind * KIND_SIZE)) & set(SEEN[artist]))
        return rng.permutation(seen)[:n]

    drawn = [draw(kind, TIMES) for kind in repeated] + [draw(kind, 1) for kind in single]
    sheet = Sheet(artist, rng.permutation(np.concatenate(drawn)))
    query = _pose("which kinds are there three times?", show(sheet))
    return _make_answered(query, _name_kinds(repeated), _name_kinds([*repeated[1:], single[0]]))


def _make_vqa(rng: np.random.Generator, show: Show) -> Example:
    """Ask for a neighbor. The hard negative is another neighbor of the same thing."""
    sheet, _, _ = sample_triple(rng)
    place = int(rng.integers(SIDE * SIDE))
    neighbors = find_neighbors(place)
    direction, other = rng.permutation(list(neighbors))[:2].tolist()
    names = [load_names()[thing] for thing in sheet.things]
    query = _pose(f"what is {direction} the {names[place]}?", show(sheet))
    return _make_answered(query, names[neighbors[direction]], names[neighbors[other]])


def _make_ground(rng: np.random.Generator, show: Show) -> Example:
    """Ask for a neighbor's crop. The hard negative is another neighbor of the same thing.

    A crop is a sheet of one sticker.
    """
    sheet, _, _ = sample_triple(rng)
    place = int(rng.integers(SIDE * SIDE))
    neighbors = find_neighbors(place)
    direction, other = rng.permutation(list(neighbors))[:2].tolist()
    thing, elsewhere = (int(sheet.things[neighbors[name]]) for name in (direction, other))
    right, wrong = (Sheet(sheet.artist, np.array([each])) for each in (thing, elsewhere))
    right_facts, wrong_facts = Facts([(sheet.artist, thing)]), Facts([(sheet.artist, elsewhere)])
    text = f"crop what is {direction} the {load_names()[sheet.things[place]]}"
    return Example(
        _pose(text, show(sheet)), show(right), show(wrong), (right_facts, right_facts, wrong_facts)
    )


def find_neighbors(place: int) -> dict[str, int]:
    """Find the places left of, right of, above and below a place of a sheet, as far as it has them.

    Example:
        >>> find_neighbors(0)
        {'right of': 1, 'below': 4}
    """
    row, column = divmod(place, SIDE)
    targets = {name: (row + down, column + right) for name, (down, right) in STEPS.items()}
    return {
        name: SIDE * row + column
        for name, (row, column) in targets.items()
        if 0 <= row < SIDE and 0 <= column < SIDE
    }


def _collect(things: np.ndarray) -> Facts:
    return Facts(things.tolist())


def _name_kinds(kinds: Iterable[int]) -> str:
    names = list(KINDS)
    return ", ".join(names[kind] for kind in sorted(kinds))


def _pose(text: str, image: Any) -> dict[str, Any]:
    return {"text": text, "image": image}


def _make_answered(query: Any, right: str, wrong: str) -> Example:
    return Example(query, right, wrong, (Facts([right]), Facts([right]), Facts([wrong])))


MAKERS: dict[str, Callable[[np.random.Generator, Show], Example]] = {
    "t2i": _make_t2i,
    "i2t": _make_i2t,
    "i2i": _make_i2i,
    "composed": _make_composed,
    "classify": _make_classify,
    "vqa": _make_vqa,
    "ground": _make_ground,
}
