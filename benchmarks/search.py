"""Search 100,000 sheets of stickers on disk: bytes, milliseconds and quality per budget.

    OMP_NUM_THREADS=2 python benchmarks/search.py

Sheets are rendered, encoded by ``tiny`` and added to an index under ``_build/``, which later runs
use again. Every way to search is measured on the same 500 queries. Half of the candidates are hard
negatives. "Cold" means that the system was asked to drop the index from its cache of files.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from report import write

from metaembed_lite import Budget, MetaIndex, load
from metaembed_lite.data.sheets import grade_sheets, render_sheet
from metaembed_lite.data.stickers import describe, sample_triple
from metaembed_lite.data.task import split_rng
from metaembed_lite.evaluation import ndcg_at_5, precision_at_1

BUILD = Path("_build") / "search"
BUDGETS = ("1x1", "2x4", "4x8", "8x16")
CASCADES: dict[str, list[tuple[str, int]]] = {
    "(1, 1) keeps 1,000": [("1x1", 1000)],
    "(1, 1) keeps 300": [("1x1", 300)],
    "(1, 1) keeps 1,000, (4, 8) keeps 100": [("1x1", 1000), ("4x8", 100)],
    "(2, 4) keeps 200": [("2x4", 200)],
}
STORED = (
    ("float32", None),
    ("int8", None),
    ("binary", None),
    ("int8", "float16"),
    ("binary", "float16"),
)
QUERIES = 500
TIMED = 50  # queries whose time is measured, one at a time
COLD = 5  # searches of each kind from a cold cache
K = 1000  # results that the metrics see


def sample(n_sheets: int) -> tuple[list[str], list[Any], np.ndarray]:
    """Queries, sheets and relevance (Q, N). The first sheets are those of the queries."""
    rng = split_rng(0, "test")
    triples = [sample_triple(rng) for _ in range(n_sheets // 2)]
    sheets = [sheet for t in triples for sheet in (t.sheet, t.negative)]
    named = [t.named for t in triples[:QUERIES]]
    return [describe(n) for n in named], sheets, grade_sheets(named, sheets)


def build(model: Any, sheets: Sequence[Any], path: Path) -> MetaIndex:
    """The index of all sheets. Only a complete one is used again."""
    if path.exists():
        index = MetaIndex.open(path, model=model)
        if len(index) == len(sheets):
            return index
    else:
        index = MetaIndex.create(path, 128, BUDGETS, model=model, model_name="tiny")
    index.add_from(model, map(render_sheet, sheets))
    index.optimize()
    return index


def restore(index: MetaIndex, dtype: str, rescore: str | None) -> MetaIndex:
    """The same candidates, stored in another type."""
    path = Path(f"{index.path}-{dtype}-{rescore}")
    if path.exists():
        return MetaIndex.open(path)
    columns = index.columns
    copy = MetaIndex.create(path, columns.dim, columns.budgets, dtype, rescore=rescore)
    copy.add_batches(index.batches(), progress=False)
    return copy


def forget(path: str) -> None:
    """Ask the system to drop the files of an index from its cache."""
    for file in Path(path).rglob("*.lance"):
        if file.is_file():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(
    name: str, index: MetaIndex, queries: torch.Tensor, relevance: np.ndarray, **search: Any
) -> dict[str, Any]:
    """Quality over all queries, bytes and milliseconds per query."""
    warm = [_search_once(index, query, search) for query in queries[:TIMED]]
    cold = []
    for query in queries[:COLD]:
        forget(index.path)
        cold.append(_search_once(index, query, search)["ms"])
    row = {
        "search": name,
        "dtype": index.columns.dtype,
        "rescore": index.columns.rescore,
        "bytes_read": round(statistics.mean(run["bytes"] for run in warm)),
        "ms": round(statistics.median(run["ms"] for run in warm), 2),
        "ms_quartiles": [
            round(float(q), 2) for q in np.quantile([r["ms"] for r in warm], [0.25, 0.75])
        ],
        "ms_cold": round(statistics.median(cold), 2),
        **_quality(index, queries, relevance, search),
    }
    print(*row.values(), sep=" · ", flush=True)
    return row


def _search_once(index: MetaIndex, query: torch.Tensor, search: dict[str, Any]) -> dict[str, Any]:
    start = time.perf_counter()
    results = index.search(query, 10, **search)
    ms = 1000 * (time.perf_counter() - start)
    return {"ms": ms, "bytes": results.attrs["stats"]["bytes_read"]}


def _quality(
    index: MetaIndex, queries: torch.Tensor, relevance: np.ndarray, search: dict[str, Any]
) -> dict[str, float]:
    """P@1 and NDCG@5. Candidates that are not among the results rank last."""
    kept = min([keep for _, keep in search.get("prefetch", ())], default=K)
    scores = np.full(relevance.shape, -1e3, dtype=np.float32)
    results = index.search_batch(queries, min(K, kept), **search)
    scores[results["query"].to_numpy(), results.id.astype(int).to_numpy()] = results.score
    return {
        "p_at_1": round(precision_at_1(scores, relevance), 4),
        "ndcg_at_5": round(ndcg_at_5(scores, relevance), 4),
    }


def peak_memory(path: Path, n_candidates: int) -> dict[str, float]:
    """Megabytes that a search over random vectors (N, 16, 64) takes, in a separate process."""
    command = [sys.executable, __file__, "--memory-of", str(path), "--sheets", str(n_candidates)]
    for _ in range(1 if path.exists() else 2):  # the first one fills the index
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    before, peak = map(float, done.stdout.split())
    return {
        "candidates": n_candidates,
        "mb_after_imports": round(before, 1),
        "mb_at_most": round(peak, 1),
    }


def print_memory(path: Path, n_candidates: int) -> None:
    """Search once at the full budget, and print resident megabytes before and at most.

    A process that fills the index ends before that, because its own memory would count.
    """

    def random_batches() -> Iterator[tuple[list[str], torch.Tensor]]:
        for first in range(0, n_candidates, 10_000):
            ids = [str(i) for i in range(first, first + 10_000)]
            yield ids, torch.nn.functional.normalize(torch.randn(10_000, 16, 64), dim=2)

    if not path.exists():
        MetaIndex.create(path, 64, BUDGETS).add_batches(random_batches(), progress=False)
        return
    index = MetaIndex.open(path)
    before = resident_megabytes("VmRSS")
    results = index.search(torch.nn.functional.normalize(torch.randn(8, 64), dim=1), 10)
    assert results.attrs["stats"]["bytes_read"] == n_candidates * 16 * 64 * 2
    print(before, resident_megabytes("VmHWM"))


def resident_megabytes(field: str) -> float:
    """Memory of this process: now ("VmRSS") or at most so far ("VmHWM").

    ``getrusage`` would start at the memory of the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6


