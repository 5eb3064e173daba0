"""Reads items: decides what is text and what is an image, and names the item in errors.

Everything that takes items (``encode_query`` and ``encode_document``, training rows, suites, the
explorer) reads them here, so an item means the same everywhere.
"""

from __future__ import annotations

import hashlib
import io
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base as ExifTag

# The largest cameras make images of 102 million pixels. A file of a few kilobytes can claim
# billions, and a decoded pixel takes three to eight bytes of memory. Pillow only warns between 89
# and 179 million, and any other library can switch its limit off.
PIXEL_LIMIT = 128_000_000
DOWNLOAD_LIMIT = 256 * 2**20  # bytes of one image from a URL
DOWNLOAD_SECONDS = 30

FILE_KEYS = frozenset({"bytes", "path"})  # keys of an undecoded image of the datasets library
ITEM_KINDS = (
    "an item is a str (text), an image (PIL image, pathlib.Path, bytes of an image file, or numpy "
    'array), or a dict with "text", "image" or both'
)
ITEM_KEYS = "item_keys"  # a feature for losses, one hash per item, which the backbone never gets
SNIPPET = 40  # characters of a text in an error message


class ItemError(ValueError):
    """An item that cannot be read, with its index in the list that was passed.

    Args:
        index: the index of the item.
        item: the item itself.
        problem: what is wrong with it.
        where: which list the index refers to, as words after "item 3". Defaults to "", the list
            that the user passed.

    Attributes:
        item: the item itself.
        problem: what is wrong with it, without the index.

    Example:
        >>> str(ItemError(3, "a text", "is bad"))
        "item 3 ('a text'): is bad"
    """

    def __init__(self, index: int, item: Any, problem: str, where: str = "") -> None:
        super().__init__(index, item, problem, where)
        self.item, self.problem = item, problem
        self._place = f"item {index}{where}"

    def __str__(self) -> str:
        return f"{self._place} ({describe(self.item)}): {self.problem}"


def read(item: Any) -> dict[str, Any]:
    """An item's parts: ``{"text": str}``, ``{"image": RGB image}``, or both in the item's order.

    A str is always text, even if it is a path or a URL. In a dict, ``"image"`` may be anything that
    ``open_picture`` takes. A part that is None counts as missing, and so does an empty text next to
    an image.

    Raises:
        ValueError: if the item is of another kind, or has neither text nor image. Also if its text
            is not valid Unicode, or its image cannot be read.
        FileNotFoundError: if an image is a path to a missing file.

    Example:
        >>> read("violin")
        {'text': 'violin'}
        >>> parts = read({"text": "what is it?", "image": np.zeros((2, 3), np.uint8)})
        >>> parts["text"], parts["image"].mode, parts["image"].size
        ('what is it?', 'RGB', (3, 2))
    """
    check(item)
    if isinstance(item, str):
        item = {"text": item}
    elif not isinstance(item, Mapping) or FILE_KEYS.issuperset(item):
        item = {"image": item}
    image = item.get("image")
    text = item.get("text")
    parts: dict[str, Any] = {}
    for name in item:  # the order decides what the model reads first
        if name == "image" and image is not None:
            parts["image"] = open_picture(image)
        elif name == "text" and text is not None and (text or image is None):
            parts["text"] = str(text)
    if "text" in parts:
        check_unicode(parts["text"])
    return parts


def check(item: Any) -> None:
    """Check that an item is of a kind that can be read. Nothing is opened.

    Raises:
        ValueError: with a message that says what an item is.

    Example:
        >>> check("violin")
        >>> check({"text": None, "image": None})
        Traceback (most recent call last):
        ...
        ValueError: the item has neither a text nor an image: give at least one of them
    """
    if isinstance(item, (str, Image.Image, Path, bytes, bytearray, np.ndarray)):
        return
    if not isinstance(item, Mapping):
        raise ValueError(f"{type(item).__name__} is not an item: {ITEM_KINDS}")
    if item and FILE_KEYS.issuperset(item):
        return
    unknown = sorted(str(key) for key in set(item) - {"text", "image"})
    if unknown or not item:
        raise ValueError(f"a dict with the keys {list(item)} is not an item: {ITEM_KINDS}")
    text, image = item.get("text"), item.get("image")
    if text is not None and not isinstance(text, str):
        raise ValueError(f'"text" is of type {type(text).__name__}: expected a str')
    if image is None and not text and not (text == "" and "image" not in item):
        raise ValueError("the item has neither a text nor an image: give at least one of them")


