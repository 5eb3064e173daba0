"""An estimate of the memory that a training run will take, part by part, before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from metaembed_lite.budget import BudgetLike, Budgets, as_budget, check_nested

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import MultiVectorEncoder

# Bytes of activations that a transformer layer keeps for the backward pass, per token and hidden
# unit. They are for two bytes per value (Korthikanti et al., 2022, equation 2). The attention
# matrix is left out, because sdpa and flash attention do not keep it. With checkpointing only a
# layer's input stays.
ACTIVATION_BYTES, CHECKPOINT_BYTES = 34, 2


@dataclass(frozen=True)
class Shape:
    """The published sizes of a backbone, so that memory is estimated before it is downloaded.

    The language model's layers have the seven linear maps of Llama and Qwen: q, k, v, o, gate, up
    and down.

    Attributes:
        parameters: all weights, without an output head, because retrieval does not use it.
        vision: those of the vision tower, which LoRA leaves frozen.
        vocabulary: rows of the embedding.
        layers: of the language model.
        hidden: its hidden size.
        intermediate: width of its MLP.
        key_value: outputs of its k and v.

    Example:
        >>> SHAPES["Qwen2.5-VL-3B"].lora_weights(rank=1)
        1870848
    """

    parameters: int
    vision: int
    vocabulary: int
    layers: int
    hidden: int
    intermediate: int
    key_value: int

    @property
    def linear_maps(self) -> dict[str, tuple[int, int]]:
        """The linear maps of one layer of the language model: name -> (inputs, outputs)."""
        return {
            "q": (self.hidden, self.hidden),
            "k": (self.hidden, self.key_value),
            "v": (self.hidden, self.key_value),
            "o": (self.hidden, self.hidden),
            "gate": (self.hidden, self.intermediate),
            "up": (self.hidden, self.intermediate),
            "down": (self.intermediate, self.hidden),
        }

    def lora_weights(self, rank: int) -> int:
        """How many weights LoRA of a rank adds: rank (m + n) per linear map."""
        return rank * self.layers * sum(n + m for n, m in self.linear_maps.values())


# From the configurations that their authors published on the hub. tests/unit/test_memory.py builds
# the models without weights and counts.
SHAPES = {
    "SmolVLM-256M": Shape(228_099_648, 86_433_024, 49_280, 30, 576, 1536, 192),
    "Qwen2.5-VL-3B": Shape(3_754_622_976, 668_684_288, 151_936, 36, 2048, 11008, 256),
    "Qwen2.5-VL-7B": Shape(7_747_169_280, 676_550_144, 152_064, 28, 3584, 18944, 512),
}


def estimate_shape(
    shape: Shape,
    lora_rank: int | None = 32,
    inputs: int = 0,
    tokens: int = 0,
    *,
    gradient_checkpointing: bool = True,
    weight_bytes: int = 2,
) -> dict[str, int]:
    """Bytes of a training step of a backbone that is not loaded, by part.

    Args:
        shape: the sizes of the backbone, such as ``SHAPES["Qwen2.5-VL-3B"]``.
        lora_rank: rank of LoRA on the language model. None trains every weight, in float32.
            Defaults to the paper's 32.
        inputs: inputs whose activations are kept at once, such as ``mini_batch_size``. Defaults to
            0, which leaves activations out.
        tokens: of one input. Defaults to 0.
        gradient_checkpointing: keep only what enters each layer. Defaults to True.
        weight_bytes: bytes per frozen weight. The embedding and what trains are float32. Defaults
            to 2, as in bfloat16.

    Returns:
        Bytes of "weights", "gradients", "Adam's moments" and "activations" of the language model.
        Meta tokens, a projection and the similarities of the loss are small and not counted. Pixels
        and what a frozen vision tower computes are not counted either.

    Example:
        >>> parts = estimate_shape(SHAPES["Qwen2.5-VL-3B"], lora_rank=None)
        >>> readable(sum(parts.values()))
        '55.95 GiB'
    """
    if lora_rank is None:
        trained, weights = shape.parameters, 4 * shape.parameters
    else:
        trained = shape.lora_weights(lora_rank)
        embedding = shape.vocabulary * shape.hidden
        weights = weight_bytes * (shape.parameters - embedding) + 4 * (embedding + trained)
    per_token = activation_bytes(shape.layers, shape.hidden, gradient_checkpointing)
    return {
        "weights": weights,
        "gradients": 4 * trained,
        "Adam's moments": 8 * trained,
        "activations": inputs * tokens * per_token,
    }


def estimate(
    model: MultiVectorEncoder,
    rows: Dataset,
    budgets: Budgets,
    batch_size: int,
    mini_batch_size: int | None = None,
    gradient_checkpointing: bool = False,
    devices: int = 1,
) -> dict[str, int]:
    """Bytes of a training step on one device, by part, one entry per part.

    Args:
        model: the model to train.
        rows: training rows. The first few are tokenized to see how long inputs are.
        budgets: nested. The last one decides the size of the similarity tensor.
        batch_size: queries per device.
        mini_batch_size: inputs encoded at a time, with gradient caching. Defaults to all.
        gradient_checkpointing: keep only what enters each layer. Defaults to False.
        devices: processes whose candidates are gathered. Defaults to 1.

    Returns:
        Bytes of "weights", "gradients and optimizer", "activations", "similarities". Pixels and
        the activations of a frozen vision tower are not counted, because little of them is kept.

    Example:
        >>> from metaembed_lite import load, load_task
        >>> rows = load_task("stickers", n_queries=4, n_train=8).train
        >>> parts = estimate(load("tiny", device="cpu"), rows, (8, 16), batch_size=64)
        >>> sorted(parts)
        ['activations', 'gradients and optimizer', 'similarities', 'weights']
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trainable = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    config = model[0].model.config.get_text_config()
    columns = [name for name in rows.column_names if not name.startswith("__")]
    sample = rows[: min(len(rows), 8)]
    tokens = 0  # of one row, all its columns
    for column in columns:
        task = "query" if column == columns[0] else "document"
        width = model.preprocess(sample[column], task=task)["input_ids"].shape[1]
        tokens = max(tokens, width) if mini_batch_size else tokens + width
    value_bytes = next(model.parameters()).element_size()
    inputs = min(batch_size, mini_batch_size or batch_size)
    per_token = activation_bytes(
        config.num_hidden_layers, config.hidden_size, gradient_checkpointing
    )
    candidates = batch_size * (len(columns) - 1) * devices
    return {
        "weights": weights,
        "gradients and optimizer": 3 * trainable,  # a gradient and Adam's two moments
        "activations": inputs * tokens * per_token * value_bytes // 2,
        "similarities": similarity_bytes(inputs, candidates, check_nested(budgets)[-1]),
    }


