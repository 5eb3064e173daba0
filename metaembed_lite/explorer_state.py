"""What a BudgetExplorer carries: vectors in int8, items as people see them, quality and costs."""

from __future__ import annotations

import base64
import io
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from metaembed_lite.budget import Budget
from metaembed_lite.data.task import Item, RetrievalTask
from metaembed_lite.evaluation import Encoded
from metaembed_lite.interpretability import image_attention
from metaembed_lite.items import read
from metaembed_lite.scoring import maxsim

if TYPE_CHECKING:
    import pandas as pd
    from sentence_transformers import MultiVectorEncoder

SNIPPET = 300  # characters of a text
THUMBNAIL = 96  # pixels of a picture's longer side
LEAST_SCORED = 1000  # candidates that scoring is measured on
MAP_SIDE = 6  # cells of an attention map's longer side; a finer one is averaged down to it


@dataclass(frozen=True)
class Int8Vectors:
    """Vectors at a quarter of float32's size, each with a scale of its own.

    Attributes:
        values: (n, R, D) int8.
        scales: (n, R) float32; a vector is ``values * scale``, off by at most ``scale / 2``.
    """

    values: np.ndarray
    scales: np.ndarray

    @classmethod
    def of(cls, embeddings: Tensor) -> Int8Vectors:
        """Quantize (n, R, D): a vector's largest absolute value becomes 127."""
        vectors = embeddings.float().numpy()
        scales = np.abs(vectors).max(axis=2) / 127
        divisors = np.where(scales > 0, scales, 1.0)[:, :, None]
        return cls(np.rint(vectors / divisors).astype(np.int8), scales.astype(np.float32))

    def floats(self) -> Tensor:
        """(n, R, D) float32: what the page computes with."""
        return torch.from_numpy(self.values * self.scales[:, :, None])


def text64(array: np.ndarray) -> str:
    """The array's bytes, little-endian, as base64."""
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def choose_candidates(
    task: RetrievalTask, encoded: Encoded, queries: Sequence[int], budgets: Sequence[Budget], n: int
) -> tuple[list[int], int]:
    """The ``n`` candidates to show for these queries, and how deep their rankings are the task's.

    Relevant ones come first, then place by place each query's ranking at each budget, so that the
    best of the whole task at a trained budget are among them. The depth is that number of places.
    """
    chosen = dict.fromkeys(np.flatnonzero((task.relevance[queries] > 0).any(axis=0)).tolist())
    orders = []
    for budget in budgets:
        scores = maxsim(encoded.queries[queries], encoded.candidates, budget).numpy()
        if task.pool is not None:
            scores = np.where(task.pool[queries], scores, -np.inf)
        orders.append(np.argsort(-scores, axis=1, kind="stable"))
    depth = 0
    for places in np.stack(orders).transpose(2, 0, 1).reshape(len(task.candidates), -1):
        if len(chosen) >= n:
            break
        chosen.update(dict.fromkeys(places.tolist()))
        depth += len(chosen) <= n
    return sorted(list(chosen)[:n]), depth


def explain_gaps(relevance: np.ndarray, pool: np.ndarray | None) -> list[str]:
    """For each query, what its ranking lacks, in words; empty if it lacks nothing.

    Args:
        relevance: (queries, candidates) grades of those on the page.
        pool: (queries, candidates) bool; None: every candidate is in every pool.
    """
    n = relevance.shape[1]
    notes = []
    for row, grades in enumerate(relevance):
        ranked = n if pool is None else int(pool[row].sum())
        if not ranked:
            none = "the only candidate" if n == 1 else f"none of the {n:,} candidates"
            notes.append(
                f"Nothing to rank: this query has a candidate pool, and {none} on this page is "
                f"{'not ' * (n == 1)}in it."
            )
        elif not (grades > 0).any():
            none = "The only candidate" if ranked == 1 else f"None of the {ranked:,} candidates"
            notes.append(f"{none} ranked here is {'not ' * (ranked == 1)}relevant to this query.")
        else:
            notes.append("")
    return notes


