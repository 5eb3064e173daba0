"""Training rows from a Dataset, a DataFrame, dicts or columns, checked before training."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset, Features, IterableDataset, Value
from datasets import Image as ImageFeature

from metaembed_lite.data.task import Item
from metaembed_lite.items import describe, open_picture, read

COLUMN = re.compile(r"query|positive|negative(_\w+)?")
EXPECTED = "expected query, positive, then any negatives (negative, negative_1, ...)"


def training_rows(
    rows: Dataset | Mapping[str, Any] | pd.DataFrame | Sequence[Mapping[str, Any]] | None,
    batch: int,
) -> dict[str, Dataset]:
    """Training sets by name, with the columns query, positive, negatives, in that order.

    Args:
        rows: a Dataset, a DataFrame, a list of dicts, or Datasets by name.
        batch: the fewest rows that a set may have.

    Raises:
        ValueError: naming the set, and the column or the number of rows that does not fit.
    """

    if isinstance(rows, Mapping) and all(map(_is_set, rows.values())):
        if not rows:
            raise ValueError("no training sets: the mapping of names to Datasets is empty")
        return {str(name): _checked(str(name), part, batch) for name, part in rows.items()}
    return {"the task": _checked("the task", rows, batch)}


def _is_set(part: Any) -> bool:
    """Whether a value of a mapping is a training set, and not a column of one."""
    records = isinstance(part, list) and part and all(isinstance(r, Mapping) for r in part)
    is_column = isinstance(part, list | tuple) and not (records and "query" in part[0])
    return not is_column


def _checked(name: str, rows: Any, batch: int) -> Dataset:
    rows = _as_dataset(name, rows)
    if rows is None or len(rows) < batch:
        raise ValueError(
            f"{name}: {0 if rows is None else len(rows)} training rows for batches of "
            f"{batch}: give more rows or a smaller batch_size"
        )
    columns = list(rows.column_names)
    _check_columns(name, columns)
    for column in columns:
        kind = rows.features[column]
        if isinstance(kind, list) or type(kind).__name__ in ("List", "LargeList", "Sequence"):
            raise ValueError(
                f"{name}: column {column!r} holds lists: spread them over columns such as "
                "negative_1, negative_2, with one item per row in each"
            )
    ordered = ["query", "positive", *(c for c in columns if c not in ("query", "positive"))]
    return rows if ordered == columns else rows.select_columns(ordered)


def _as_dataset(name: str, rows: Any) -> Dataset | None:
    if rows is None:
        return None
    if isinstance(rows, Dataset):
        return rows.with_format(None)
    if isinstance(rows, IterableDataset):
        raise ValueError(
            f"{name}: an IterableDataset has no length, which a batch needs: make it a Dataset, "
            "for example with Dataset.from_generator"
        )
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # a DataFrame
        rows = rows.to_dict("records")
    elif isinstance(rows, Mapping):  # columns
        lengths = {column: len(values) for column, values in rows.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"{name}: columns of different lengths, {lengths}")
        rows = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
    if isinstance(rows, str) or not isinstance(rows, Sequence):
        raise ValueError(
            f"{name}: training rows are a {type(rows).__name__}: give a Dataset, a DataFrame or a "
            "list of dicts"
        )
    for index, row in enumerate(rows):
        _check_columns(f"{name}, row {index}", list(row) if isinstance(row, Mapping) else [])
    return from_records(rows)


def _check_columns(where: str, columns: Sequence[str]) -> None:
    strange = [column for column in columns if not COLUMN.fullmatch(str(column))]
    if strange or not {"query", "positive"} <= set(columns):
        remedy = f"; leave out {', '.join(map(str, strange))}" if strange else ""
        raise ValueError(f"{where}: training columns {list(columns)}: {EXPECTED}{remedy}")


def from_records(records: Iterable[Mapping[str, Any]]) -> Dataset:
    """A Dataset from dicts with the same keys. A column is of one kind: text, image, or both.

    In a column of both, or of items of several kinds, a row has None for the part that it lacks.
    Images are compressed one by one, so large ones are not all in memory at once.

    Raises:
        ValueError: naming the row and the column of an item that cannot be read, or a row that has
            other keys than the first.
    """
    image = PictureFeature()
    columns: dict[str, list[dict[str, Any]]] = {}
    for index, record in enumerate(records):
        columns = columns or {name: [] for name in record}
        if record.keys() != columns.keys():
            raise ValueError(
                f"row {index} has the columns {list(record)}, the first row {list(columns)}"
            )
        for name, item in record.items():
            try:
                parts = read(item)
            except (ValueError, OSError) as error:
                raise ValueError(
                    f"row {index}, column {name!r} ({describe(item)}): {error}"
                ) from error
            if "image" in parts:
                parts["image"] = image.encode_example(parts["image"])
            columns[name].append(parts)
    kinds: dict[str, Any] = {}
    stored: dict[str, list[Any]] = {}
    for name, column in columns.items():
        names = {part for parts in column for part in parts}
        if len(names) == 1:
            (part,) = names
            kinds[name] = Value("string") if part == "text" else image
            stored[name] = [parts[part] for parts in column]
        else:
            kinds[name] = {"text": Value("string"), "image": image}
            stored[name] = [{k: parts.get(k) for k in ("text", "image")} for parts in column]
    return Dataset.from_dict(stored, features=Features(kinds))


def rows(examples: Iterable[tuple[Item, Item, Item]]) -> Dataset:
    """Rows (query, positive, negative), as ``from_records`` makes them."""
    names = ("query", "positive", "negative")
    return from_records(dict(zip(names, example, strict=True)) for example in examples)


class PictureFeature(ImageFeature):
    """datasets' ``Image``, decoded by ``open_picture``: in RGB, and with errors that name the file.

    It stores what ``Image`` stores. Where datasets rebuilds the features from a file, an ``Image``
    comes back, and ``preprocess`` opens its pictures by the same rules.
    """

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> Any:
        """The picture in RGB."""
        return open_picture(value)


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
