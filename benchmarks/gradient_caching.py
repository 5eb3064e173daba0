"""Measure memory and time of a training step per batch size, with and without gradient caching.

    python benchmarks/gradient_caching.py                                          # tiny-vlm, CPU
    python benchmarks/gradient_caching.py --backbone Qwen/Qwen2.5-VL-3B-Instruct   # a GPU, bfloat16

Each measurement runs in a new process, because the peak memory of a process never falls.
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
from sentence_transformers.util import batch_to_device

from metaembed_lite import (
    CachedMatryoshkaMultiVectorLoss,
    MatryoshkaMultiVectorLoss,
    build,
    recipes,
)
from metaembed_lite.data.handwriting import training_rows


def measure_step(backbone: str, batch_size: int, mini_batch_size: int) -> dict[str, float]:
    """Run forward and backward once: seconds, and MiB of memory beyond the loaded model."""
    recipe = recipes.read("tiny-handwriting")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "bfloat16" if device == "cuda" else "float32"
    settings = recipe.model | {"backbone": backbone, "dtype": dtype, "device": device}
    model = build(**settings).train()
    rows = training_rows(batch_size, 0)
    columns = [
        model.preprocess(rows[name], task="query" if name == "query" else "document")
        for name in ("query", "positive", "negative")
    ]
    loss_settings = {name: recipe.train[name] for name in ("budgets", "temperature")}
    if mini_batch_size:
        loss = CachedMatryoshkaMultiVectorLoss(
            model, **loss_settings, mini_batch_size=mini_batch_size
        )
    else:
        loss = MatryoshkaMultiVectorLoss(model, **loss_settings)
    columns = [batch_to_device(column, torch.device(device)) for column in columns]
    peak_before = peak_mib(device)
    started = time.perf_counter()
    loss(columns).backward()
    peak = peak_mib(device)  # waits until a GPU is done
    seconds = time.perf_counter() - started
    return {"mib": round(peak - peak_before), "seconds": round(seconds, 2)}


def peak_mib(device: str) -> float:
    """Return the peak memory so far: of the tensors on a GPU, or of the whole process on a CPU."""
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(backbone: str = "tiny-vlm", one: str = "") -> None:
    """Measure all sizes. ``--one BATCH,MINI_BATCH`` measures one step and prints its JSON.

    MINI_BATCH is 0 for a step without gradient caching.
    """
    if one:
        batch_size, mini_batch_size = map(int, one.split(","))
        print(json.dumps(measure_step(backbone, batch_size, mini_batch_size)))
        return
    rows = []
    for batch_size in (32, 64, 128, 256):
        for mini_batch_size in (0, 16):
            sizes = f"{batch_size},{mini_batch_size}"
            command = [sys.executable, __file__, "--backbone", backbone, "--one", sizes]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            cost = json.loads(output.strip().splitlines()[-1])
            row = {"batch_size": batch_size, "mini_batch_size": mini_batch_size or None, **cost}
            rows.append(row)
            print(row, flush=True)
    name = "gradient_caching" + ("" if backbone == "tiny-vlm" else f"_{Path(backbone).name}")
    print("written:", write(name, {"backbone": backbone, "rows": rows}))


if __name__ == "__main__":
    typer.run(main)
