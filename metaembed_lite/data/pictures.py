"""Pictures on disk: opened with a clear error, or only when a row is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    from datasets import Dataset


def open_image(file: Path) -> Image.Image:
    """An image in RGB, read whole.

    Raises:
        FileNotFoundError, ValueError: that name the file, if it is missing or no image.
    """
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{file} is missing; check the path, and the folder it is relative to"
        ) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{file} is not an image that PIL can read") from error


def lazy_rows(sides: dict[str, tuple[list[str], list[str]]], root: Path) -> Dataset:
    """Rows whose images are opened when they are read.

    Args:
        sides: column -> (n texts, n image paths relative to ``root``), "" where there is none. A
            column becomes texts, images, or ``{"text", "image"}``, by what it holds.
        root: the folder of the images.
    """
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    columns: dict[str, list[Any]] = {}
    kinds: dict[str, Any] = {}
    for name, (texts, paths) in sides.items():
        said = list(texts)
        seen = [str(root / path) if path else None for path in paths]
        if not any(seen):
            columns[name], kinds[name] = said, Value("string")
        elif not any(said):
            columns[name], kinds[name] = seen, ImageFeature(mode="RGB")
        else:
            columns[name] = [{"text": t, "image": i} for t, i in zip(said, seen, strict=True)]
            kinds[name] = {"text": Value("string"), "image": ImageFeature(mode="RGB")}
    return Dataset.from_dict(columns, features=Features(kinds))
