"""Finds the image files of a folder by their names."""

from __future__ import annotations

import os
from pathlib import Path

SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif",
    ".tiff", ".webp",
)  # fmt: skip


def find_images(folder: str | Path) -> list[Path]:
    """The image files in a folder and below it, sorted. Hidden files and folders are left out.

    Raises:
        ValueError: if there is none.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> with TemporaryDirectory() as folder:
        ...     Path(folder, "pets").mkdir()
        ...     Image.new("RGB", (8, 8)).save(Path(folder, "pets", "cat.png"))
        ...     [file.name for file in find_images(folder)]
        ['cat.png']
    """
    files = list_images(folder)
    if not files:
        raise ValueError(
            f"no image in {folder} or below it: their names end in {', '.join(SUFFIXES)}"
        )
    return files


def list_images(folder: str | Path) -> list[Path]:
    """The image files that ``find_images`` finds. There may be none.

    Example:
        >>> list_images("a folder that does not exist")
        []
    """
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(parent, name) for name in names if _is_image_name(name)]
    return sorted(files)


def _is_image_name(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
