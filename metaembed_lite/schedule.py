"""How long a training run is, and the arguments that it gives to sentence-transformers' trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoderTrainingArguments
from sentence_transformers.base.sampler import BatchSamplers

from metaembed_lite.arguments import is_finite_number, whole_number

# Meta tokens, the projection and LinearPooling start at random values, so they may need a larger
# learning rate.
FRESH_WEIGHTS = r"trainable_tokens|(^|model\.)\d+\.linear\."
PRECISIONS = ("fp32", "bf16", "fp16")
DEFAULT_STEPS = 1000


def check_schedule(schedule: Mapping[str, Any]) -> None:
    """Check the numbers and the precision of a training run.

    Raises:
        ValueError: naming the argument and its value. Also if there are steps and epochs.

    Example:
        >>> check_schedule({"steps": 100, "learning_rate": 1e-4, "precision": "bf16"})
        >>> check_schedule({"steps": 100, "epochs": 3})
        Traceback (most recent call last):
        ...
        ValueError: steps=100 and epochs=3 both say how long to train: give one of them
    """
    steps, epochs = schedule.get("steps"), schedule.get("epochs")
    if steps is not None and epochs is not None:
        raise ValueError(
            f"steps={steps!r} and epochs={epochs!r} both say how long to train: give one of them"
        )
    for name, value in schedule.items():
        if name in ("steps", "epochs") and value is None:
            continue
        if name in ("steps", "batch_size", "log_steps", "save_steps"):
            whole_number(value, name)
        elif name == "epochs" and not (is_finite_number(value) and value > 0):
            raise ValueError(f"epochs={value!r}: use a number above 0, such as 3 or 0.5")
        elif name in ("warmup_steps", "seed"):
            whole_number(value, name, least=0)
        elif name.endswith("learning_rate"):
            optional = name == "fresh_learning_rate" and value is None
            if not optional and not (is_finite_number(value) and value > 0):
                raise ValueError(f"{name}={value!r}: use a positive, finite number such as 1e-4")
        elif name == "precision" and value not in PRECISIONS:
            raise ValueError(f"precision {value!r}: choose 'fp32', 'bf16' or 'fp16'")


def count_steps(
    steps: int | None, epochs: float | None, lengths: Sequence[int], batch_size: int, devices: int
) -> int:
    """The optimizer steps of a run that is given in steps, in epochs, or in neither.

    In an epoch, each row is used once. Rows that do not fill a batch are left out.

    Args:
        steps: optimizer steps. None is ``DEFAULT_STEPS`` if ``epochs`` is None, too.
        epochs: passes over the rows, or None. A part of a step is rounded up.
        lengths: rows of each training set. A batch comes from one set.
        batch_size: queries per step and device.
        devices: number of processes.

    Example:
        >>> count_steps(None, 2, lengths=[100], batch_size=32, devices=1)  # 4 rows are left out
        6
    """
    if epochs is None:
        return DEFAULT_STEPS if steps is None else int(steps)
    batches = sum(length // batch_size for length in lengths)
    return math.ceil(epochs * (batches // devices))


def training_arguments(
    checkpoints: str | Path,
    *,
    steps: int = DEFAULT_STEPS,
    batch_size: int = 64,
    learning_rate: float = 1e-4,
    fresh_learning_rate: float | None = None,
    warmup_steps: int = 50,
    save_steps: int | None = 250,
    log_steps: int = 10,
    precision: str = "fp32",
    gradient_checkpointing: bool = False,
    seed: int = 0,
    use_cpu: bool = False,
    **more: Any,
) -> MultiVectorEncoderTrainingArguments:
    """The trainer's arguments that ``train`` uses. Those not listed here are described there.

    Args:
        checkpoints: the folder of the checkpoints.
        save_steps: steps between checkpoints. None writes none. Defaults to 250.
        use_cpu: train on the CPU even where there is a GPU. Defaults to False.
        **more: other arguments of ``MultiVectorEncoderTrainingArguments``, such as
            ``eval_strategy="steps"``. They replace what this function would set.

    Example:
        >>> arguments = training_arguments("out", steps=100, save_steps=None, use_cpu=True)
        >>> arguments.max_steps, arguments.lr_scheduler_type.value
        (100, 'cosine')
    """
    values: dict[str, Any] = {
        "max_steps": steps,
        "per_device_train_batch_size": batch_size,
        "learning_rate": learning_rate,
        "learning_rate_mapping": {FRESH_WEIGHTS: fresh_learning_rate}
        if fresh_learning_rate
        else {},
        "lr_scheduler_type": "cosine",
        "warmup_steps": warmup_steps,
        "weight_decay": 0.0,
        "batch_sampler": BatchSamplers.BATCH_SAMPLER,
        "dataloader_drop_last": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "save_strategy": "no" if save_steps is None else "steps",
        "save_steps": 500 if save_steps is None else save_steps,
        "save_total_limit": 2,
        "logging_steps": min(log_steps, steps),
        "use_cpu": use_cpu,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "ddp_find_unused_parameters": False,
        "report_to": [],
        "seed": seed,
    }
    if gradient_checkpointing:
        values["gradient_checkpointing"] = True
    return MultiVectorEncoderTrainingArguments(str(checkpoints), **values | more)
