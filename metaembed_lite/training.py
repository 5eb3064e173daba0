"""Train a model on a task with MMR: a thin recipe on sentence-transformers' trainer."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaembed_lite.budget import Budget, up_to
from metaembed_lite.mmr import MatryoshkaMultiVectorLoss
from metaembed_lite.model import vectors

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset
    from sentence_transformers import MultiVectorEncoder

# Meta tokens and projection start from nothing, so they learn faster than the rest.
FRESH_WEIGHTS = r".*(trainable_tokens|^1\.linear).*"


def train(
    model: MultiVectorEncoder,
    rows: Dataset,
    *,
    budgets: Iterable[Budget | Sequence[int] | str] | None = None,
    weights: Sequence[float] | None = None,
    temperature: float = 0.03,
    steps: int = 1000,
    batch_size: int = 64,
    learning_rate: float = 1e-4,
    fresh_learning_rate: float | None = None,
    warmup_steps: int = 50,
    output: str | Path | None = None,
    save_steps: int = 250,
    resume: bool = False,
    log_steps: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """Train in place and return the training curve.

    Args:
        model: from ``build`` or ``load``.
        rows: columns query, positive and any number of negatives, as in ``RetrievalTask.train``.
        budgets: nested budgets; None takes the paper's that the model can meet. A single one, the
            full budget, trains without MMR.
        weights: w_g, one a budget; None: all 1.
        temperature: tau of InfoNCE.
        steps: optimiser steps.
        batch_size: queries a step and device.
        learning_rate: of LoRA (or of every weight, if the model has no adapter); cosine decay.
        fresh_learning_rate: of meta tokens and projection; None: the same.
        warmup_steps: of linear warm-up.
        output: a folder for the trained model, with ``checkpoints/`` every ``save_steps`` beside
            it while training runs. None keeps nothing on disk.
        save_steps: steps between checkpoints.
        resume: go on from the last checkpoint in ``output``, if there is one.
        log_steps: steps between rows of the curve.
        seed: of the order of rows and of dropout.

    Returns:
        A DataFrame: step, loss (sum over budgets), grad_norm, and one column a budget with its
        unweighted InfoNCE in nats, each at the last batch of the interval.

    Raises:
        ValueError: on no rows, missing columns, fewer rows than a batch, or ``resume`` without
            ``output``.
    """
    import pandas as pd
    from sentence_transformers import MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
    from sentence_transformers.base.sampler import BatchSamplers
    from transformers import TrainerCallback

    if rows is None or len(rows) < batch_size:
        raise ValueError(
            f"{0 if rows is None else len(rows)} training rows for batches of {batch_size}: give more "
            "rows or a smaller batch_size"
        )
    if list(rows.column_names)[:2] != ["query", "positive"]:
        raise ValueError(
            f"training columns {rows.column_names}: expected query, positive, then any negatives"
        )
    if resume and output is None:
        raise ValueError("resume=True needs output, the folder that holds the checkpoints")
    full = vectors(model)
    loss = MatryoshkaMultiVectorLoss(
        model, up_to(full.r_q, full.r_c) if budgets is None else budgets, weights, temperature
    )
    every = min(log_steps, steps)
    groups: list[dict[str, Any]] = []

    class GroupLosses(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % every == 0:
                values = dict(zip(map(str, loss.budgets), loss.group_losses, strict=True))
                groups.append({"step": state.global_step, **values})

    target = Path(output) if output is not None else None
    scratch = target / "checkpoints" if target is not None else Path(tempfile.mkdtemp())
    arguments = MultiVectorEncoderTrainingArguments(
        str(scratch),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        learning_rate_mapping={FRESH_WEIGHTS: fresh_learning_rate or learning_rate},
        lr_scheduler_type="cosine",
        warmup_steps=warmup_steps,
        weight_decay=0.0,
        batch_sampler=BatchSamplers.BATCH_SAMPLER,
        dataloader_drop_last=True,
        save_strategy="steps" if target is not None else "no",
        save_steps=save_steps,
        save_total_limit=2,
        logging_steps=every,
        report_to=[],
        seed=seed,
    )
    try:
        trainer = MultiVectorEncoderTrainer(
            model=model, args=arguments, train_dataset=rows, loss=loss, callbacks=[GroupLosses()]
        )
        started = resume and any(scratch.glob("checkpoint-*"))
        trainer.train(resume_from_checkpoint=started or None)
    finally:
        if target is None:
            shutil.rmtree(scratch, ignore_errors=True)
    model.eval()
    if target is not None:
        save(model, target)
    log = pd.DataFrame(h for h in trainer.state.log_history if "loss" in h)
    curve = log[["step", "loss", "grad_norm"]].astype(float)
    return curve.merge(pd.DataFrame(groups), on="step", how="left")


def save(model: MultiVectorEncoder, folder: str | Path) -> None:
    """Write a model to a folder that exists whole or not at all; a ``checkpoints/`` in it stays."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        model.save_pretrained(scratch)
        folder.mkdir(exist_ok=True)
        for item in Path(scratch).iterdir():
            old = folder / item.name
            if old.is_dir():
                shutil.rmtree(old)
            os.replace(item, old)
