"""Published data in its published schema: MMEB's training and evaluation sets, ColPali's pages.

Each function takes the folder of a local copy or a hub id. Nothing is downloaded unless a hub id is
given.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, load_dataset
from pyarrow.compute import struct_field

from metaembed_lite.data.rows import PictureFeature, lazy_rows, resolve_picture
from metaembed_lite.data.task import Item, RetrievalTask
from metaembed_lite.items import open_picture

ABOUT = """\
MMEB (Jiang et al., 2025, "VLM2Vec"): 36 evaluation tasks in 4 meta-tasks. Every query has an
instruction and its own pool of up to 1,000 candidates. The metric is P@1.

The published evaluator rewards ties. The right answer is listed first, and argmax takes the first
of equal scores, so a constant scorer gets 100 %. Here ties count against the model, and equal
candidates are merged into one.
"""
IMAGE_TOKEN = "<|image_1|>"  # marks the place of the image in MMEB's texts
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


def load_mmeb(
    task: str,
    path: str | Path = "TIGER-Lab/MMEB-eval",
    images: str | Path | None = None,
    n_queries: int | None = None,
    n_train: int = 0,
) -> RetrievalTask:
    """Load one of MMEB's 36 evaluation tasks.

    Args:
        task: name of the task, such as "MSCOCO_t2i". ``MMEB_TASKS`` lists them.
        path: a hub id, or a folder with ``<task>/*.parquet`` of the same schema. Its columns are
            qry_text, qry_img_path, tgt_text (list) and tgt_img_path (list, the right answer first).
            Defaults to the published set on the hub.
        images: the folder that image paths are relative to. Defaults to ``path``.
        n_queries: the number of queries, from the first row on. Defaults to all.
        n_train: must be 0. Training rows come from ``load_mmeb_train``. Defaults to 0.

    Raises:
        ValueError: on an unknown task, or columns of another schema. Also on a row without a query
            or a target, a path that leads out of ``images``, or ``n_train`` above 0.
        FileNotFoundError: if an image is missing.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> row = {"qry_text": "Find: a cat", "qry_img_path": ""}
        >>> row |= {"tgt_text": ["a cat", "a dog"], "tgt_img_path": ["", ""]}
        >>> with TemporaryDirectory() as folder:
        ...     Path(folder, "WebQA").mkdir()
        ...     pd.DataFrame([row]).to_parquet(f"{folder}/WebQA/test.parquet")
        ...     load_mmeb("WebQA", folder)
        RetrievalTask('MMEB WebQA': 1 queries, 2 candidates, 0 training rows)
    """
    if task not in MMEB_TASKS:
        raise ValueError(f"MMEB has no task {task!r}; it has {', '.join(MMEB_TASKS)}")
    if n_train:
        raise ValueError(
            f"n_train={n_train}: MMEB's evaluation tasks have no training rows; use load_mmeb_train"
        )
    columns = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
    rows = _read_rows(path, task, "test", columns)
    rows = rows if n_queries is None else rows.select(range(min(n_queries, len(rows))))
    root = Path(images if images is not None else path)
    where = f"{path}, {task}"
    candidate_index: dict[tuple[str, str], int] = {}  # (text, image file) -> index
    pools = []
    for row, (texts, paths) in enumerate(zip(rows["tgt_text"], rows["tgt_img_path"], strict=True)):
        if not texts or not paths or len(texts) != len(paths):
            raise ValueError(
                f"{where}, row {row}: {len(texts or [])} tgt_text and {len(paths or [])} "
                "tgt_img_path: expected as many of each, the right answer first"
            )
        pairs = [
            _read_pair(text, image, root, f"{where}, row {row}, target {place}")
            for place, (text, image) in enumerate(zip(texts, paths, strict=True))
        ]
        pools.append([candidate_index.setdefault(pair, len(candidate_index)) for pair in pairs])
    relevance = np.zeros((len(rows), len(candidate_index)), dtype=np.float32)
    pool = np.zeros((len(rows), len(candidate_index)), dtype=bool)
    for query, candidates in enumerate(pools):
        pool[query, candidates] = True
        relevance[query, candidates[0]] = 1
    queries = [
        _read_pair(text, image, root, f"{where}, row {row}, query")
        for row, (text, image) in enumerate(
            zip(rows["qry_text"], rows["qry_img_path"], strict=True)
        )
    ]
    return RetrievalTask(
        name=f"MMEB {task}",
        queries=[_open_item(text, file) for text, file in queries],
        candidates=[_open_item(text, file) for text, file in candidate_index],
        relevance=relevance,
        pool=pool,
        about=ABOUT,
    )


def load_mmeb_train(
    task: str,
    path: str | Path = "TIGER-Lab/MMEB-train",
    images: str | Path | None = None,
    n_train: int | None = None,
) -> Dataset:
    """Load training rows of one of MMEB's 20 in-distribution tasks: query, positive, hard negative.

    Args:
        task: name of the task, such as "MSCOCO_t2i".
        path: a hub id, or a folder with ``<task>/*.parquet`` of the same schema. Its columns are
            qry, qry_image_path, pos_text, pos_image_path, and perhaps neg_text, neg_image_path.
            Defaults to the published set on the hub.
        images: the folder that image paths are relative to. Defaults to ``path``.
        n_train: the number of rows, from the first on. Defaults to all.

    Raises:
        ValueError: on a task that MMEB does not train on, or columns of another schema. Also on a
            row without text and image, or a path that leads out of ``images``.
        FileNotFoundError: if an image is missing, when its row is read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> row = {"qry": "a pet?", "qry_image_path": "", "pos_text": "cat", "pos_image_path": ""}
        >>> with TemporaryDirectory() as folder:
        ...     Path(folder, "OK-VQA").mkdir()
        ...     pd.DataFrame([row]).to_parquet(f"{folder}/OK-VQA/train.parquet")
        ...     load_mmeb_train("OK-VQA", folder)[0]
        {'query': 'a pet?', 'positive': 'cat'}
    """
    trained_tasks = [name for name in MMEB_TASKS if name not in OUT_OF_DISTRIBUTION]
    if task not in trained_tasks:
        raise ValueError(f"MMEB has no training set {task!r}; it has {', '.join(trained_tasks)}")
    rows = _read_rows(
        path, task, "original", ("qry", "qry_image_path", "pos_text", "pos_image_path")
    )
    rows = rows if n_train is None else rows.select(range(min(n_train, len(rows))))
    root = Path(images if images is not None else path)
    sources = {"query": ("qry", "qry_image_path"), "positive": ("pos_text", "pos_image_path")}
    has_negatives = "neg_text" in rows.column_names
    if has_negatives and (any(rows["neg_text"]) or any(rows["neg_image_path"])):
        sources["negative"] = ("neg_text", "neg_image_path")
    columns = {}
    for name, (text_column, image_column) in sources.items():
        pairs = [
            _read_pair(text, image, root, f"{path}, {task}, row {row}, {name}")
            for row, (text, image) in enumerate(
                zip(rows[text_column], rows[image_column], strict=True)
            )
        ]
        columns[name] = ([text for text, _ in pairs], [file for _, file in pairs])
    return lazy_rows(columns, root)


def load_colpali_train(
    path: str | Path = "vidore/colpali_train_set", n_train: int | None = None
) -> Dataset:
    """Load ColPali's training pages as rows query, positive: a question and the page that answers.

    Args:
        path: a hub id, or a folder of parquet files with the columns query and image. Defaults to
            the published set on the hub.
        n_train: the number of rows, from the first on. Defaults to all.

    Raises:
        ValueError: on columns of another schema, or a row that names a file instead of holding the
            bytes of its image.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> page = {"query": "which year?", "image": Image.new("RGB", (48, 48))}
        >>> with TemporaryDirectory() as folder:
        ...     _ = Dataset.from_list([page]).to_parquet(f"{folder}/train.parquet")
        ...     load_colpali_train(folder).column_names
        ['query', 'positive']
    """
    rows = _read_rows(path, None, "train", ("query", "image"))
    rows = rows.cast_column("image", PictureFeature())
    row = struct_field(rows.data.column("image"), "bytes").is_null().index(True).as_py()
    if row >= 0:
        raise ValueError(
            f"{path}: row {row} has no image, only a path at most, and paths are not opened; "
            "store the image's bytes"
        )
    rows = rows if n_train is None else rows.select(range(min(n_train, len(rows))))
    return rows.select_columns(["query", "image"]).rename_column("image", "positive")


def tabulate_mmeb(p_at_1: Mapping[str, float]) -> pd.DataFrame:
    """Tabulate P@1 per task of MMEB and the averages that its paper reports.

    Args:
        p_at_1: task -> P@1, for any of the 36 tasks.

    Returns:
        The DataFrame of ``average_by_meta_task``.

    Raises:
        ValueError: on a name that is not a task of MMEB.

    Example:
        >>> table = tabulate_mmeb({"OK-VQA": 0.3, "GQA": 0.5}).set_index("meta_task")
        >>> table.p_at_1["overall"], table.tasks["VQA"].iloc[-1]
        (np.float64(0.4), '2 of 10')
    """
    return average_by_meta_task(p_at_1, META_TASKS, OUT_OF_DISTRIBUTION)


def average_by_meta_task(
    p_at_1: Mapping[str, float],
    meta_tasks: Mapping[str, Collection[str]],
    out_of_distribution: Collection[str],
) -> pd.DataFrame:
    """Average P@1 over tasks as MMEB does.

    Args:
        p_at_1: task -> P@1, for any of the tasks.
        meta_tasks: meta-task -> all its tasks.
        out_of_distribution: the tasks that are not trained on.

    Returns:
        DataFrame with task, meta_task, p_at_1 and tasks. First one row per task, then the mean of
        each meta-task, of the in-distribution tasks, of the out-of-distribution tasks, and of all.
        ``tasks`` says how many tasks an average is over, such as "3 of 12".

    Raises:
        ValueError: on a name that is not a task, or a value that is not finite.

    Example:
        >>> table = average_by_meta_task({"a": 0.5, "b": 1.0}, {"letters": ["a", "b", "c"]}, ["b"])
        >>> table[table.task == "mean"].set_index("meta_task").p_at_1.to_dict()
        {'letters': 0.75, 'in-distribution': 0.5, 'out-of-distribution': 1.0, 'overall': 0.75}
        >>> table[table.meta_task == "letters"].tasks.to_list()
        ['1', '1', '2 of 3']
    """
    all_tasks = [name for names in meta_tasks.values() for name in names]
    unknown = sorted(set(p_at_1) - set(all_tasks))
    if unknown:
        raise ValueError(f"unknown tasks: {', '.join(unknown)}; choose from {', '.join(all_tasks)}")
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
    groups["in-distribution"] = [name for name in all_tasks if name not in out_of_distribution]
    groups["out-of-distribution"] = [name for name in all_tasks if name in out_of_distribution]
    groups["overall"] = all_tasks
    for group, names in groups.items():
        values = [p_at_1[name] for name in names if name in p_at_1]
        if values:
            coverage = f"{len(values)} of {len(names)}"
            mean = float(np.mean(values))
            rows.append({"task": "mean", "meta_task": group, "p_at_1": mean, "tasks": coverage})
    return pd.DataFrame(rows)


def _read_rows(path: str | Path, name: str | None, split: str, columns: tuple[str, ...]) -> Dataset:
    folder = Path(path) / name if name else Path(path)
    if folder.is_dir():
        # A copy of a hub's folder holds every split, named in its files. Local files may have any
        # name.
        split_files = sorted(folder.glob(f"{split}-*.parquet"))
        files = split_files or sorted(folder.glob("*.parquet"))
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
                f"{path!r} is not a local folder and could not be downloaded from the hub "
                f"({error}); give the path of a local copy"
            ) from error
    missing = [column for column in columns if column not in rows.column_names]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}; it has {rows.column_names}")
    return rows


def _read_pair(text: str | None, image: str | None, root: Path, where: str) -> tuple[str, str]:
    """Return a row's text and the resolved path of its image, "" for a missing one."""
    if text is None:
        raise ValueError(f"{where}: the text is None; write an empty string where there is none")
    text = text.replace(IMAGE_TOKEN, "").strip()
    if not text and not image:
        raise ValueError(f"{where}: neither a text nor an image")
    return text, str(resolve_picture(root, image, where)) if image else ""


def _open_item(text: str, file: str) -> Item:
    """Build what ``encode_query`` reads: a text, an image, or both."""
    if not file:
        return text
    picture = open_picture(Path(file))
    return {"text": text, "image": picture} if text else picture
