"""Load: 100,000 candidates and 10,000 queries, within 8 GB."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from abuse.tally import Effort, Row
from abuse.things import start

MEMORY = 8 * 10**9  # bytes

PROGRAM = """
import json, resource, sys, time
import numpy as np, torch
from metaembed_lite import MetaIndex, maxsim
torch.set_num_threads(1)
path, n, n_queries = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
budgets = [(1, 1), (2, 4), (4, 8), (8, 16)]
def vectors(start, count):
    generator = torch.Generator().manual_seed(start)
    return torch.nn.functional.normalize(torch.randn(count, 16, 128, generator=generator), dim=2)
index = MetaIndex.create(path, 128, budgets)
started = time.perf_counter()
step = min(n, 2000)
index.add_batches(
    (([f"{i}" for i in range(s, s + step)], vectors(s, step)) for s in range(0, n, step)),
    progress=False,
)
adding = time.perf_counter() - started
generator = torch.Generator().manual_seed(7)
targets = torch.randint(n, (n_queries,), generator=generator).sort().values.tolist()
kinds = {"(1, 1), scan": dict(budget=(1, 1)), "(1, 1) then (8, 16) of 200": dict(budget=(8, 16), prefetch=[((1, 1), 200)]),
         "(8, 16), scan": dict(budget=(8, 16))}
share = {"(1, 1), scan": 0.49, "(1, 1) then (8, 16) of 200": 0.49, "(8, 16), scan": 0.02}
seconds, wrong, done = {name: [] for name in kinds}, 0, 0
problems = []
blocks = {}
for name, settings in kinds.items():
    for target in targets[done : done + max(1, round(n_queries * share[name]))]:
        start = target // step * step
        if start not in blocks:
            blocks.clear()
            blocks[start] = vectors(start, step)
        noise = 0.1 * torch.randn(8, 128, generator=generator) / 128**0.5
        query = torch.nn.functional.normalize(blocks[start][target - start, :8] + noise, dim=1)
        began = time.perf_counter()
        found = index.search(query, k=10, **settings)
        seconds[name].append(time.perf_counter() - began)
        budget = settings["budget"]
        expected = maxsim(query[None], blocks[start][target - start][None].half().float(), budget)
        if found.id[0] != str(target) or abs(found.score[0] - expected.item()) > 1e-3:
            problems.append(f"{name}: {target} is not first: {found.id[0]} {found.score[0]}")
        done += 1
memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
latency = {name: {"searches": len(s), **{f"p{p}_ms": round(1000 * float(np.percentile(s, p)), 2)
    for p in (50, 95, 99)}, "max_ms": round(1000 * max(s), 2)} for name, s in seconds.items()}
print("LOAD" + json.dumps({"candidates": n, "queries": done, "adding_seconds": round(adding, 1),
    "memory_bytes": memory, "latency": latency, "problems": problems}))
"""


def abuse(effort: Effort, folder: Path) -> list[Row]:
    """An index of random vectors. Each query is a candidate with noise, which must come first."""
    row = Row("100,000 candidates, 10,000 queries: the right one first, within 8 GB", 10_001)
    candidates, queries = effort.count(100_000, 4000), effort.count(10_000, 60)
    path = folder / "large-index"
    child = start(PROGRAM, path, str(candidates), str(queries))
    output, errors = child.communicate()
    shutil.rmtree(path, ignore_errors=True)
    line = next((line for line in output.splitlines() if line.startswith("LOAD")), None)
    if line is None:
        row.fail("the process", errors[-300:])
        return [row]
    report = json.loads(line.removeprefix("LOAD"))
    problems = report.pop("problems")
    for problem in problems:
        row.fail("a search", problem)
    row.survived += report["queries"] - len(problems)
    row.check("memory", report["memory_bytes"] <= MEMORY, f"{report['memory_bytes']:,} bytes")
    row.measured = report
    return [row]
