"""Load: 100,000 candidates and 10,000 queries, within 8 GB."""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from abuse.tally import Effort, Row
from abuse.things import start, unit
from metaembed_lite import MetaIndex, maxsim

MEMORY = 8 * 10**9  # bytes
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of the system's record of memory
BUDGETS = [(1, 1), (2, 4), (4, 8), (8, 16)]
DIM = 128
BLOCK = 2000  # candidates whose vectors are made together
SEARCHES: dict[str, tuple[float, dict[str, Any]]] = {  # name -> share of the queries, settings
    "(1, 1), all candidates": (0.49, {"budget": (1, 1)}),
    "(1, 1), then (8, 16) of the best 200": (
        0.49, {"budget": (8, 16), "prefetch": [((1, 1), 200)]}
    ),
    "(8, 16), all candidates": (0.02, {"budget": (8, 16)}),
}  # fmt: skip


def block(start: int) -> torch.Tensor:
    """The vectors of ``BLOCK`` candidates, which follow from the number of the first."""
    return unit(BLOCK, 16, DIM, seed=start)


def print_report(path: str, n_candidates: int, n_queries: int) -> None:
    """Fill an index, search it, and print what went wrong, how long it took, and the memory."""
    torch.set_num_threads(1)
    index = MetaIndex.create(path, DIM, BUDGETS)
    began = time.perf_counter()
    starts = range(0, n_candidates, BLOCK)
    batches = ((list(map(str, range(s, s + BLOCK))), block(s)) for s in starts)
    index.add_batches(batches, progress=False)
    adding = time.perf_counter() - began
    problems: list[str] = []
    latency = {}
    for i, (name, (share, settings)) in enumerate(SEARCHES.items()):
        rng = torch.Generator().manual_seed(i)
        n = max(1, round(share * n_queries))
        targets = torch.randint(n_candidates, (n,), generator=rng).sort().values.tolist()
        seconds = search_all(index, targets, settings, rng, problems)
        percentiles = np.percentile(1000 * np.array(seconds), [50, 95, 99, 100]).round(2).tolist()
        keys = ("p50_ms", "p95_ms", "p99_ms", "max_ms")
        latency[name] = {"searches": n, **dict(zip(keys, percentiles, strict=True))}
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = {
        "candidates": len(index), "queries": sum(t["searches"] for t in latency.values()),
        "adding_seconds": round(adding, 1), "memory_bytes": usage * RSS_UNIT, "latency": latency,
        "problems": problems,
    }  # fmt: skip
    print(json.dumps(report))


def search_all(
    index: MetaIndex, targets: list[int], settings: dict[str, Any], rng: Any, problems: list[str]
) -> list[float]:
    """Search for each target, by its first vectors with noise. Returns seconds per search."""
    seconds, start, vectors = [], -1, torch.empty(0)
    for target in targets:
        if target // BLOCK * BLOCK != start:
            start = target // BLOCK * BLOCK
            vectors = block(start)
        candidate = vectors[target - start]
        noise = 0.1 * torch.randn(8, DIM, generator=rng) / DIM**0.5
        query = torch.nn.functional.normalize(candidate[:8] + noise, dim=1)
        began = time.perf_counter()
        found = index.search(query, k=10, **settings)
        seconds.append(time.perf_counter() - began)
        stored = candidate[None].half().float()
        score = maxsim(query[None], stored, settings["budget"]).item()
        if found.id[0] != str(target) or abs(found.score[0] - score) > 1e-3:
            problems.append(f"{settings}: {target} is not first, but {found.id[0]}")
    return seconds


def abuse(effort: Effort, folder: Path) -> list[Row]:
    """An index of random vectors. Each query is a candidate with noise, which must come first."""
    row = Row("100,000 candidates, 10,000 queries: the right one first, within 8 GB", 10_001)
    candidates, queries = effort.count(100_000, 4000), effort.count(10_000, 60)
    path = folder / "large-index"
    arguments = f"{str(path)!r}, {candidates}, {queries}"
    child = start(f"from abuse.load import print_report; print_report({arguments})")
    output, errors = child.communicate()
    shutil.rmtree(path, ignore_errors=True)
    if child.returncode:
        row.fail("the process", errors[-300:])
        return [row]
    report = json.loads(output.splitlines()[-1])
    problems = report.pop("problems")
    for problem in problems:
        row.fail("a search", problem)
    row.survived += report["queries"] - len(problems)
    row.check("memory", report["memory_bytes"] <= MEMORY, f"{report['memory_bytes']:,} bytes")
    row.measured = report
    return [row]
