"""Callbacks of the trainer: late nesting, the loss of each budget, and complete checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from metaembed_lite.arguments import is_finite_number
from metaembed_lite.training_run import mark_whole

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder


class NestAfter(TrainerCallback):
    """Late nesting: trains only the largest budget at first, and then all nested budgets.

    The number of the step decides. So a resumed run continues in the right phase, and processes
    that train together do not have to communicate. Until nesting starts, the smaller budgets have
    weight 0, and their losses are still computed for the log.

    Args:
        loss: ``MatryoshkaMultiVectorLoss`` or its cached form.
        fraction: share of the optimizer steps during which only the largest budget is trained,
            0 <= fraction < 1. With 0, all budgets are trained from the first step.

    Raises:
        ValueError: if the fraction is out of range. Also if the loss has no nested budgets, only
            one budget, or weight 0 at the largest budget.

    Example:
        >>> from metaembed_lite import MatryoshkaMultiVectorLoss, load
        >>> loss = MatryoshkaMultiVectorLoss(load("tiny", device="cpu"))
        >>> callback = NestAfter(loss, 0.5)  # MultiVectorEncoderTrainer(..., callbacks=[callback])
        >>> callback.count_full_steps(1000)
        500
    """

    def __init__(self, loss: Any, fraction: float) -> None:
        if not is_finite_number(fraction) or not 0 <= fraction < 1:
            raise ValueError(
                f"nest_after={fraction!r}: it is the fraction of the steps before nesting starts; "
                "use a number from 0 to less than 1, such as 0.5"
            )
        if not hasattr(loss, "full_only"):
            raise ValueError(
                f"{type(loss).__name__} has no nested budgets: use MatryoshkaMultiVectorLoss or "
                "CachedMatryoshkaMultiVectorLoss"
            )
        if fraction > 0 and len(loss.budgets) == 1:
            raise ValueError(
                f"nest_after={fraction}: the only budget is {loss.budgets[0]}, so there is nothing "
                "to nest; give at least two budgets, or leave nest_after at 0"
            )
        if fraction > 0 and loss.weights[-1] == 0:
            raise ValueError(
                f"nest_after={fraction}: weights {loss.weights} give the largest budget weight 0, "
                "so nothing would train before nesting starts; use a positive last weight"
            )
        self.loss, self.fraction = loss, float(fraction)

    def count_full_steps(self, steps: int) -> int:
        """How many of a run's steps train only the largest budget.

        The fraction of the steps is rounded. At least the last step trains all budgets.
        """
        return min(round(self.fraction * steps), steps - 1)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.loss.full_only = state.global_step < self.count_full_steps(state.max_steps)


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
            for budget, mean in zip(self.loss.budgets, means, strict=True):
                state.log_history[-1][str(budget)] = mean
                logs[f"loss_{budget.r_q}x{budget.r_c}"] = mean  # for loggers and the progress bar
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
