"""Your own data: a folder of pictures and a CSV that says what each one shows."""

from __future__ import annotations

import io
from csv import Error as CsvError
from csv import reader as csv_reader
from pathlib import Path

import numpy as np
import pandas as pd

from metaembed_lite.data.rows import lazy_rows, picture_file
from metaembed_lite.data.task import RetrievalTask, check_sizes
from metaembed_lite.items import open_picture


def image_folder(
    path: str | Path,
    csv: str = "captions.csv",
    image: str = "image",
    text: str = "text",
    n_queries: int = 500,
    n_train: int | None = None,
    seed: int = 0,
) -> RetrievalTask:
    """Captions to pictures, text to image, from a folder with a CSV of the two.

    A picture may have several captions, and a caption several pictures: whatever stands together
    in a row is relevant. Pictures are split, not rows, so that no test picture is trained on. No
    hard negatives: other pictures of the batch serve.

    Args:
        path: the folder; pictures lie anywhere below it.
        csv: the CSV's name in it.
        image: the column of picture paths, relative to the folder. They stay below it, and two
            spellings of one path ("p.png", "./p.png") are one picture.
        text: the column of captions.
        n_queries: captions to test with; at most half of all pictures are kept for the test.
        n_train: training rows; None: all that are left. 0: everything is for the test.
        seed: of the split.

    Raises:
        FileNotFoundError: if the CSV or a picture is missing.
        ValueError: on sizes below one, a file that is not a CSV in UTF-8, missing columns, empty
            cells, paths that lead out of the folder, broken pictures, or fewer than two pictures.
    """
    check_sizes(n_queries, n_train or 0)
    root = Path(path)
    if not (root / csv).is_file():
        raise FileNotFoundError(f"{root / csv} is missing: a CSV with columns {image}, {text}")
    table = read_captions(root / csv, image, text)
    files: dict[str, str] = {}  # as written -> resolved: two spellings of a path are one picture
    for line, name in zip(table.index, table[image], strict=True):
        if name not in files:
            files[name] = str(picture_file(root, name, f"{root / csv}, line {line}"))
    table[image] = table[image].map(files)
    pictures = table[image].drop_duplicates().to_list()
    if len(pictures) < 2:
        raise ValueError(f"{root / csv} names {len(pictures)} picture; retrieval needs two or more")
    lost = next((name for name in pictures if not Path(name).is_file()), None)
    if lost is not None:
        line = table.index[(table[image] == lost).to_numpy().argmax()]
        raise FileNotFoundError(f"{lost} is missing, which {csv} names in line {line}")
    order = np.random.default_rng([seed, 20]).permutation(len(pictures))
    kept = len(pictures) if n_train == 0 else min(n_queries, len(pictures) // 2)
    tested = sorted(order[:kept])
    candidates = [pictures[i] for i in tested]
    test = table[table[image].isin(candidates)]
    queries = test[text].drop_duplicates().to_list()[:n_queries]
    column = {name: j for j, name in enumerate(candidates)}
    row = {caption: i for i, caption in enumerate(queries)}
    relevance = np.zeros((len(queries), len(candidates)), dtype=np.float32)
    for caption, picture in zip(test[text], test[image], strict=True):
        if caption in row:
            relevance[row[caption], column[picture]] = 1
    rest = table[~table[image].isin(candidates)].sample(frac=1, random_state=seed)[:n_train]
    sides = {
        "query": (rest[text].to_list(), [""] * len(rest)),
        "positive": ([""] * len(rest), rest[image].to_list()),
    }
    return RetrievalTask(
        name=root.name,
        queries=queries,
        candidates=[open_picture(Path(name)) for name in candidates],
        relevance=relevance,
        train=lazy_rows(sides, root, str(root / csv)) if len(rest) else None,
        about=__doc__ or "",
    )


def read_captions(file: Path, image: str, text: str) -> pd.DataFrame:
    """The two columns of a CSV, as they are written: "NA" is a caption. Indexed by line.

    Raises:
        ValueError: that names the file and the line, if it is not a CSV in UTF-8, has other columns
            or an empty cell.
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
            "name yours with image= and text="
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
