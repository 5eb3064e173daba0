"""Pictures: every mode and size, damaged files, and objects that are no pictures."""

from __future__ import annotations

import io
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from abuse.models import tiny
from abuse.tally import Effort, Row
from metaembed_lite import items

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")


def abuse(effort: Effort, folder: Path) -> list[Row]:
    """Pictures as ``items.open_picture`` and the model take them."""
    return [modes(effort), damaged(effort, folder), bombs(effort, folder), objects(effort, folder)]


def gradient(width: int, height: int) -> np.ndarray:
    """An RGB picture whose places and colors all differ."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, (x + y) / 2], axis=2).astype(np.uint8)


def modes(effort: Effort) -> Row:
    """A picture in another mode is the same picture, up to what the mode loses."""
    rgb = Image.fromarray(gradient(40, 30))
    gray = rgb.convert("L")
    rgba = rgb.copy()
    rgba.putalpha(255)
    deep = np.asarray(gray).astype(np.uint16) * 257
    cases: dict[str, tuple[Any, Image.Image, int]] = {
        "RGB": (rgb, rgb, 0), "RGBA": (rgba, rgb, 0), "L": (gray, gray, 0),
        "LA": (gray.convert("LA"), gray, 0), "YCbCr": (rgb.convert("YCbCr"), rgb, 4),
        "HSV": (rgb.convert("HSV"), rgb, 10), "P": (rgb.quantize(256), rgb, 60),
        "1": (gray.convert("1"), gray.convert("1"), 0), "I;16": (Image.fromarray(deep), gray, 1),
        "I": (gray.convert("I"), gray, 0), "F": (gray.convert("F"), gray, 0),
        "PA": (rgb.quantize(256).convert("PA"), rgb, 60), "RGBX": (rgb.convert("RGBX"), rgb, 0),
        "CMYK": (rgb.convert("CMYK"), rgb, 4),
        "uint8 array": (gradient(40, 30), rgb, 0), "float array": (gradient(40, 30) / 255, rgb, 1),
        "uint16 array": (gradient(40, 30).astype(np.uint16) * 257, rgb, 1),
        "(H, W, 1)": (np.asarray(gray)[:, :, None], gray, 0),
    }  # fmt: skip
    flipped = rgb.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    turned = rgb.transpose(Image.Transpose.TRANSPOSE)
    cases["a reversed array"] = (gradient(40, 30)[::-1], flipped, 0)
    cases["a turned array"] = (gradient(40, 30).transpose(1, 0, 2), turned, 0)
    row = Row("pictures of every mode and type of array, against their RGB form", len(cases) + 8)
    for name, (source, expected, most) in cases.items():
        row.attempt(
            name, lambda source=source: items.open_picture(source),
            is_right=lambda got, expected=expected, most=most: is_near(got, expected, most),
        )  # fmt: skip
    for size in ((1, 1), (1, 3000), (3000, 1), (2, 2), (7, 5), (500, 3), (640, 480), (49, 47)):
        image = Image.fromarray(gradient(*size))
        row.attempt(
            f"size {size}", lambda image=image: tiny().encode_document(image),
            is_right=lambda v: bool(torch.isfinite(v).all()),
            names=["item 0"],
        )  # fmt: skip
    return row


def is_near(got: Image.Image, expected: Image.Image, most: int) -> bool:
    """Whether two pictures differ by at most ``most`` per color."""
    first, second = (np.asarray(image.convert("RGB")).astype(int) for image in (got, expected))
    return first.shape == second.shape and int(np.abs(first - second).max()) <= most


def damaged(effort: Effort, folder: Path) -> Row:
    """Files with a random damage: a picture of the right size, or an error with the file's name."""
    row = Row("picture files with a random damage, through open_picture", 700)
    rng = random.Random(0)
    for i in range(effort.count(row.planned, 140)):
        kind = FORMATS[i % len(FORMATS)]
        buffer = io.BytesIO()
        Image.fromarray(gradient(40, 30)).save(buffer, kind)
        file = folder / f"damaged.{kind.lower()}"
        file.write_bytes(damage(buffer.getvalue(), rng))
        row.attempt(
            f"{kind}, damage {i}", lambda file=file: items.open_picture(file),
            is_right=lambda image: image.mode == "RGB" and min(image.size) > 0,
            names=[str(file)], seconds=10,
        )  # fmt: skip
    return row