def check_unicode(text: str) -> None:
    """Check that a text is valid Unicode. Tokenizers fail on half of a surrogate pair.

    Raises:
        ValueError: naming the character.

    Example:
        >>> check_unicode("violin")
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start} of the text is {text[error.start]!r}, half of a surrogate "
            'pair, and not valid Unicode: use text.encode("utf-8", "replace").decode("utf-8")'
        ) from error


def describe(item: Any) -> str:
    """A few words by which a person recognizes an item: a snippet, a file's name, a size.

    Example:
        >>> describe(Image.new("RGB", (48, 24)))
        'image of 48 x 24'
    """
    if isinstance(item, str):
        return repr(item if len(item) <= SNIPPET else item[:SNIPPET] + "…")
    if isinstance(item, Image.Image):
        name = getattr(item, "filename", "")
        return f"image of {item.width} x {item.height}" + (f", {name}" if name else "")
    if isinstance(item, Path):
        return f"image {item}"
    if isinstance(item, (bytes, bytearray)):
        return f"image file of {len(item):,} bytes"
    if isinstance(item, np.ndarray):
        return f"array of shape {item.shape}, {item.dtype}"
    if isinstance(item, Mapping) and item and FILE_KEYS.issuperset(item):
        path, data = item.get("path"), item.get("bytes")
        return f"image {path}" if path else describe(data)
    if isinstance(item, Mapping):
        return ", ".join(f"{key}: {describe(value)}" for key, value in item.items())
    return "None" if item is None else type(item).__name__


def key(parts: Mapping[str, Any]) -> int:
    """A 63-bit hash of an item. Equal items have equal keys.

    Args:
        parts: from ``read``.

    Example:
        >>> key(read("a")) == key(read({"text": "a", "image": None}))
        True
    """
    digest = hashlib.blake2b(digest_size=8)
    if "text" in parts:
        text = parts["text"].encode("utf-8")
        digest.update(b"text %d " % len(text))
        digest.update(text)
    if "image" in parts:
        digest.update(b"image %d %d " % parts["image"].size)
        digest.update(parts["image"].tobytes())
    return int.from_bytes(digest.digest(), "big") >> 1


def open_picture(source: Any) -> Image.Image:
    """An image in RGB, fully decoded and upright, from any supported form.

    Transparent parts become white. The EXIF orientation is applied. Palettes and CMYK are
    converted. Animations give their first frame. Images of more than 8 bits are scaled: 16-bit
    ones keep their upper byte. Integers and floats (modes I and F) count as 8-bit if their maximum
    is at most 255, and as 16-bit up to 65535. Floats up to 1.0 count as 0 to 1.

    Args:
        source: a PIL image, a ``pathlib.Path``, the bytes of an image file, a numpy array, a
            ``{"bytes", "path"}`` dict of the datasets library, or a str. An array has shape (H, W),
            (H, W, 1), (H, W, 3) or (H, W, 4), and is uint8, uint16, bool, or floats from 0 to 1. A
            str is a path, or an http(s) or data URL. Pass a str only where it is meant as an image,
            because it is opened or downloaded.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: naming the file, if it is not an image, is broken or empty, or has more pixels
            than ``PIXEL_LIMIT``. Also if the values do not make an image.

    Example:
        >>> open_picture(Image.new("RGBA", (1, 1))).getpixel((0, 0))
        (255, 255, 255)
    """
    if isinstance(source, Mapping) and source and FILE_KEYS.issuperset(source):
        data, path = source.get("bytes"), source.get("path")
        return open_picture(path) if data is None else _from_file(io.BytesIO(data), path or "bytes")
    if isinstance(source, Image.Image):
        return _to_rgb(source, describe(source))
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (bytes, bytearray)):
        return _from_file(io.BytesIO(source), f"an image file of {len(source):,} bytes")
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        return _from_file(io.BytesIO(_fetch(source)), source[:200])
    if isinstance(source, (str, Path)) and str(source):
        return _from_file(source, str(source))
    raise ValueError(
        f"{source!r:.60} is not an image: give a PIL image, a path, the bytes of an image file or "
        "a numpy array"
    )


def _fetch(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "metaembed-lite"})
    try:
        with urllib.request.urlopen(request, timeout=DOWNLOAD_SECONDS) as response:
            data: bytes = response.read(DOWNLOAD_LIMIT + 1)
    except (OSError, ValueError) as error:
        raise ValueError(f"{url[:200]} could not be downloaded: {error}") from error
    if len(data) > DOWNLOAD_LIMIT:
        raise ValueError(f"{url[:200]} is larger than {DOWNLOAD_LIMIT:,} bytes, the limit")
    return data


def _from_file(file: Any, name: str) -> Image.Image:
    try:
        image = Image.open(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{name} is missing; check the path, and the folder it is relative to"
        ) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not an image that PIL can read") from error
    except Exception as error:  # Pillow raises many classes on damaged or hostile files
        raise ValueError(f"{name} cannot be opened as an image: {error}") from error
    with image:
        rgb = _to_rgb(image, name)
        return rgb.copy() if rgb is image else rgb


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if not width or not height:
        raise ValueError(f"{name} has no pixels: it is {width} x {height}")
    if width * height > PIXEL_LIMIT:
        raise ValueError(
            f"{name} has {width:,} x {height:,} pixels, more than the limit of {PIXEL_LIMIT:,}: "
            "make it smaller"
        )
    if getattr(image, "format", None) == "EPS":  # a program, which Pillow lets Ghostscript run
        raise ValueError(f"{name} is an EPS file: convert it to PNG")
    try:
        image.load()
        if image.getexif().get(ExifTag.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            return _from_deep(image)
        if image.has_transparency_data:
            rgba = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, rgba).convert("RGB")
        return image if image.mode == "RGB" else image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many classes on damaged or hostile files
        raise ValueError(f"{name} cannot be read as an image: {error}") from error


def _from_deep(image: Image.Image) -> Image.Image:
    """RGB from a gray image of more than 8 bits per pixel."""
    values = np.asarray(image)
    lowest, highest = values.min(), values.max()
    if not (lowest >= 0 and highest <= 65535):  # also true of NaN
        raise ValueError(
            f"its values go from {lowest} to {highest}: scale them to 0 to 255, or to 0 to 65535"
        )
    if image.mode.startswith("I;16") or highest > 255:
        gray = (values // 256).astype(np.uint8)
    elif image.mode == "F" and highest <= 1:
        gray = np.rint(values * 255).astype(np.uint8)
    else:
        gray = np.rint(values).astype(np.uint8)
    transparent = image.info.get("transparency")  # PNG: a gray value
    if isinstance(transparent, int):
        gray[values == transparent] = 255
    return Image.fromarray(gray).convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    name = describe(array)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ValueError(
            f"{name} is not an image: expected (H, W), (H, W, 3) or (H, W, 4); pass several "
            "images as a list"
        )
    if 0 in array.shape:
        raise ValueError(f"{name} has no pixels")
    if array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype == np.uint16:
        array = (array // 256).astype(np.uint8)
    elif array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # also true of NaN
            raise ValueError(
                f"{name} goes from {array.min()} to {array.max()}: floats are expected from 0 to "
                "1; divide by their maximum, or convert to uint8"
            )
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(f"{name}: expected uint8 from 0 to 255, or floats from 0 to 1")
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), name)


def find(items: Sequence[Any], item: Any) -> int | None:
    """The index of an item in a list, or None if it is not in it or several items look the same.

    The same object is searched first. An item that was copied from another process is found by
    equality (texts, bytes and paths) or by its description.

    Example:
        >>> find(["a", "b"], "b"), find(["a", "a"], "".join(["a"])) in (0, None)
        (1, True)
    """
    for index, other in enumerate(items):
        if other is item:
            return index
    if isinstance(item, str | bytes | Path):
        alike = [i for i, other in enumerate(items) if type(other) is type(item) and other == item]
    else:
        alike = [i for i, other in enumerate(items) if describe(other) == describe(item)]
    return alike[0] if len(alike) == 1 else None
