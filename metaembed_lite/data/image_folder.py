"""Your own data: a folder of images and a CSV with one caption per row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metaembed_lite.data.captions import read_captions
from metaembed_lite.data.folder_split import SPLIT_COLUMN, as_list, split_folder
from metaembed_lite.data.rows import lazy_rows
from metaembed_lite.data.task import RetrievalTask, check_split
from metaembed_lite.items import open_picture

ABOUT = """\
Your own data: a folder of images and a CSV with one caption per row. The image and the caption of a
row are relevant to each other. Other pairs count as not relevant, even if a caption happens to fit
another image.
"""
_NEGATIVES_STREAM = 21  # keeps the random negatives apart from the other random streams

__all__ = ["changed_split", "load_image_folder", "read_captions", "split_folder"]


def load_image_folder(
    path: str | Path,
    csv: str = "captions.csv",
    image: str = "image",
    text: str = "text",
    n_queries: int = 500,
    n_train: int | None = None,
    seed: int = 0,
    n_validation: int = 0,
    split: str = "test",
    group: str | None = None,
    negative: str | Sequence[str] | None = None,
) -> RetrievalTask:
    """Load the task: caption to image, from a folder with a CSV of both.

    An image may have several captions, and a caption several images. The split is by image, not by
    row, so no test image is trained on. ``split_folder`` shows it row by row, and
    ``folder_report.inspect_folder`` finds what is wrong with a folder. The other images of a batch
    serve as negatives, except images whose caption or whose pixels are equal.

    Args:
        path: the folder. Images may lie anywhere below it.
        csv: name of the CSV in the folder. Defaults to "captions.csv".
        image: column of image paths, relative to the folder. Two spellings of one path ("p.png",
            "./p.png") are one image. A path may not lead out of the folder. Defaults to
            "image".
        text: column of captions. Defaults to "text".
        n_queries: captions to test with. As many images are held out for the test, but at most half
            of all. Defaults to 500.
        n_train: number of training rows. Defaults to all that are left. With 0, and no validation,
            every image is a candidate of the test.
        seed: random seed of the split. Defaults to 0.
        n_validation: captions to validate with. As many images are held out for it, but at most
            half of those that the test leaves. Defaults to 0, no validation.
        split: the part that queries and candidates come from: "test", "validation" or "train". The
            training rows are the same for each. "train" has at most ``n_queries`` images of them.
            Defaults to "test".
        group: column that names the group of an image, such as its album or photographer. A group
            is never divided between parts. An image without a group is alone. Defaults to None:
            every image is alone.
        negative: column of image paths, or several. They are hard negatives: images that do not fit
            the caption of their row. A row without one gets a random training image that has
            another caption, and so does a row whose hard negative is in another part. An image that
            no row captions belongs to the group of its row, and is a candidate there. Defaults to
            None: no hard negatives.

    Returns:
        The task. ``candidate_names`` are paths relative to the folder.

    Raises:
        FileNotFoundError: if the CSV or an image is missing.
        ValueError: on fewer than one query, negative sizes, or a file that is not a CSV in UTF-8.
            Also on missing columns, empty cells, paths that lead out of the folder, broken images,
            fewer than two images, or an empty part. Also if an image is a hard negative of itself.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("red", "blue"):
        ...         Image.new("RGB", (48, 48), name).save(f"{folder}/{name}.png")
        ...     csv = "image,text\\nred.png,a red square\\nblue.png,a blue square\\n"
        ...     _ = Path(folder, "captions.csv").write_text(csv)
        ...     task = load_image_folder(folder, n_train=0)
        >>> task.queries, task.candidate_names
        (['a red square', 'a blue square'], ['red.png', 'blue.png'])
    """
    check_split(split)
    table = split_folder(
        path, csv, image, text, n_queries, n_train, seed, n_validation, group, negative
    )
    rest = table[table[SPLIT_COLUMN] == "train"].sample(frac=1, random_state=seed)[:n_train]
    part = table[table[SPLIT_COLUMN] == split]
    if split == "train":
        part = part[part[image].isin(rest[image].drop_duplicates()[:n_queries])]
    if part.empty:
        remedy = "leave out n_train=0" if split == "train" else "set n_validation"
        raise ValueError(f"split={split!r} of {Path(path) / csv} has no image: {remedy}")
    negatives = as_list(negative)
    names = list(dict.fromkeys([*part[image], *_uncaptioned(part, table[image], negatives)]))
    n_captions = n_validation if split == "validation" else n_queries
    queries = part[text].drop_duplicates().to_list()[:n_captions]
    root = Path(path)
    columns = {
        "query": (rest[text].to_list(), [""] * len(rest)),
        "positive": ([""] * len(rest), rest[image].to_list()),
    }
    rng = np.random.default_rng([seed, _NEGATIVES_STREAM])
    for i, column in enumerate(negatives):
        chosen = _choose_negatives(table, rest, (image, text, column), rng)
        columns["negative" if i == 0 else f"negative_{i}"] = ([""] * len(rest), chosen)
    return RetrievalTask(
        name=root.name,
        queries=queries,
        candidates=[open_picture(root / name) for name in names],
        relevance=_grade(queries, names, zip(part[text], part[image], strict=True)),
        train=lazy_rows(columns, root, str(root / csv)) if len(rest) else None,
        about=ABOUT,
        candidate_names=names,
    )


def _uncaptioned(part: pd.DataFrame, captioned: pd.Series, negatives: Sequence[str]) -> list[str]:
    """The hard negatives of a part that no row captions. They make its candidates harder."""
    known = {"", *captioned}
    return [name for column in negatives for name in part[column] if name not in known]


def _choose_negatives(
    table: pd.DataFrame, rows: pd.DataFrame, columns: tuple[str, str, str],
    rng: np.random.Generator,
) -> list[str]:  # fmt: skip
    """A hard negative per training row. Where none is named or allowed, a random other image."""
    image, text, negative = columns
    training = table[table[SPLIT_COLUMN] == "train"]
    images = training[image].drop_duplicates().to_numpy()
    allowed = {*images, *_uncaptioned(training, table[image], [negative])}
    fitting = table.groupby(text)[image].agg(set)
    chosen = []
    for caption, name in zip(rows[text], rows[negative], strict=True):
        fits = fitting[caption]
        if name not in allowed or name in fits:
            if fits.issuperset(images):
                raise ValueError(
                    f"the caption {caption!r:.80} stands for every training image, so none can be "
                    f"its hard negative: name one in the column {negative}"
                )
            while (name := str(rng.choice(images))) in fits:
                pass
        chosen.append(name)
    return chosen


def _grade(
    queries: list[str], candidates: list[str], pairs: Iterable[tuple[str, str]]
) -> np.ndarray:
    """Grade (Q, N): 1 where a caption and an image stand in one row."""
    rows = {caption: i for i, caption in enumerate(queries)}
    columns = {name: j for j, name in enumerate(candidates)}
    relevance = np.zeros((len(queries), len(candidates)), dtype=np.float32)
    for caption, name in pairs:
        if caption in rows:
            relevance[rows[caption], columns[name]] = 1
    return relevance


def changed_split(trained: Mapping[str, Any], used: Mapping[str, Any]) -> list[str]:
    """The settings because of which images that trained a model may be among the candidates now.

    Args:
        trained: settings of ``load_image_folder`` in training.
        used: settings of ``load_image_folder`` now, with the split "test" or "validation".

    Returns:
        Their names. Fewer queries than in training are no such setting where the test is used,
        because a smaller test is a subset of a larger one.

    Example:
        >>> changed_split({"n_queries": 100}, {"n_queries": 50, "seed": 1})
        ['seed']
    """
    defaults = {name: p.default for name, p in signature(load_image_folder).parameters.items()}
    before, now = {**defaults, **trained}, {**defaults, **used}
    changed = [
        name
        for name in ("csv", "image", "text", "seed", "group", "negative")
        if before[name] != now[name]
    ]
    if now["split"] == "test":
        changed += ["n_queries"] * (now["n_queries"] > before["n_queries"])
    else:
        changed += ["n_queries"] * (now["n_queries"] != before["n_queries"])
        changed += ["n_validation"] * (now["n_validation"] > before["n_validation"])
    is_whole = now["n_train"] == 0 and not now["n_validation"]
    return [*changed, "n_train"] if is_whole else changed