def damage(data: bytes, rng: random.Random) -> bytes:
    """Bytes cut, changed, doubled, or replaced."""
    place = rng.randrange(len(data) + 1)
    length = rng.randrange(1, 40)
    ways: list[Callable[[], bytes]] = [
        lambda: data[:place],
        lambda: data[:place] + rng.randbytes(length) + data[place + length :],
        lambda: data[:place] + data[place + length :],
        lambda: data[:place] + bytes(length) + data[place + length :],
        lambda: data[:20] + rng.randbytes(len(data)),
        lambda: b"",
        lambda: data + rng.randbytes(length),
    ]
    return rng.choice(ways)()


def bombs(effort: Effort, folder: Path) -> Row:
    """Small files that claim to be huge, and files that are programs."""

    def png(width: int, height: int) -> bytes:
        def chunk(kind: bytes, data: bytes) -> bytes:
            body = kind + data
            return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

        header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
        data = zlib.compress(bytes(1000))
        return (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", data)
            + chunk(b"IEND", b"")
        )

    files = {
        "30000 x 30000": png(30000, 30000), "2**31 - 1 wide": png(2**31 - 1, 1),
        "0 x 0": png(0, 0), "11400 x 11300": png(11400, 11300), "1 x 2**30": png(1, 2**30),
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "a text": b"not a picture", "a zip": b"PK\x03\x04" + bytes(40), "nothing": b"",
    }  # fmt: skip
    row = Row("picture files that claim to be huge, or are no pictures", 3 * len(files) + 3)
    for name, data in files.items():
        file = folder / "bomb.png"
        file.write_bytes(data)
        for source in (file, data, {"bytes": data, "path": str(file)}):
            row.attempt(
                name, lambda source=source: items.open_picture(source), seconds=10,
                names=[str(file), "image file", "not an image"],
            )  # fmt: skip
    row.attempt("a folder", lambda: items.open_picture(folder), names=[str(folder)])
    missing = folder / "missing.png"
    row.attempt("a missing file", lambda: items.open_picture(missing), names=[str(missing)])
    row.attempt("/dev/zero", lambda: items.open_picture(Path("/dev/zero")), names=["/dev/zero"])
    return row


def objects(effort: Effort, folder: Path) -> Row:
    """What is no item, next to a good one: the error names its place."""
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "PNG")
    odd: dict[str, Any] = {
        "BytesIO": buffer, "an open file": (folder / "file").open("wb"),
        "int64": np.ones((9, 9), int),
        "int32": np.ones((9, 9, 3), np.int32), "complex": np.ones((9, 9), complex), "NaN":
        np.full((9, 9), np.nan), "above 1": np.full((9, 9), 7.5), "objects": np.array([[None]]),
        "texts": np.array(["a"]), "no pixels": np.zeros((0, 9), np.uint8), "channels first":
        np.zeros((3, 9, 9), np.uint8), "4-D": np.zeros((1, 9, 9, 3), np.uint8), "a tensor":
        torch.zeros(3, 9, 9), "a Series": pd.Series([1]), "a frame": pd.DataFrame({"a": [1]}),
        "None": None, "a number": 7, "NaN as a cell": float("nan"), "a list": ["a", "b"], "a set":
        {"a"}, "other keys": {"txt": "a"}, "an empty dict": {}, "a text of bytes": {"text": b"a"},
        "a text of numbers": {"text": 7}, "nothing in it": {"text": None, "image": None}, "an image"
        " of text": {"image": "not a picture"}, "an empty path": {"image": ""}, "bytes": b"abc",
        "a class": Image.Image, "masked": np.ma.masked_array(np.ones((9, 9)), True), "a date":
        pd.Timestamp("2020-01-01"), "a generator": (c for c in "ab"),
    }  # fmt: skip
    row = Row("objects that are no items, such as BytesIO, int64 and tensors", 2 * len(odd))
    for name, item in odd.items():
        for encode in (tiny().encode_document, tiny().encode_query):
            row.attempt(
                name, lambda item=item, encode=encode: encode(["violin", item]), names=["item 1"]
            )
    return row