def main(
    sheets: int = 100_000,
    only_build: Annotated[bool, typer.Option(help="Encode, and measure another time.")] = False,
    memory_of: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Build the index, measure every way to search it, and write ``book/results/search.json``."""
    if memory_of is not None:
        print_memory(memory_of, sheets)
        return
    model = load("tiny", device="cpu")
    texts, all_sheets, relevance = sample(sheets)
    start = time.perf_counter()
    index = build(model, all_sheets, BUILD / f"tiny-{sheets}")
    print(f"{index}, built or opened in {time.perf_counter() - start:.0f} s")
    if only_build:
        return
    queries = torch.stack([e.cpu() for e in model.encode_query(texts, batch_size=64)])
    rows = [measure(str(Budget.parse(b)), index, queries, relevance, budget=b) for b in BUDGETS]
    for name, prefetch in CASCADES.items():
        rows.append(measure(name, index, queries, relevance, prefetch=prefetch))
    for dtype, rescore in STORED:
        stored = restore(index, dtype, rescore)
        name = "(8, 16)" if rescore is None else "(8, 16), then rescore"
        rows.append(measure(name, stored, queries, relevance))
    index.build_ann()
    for nprobes in (10, 50):
        name = f"ANN index, {nprobes} partitions, keeps 1,000"
        rows.append(
            measure(name, index, queries, relevance, prefetch=[("1x1", 1000)], nprobes=nprobes)
        )
    memory = peak_memory(BUILD / "random-1m", 1_000_000)
    sizes = {
        "sheets": sheets,
        "queries": QUERIES,
        "relevant_per_query": float(relevance.sum()) / QUERIES,
    }
    print("written:", write("search", {**sizes, "rows": rows, "memory": memory}))


if __name__ == "__main__":
    typer.run(main)
