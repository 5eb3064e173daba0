"""Training rows: Datasets with the columns query, positive and negatives, checked before training.

Four functions make rows. ``rows_from_records`` takes records with items in memory, and
``rows_from_examples`` a suite's examples. ``rows_from_stored`` takes examples whose images are the
bytes of files, and ``lazy_rows`` the paths of files. Both open an image when its row is read.
"""

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


class PictureFeature(ImageFeature):
    """The ``Image`` feature of datasets, decoded by ``open_picture``.

    So images are RGB, and errors name the file. It stores what ``Image`` stores. When datasets
    rebuilds the features from a file, they become ``Image`` again. ``preprocess`` opens those
    images by the same rules.

    Example:
        >>> from PIL import Image
        >>> PictureFeature().decode_example(Image.new("L", (4, 4))).mode
        'RGB'
    """

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> Any:
        """Open the image in RGB."""
        return open_picture(value)


def check_rows(
    rows: Dataset | Mapping[str, Any] | pd.DataFrame | Sequence[Mapping[str, Any]] | None,
    batch_size: int,
) -> dict[str, Dataset]:
    """Check training rows and bring them into one form: Datasets by name, columns in order.

    Args:
        rows: a Dataset, a DataFrame, a list of dicts, or several of these by name.
        batch_size: the least number of rows that a set may have.

    Returns:
        Name -> Dataset with the columns query, positive, then any negatives. A single set is named
        "the task".

    Raises:
        ValueError: naming the set, and the column or the number of rows that is wrong.

    Example:
        >>> rows = [{"positive": "a cat", "query": "animal"}, {"positive": "a car", "query": "car"}]
        >>> check_rows(rows, batch_size=2)["the task"].column_names
        ['query', 'positive']
        >>> check_rows(rows, batch_size=3)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: the task: 2 training rows for batches of 3: ...
    """
    if isinstance(rows, Mapping) and all(map(_is_set, rows.values())):
        if not rows:
            raise ValueError("no training sets: the mapping of names to Datasets is empty")
        return {str(name): _check_set(str(name), part, batch_size) for name, part in rows.items()}
    return {"the task": _check_set("the task", rows, batch_size)}


def _is_set(part: Any) -> bool:
    """Whether a value of a mapping is a training set, and not a column of one."""
    records = isinstance(part, list) and part and all(isinstance(r, Mapping) for r in part)
    is_column = isinstance(part, list | tuple) and not (records and "query" in part[0])
    return not is_column


def _check_set(name: str, rows: Any, batch_size: int) -> Dataset:
    dataset = _to_dataset(name, rows)
    n_rows = 0 if dataset is None else len(dataset)
    if dataset is None or n_rows < batch_size:
        raise ValueError(
            f"{name}: {n_rows} training rows for batches of {batch_size}: give more rows or a "
            "smaller batch_size"
        )
    columns = list(dataset.column_names)
    _check_columns(name, columns)
    for column in columns:
        feature = dataset.features[column]
        if isinstance(feature, list) or type(feature).__name__ in ("List", "LargeList", "Sequence"):
            raise ValueError(
                f"{name}: column {column!r} holds lists: spread them over columns such as "
                "negative_1, negative_2, with one item per row in each"
            )
    ordered = ["query", "positive", *(c for c in columns if c not in ("query", "positive"))]
    return dataset if ordered == columns else dataset.select_columns(ordered)


def _to_dataset(name: str, rows: Any) -> Dataset | None:
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
    return rows_from_records(rows)


def _check_columns(where: str, columns: Sequence[str]) -> None:
    unknown = [column for column in columns if not COLUMN.fullmatch(str(column))]
    if unknown or not {"query", "positive"} <= set(columns):
        remedy = f"; leave out {', '.join(map(str, unknown))}" if unknown else ""
        raise ValueError(f"{where}: training columns {list(columns)}: {EXPECTED}{remedy}")


def rows_from_records(records: Iterable[Mapping[str, Any]]) -> Dataset:
    """Make a Dataset from dicts with the same keys. A column holds texts, images, or both.

    In a column of both, or of items of several kinds, a row has None for the part that it lacks.
    Images are compressed one by one, so large images are never all in memory.

    Args:
        records: column -> item. May be a generator.

    Raises:
        ValueError: naming the row and the column of an item that cannot be read, or a row whose
            keys differ from the first row's.

    Example:
        >>> rows_from_records([{"query": "a cat", "positive": {"text": "a pet"}}])[0]
        {'query': 'a cat', 'positive': 'a pet'}
    """
    picture_feature = PictureFeature()
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
                parts["image"] = picture_feature.encode_example(parts["image"])
            columns[name].append(parts)
    features: dict[str, Any] = {}
    stored: dict[str, list[Any]] = {}
    for name, column in columns.items():
        part_names = {part for parts in column for part in parts}
        if len(part_names) == 1:
            (part,) = part_names
            features[name] = Value("string") if part == "text" else picture_feature
            stored[name] = [parts[part] for parts in column]
        else:
            features[name] = {"text": Value("string"), "image": picture_feature}
            stored[name] = [{k: parts.get(k) for k in ("text", "image")} for parts in column]
    return Dataset.from_dict(stored, features=Features(features))


