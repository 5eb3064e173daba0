"""Measure what an index of sheets costs to build and to search, for MetaEmbed and its rivals.

    OMP_NUM_THREADS=1 python benchmarks/index_costs.py

Time and size do not depend on what a model has learned, so the models are untrained. Candidates are
encoded in batches, queries one at a time. Pooled token vectors need a second pass, which clusters
them. Another number of vectors per candidate needs that pass again.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import typer
from findings import build_system
from matrix import SYSTEMS
from report import write

from metaembed_lite import load_task, maxsim, recipes
from metaembed_lite.pooling import WardPooling
from metaembed_lite.timing import median_seconds

CLUSTERED = "clustered"  # the vectors of the system "tokens", pooled after encoding
MEASURED = ("MMR", "last", "tokens", "patches", CLUSTERED, "constant", "attention")
QUERIES = {"text": "stickers", "image": "stickers/i2i"}  # kind of query -> task


def measure_system(name: str, sheets: list[Any], queries: dict[str, list[Any]]) -> dict[str, Any]:
    """Milliseconds and bytes of one system, searched with each kind of query."""
    recipe = recipes.read("tiny")
    system = "tokens" if name == CLUSTERED else name
    model = build_system(recipe, system, seed=0).eval()
    vectors, encode_ms = milliseconds(partial(model.encode_document, sheets))
    cluster_ms = 0.0
    if name == CLUSTERED:
        pooling = WardPooling(recipe.model["r_c"])
        vectors, cluster_ms = milliseconds(partial(pooling.pool, vectors))
    dim = vectors[0].shape[-1]
    index = torch.stack([vector.view(-1, dim) for vector in vectors])  # (N, R_c, D)
    return {
        "system": name,
        "label": "token vectors, clustered" if name == CLUSTERED else SYSTEMS[system].label,
        "r_c": index.shape[1],
        "bytes_per_candidate": 4 * index[0].numel(),
        "encode_ms_per_candidate": round(encode_ms / len(sheets), 2),
        "cluster_ms_per_candidate": round(cluster_ms / len(sheets), 2),
        **{kind: measure_queries(model, items, index) for kind, items in queries.items()},
    }


def measure_queries(model: Any, queries: list[Any], index: torch.Tensor) -> dict[str, float]:
    """Vectors of a query, and the milliseconds to encode it and to score the index, medians."""
    rows = []
    for query in queries:
        vector, encode_ms = milliseconds(partial(model.encode_query, query))
        vector = vector.view(1, -1, index.shape[2])  # (1, R_q, D)
        score_ms = 1000 * median_seconds(partial(maxsim, vector, index))
        rows.append((vector.shape[1], encode_ms, score_ms))
    names = ("r_q", "encode_ms", "score_ms")
    columns = zip(*rows, strict=True)
    return {n: round(statistics.median(c), 2) for n, c in zip(names, columns, strict=True)}


def milliseconds(run: Callable[[], Any]) -> tuple[Any, float]:
    """A call's result, and how long it took."""
    start = time.perf_counter()
    result = run()
    return result, 1000 * (time.perf_counter() - start)


def main(candidates: int = 1000, queries: int = 50) -> None:
    """Measure every system, print a table, and write ``book/results/index_costs.json``."""
    sheets = load_task("stickers", n_queries=math.ceil(candidates / 2), n_train=0).candidates[
        :candidates
    ]
    asked = {
        kind: load_task(task, n_queries=queries, n_train=0).queries
        for kind, task in QUERIES.items()
    }
    rows = []
    for name in MEASURED:
        rows.append(measure_system(name, sheets, asked))
        print(*rows[-1].values(), sep=" · ", flush=True)
    print(
        "written:",
        write("index_costs", {"candidates": candidates, "queries": queries, "rows": rows}),
    )


if __name__ == "__main__":
    typer.run(main)
