"""Train a model on a task with MMR: a thin recipe on sentence-transformers' trainer."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from metaembed_lite import memory
from metaembed_lite.budget import Budget, up_to
from metaembed_lite.gradient_caching import CachedMatryoshkaMultiVectorLoss
from metaembed_lite.mmr import MatryoshkaMultiVectorLoss
from metaembed_lite.model import vectors

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset
    from sentence_transformers import MultiVectorEncoder

    from metaembed_lite.data.task import RetrievalTask

logger = logging.getLogger(__name__)

# Meta tokens and projection start from nothing, so they learn faster than the rest.
FRESH_WEIGHTS = r"trainable_tokens|(^|model\.)1\.linear\."


def train(
    model: MultiVectorEncoder,
    rows: Dataset | Mapping[str, Dataset],
    *,
    budgets: Iterable[Budget | Sequence[int] | str] | None = None,
    weights: Sequence[float] | None = None,
    temperature: float | None = None,
    loss: nn.Module | None = None,
    steps: int = 1000,
    batch_size: int = 64,
    mini_batch_size: int | None = None,
    learning_rate: float = 1e-4,
    fresh_learning_rate: float | None = None,
    warmup_steps: int = 50,
    output: str | Path | None = None,
    save_steps: int = 250,
    resume: bool = False,
    log_steps: int = 10,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    gradient_checkpointing: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Train in place and return the training curve.

    The dropout of a frozen backbone is switched off (``lora_dropout`` is not): it regularizes
    weights that do not move, and keeps attention from its fast kernels.

    Under ``accelerate launch`` every process takes its share of the rows, queries are scored
    against the candidates of all of them, gradients included, and the first process saves.

    Args:
        model: from ``build`` or ``load``.
        rows: columns query, positive and any number of negatives, as in ``RetrievalTask.train``;
            or several such by name, each batch then from one of them, in proportion to their size.
        budgets: nested budgets; None takes the paper's that the model can meet. A single one, the
            full budget, trains without MMR.
        weights: w_g, one a budget; None: all 1.
        temperature: tau of InfoNCE; None: the paper's 0.03.
        loss: another loss in place of MMR, such as one of sentence-transformers' for a model
            without meta tokens; the three settings above and ``mini_batch_size`` are then its own,
            and no memory is estimated.
        steps: optimizer steps.
        batch_size: queries a step and device.
        mini_batch_size: inputs encoded at a time, by gradient caching: the same training in less
            memory, each input encoded twice. None encodes the whole batch at once.
        learning_rate: of LoRA (or of every weight, if the model has no adapter); cosine decay.
        fresh_learning_rate: of meta tokens and projection; None: the same. Without an adapter
            meta tokens are rows of the embedding and learn as the rest does.
        warmup_steps: of linear warm-up.
        output: a folder for the trained model, with ``checkpoints/`` every ``save_steps`` beside
            it while training runs. None keeps nothing on disk.
        save_steps: steps between checkpoints.
        resume: go on from the last checkpoint in ``output``, if there is one.
        log_steps: steps between rows of the curve.
        precision: of the arithmetic, "bf16" on a GPU that has it; weights keep their type.
        gradient_checkpointing: compute activations anew in the backward pass: less memory, a
            third more time.
        seed: of the order of rows and of dropout.

    Returns:
        A DataFrame: step, loss (weighted sum over budgets) and, a column a budget, its unweighted
        InfoNCE in nats, all means since the row before; and grad_norm of the last step. After a
        resume, rows from before the cut have no values by budget. With another ``loss`` there are
        no columns by budget.

    Raises:
        ValueError: on no rows, missing columns, fewer rows than a batch, an unknown precision,
            ``resume`` without ``output``, or ``loss`` beside settings of MMR.
        MemoryError: if the estimate, which is logged, says that the run will not fit.
    """
    import pandas as pd
    from sentence_transformers import MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
    from sentence_transformers.base.sampler import BatchSamplers
    from transformers import TrainerCallback

    for name, count in (("steps", steps), ("batch_size", batch_size), ("log_steps", log_steps)):
        if count < 1:
            raise ValueError(f"{name}={count}: use a whole number from 1 up")
    devices = int(os.environ.get("WORLD_SIZE", 1))
    if devices == 1 and model.device.type == "cuda" and torch.cuda.device_count() > 1:
        raise ValueError(
            f"{torch.cuda.device_count()} GPUs are visible to one process: start one process a GPU "
            "with accelerate launch, or set CUDA_VISIBLE_DEVICES=0 to use one"
        )
    several = dict(rows) if isinstance(rows, Mapping) else {"the task": rows}
    for name, part in several.items():
        if part is None or len(part) < batch_size * devices:
            raise ValueError(
                f"{name}: {0 if part is None else len(part)} training rows for batches of "
                f"{batch_size * devices}: give more rows or a smaller batch_size"
            )
        if list(part.column_names)[:2] != ["query", "positive"]:
            raise ValueError(
                f"{name}: training columns {part.column_names}: expected query, positive, then any "
                "negatives"
            )
    if resume and output is None:
        raise ValueError("resume=True needs output, the folder that holds the checkpoints")
    if precision not in ("fp32", "bf16", "fp16"):
        raise ValueError(f"precision {precision!r}: choose 'fp32', 'bf16' or 'fp16'")
    settings = (budgets, weights, temperature, mini_batch_size)
    mmr = None
    if loss is None:
        mmr = _mmr_loss(model, *settings, gather=devices > 1)
        sizes = (mmr.budgets, batch_size, mini_batch_size, gradient_checkpointing, devices)
        parts = [memory.estimate(model, part, *sizes) for part in several.values()]
        logger.info(memory.check(max(parts, key=lambda part: sum(part.values())), model.device))
    elif settings != (None, None, None, None):
        raise ValueError(
            "budgets, weights, temperature and mini_batch_size are settings of MMR: with a loss of "
            "your own, set them there"
        )
    every = min(log_steps, steps)
    groups: list[dict[str, Any]] = []
    since: list[list[float]] = []

    class GroupLosses(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if mmr is None:
                return
            losses = mmr.group_losses.clone()
            if devices > 1:
                torch.distributed.all_reduce(losses)
            since.append((losses / devices).tolist())
            if state.global_step % every == 0:
                means = [sum(values) / len(since) for values in zip(*since, strict=True)]
                names = map(str, mmr.budgets)
                groups.append({"step": state.global_step, **dict(zip(names, means, strict=True))})
                since.clear()

    if any("lora_" in name for name, _ in model.named_parameters()):
        for name, module in model.named_modules():
            if isinstance(module, nn.Dropout) and "lora_dropout" not in name:
                module.p = 0.0
    target = Path(output) if output is not None else None
    if target is not None:
        check_output(target)
        if resume and (target / "modules.json").is_file():
            raise ValueError(f"{target} holds a finished model: there is nothing to resume")
    scratch = target / "checkpoints" if target is not None else Path(tempfile.mkdtemp())
    first = int(os.environ.get("RANK", 0)) == 0
    if not resume and first:
        shutil.rmtree(scratch, ignore_errors=True)  # an older run's checkpoints are not this one's
    arguments = MultiVectorEncoderTrainingArguments(
        str(scratch),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        learning_rate_mapping={FRESH_WEIGHTS: fresh_learning_rate} if fresh_learning_rate else {},
        lr_scheduler_type="cosine",
        warmup_steps=warmup_steps,
        weight_decay=0.0,
        batch_sampler=BatchSamplers.BATCH_SAMPLER,
        dataloader_drop_last=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        save_strategy="steps" if target is not None else "no",
        save_steps=save_steps,
        save_total_limit=2,
        logging_steps=every,
        use_cpu=model.device.type == "cpu",
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        **({"gradient_checkpointing": True} if gradient_checkpointing else {}),
        ddp_find_unused_parameters=False,
        report_to=[],
        seed=seed,
    )
    try:
        trainer = MultiVectorEncoderTrainer(
            model=model,
            args=arguments,
            train_dataset=several if isinstance(rows, Mapping) else rows,
            loss=loss if mmr is None else mmr,
            callbacks=[GroupLosses()],
        )
        started = resume and any(scratch.glob("checkpoint-*"))
        trainer.train(resume_from_checkpoint=started or None)
    finally:
        if target is None:
            shutil.rmtree(scratch, ignore_errors=True)
    model.eval()
    if target is not None and first:
        save(model, target)  # takes the checkpoints away with the old folder: they have served
    log = pd.DataFrame(h for h in trainer.state.log_history if "loss" in h)
    curve = log[["step", "loss", "grad_norm"]].astype(float)
    return curve.merge(pd.DataFrame(groups), on="step", how="left") if groups else curve


def _mmr_loss(
    model: MultiVectorEncoder,
    budgets: Iterable[Budget | Sequence[int] | str] | None,
    weights: Sequence[float] | None,
    temperature: float | None,
    mini_batch_size: int | None,
    gather: bool,
) -> MatryoshkaMultiVectorLoss | CachedMatryoshkaMultiVectorLoss:
    full = vectors(model)
    nested = up_to(full.r_q, full.r_c) if budgets is None else budgets
    settings = (model, nested, weights, 0.03 if temperature is None else temperature, gather)
    if mini_batch_size is None:
        return MatryoshkaMultiVectorLoss(*settings)
    return CachedMatryoshkaMultiVectorLoss(*settings, mini_batch_size=mini_batch_size)


def save(model: MultiVectorEncoder, folder: str | Path) -> None:
    """Write a model to a folder that is whole or as it was before; what was in it is replaced."""
    folder = Path(folder)
    check_output(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        model.save_pretrained(f"{scratch}/new")
        if folder.exists():
            os.replace(folder, f"{scratch}/old")
        try:
            os.replace(f"{scratch}/new", folder)
        except OSError:
            if Path(f"{scratch}/old").exists():
                os.replace(f"{scratch}/old", folder)
            raise


def check_output(folder: Path) -> None:
    """Raises ValueError unless a model may take a folder's place: new, empty, or a run's own."""
    if folder.resolve() == Path.cwd() or folder.is_mount() or folder.is_file():
        raise ValueError(f"output {str(folder)!r} cannot be replaced: name a folder of its own")
    if folder.is_dir() and any(folder.iterdir()):
        ours = (folder / "modules.json").is_file() or (folder / "checkpoints").is_dir()
        if not ours:
            raise ValueError(
                f"output {str(folder)!r} holds files of something else, which would be lost: name "
                "another folder"
            )


def add_to_card(folder: str | Path, task: RetrievalTask, table: pd.DataFrame) -> None:
    """Write quality and index bytes at every budget into a saved model's card.

    Args:
        folder: of the saved model.
        task: that was evaluated.
        table: from ``sweep``.
    """
    card = Path(folder) / "README.md"
    lines = ["| budget (r_q, r_c) | P@1 | NDCG@5 | index bytes a candidate |", "|---|---|---|---|"]
    for row in table.itertuples():
        lines.append(
            f"| ({row.r_q}, {row.r_c}) | {row.p_at_1:.3f} | {row.ndcg_at_5:.3f} "
            f"| {row.bytes_per_candidate:,} |"
        )
    block = f"## Quality at every budget\n\n{task!r}\n\n" + "\n".join(lines) + "\n\n"
    before, _, rest = card.read_text(encoding="utf-8").partition("## Architecture\n")
    before = before.partition("## Quality at every budget\n")[0]
    card.write_text(f"{before}{block}## Architecture\n{rest}", encoding="utf-8")