def shown(item: Item, index: int) -> dict[str, Any]:
    """An item as the page shows it: its index in the task, a snippet, a thumbnail as data URL."""
    parts = read(item)
    text, picture = parts.get("text", ""), parts.get("image")
    if len(text) > SNIPPET:
        text = text[:SNIPPET].rstrip() + " …"
    return {"id": index, "text": text, "image": None if picture is None else _data_url(picture)}


def _data_url(picture: Image.Image) -> str:
    small = picture.copy()  # thumbnail() works in place
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def attention_maps(model: MultiVectorEncoder, items: Sequence[Item]) -> dict[str, Any] | None:
    """Where each candidate vector looks, for items that are pictures alone; None if there is none.

    Returns:
        ``maps``, base64 of uint8, each map relative to its own maximum, one item's R_c maps after
        the other's; ``grids``, for each item [offset, height, width] or None.
    """
    parts: list[np.ndarray] = []
    grids: list[list[int] | None] = []
    offset = 0
    for item in items:
        if not isinstance(item, Image.Image):
            grids.append(None)
            continue
        try:
            maps = image_attention(model, item)
        except ValueError:  # a backbone that does not read pictures as tokens has no such maps
            return None
        shrink = min(1.0, MAP_SIDE / max(maps.shape[1:]))
        size = [max(1, round(side * shrink)) for side in maps.shape[1:]]
        maps = torch.nn.functional.adaptive_avg_pool2d(maps, size)
        maps = maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
        parts.append((255 * maps).round().to(torch.uint8).numpy().ravel())
        grids.append([offset, *size])
        offset += parts[-1].size
    return {"maps": text64(np.concatenate(parts)), "grids": grids} if parts else None


def measure_costs(
    model: MultiVectorEncoder, task: RetrievalTask, encoded: Encoded
) -> dict[str, Any]:
    """Milliseconds to encode one query, and to score it at each budget: medians of five runs.

    Scoring is measured with both sides at powers of two and at their full number, one query against
    the task's candidates, and interpolated linearly in between. A small task's candidates are
    repeated up to ``LEAST_SCORED``: a call's fixed cost must not be scaled with the corpus.
    """
    model.eval()
    query_ms = _median_ms(lambda: model.encode_query([task.queries[0]], show_progress_bar=False))
    _, r_q, _ = encoded.queries.shape
    n, r_c, _ = encoded.candidates.shape
    candidates = encoded.candidates.repeat(-(-LEAST_SCORED // n), 1, 1)
    rows, columns = _powers(r_q), _powers(r_c)
    measured = np.empty((len(rows), len(columns)))
    with torch.inference_mode():
        for (i, q), (j, c) in product(enumerate(rows), enumerate(columns)):
            budget = Budget(q, c)
            measured[i, j] = _median_ms(
                lambda budget=budget: maxsim(encoded.queries[:1], candidates, budget)
            )
    along = np.array([np.interp(range(1, r_c + 1), columns, row) for row in measured])
    grid = np.array([np.interp(range(1, r_q + 1), rows, column) for column in along.T]).T
    return {
        "encode_query_ms": round(query_ms, 3),
        "score_ms": np.round(grid, 4).tolist(),
        "measured_candidates": len(candidates),
        "where": f"{_machine()}, {_threads()}, on the CPU"
        if model.device.type == "cpu"
        else f"{torch.cuda.get_device_name()} (encoding) and {_machine()} (scoring)",
    }


def _threads() -> str:
    n = torch.get_num_threads()
    return "one thread" if n == 1 else f"{n} threads"


def processor() -> str:
    """The processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _machine() -> str:
    return f"{processor()}, {os.cpu_count()} cores"


def _powers(most: int) -> list[int]:
    return sorted({1 << i for i in range(most.bit_length()) if 1 << i <= most} | {most})


def _median_ms(run: Any) -> float:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds))


def grid_of(quality: pd.DataFrame, column: str) -> list[list[float]]:
    """A column of ``every_budget`` as R_q rows of R_c values, rounded to four places."""
    surface = quality.pivot(index="r_q", columns="r_c", values=column)
    return surface.round(4).to_numpy().tolist()
