"""Your own data: a folder of images and a CSV with one caption per row."""

from __future__ import annotations

import io
from collections.abc import Iterable
from csv import Error as CsvError
from csv import reader as csv_reader
from pathlib import Path

import numpy as np
import pandas as pd

from metaembed_lite.data.rows import lazy_rows, resolve_picture
from metaembed_lite.data.task import RetrievalTask, check_sizes
from metaembed_lite.items import open_picture

ABOUT = """\
Your own data: a folder of images and a CSV with one caption per row. The image and the caption of a
row are relevant to each other. Other pairs count as not relevant, even if a caption happens to fit
another image.
"""
_FOLDER_STREAM = 20  # keeps the split's random stream apart from the other suites'


def load_image_folder(
    path: str | Path,
    csv: str = "captions.csv",
    image: str = "image",
    text: str = "text",
    n_queries: int = 500,
    n_train: int | None = None,
    seed: int = 0,
) -> RetrievalTask:
    """Load the task: caption to image, from a folder with a CSV of both.

    An image may have several captions, and a caption several images. The split is by image, not by
    row, so no test image is trained on. There are no hard negatives: the other images of a batch
    serve as negatives.

    Args:
        path: the folder. Images may lie anywhere below it.
        csv: name of the CSV in the folder. Defaults to "captions.csv".
        image: column of image paths, relative to the folder. Two spellings of one path ("p.png",
            "./p.png") are one image. A path may not lead out of the folder. Defaults to
            "image".
        text: column of captions. Defaults to "text".
        n_queries: captions to test with. At most half of all images are held out for the test.
            Defaults to 500.
        n_train: number of training rows. Defaults to all that are left. With 0, every image is a
            candidate of the test.
        seed: random seed of the split. Defaults to 0.

    Raises:
        FileNotFoundError: if the CSV or an image is missing.
        ValueError: on fewer than one query, a negative ``n_train``, or a file that is not a CSV in
            UTF-8. Also on missing columns, empty cells, paths that lead out of the folder, broken
            images, or fewer than two images.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("red", "blue"):
        ...         Image.new("RGB", (48, 48), name).save(f"{folder}/{name}.png")
        ...     csv = "image,text\\nred.png,a red square\\nblue.png,a blue square\\n"
        ...     _ = Path(folder, "captions.csv").write_text(csv)
        ...     load_image_folder(folder, n_train=0).queries
        ['a red square', 'a blue square']
    """
    check_sizes(n_queries, n_train or 0)
    root = Path(path)
    table = _read_table(root, csv, image, text)
    files = table[image].drop_duplicates().to_list()
    order = np.random.default_rng([seed, _FOLDER_STREAM]).permutation(len(files))
    n_candidates = len(files) if n_train == 0 else min(n_queries, len(files) // 2)
    candidates = [files[i] for i in sorted(order[:n_candidates])]
    test = table[table[image].isin(candidates)]
    queries = test[text].drop_duplicates().to_list()[:n_queries]
    rest = table[~table[image].isin(candidates)].sample(frac=1, random_state=seed)[:n_train]
    columns = {
        "query": (rest[text].to_list(), [""] * len(rest)),
        "positive": ([""] * len(rest), rest[image].to_list()),
    }
    return RetrievalTask(
        name=root.name,
        queries=queries,
        candidates=[open_picture(Path(file)) for file in candidates],
        relevance=_grade(queries, candidates, zip(test[text], test[image], strict=True)),
        train=lazy_rows(columns, root, str(root / csv)) if len(rest) else None,
        about=ABOUT,
    )


def _read_table(root: Path, csv: str, image: str, text: str) -> pd.DataFrame:
    """Read the captions, with resolved image paths that all exist."""
    if not (root / csv).is_file():
        raise FileNotFoundError(f"{root / csv} is missing: a CSV with columns {image}, {text}")
    table = read_captions(root / csv, image, text)
    resolved: dict[str, str] = {}  # as written -> resolved: two spellings of a path are one image
    for line, name in zip(table.index, table[image], strict=True):
        if name not in resolved:
            resolved[name] = str(resolve_picture(root, name, f"{root / csv}, line {line}"))
    table[image] = table[image].map(resolved)
    files = table[image].drop_duplicates().to_list()
    if len(files) < 2:
        raise ValueError(f"{root / csv} names {len(files)} image; name two or more")
    missing = next((file for file in files if not Path(file).is_file()), None)
    if missing is not None:
        line = table.index[(table[image] == missing).to_numpy().argmax()]
        raise FileNotFoundError(f"{missing} is missing, which {csv} names in line {line}")
    return table


def _grade(
    queries: list[str], candidates: list[str], pairs: Iterable[tuple[str, str]]
) -> np.ndarray:
    """Grade (Q, N): 1 where a caption and an image file stand in one row."""
    rows = {caption: i for i, caption in enumerate(queries)}
    columns = {file: j for j, file in enumerate(candidates)}
    relevance = np.zeros((len(queries), len(candidates)), dtype=np.float32)
    for caption, file in pairs:
        if caption in rows:
            relevance[rows[caption], columns[file]] = 1
    return relevance


def read_captions(file: Path, image: str, text: str) -> pd.DataFrame:
    """Read two columns of a CSV exactly as written, so "NA" is a caption.

    Returns:
        DataFrame with the columns ``image`` and ``text``, indexed by the line each row starts in.

    Raises:
        ValueError: naming the file and the line, if it is not a CSV in UTF-8, lacks a column, or
            has an empty cell.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "captions.csv")
        ...     _ = file.write_text("image,text\\na.png,NA\\n")
        ...     read_captions(file, "image", "text").loc[2].to_list()
        ['a.png', 'NA']
    """
    data = file.read_bytes()
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{file}: line {line} is not UTF-8 ({error.reason}); save the file as UTF-8"
        ) from error
    reader = csv_reader(io.StringIO(content, newline=""), strict=True)
    cells: dict[int, list[str]] = {}  # line -> the cells of the row that starts there
    line = 1
    try:
        header = next(reader, [])
        line = reader.line_num + 1
        for row in reader:
            if row:
                cells[line] = row
            line = reader.line_num + 1
    except CsvError as error:
        raise ValueError(f"{file}: the row of line {line} is not CSV: {error}") from error
    missing = [column for column in (image, text) if column not in header]
    if missing:
        raise ValueError(
            f"{file} has no column {', '.join(missing)}; it has {', '.join(header)}: "
            "name your columns with image= and text="
        )
    columns = [header.index(image), header.index(text)]
    for line, row in cells.items():
        if any(row[len(header) :]):
            raise ValueError(
                f"{file}: line {line} has {len(row)} cells, and the header {len(header)}; put "
                "quotes around a cell that holds a comma"
            )
        if any(column >= len(row) or not row[column].strip() for column in columns):
            raise ValueError(f"{file}: line {line} has an empty cell")
    pairs = [[row[column] for column in columns] for row in cells.values()]
    return pd.DataFrame(pairs, index=list(cells), columns=[image, text])
