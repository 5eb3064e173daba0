"""Which image of a folder belongs to which part: training, validation or test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from metaembed_lite.arguments import whole_number
from metaembed_lite.data.captions import read_captions
from metaembed_lite.data.parts import divide, label_groups
from metaembed_lite.data.rows import resolve_picture
from metaembed_lite.data.task import check_sizes

FOLDER_STREAM = 20  # keeps the split's random stream apart from the other suites'
SPLIT_COLUMN = "split"


def split_folder(
    path: str | Path,
    csv: str = "captions.csv",
    image: str = "image",
    text: str = "text",
    n_queries: int = 500,
    n_train: int | None = None,
    seed: int = 0,
    n_validation: int = 0,
    group: str | None = None,
    negative: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """The rows of a folder's CSV, with the part that each belongs to. No image is opened.

    Args:
        path, csv, image, text, n_queries, n_train, seed, n_validation, group, negative: as in
            ``load_image_folder``.

    Returns:
        DataFrame indexed by the line of each row, with the columns of images (paths relative to the
        folder, one spelling per file), captions and groups, and ``split``: "train",
        "validation" or "test".

    Raises:
        FileNotFoundError: if the CSV or an image is missing.
        ValueError: as ``load_image_folder``, except on broken images.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in "abcd":
        ...         Path(folder, f"{name}.png").touch()
        ...     csv = "image,text,day\\na.png,A,1\\nb.png,B,1\\nc.png,C,2\\nd.png,D,3\\n"
        ...     _ = Path(folder, "captions.csv").write_text(csv)
        ...     split_folder(folder, n_queries=2, group="day")["split"].to_list()
        ['train', 'train', 'test', 'test']
    """
    check_sizes(n_queries, n_train or 0)
    whole_number(n_validation, "n_validation", least=0)
    negatives = as_list(negative)
    if SPLIT_COLUMN in (image, text, group, *negatives):
        raise ValueError(f"{Path(path) / csv}: rename the column {SPLIT_COLUMN!r}, which is taken")
    table = read_table(Path(path), csv, image, text, group, negatives)
    if n_train == 0 and not n_validation:
        return table.assign(**{SPLIT_COLUMN: "test"})
    number_of = {name: i for i, name in enumerate(dict.fromkeys(table[image]))}
    links = [(number_of[a], number_of[b]) for a, b in _link(table, image, group, negatives)]
    groups = label_groups(len(number_of), links)
    rng = np.random.default_rng([seed, FOLDER_STREAM])
    parts = divide(groups, n_queries, n_validation, rng)
    return table.assign(**{SPLIT_COLUMN: parts[table[image].map(number_of)]})


def read_table(
    root: Path, csv: str, image: str, text: str, group: str | None, negatives: Sequence[str]
) -> pd.DataFrame:
    """Read the rows of a folder's CSV. Images are paths relative to the folder, and all exist.

    Raises:
        FileNotFoundError, ValueError: as ``split_folder``.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in "ab":
        ...         Path(folder, f"{name}.png").touch()
        ...     _ = Path(folder, "captions.csv").write_text("image,text\\n./a.png,A\\nb.png,B\\n")
        ...     read_table(Path(folder), "captions.csv", "image", "text", None, []).loc[2, "image"]
        'a.png'
    """
    if not (root / csv).is_file():
        raise FileNotFoundError(f"{root / csv} is missing: a CSV with columns {image}, {text}")
    others = [*([] if group is None else [group]), *negatives]
    table = read_captions(root / csv, image, text, others)
    for column in (image, *negatives):
        table[column] = _resolve(table[column], root, csv)
    n_images = table[image].nunique()
    if n_images < 2:
        raise ValueError(f"{root / csv} names {n_images} image; name two or more")
    for column in negatives:
        if not table[column].any():
            raise ValueError(f"{root / csv}: the column {column} has no image")
        itself = table.index[table[column] == table[image]]
        if len(itself):
            line = itself[0]
            raise ValueError(
                f"{root / csv}: line {line} names {table[image][line]!r} as an image that fits and "
                f"as one that does not; change its column {image} or {column}"
            )
    return table


def _resolve(names: pd.Series, root: Path, csv: str) -> pd.Series:
    """Paths relative to the folder, one spelling per file. An empty cell stays empty."""
    resolved = {"": ""}
    folder = root.resolve()
    for line, name in names.items():
        if name in resolved:
            continue
        file = resolve_picture(root, name, f"{root / csv}, line {line}")
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing, which {csv} names in line {line}")
        resolved[name] = file.relative_to(folder).as_posix()
    return names.map(resolved)


def _link(
    table: pd.DataFrame, image: str, group: str | None, negatives: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Pairs of images that belong to one part: of one group, or with a common negative."""
    columns = [] if group is None else [table[group]]
    captioned = set(table[image])
    columns += [table[column].where(~table[column].isin(captioned), "") for column in negatives]
    for column in columns:
        for name, images in table[image].groupby(column):
            if name:
                yield from pairwise(images)


def as_list(columns: str | Sequence[str] | None) -> list[str]:
    """The names of columns, of which there may be one, several or none.

    Example:
        >>> as_list("negative"), as_list(None)
        (['negative'], [])
    """
    if columns is None:
        return []
    return [columns] if isinstance(columns, str) else list(columns)