def rows_from_examples(examples: Iterable[tuple[Item, Item, Item]]) -> Dataset:
    """Make a Dataset with the columns query, positive, negative. See ``rows_from_records``.

    Example:
        >>> rows_from_examples([("a cat", "cat.txt", "car.txt")])[0]
        {'query': 'a cat', 'positive': 'cat.txt', 'negative': 'car.txt'}
    """
    names = ("query", "positive", "negative")
    return rows_from_records(dict(zip(names, example, strict=True)) for example in examples)


def rows_from_stored(examples: Iterable[tuple[Item, Item, Item]]) -> Dataset:
    """Make a Dataset with the columns query, positive, negative, of images in a compact format.

    The bytes are kept as they are, so rows stay small. ``rows_from_examples`` would store PNG.

    Args:
        examples: of texts, bytes of image files, or ``{"text": str, "image": bytes}``. All items of
            a column are of one kind.

    Example:
        >>> from metaembed_lite.data.sheets import Sheet, store_sheet
        >>> apple, pear = (store_sheet(Sheet("twemoji", [thing])) for thing in (95, 96))
        >>> rows_from_stored([("red apple", apple, pear)])[0]["positive"].size
        (32, 32)
    """
    picture = ImageFeature()
    both = {"text": Value("string"), "image": picture}
    kinds: dict[type, Any] = {str: Value("string"), bytes: picture, dict: both}
    columns = [list(column) for column in zip(*examples, strict=True)] or [[], [], []]
    names = ("query", "positive", "negative")
    features = {
        name: kinds[type(column[0]) if column else str]
        for name, column in zip(names, columns, strict=True)
    }
    return Dataset.from_dict(dict(zip(names, columns, strict=True)), features=Features(features))


def lazy_rows(
    columns: Mapping[str, tuple[list[str], list[str]]],
    root: Path,
    where: str = "training rows",
) -> Dataset:
    """Make a Dataset whose images are opened by ``items.open_picture`` when a row is read.

    Args:
        columns: name -> (n texts, n image paths relative to ``root``), with "" for a missing text
            or image. A column that has only texts holds texts, one that has only images holds
            images. Otherwise it holds ``{"text", "image"}``, with None for a missing image.
        root: the folder of the images.
        where: the table that the paths come from, for errors. Defaults to "training rows".

    Raises:
        ValueError: if a path leads out of ``root``.

    Example:
        >>> rows = lazy_rows({"query": (["a cat"], [""]), "positive": ([""], ["cat.png"])}, Path())
        >>> rows.column_names
        ['query', 'positive']
    """
    stored: dict[str, list[Any]] = {}
    features: dict[str, Any] = {}
    for name, (texts, paths) in columns.items():
        files = [
            str(resolve_picture(root, path, f"{where}, row {row}, {name}")) if path else None
            for row, path in enumerate(paths)
        ]
        if not any(files):
            stored[name], features[name] = list(texts), Value("string")
        elif not any(texts):
            stored[name], features[name] = files, PictureFeature()
        else:
            stored[name] = [{"text": t, "image": i} for t, i in zip(texts, files, strict=True)]
            features[name] = {"text": Value("string"), "image": PictureFeature()}
    return Dataset.from_dict(stored, features=Features(features))


def resolve_picture(root: Path, name: str, where: str) -> Path:
    """Resolve the path of an image that a table names: one path per file, always below ``root``.

    Args:
        root: the folder that the name is relative to.
        name: the path as the table has it.
        where: the table and the line, for the errors.

    Raises:
        ValueError: if the path leads out of the folder, also through a symbolic link.

    Example:
        >>> resolve_picture(Path(), "a/../b.png", "captions.csv, line 2").name
        'b.png'
    """
    try:
        file, folder = (root / name).resolve(), root.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # NUL, too long, a loop of links
        raise ValueError(f"{where}: {name!r} is not a path: {error}") from error
    if not file.is_relative_to(folder):
        raise ValueError(
            f"{where}: {name!r} leads out of {root}; put the image into that folder, and give "
            "its path relative to it"
        )
    return file