def activation_bytes(layers: int, hidden: int, gradient_checkpointing: bool = False) -> int:
    """Bytes that a decoder keeps per token for backward, at two bytes per value.

    Example:
        >>> activation_bytes(layers=36, hidden=2048)
        2506752
    """
    if gradient_checkpointing:  # every layer's input, and all of the layer that is recomputed
        return (CHECKPOINT_BYTES * layers + ACTIVATION_BYTES) * hidden
    return ACTIVATION_BYTES * layers * hidden


def similarity_bytes(queries: int, candidates: int, budget: BudgetLike) -> int:
    """Bytes of the loss's (queries, candidates, r_q, r_c) float32 similarities and their gradient.

    Example:
        >>> similarity_bytes(queries=64, candidates=128, budget="16x64")
        67108864
    """
    pairs = as_budget(budget).multiply_adds(dim=1)  # of vectors, per query and candidate
    return 2 * 4 * queries * candidates * pairs


def available(device: torch.device) -> int | None:
    """Free bytes on a device. None where the system does not report them.

    Example:
        >>> free = available(torch.device("cpu"))
        >>> free is None or free > 0
        True
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    info = Path("/proc/meminfo")
    if device.type != "cpu" or not info.is_file():
        return None
    lines = dict(line.split(":") for line in info.read_text().splitlines())
    return 1024 * int(lines["MemAvailable"].split()[0])


def check(parts: dict[str, int], device: torch.device, loaded: str = "weights") -> str:
    """A line on the memory that is needed and free.

    Args:
        parts: from ``estimate``.
        device: the device of the run.
        loaded: the part that is in memory already. Defaults to "weights".

    Raises:
        MemoryError: if more is needed than is free.

    Example:
        >>> check({"weights": 2**30, "activations": 2**20}, torch.device("cpu"))
        'memory per device, estimated: weights 1.00 GiB, activations 1.0 MiB; ...'
    """
    free = available(device)
    needed = sum(size for name, size in parts.items() if name != loaded)
    text = ", ".join(f"{name} {readable(size)}" for name, size in parts.items())
    line = f"memory per device, estimated: {text}"
    if free is None:
        return f"{line}; the free memory on {device} is not known"
    line += f"; free on {device}: {readable(free)}"
    if needed > free:
        raise MemoryError(
            f"{line}. That will not fit: lower batch_size, set or lower mini_batch_size (gradient "
            "caching), set gradient_checkpointing=True, or build with dtype='bfloat16'"
        )
    return line


def readable(size: int) -> str:
    """Bytes in MiB, or in GiB from one GiB up.

    Example:
        >>> readable(3 * 2**20), readable(5 * 2**30)
        ('3.0 MiB', '5.00 GiB')
    """
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"
