"""Your own data: a folder of pictures and a CSV that says what each one shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from metaembed_lite.data.pictures import lazy_rows, open_image
from metaembed_lite.data.task import RetrievalTask
from metaembed_lite.data.triples import check_sizes


def folder(
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
        image: the column of picture paths, relative to the folder.
        text: the column of captions.
        n_queries: captions to test with; at most half of all pictures are kept for the test.
        n_train: training rows; None: all that are left. 0: everything is for the test.
        seed: of the split.

    Raises:
        FileNotFoundError: if the CSV or a picture is missing.
        ValueError: on sizes below one, missing columns, empty cells, or fewer than two pictures.
    """
    import pandas as pd

    check_sizes(n_queries, n_train or 0)
    root = Path(path)
    if not (root / csv).is_file():
        raise FileNotFoundError(f"{root / csv} is missing: a CSV with columns {image}, {text}")
    table = pd.read_csv(root / csv, dtype=str)
    missing = [column for column in (image, text) if column not in table.columns]
    if missing:
        raise ValueError(
            f"{root / csv} has no column {', '.join(missing)}; it has {', '.join(table.columns)}: "
            "name yours with image= and text="
        )
    empty = table[[image, text]].isna().any(axis=1)
    if empty.any():
        raise ValueError(
            f"{root / csv}: line {int(empty.to_numpy().argmax()) + 2} has an empty cell"
        )
    pictures = table[image].drop_duplicates().to_list()
    if len(pictures) < 2:
        raise ValueError(f"{root / csv} names {len(pictures)} picture; retrieval needs two or more")
    lost = next((name for name in pictures if not (root / name).is_file()), None)
    if lost is not None:
        raise FileNotFoundError(f"{root / lost} is missing, which {csv} names")
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
        candidates=[open_image(root / name) for name in candidates],
        relevance=relevance,
        train=lazy_rows(sides, root) if len(rest) else None,
        about=__doc__ or "",
    )
