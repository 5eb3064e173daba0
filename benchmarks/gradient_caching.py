"""Peak memory and time of a training step as the batch grows, with and without gradient caching.

python benchmarks/gradient_caching.py

Each measurement runs in a process of its own: a process never gives its peak back.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import typer
from report import write


def measure(batch_size: int, mini_batch_size: int) -> dict[str, float]:
    """One step on the tiny backbone: MiB of memory beyond what the loaded model takes, seconds."""
    from metaembed_lite import (
        CachedMatryoshkaMultiVectorLoss,
        MatryoshkaMultiVectorLoss,
        build,
        recipes,
    )
    from metaembed_lite.data.handwriting import training_rows

    recipe = recipes.read("tiny")
    model = build(**recipe.model, device="cpu").train()
    rows = training_rows(batch_size, 0)
    columns = [
        model.preprocess(rows[name], task="query" if name == "query" else "document")
        for name in ("query", "positive", "negative")
    ]
    settings = {"budgets": recipe.train["budgets"], "temperature": recipe.train["temperature"]}
    if mini_batch_size:
        loss = CachedMatryoshkaMultiVectorLoss(model, **settings, mini_batch_size=mini_batch_size)
    else:
        loss = MatryoshkaMultiVectorLoss(model, **settings)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    loss(columns).backward()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"mib": round((peak - before) / 1024), "seconds": round(seconds, 2)}


def main(one: str = "") -> None:
    """Measure every pair of sizes; ``--one BATCH,PART`` measures one and prints its JSON."""
    if one:
        batch_size, part = map(int, one.split(","))
        print(json.dumps(measure(batch_size, part)))
        return
    rows = []
    for batch_size in (32, 64, 128, 256):
        for part in (0, 16):
            command = [sys.executable, __file__, "--one", f"{batch_size},{part}"]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found = json.loads(said.strip().splitlines()[-1])
            rows.append({"batch_size": batch_size, "mini_batch_size": part or None, **found})
            print(rows[-1], flush=True)
    print("written:", write("gradient_caching", {"rows": rows}))


if __name__ == "__main__":
    typer.run(main)
