"""What a person sees of a training run: a progress bar, and the loggers of transformers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback
from transformers.integrations import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
    get_reporting_integration_callbacks,
)

# What to install where the name of a logger is not the name of its package.
PACKAGES = {
    "azure_ml": "azureml-mlflow", "comet_ml": "comet-ml", "flyte": "flytekit",
}  # fmt: skip
AT_BUDGET = re.compile(r"(loss|eval_p_at_1)_(\d+x\d+)")  # names in the trainer's log


class ProgressBar(TrainerCallback):
    """A progress bar on stderr with the loss and the validation P@1 per budget.

    Example:
        >>> bar = ProgressBar()  # MultiVectorEncoderTrainer(..., callbacks=[bar])
    """

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.logs: dict[str, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc="training", unit=" steps",
                dynamic_ncols=True,
            )  # fmt: skip

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs |= logs or {}
        if self.bar is not None:
            self.bar.set_postfix_str(describe_logs(self.logs))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def describe_logs(logs: Mapping[str, Any]) -> str:
    """The loss, and the loss and the validation P@1 per budget, in a few characters.

    Args:
        logs: the trainer's log, with names such as "loss", "loss_4x8" and "eval_p_at_1_4x8".

    Example:
        >>> describe_logs({"loss": 3.0, "loss_1x1": 2.0, "loss_2x4": 1.0, "eval_p_at_1_1x1": 0.25})
        'loss 3.00 (1x1 2.00, 2x4 1.00), P@1 (1x1 0.250)'
    """
    parts: dict[str, list[str]] = {"loss": [], "eval_p_at_1": []}
    for name, value in logs.items():
        match = AT_BUDGET.fullmatch(name)
        if match:
            digits = 2 if match[1] == "loss" else 3
            parts[match[1]].append(f"{match[2]} {value:.{digits}f}")
    texts = [f"loss {logs['loss']:.2f}"] if "loss" in logs else []
    if parts["loss"]:
        texts[-1:] = [" ".join([*texts[-1:], f"({', '.join(parts['loss'])})"])]
    if parts["eval_p_at_1"]:
        texts.append(f"P@1 ({', '.join(parts['eval_p_at_1'])})")
    return ", ".join(texts)


def choose_loggers(report_to: str | Sequence[str], has_output: bool) -> list[Any]:
    """The callbacks of transformers that send the trainer's log to a logger.

    Args:
        report_to: names such as "tensorboard" or "wandb", or a single one.
        has_output: whether the run has a folder for files of its loggers.

    Raises:
        ValueError: on a name that transformers does not know. Also on tensorboard for a run that
            has no folder.
        ImportError: naming the package that is not installed.

    Example:
        >>> choose_loggers([], has_output=False)
        []
    """
    names = [report_to] if isinstance(report_to, str) else list(report_to)
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(
                f"report_to={name!r}: transformers has no such logger; choose from "
                f"{', '.join(sorted(INTEGRATION_TO_CALLBACK))}, or pass your own in callbacks"
            )
        if name not in get_available_reporting_integrations():
            package = PACKAGES.get(name, name)
            raise ImportError(
                f"report_to={name!r}: the package {package} is not installed: pip install {package}"
            )
        if name == "tensorboard" and not has_output and "TENSORBOARD_LOGGING_DIR" not in os.environ:
            raise ValueError(
                "report_to='tensorboard' writes files: pass output, the folder of the model, whose "
                "checkpoints/runs gets them, or set TENSORBOARD_LOGGING_DIR"
            )
    return list(get_reporting_integration_callbacks(names))
