"""Pictures on disk that a table names: only files below its folder, opened when a row is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset


def picture_file(root: Path, name: str, where: str) -> Path:
    """The resolved path of a picture that a table names: one path per file, and below ``root``.

    Args:
        root: the folder that the name is relative to.
        name: as the table has it.
        where: the table and the line, for the errors.

    Raises:
        ValueError: if the name leads out of the folder, also by a symbolic link.
    """
    try:
        file, folder = (root / name).resolve(), root.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # NUL, too long, a loop of links
        raise ValueError(f"{where}: {name!r} is not a path: {error}") from error
    if not file.is_relative_to(folder):
        raise ValueError(
            f"{where}: {name!r} leads out of {root}; put the picture into that folder, and give "
            "its path relative to it"
        )
    return file


def lazy_rows(
    sides: dict[str, tuple[list[str], list[str]]], root: Path, where: str = "training rows"
) -> Dataset:
    """Rows whose images are opened when they are read, by ``items.open_picture``.

    Args:
        sides: column -> (n texts, n image paths relative to ``root``), "" where there is none. A
            column becomes texts, images, or ``{"text", "image"}``, by what it holds. In the last
            kind a row without an image has None in its place.
        root: the folder of the images.
        where: the table that the paths come from, for the errors.

    Raises:
        ValueError: if a path leads out of ``root``.
    """
    from datasets import Dataset, Features, Value

    from metaembed_lite.data.picture_feature import PictureFeature

    columns: dict[str, list[Any]] = {}
    kinds: dict[str, Any] = {}
    for name, (texts, paths) in sides.items():
        files = [
            str(picture_file(root, path, f"{where}, row {row}, {name}")) if path else None
            for row, path in enumerate(paths)
        ]
        if not any(files):
            columns[name], kinds[name] = list(texts), Value("string")
        elif not any(texts):
            columns[name], kinds[name] = files, PictureFeature()
        else:
            columns[name] = [{"text": t, "image": i} for t, i in zip(texts, files, strict=True)]
            kinds[name] = {"text": Value("string"), "image": PictureFeature()}
    return Dataset.from_dict(columns, features=Features(kinds))
