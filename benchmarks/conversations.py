"""Conversations about sheets and boards, which the language model of tiny-vlm is pretrained on.

The user shows a sheet of stickers or a board of digits, or writes down what some places hold. The
model answers with facts, in random order. A fact is a place and what is there:

    <image>                        ->  "B2 violin, E1 red apple, A5 sleeping face, ..."
    <image> where?                 ->  "red apple E1, sleeping face A5, violin B2, ..."
    "4 C1, 7 A3"                   ->  "A3 7, C1 4"
    <image>                        ->  "red apple, violin, sleeping face, ..."
    "violin, red apple"            ->  "red apple, violin"

Only the second half of a fact is learned: what is at a place, or where a thing is. The first half
is random, and nobody can predict it. The last two kinds are captions: they name things without
places, so their facts have no first half. Before each name, the model should expect all things that
are left.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from metaembed_lite.data.boards import place_names
from metaembed_lite.data.scans import render_digits
from metaembed_lite.data.sheets import Sheet, render_sheet
from metaembed_lite.data.sticker_art import ARTISTS, SEEN, load_names

MOST_SIDE = 5  # places per row and column
MOST_FACTS = 12  # in an answer
DIGITS = tuple(map(str, range(10)))
WHERE = "where?"


class Conversation(NamedTuple):
    """One example.

    Attributes:
        image: what the user shows, or None.
        text: what the user writes, may be empty.
        facts: the answer: pairs (given, learned), such as ("B2", "violin").
    """

    image: Any
    text: str
    facts: list[tuple[str, str]]


def sample_conversation(
    rng: np.random.Generator, most_side: int = MOST_SIDE, captions: float = 0.5
) -> Conversation:
    """Sample a conversation about at most ``most_side`` x ``most_side`` places.

    Args:
        rng: source of chance.
        most_side: places per row and column of the largest images.
        captions: share of captions among the conversations about things. Defaults to 0.5.
    """
    side = most_side if rng.random() < 0.7 else int(rng.integers(1, most_side + 1))
    places = place_names(side)
    is_board = rng.random() < 0.4
    with_image = rng.random() < 0.85
    image = None
    if is_board:
        digits = rng.integers(10, size=side * side)
        contents = [DIGITS[digit] for digit in digits]
        if with_image:
            image = render_digits(digits, rng, "train")
    else:
        sheet = sample_sheet(rng, side)
        names = load_names()
        contents = [names[thing] for thing in sheet.things]
        if with_image:
            image = render_sheet(sheet)
    order = rng.permutation(len(places))[:MOST_FACTS]
    facts = [(places[p], contents[p]) for p in order]
    if not is_board and rng.random() < captions:
        named = facts if with_image else facts[: rng.integers(2, 6)]
        text = "" if with_image else ", ".join(content for _, content in named)
        return Conversation(image, text, [("", named[i][1]) for i in rng.permutation(len(named))])
    if with_image and not is_board and rng.random() < 0.3:  # a digit may be at several places
        return Conversation(image, WHERE, [(content, place) for place, content in facts])
    if with_image:
        return Conversation(image, "", facts)
    named = facts[: rng.integers(2, 6)]
    text = ", ".join(f"{content} {place}" for place, content in named)
    return Conversation(None, text, [named[i] for i in rng.permutation(len(named))])


def sample_sheet(rng: np.random.Generator, side: int) -> Sheet:
    """Sample a sheet of drawings that may be in training."""
    artist = ARTISTS[rng.integers(len(ARTISTS))]
    return Sheet(artist, rng.permutation(SEEN[artist])[: side * side])


def vocabulary() -> list[str]:
    """All texts that a tokenizer should hold whole: places, digits, and the words of names."""
    return [*place_names(MOST_SIDE), *DIGITS, *load_names(), WHERE]
