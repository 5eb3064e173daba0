"""Read the measured results of the book: the JSON files that the benchmarks write.

The files lie in ``book/results/`` of the repository. They are not part of the installed package,
so every function takes a path. A file of *cells* has one record per suite, system and seed. A
record lists its points: one per task, split and budget.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

PRETRAINING_LOG = "pretraining_log.json"  # in the folder of a backbone that we pretrained
MEASURES = {"p_at_1": "P@1", "ndcg_at_5": "NDCG@5", "mrr_at_10": "MRR@10"}
CELL_COLUMNS = ("suite", "system", "label", "seed", "train_seconds")


def load_result(path: str | Path) -> dict[str, Any]:
    """Read one result file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is not JSON or holds a number that is not finite.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "timings.json")
        ...     _ = path.write_text('{"import_seconds": 0.006}')
        ...     load_result(path)
        {'import_seconds': 0.006}
    """
    path = Path(path)
    try:
        return json.loads(
            path.read_text("utf-8"), parse_constant=_finite_float, parse_float=_finite_float
        )
    except ValueError as error:  # also UnicodeDecodeError and JSONDecodeError
        raise ValueError(f"{path.name}: {error}") from error


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"holds {text}: every number must be finite; measure it again")
    return value


def load_findings(path: str | Path) -> dict[str, Any]:
    """Read a result file of cells, such as ``book/results/findings.json``, and check its measures.

    Returns:
        the content of the file. ``["cells"]["handwriting/MMR/0"]["points"]`` is a list of dicts
        with task, split, r_q, r_c, dim, p_at_1, ndcg_at_5, mrr_at_10 and bytes_per_candidate.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is not JSON or holds a number that is not finite. Naming
            cell, budget and measure, if a point lacks the measure that its suite uses, or if a
            measure is not a number from 0 to 1.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "findings.json")
        ...     _ = path.write_text('{"cells": {}}')
        ...     load_findings(path)
        {'cells': {}}
    """
    result = load_result(path)
    for name, cell in result["cells"].items():
        required = result.get("suites", {}).get(cell["suite"], "p_at_1")
        for point in cell["points"]:
            where = f"cell {name} at ({point.get('r_q')}, {point.get('r_c')})"
            for measure in MEASURES:
                if measure in point or measure == required:
                    check_quality(where, measure, point.get(measure))
    return result


def load_pretraining_log(folder: str | Path) -> dict[str, Any]:
    """Read how a backbone of this project was pretrained, from the folder of its weights.

    Returns:
        parameters, steps, batch_size, seconds, what it reads, and the loss as pairs of step and
        value. What it reads is a dict of shares from 0 to 1: of the stickers on unseen sheets, of
        drawings by an unseen artist, and of the digits of unseen writers.

    Raises:
        FileNotFoundError: if the folder holds no such log.
        ValueError: if the log is not JSON, or if a number in it is not finite or out of range.

    Example:
        >>> from metaembed_lite import checkpoints
        >>> load_pretraining_log(checkpoints.folder("tiny-vlm"))["steps"]
        3000
    """
    log = load_result(Path(folder) / PRETRAINING_LOG)
    for name, share in log["reads"].items():
        check_quality(PRETRAINING_LOG, name, share)
    return log


def check_quality(where: str, name: str, value: Any) -> None:
    """Check that a value is a quality, a number from 0 to 1.

    Args:
        where: the place of the value in a result file, for the error.
        name: the name of the measure, for the error.
        value: the value in the file.

    Raises:
        ValueError: naming place, measure and value.

    Example:
        >>> check_quality("cell handwriting/MMR/0 at (1, 1)", "p_at_1", 0.5)
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(
            f"{where}: {name} is {value!r}, expected a number from 0 to 1; measure it again"
        )


def points_table(findings: Mapping[str, Any]) -> pd.DataFrame:
    """One row per cell and point.

    Args:
        findings: as ``load_findings`` returns it.

    Returns:
        the columns suite, system, label (the system's name in tables), seed and train_seconds,
        followed by those of the points: task, split, r_q, r_c, dim, p_at_1, ...

    Example:
        >>> point = {"split": "test", "r_q": 8, "r_c": 16, "p_at_1": 0.84}
        >>> cell = {"suite": "handwriting", "system": "MMR", "label": "MetaEmbed with MMR",
        ...         "seed": 0, "train_seconds": 240, "points": [point]}
        >>> points_table({"cells": {"handwriting/MMR/0": cell}}).p_at_1.tolist()
        [0.84]
    """
    return pd.DataFrame(
        [
            {**{name: cell[name] for name in CELL_COLUMNS}, **point}
            for cell in findings["cells"].values()
            for point in cell["points"]
        ]
    )
