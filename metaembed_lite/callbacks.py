"""Callbacks of the trainer: log the loss of each budget, and mark complete checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from metaembed_lite.training_run import mark_whole

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder


class LossByBudget(TrainerCallback):
    """Adds the loss of each budget to the trainer's log, averaged since the previous row.

    Args:
        loss: ``MatryoshkaMultiVectorLoss`` or its cached form.
        devices: number of processes. Defaults to 1.

    Example:
        >>> from metaembed_lite import MatryoshkaMultiVectorLoss, load
        >>> loss = MatryoshkaMultiVectorLoss(load("tiny", device="cpu"))
        >>> callback = LossByBudget(loss)  # MultiVectorEncoderTrainer(..., callbacks=[callback])
    """

    def __init__(self, loss: Any, devices: int = 1) -> None:
        self.loss, self.devices = loss, devices
        self.steps: list[list[float]] = []  # (G,) losses of each step since the previous row

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        losses = self.loss.losses_by_budget.clone()
        if self.devices > 1:
            torch.distributed.all_reduce(losses)
        self.steps.append((losses / self.devices).tolist())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.steps and "loss" in logs:
            means = [sum(values) / len(self.steps) for values in zip(*self.steps, strict=True)]
            state.log_history[-1].update(zip(map(str, self.loss.budgets), means, strict=True))
            self.steps.clear()


class MarkWhole(TrainerCallback):
    """Marks a checkpoint as complete once every process has written its part. NaN is an error.

    Args:
        model: the model that is trained.
        devices: number of processes. Defaults to 1.

    Example:
        >>> from metaembed_lite import load
        >>> callback = MarkWhole(load("tiny", device="cpu"))
    """

    def __init__(self, model: MultiVectorEncoder, devices: int = 1) -> None:
        self.model, self.devices = model, devices

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.devices > 1:
            torch.distributed.barrier()
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not parameter.isfinite().all():
                if state.is_world_process_zero:
                    shutil.rmtree(checkpoint)  # the previous checkpoint, which is good, stays
                raise ValueError(
                    f"the weights {name} hold NaN or infinity at step {state.global_step}: lower "
                    "the learning rate and train again from an earlier checkpoint"
                )
        if state.is_world_process_zero:
            mark_whole(checkpoint)
