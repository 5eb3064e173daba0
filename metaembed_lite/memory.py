"""How much memory a training run will take, before it starts: an estimate, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from metaembed_lite.budget import Budget

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import MultiVectorEncoder

# Bytes of activations that a transformer layer keeps for backward, a token and hidden unit, at two
# bytes a value and without the attention matrix, which sdpa and flash attention do not keep
# (Korthikanti et al., 2022, equation 2); with checkpointing only the layer's input stays.
ACTIVATION_BYTES, CHECKPOINT_BYTES = 34, 2


def estimate(
    model: MultiVectorEncoder,
    rows: Dataset,
    budgets: Sequence[Budget],
    batch_size: int,
    mini_batch_size: int | None = None,
    gradient_checkpointing: bool = False,
    devices: int = 1,
) -> dict[str, int]:
    """Bytes of a training step on one device, by part, in the order in which they add up.

    Args:
        model: to train.
        rows: training rows; the first few are tokenized to see how long inputs are.
        budgets: nested; the last decides the similarity tensor.
        batch_size: queries a device.
        mini_batch_size: inputs encoded at a time, with gradient caching; None: all at once.
        gradient_checkpointing: keep only what enters each layer.
        devices: processes whose candidates are gathered.

    Returns:
        Bytes of "weights", "gradients and optimizer", "activations", "similarities". Pixels and
        the activations of a frozen vision tower, of which little is kept, are not counted.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    config = model[0].model.config.get_text_config()
    columns = [name for name in rows.column_names if not name.startswith("__")]
    first = rows[: min(len(rows), 8)]
    tokens = 0  # of one row, all its columns
    for column in columns:
        task = "query" if column == columns[0] else "document"
        width = model.preprocess(first[column], task=task)["input_ids"].shape[1]
        tokens = max(tokens, width) if mini_batch_size else tokens + width
    size = next(model.parameters()).element_size()
    held = min(batch_size, mini_batch_size or batch_size)
    kept = activation_bytes(config.num_hidden_layers, config.hidden_size, gradient_checkpointing)
    candidates = batch_size * (len(columns) - 1) * devices
    return {
        "weights": weights,
        "gradients and optimizer": 3 * trained,  # a gradient and Adam's two moments
        "activations": held * tokens * kept * size // 2,
        "similarities": similarity_bytes(held, candidates, budgets[-1]),
    }


def activation_bytes(layers: int, hidden: int, gradient_checkpointing: bool = False) -> int:
    """What a decoder keeps of one token for backward, in bytes, at two bytes a value."""
    if gradient_checkpointing:  # every layer's input, and all of the one computed anew
        return (CHECKPOINT_BYTES * layers + ACTIVATION_BYTES) * hidden
    return ACTIVATION_BYTES * layers * hidden


def similarity_bytes(queries: int, candidates: int, budget: Budget) -> int:
    """The loss's (queries, candidates, r_q, r_c) float32 similarities and their gradient."""
    return 2 * 4 * queries * candidates * budget.r_q * budget.r_c


def available(device: torch.device) -> int | None:
    """Free bytes on a device; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    info = Path("/proc/meminfo")
    if device.type != "cpu" or not info.is_file():
        return None
    lines = dict(line.split(":") for line in info.read_text().splitlines())
    return 1024 * int(lines["MemAvailable"].split()[0])


def check(parts: dict[str, int], device: torch.device, loaded: str = "weights") -> str:
    """A line that says what is needed and what is free.

    Args:
        parts: what ``estimate`` returned.
        device: where the run will be.
        loaded: the part that takes its place already.

    Raises:
        MemoryError: if more is needed than is free.
    """
    free = available(device)
    needed = sum(size for name, size in parts.items() if name != loaded)
    listed = ", ".join(f"{name} {readable(size)}" for name, size in parts.items())
    line = f"memory per device, estimated: {listed}"
    if free is None:
        return f"{line}; what is free on {device} is not known"
    line += f"; free on {device}: {readable(free)}"
    if needed > free:
        raise MemoryError(
            f"{line}. That will not fit: lower batch_size, set mini_batch_size (gradient caching) "
            "or a smaller one, gradient_checkpointing=True, or build with dtype='bfloat16'"
        )
    return line


def readable(size: int) -> str:
    """Bytes in MiB, or in GiB from one GiB up."""
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"
