"""Published data in its published schema: MMEB's training and evaluation sets, ColPali's pages.

Each takes the folder of a local copy or a hub id; nothing is fetched unless a hub id is given.

MMEB (Jiang et al., 2025, "VLM2Vec"): 36 evaluation tasks in 4 meta-tasks, P@1 among up to 1,000
candidates of a query's own, with an instruction in every query. Two traps of its published
evaluator are avoided: the right answer stands first there and argmax takes the first of equals, so
a constant scorer gets 100 %. Here ties count against the model, and equal candidates are one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, load_dataset
from pyarrow.compute import struct_field

from metaembed_lite.data.rows import PictureFeature, lazy_rows, picture_file
from metaembed_lite.data.task import Item, RetrievalTask
from metaembed_lite.items import open_picture

IMAGE_TOKEN = "<|image_1|>"  # how MMEB's texts say where their image goes
META_TASKS = {
    "Classification": (
        "ImageNet-1K", "N24News", "HatefulMemes", "VOC2007", "SUN397", "Place365", "ImageNet-A",
        "ImageNet-R", "ObjectNet", "Country211",
    ),
    "VQA": (
        "OK-VQA", "A-OKVQA", "DocVQA", "InfographicsVQA", "ChartQA", "Visual7W", "ScienceQA",
        "VizWiz", "GQA", "TextVQA",
    ),
    "Retrieval": (
        "VisDial", "CIRR", "VisualNews_t2i", "VisualNews_i2t", "MSCOCO_t2i", "MSCOCO_i2t", "NIGHTS",
        "WebQA", "FashionIQ", "Wiki-SS-NQ", "OVEN", "EDIS",
    ),
    "Visual grounding": ("MSCOCO", "RefCOCO", "RefCOCO-Matching", "Visual7W-Pointing"),
}  # fmt: skip
OUT_OF_DISTRIBUTION = frozenset({
    "Place365", "ImageNet-A", "ImageNet-R", "ObjectNet", "Country211", "ScienceQA", "VizWiz", "GQA",
    "TextVQA", "FashionIQ", "Wiki-SS-NQ", "OVEN", "EDIS", "RefCOCO", "RefCOCO-Matching",
    "Visual7W-Pointing",
})  # fmt: skip
MMEB_TASKS = tuple(name for names in META_TASKS.values() for name in names)


def mmeb(
    task: str,
    path: str | Path = "TIGER-Lab/MMEB-eval",
    images: str | Path | None = None,
    n_queries: int | None = None,
    n_train: int = 0,
) -> RetrievalTask:
    """One of MMEB's 36 evaluation tasks.

    Args:
        task: such as "MSCOCO_t2i"; ``MMEB_TASKS`` lists them.
        path: a hub id, or a folder with ``<task>/*.parquet`` of the same schema: qry_text,
            qry_img_path, tgt_text (list), tgt_img_path (list, the right answer first).
        images: the folder that image paths are relative to; None: ``path``.
        n_queries: only the first so many; None: all.
        n_train: 0; training rows come from ``mmeb_train``.

    Raises:
        ValueError: on an unknown task, columns of another schema, a row without a query or a
            target, a path that leads out of ``images``, or ``n_train`` above 0.
        FileNotFoundError: if an image is missing.
    """
    if task not in MMEB_TASKS:
        raise ValueError(f"MMEB has no task {task!r}; it has {', '.join(MMEB_TASKS)}")
    if n_train:
        raise ValueError("MMEB's evaluation tasks have no training rows: see mmeb_train")
    columns = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
    rows = _read(path, task, "test", columns)
    rows = rows if n_queries is None else rows.select(range(min(n_queries, len(rows))))
    root = Path(images if images is not None else path)
    where = f"{path}, {task}"
    number: dict[tuple[str, str], int] = {}  # (text, image file) -> index among the candidates
    pools = []
    for row, (texts, paths) in enumerate(zip(rows["tgt_text"], rows["tgt_img_path"], strict=True)):
        if not texts or not paths or len(texts) != len(paths):
            raise ValueError(
                f"{where}, row {row}: {len(texts or [])} tgt_text and {len(paths or [])} "
                "tgt_img_path: expected as many of each, the right answer first"
            )
        pairs = [
            _pair(text, image, root, f"{where}, row {row}, target {place}")
            for place, (text, image) in enumerate(zip(texts, paths, strict=True))
        ]
        pools.append([number.setdefault(pair, len(number)) for pair in pairs])
    relevance = np.zeros((len(rows), len(number)), dtype=np.float32)
    pool = np.zeros((len(rows), len(number)), dtype=bool)
    for query, candidates in enumerate(pools):
        pool[query, candidates] = True
        relevance[query, candidates[0]] = 1
    queries = [
        _pair(text, image, root, f"{where}, row {row}, query")
        for row, (text, image) in enumerate(
            zip(rows["qry_text"], rows["qry_img_path"], strict=True)
        )
    ]
    return RetrievalTask(
        name=f"MMEB {task}",
        queries=[_item(text, file) for text, file in queries],
        candidates=[_item(text, file) for text, file in number],
        relevance=relevance,
        pool=pool,
        about=__doc__ or "",
    )


def mmeb_train(
    task: str,
    path: str | Path = "TIGER-Lab/MMEB-train",
    images: str | Path | None = None,
    n_train: int | None = None,
) -> Dataset:
    """Training rows of one of MMEB's 20 in-distribution tasks: query, positive, mined negative.

    Args:
        task: such as "MSCOCO_t2i".
        path: a hub id, or a folder with ``<task>/*.parquet`` of the same schema: qry,
            qry_image_path, pos_text, pos_image_path, and perhaps neg_text, neg_image_path.
        images: the folder that image paths are relative to; None: ``path``.
        n_train: only the first so many; None: all.

    Raises:
        ValueError: on a task that MMEB does not train on, columns of another schema, a row without
            text and image, or a path that leads out of ``images``.
        FileNotFoundError: if an image is missing, when its row is read.
    """
    trained = [name for name in MMEB_TASKS if name not in OUT_OF_DISTRIBUTION]
    if task not in trained:
        raise ValueError(f"MMEB has no training set {task!r}; it has {', '.join(trained)}")
    rows = _read(path, task, "original", ("qry", "qry_image_path", "pos_text", "pos_image_path"))
    rows = rows if n_train is None else rows.select(range(min(n_train, len(rows))))
    root = Path(images if images is not None else path)
    sides = {"query": ("qry", "qry_image_path"), "positive": ("pos_text", "pos_image_path")}
    mined = "neg_text" in rows.column_names
    if mined and (any(rows["neg_text"]) or any(rows["neg_image_path"])):
        sides["negative"] = ("neg_text", "neg_image_path")
    columns = {}
    for name, (t, i) in sides.items():
        pairs = [
            _pair(text, image, root, f"{path}, {task}, row {row}, {name}")
            for row, (text, image) in enumerate(zip(rows[t], rows[i], strict=True))
        ]
        columns[name] = ([text for text, _ in pairs], [file for _, file in pairs])
    return lazy_rows(columns, root)


def colpali_train(
    path: str | Path = "vidore/colpali_train_set", n_train: int | None = None
) -> Dataset:
    """ColPali's training pages as rows query, positive: a question, and the page that answers it.

    Args:
        path: a hub id, or a folder of parquet files of the same schema: query, image.
        n_train: only the first so many rows; None: all.

    Raises:
        ValueError: on columns of another schema, or a row that names a file in place of its
            picture.
    """
    rows = _read(path, None, "train", ("query", "image"))
    rows = rows.cast_column("image", PictureFeature())
    row = struct_field(rows.data.column("image"), "bytes").is_null().index(True).as_py()
    if row >= 0:
        raise ValueError(
            f"{path}: row {row} has no picture, only a path at most, which is not opened; store "
            "the picture's bytes"
        )
    rows = rows if n_train is None else rows.select(range(min(n_train, len(rows))))
    return rows.select_columns(["query", "image"]).rename_column("image", "positive")


def mmeb_table(p_at_1: Mapping[str, float]) -> pd.DataFrame:
    """MMEB's table: P@1 a task, and the averages that the paper reports; see ``by_meta_task``.

    Args:
        p_at_1: task -> P@1, for any of the 36.

    Raises:
        ValueError: on a name that is no task of MMEB.
    """
    return by_meta_task(p_at_1, META_TASKS, OUT_OF_DISTRIBUTION)


def by_meta_task(
    p_at_1: Mapping[str, float],
    meta_tasks: Mapping[str, Collection[str]],
    out_of_distribution: Collection[str],
) -> pd.DataFrame:
    """P@1 per task, and the averages that MMEB reports.

    Args:
        p_at_1: task -> P@1, for any of the tasks.
        meta_tasks: meta-task -> all of its tasks.
        out_of_distribution: the tasks that are not trained on.

    Returns:
        Rows of task, meta_task, p_at_1: the tasks, then the mean of each meta-task, of the
        in-distribution and out-of-distribution tasks, and of all. An average over fewer tasks than
        there are says so in the column ``tasks``, such as "3 of 12".

    Raises:
        ValueError: on a name that is not a task, or a value that is not finite.
    """
    every = [name for names in meta_tasks.values() for name in names]
    unknown = sorted(set(p_at_1) - set(every))
    if unknown:
        raise ValueError(f"unknown tasks: {', '.join(unknown)}; there are {', '.join(every)}")
    for name, value in p_at_1.items():
        if not np.isfinite(value):
            raise ValueError(f"p_at_1 of {name} is {value}: an average needs finite values")
    rows = [
        {"task": name, "meta_task": meta, "p_at_1": p_at_1[name], "tasks": "1"}
        for meta, names in meta_tasks.items()
        for name in names
        if name in p_at_1
    ]
    groups = dict(meta_tasks)
    groups["in-distribution"] = [name for name in every if name not in out_of_distribution]
    groups["out-of-distribution"] = [name for name in every if name in out_of_distribution]
    groups["overall"] = every
    for group, names in groups.items():
        found = [p_at_1[name] for name in names if name in p_at_1]
        if found:
            counted = f"{len(found)} of {len(names)}"
            mean = float(np.mean(found))
            rows.append({"task": "mean", "meta_task": group, "p_at_1": mean, "tasks": counted})
    return pd.DataFrame(rows)


def _read(path: str | Path, name: str | None, split: str, columns: tuple[str, ...]) -> Dataset:
    folder = Path(path) / name if name else Path(path)
    if folder.is_dir():
        # A copy of a hub's folder holds every split; files of one's own need no such name.
        named = folder.glob(f"{split}-*.parquet"), folder.glob("*.parquet")
        files = next((found for found in map(sorted, named) if found), [])
        if not files:
            raise FileNotFoundError(f"{folder} has no *.parquet")
        try:
            rows = load_dataset("parquet", data_files=list(map(str, files)), split="train")
        except Exception as error:
            names = ", ".join(file.name for file in files)
            raise ValueError(f"{folder}: {names}: not parquet of one schema ({error})") from error
    elif Path(path).is_dir():
        raise FileNotFoundError(f"{path} has no folder {name!r}")
    else:
        try:
            rows = load_dataset(str(path), name, split=split)
        except Exception as error:
            raise OSError(
                f"{path!r} is no folder and could not be fetched from the hub ({error}); give the "
                "path of a local copy"
            ) from error
    missing = [column for column in columns if column not in rows.column_names]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}; it has {rows.column_names}")
    return rows


def _pair(text: str | None, image: str | None, root: Path, where: str) -> tuple[str, str]:
    """A row's text and the path of its image, "" where there is none."""
    if text is None:
        raise ValueError(f"{where}: the text is None; write an empty string where there is none")
    text = text.replace(IMAGE_TOKEN, "").strip()  # the mark of where the image goes
    if not text and not image:
        raise ValueError(f"{where}: neither a text nor an image")
    return text, str(picture_file(root, image, where)) if image else ""


def _item(text: str, file: str) -> Item:
    """What ``encode_query`` reads: a text, an image, or both."""
    if not file:
        return text
    picture = open_picture(Path(file))
    return {"text": text, "image": picture} if text else picture
