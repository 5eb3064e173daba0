"""Peak memory and time of a training step as the batch grows, with and without gradient caching.

    python benchmarks/gradient_caching.py                                          # tiny-vlm, CPU
    python benchmarks/gradient_caching.py --backbone Qwen/Qwen2.5-VL-3B-Instruct   # a GPU, bfloat16

Each measurement runs in a process of its own: a process never gives its peak back.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
import typer
from report import write


def measure(backbone: str, batch_size: int, mini_batch_size: int) -> dict[str, float]:
    """Forward and backward once: MiB of memory beyond what the loaded model takes, seconds."""
    from sentence_transformers.util import batch_to_device

    from metaembed_lite import (
        CachedMatryoshkaMultiVectorLoss,
        MatryoshkaMultiVectorLoss,
        build,
        recipes,
    )
    from metaembed_lite.data.handwriting import training_rows

    recipe = recipes.read("tiny")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "bfloat16" if device == "cuda" else "float32"
    own = recipe.model | {"backbone": backbone, "dtype": dtype, "device": device}
    model = build(**own).train()
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
    columns = [batch_to_device(column, torch.device(device)) for column in columns]
    before = peak_mib(device)
    started = time.perf_counter()
    loss(columns).backward()
    peak = peak_mib(device)  # waits for a GPU
    seconds = time.perf_counter() - started
    return {"mib": round(peak - before), "seconds": round(seconds, 2)}


def peak_mib(device: str) -> float:
    """The most memory so far: of a GPU what tensors took, of a CPU the whole process."""
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(backbone: str = "tiny-vlm", one: str = "") -> None:
    """Measure every pair of sizes; ``--one BATCH,PART`` measures one and prints its JSON."""
    if one:
        batch_size, part = map(int, one.split(","))
        print(json.dumps(measure(backbone, batch_size, part)))
        return
    rows = []
    for batch_size in (32, 64, 128, 256):
        for part in (0, 16):
            sizes = f"{batch_size},{part}"
            command = [sys.executable, __file__, "--backbone", backbone, "--one", sizes]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found = json.loads(said.strip().splitlines()[-1])
            rows.append({"batch_size": batch_size, "mini_batch_size": part or None, **found})
            print(rows[-1], flush=True)
    name = "gradient_caching" + ("" if backbone == "tiny-vlm" else f"_{Path(backbone).name}")
    print("written:", write(name, {"backbone": backbone, "rows": rows}))


if __name__ == "__main__":
    typer.run(main)
