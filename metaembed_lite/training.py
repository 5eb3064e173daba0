"""Train a model on a task with MMR: a thin recipe on sentence-transformers' trainer."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch
import yaml
from sentence_transformers import MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
from sentence_transformers.base.sampler import BatchSamplers
from torch import nn
from transformers import TrainerCallback

from metaembed_lite import memory, training_run
from metaembed_lite.adapter import AdapterTransformer
from metaembed_lite.arguments import whole_number
from metaembed_lite.budget import Budget
from metaembed_lite.data.rows import check_rows
from metaembed_lite.gradient_caching import CachedMatryoshkaMultiVectorLoss
from metaembed_lite.locking import lock, write_whole
from metaembed_lite.meta_tokens import MetaTokenTransformer
from metaembed_lite.mmr import MatryoshkaMultiVectorLoss
from metaembed_lite.model import check_not_backbone, load, write_model
from metaembed_lite.model_folder import CHECKPOINTS

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import MultiVectorEncoder

    from metaembed_lite.data.task import RetrievalTask

logger = logging.getLogger(__name__)

# Meta tokens and projection start from nothing, so they learn faster than the rest.
FRESH_WEIGHTS = r"trainable_tokens|(^|model\.)1\.linear\."


def train(
    model: MultiVectorEncoder,
    rows: Dataset | Mapping[str, Dataset] | pd.DataFrame | Sequence[Mapping[str, Any]],
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
    restart: bool = False,
    overwrite: bool = False,
    card_examples: bool = False,
    recipe: Mapping[str, Any] | None = None,
    log_steps: int = 10,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    gradient_checkpointing: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Train in place, print what is trained, and return the training curve.

    The dropout of a frozen backbone is switched off (``lora_dropout`` is not): it regularizes
    weights that do not move, and keeps attention from its fast kernels.

    Under ``accelerate launch`` every process takes its share of the rows, queries are scored
    against the candidates of all of them, gradients included, and the first process saves.

    Args:
        model: from ``build``, or from ``load`` to train it further.
        rows: columns query, positive and any number of negatives (negative, negative_1, ...): a
            Dataset, a DataFrame, a list of dicts or a dict of lists. A dict of Datasets trains on
            several sets; each batch then comes from one of them, in proportion to their size.
        budgets: nested budgets. Defaults to the paper's that the model can meet. A single one, the
            full budget, trains without MMR.
        weights: w_g, one per budget. Defaults to 1 for all.
        temperature: tau of InfoNCE. Defaults to the paper's 0.03.
        loss: another loss in place of MMR, such as one of sentence-transformers' for a model
            without meta tokens; the three settings above and ``mini_batch_size`` are then set
            there, and no memory is estimated.
        steps: optimizer steps.
        batch_size: queries per step and device.
        mini_batch_size: inputs encoded at a time, by gradient caching: the same training in less
            memory, each input encoded twice. Defaults to the whole batch at once.
        learning_rate: of LoRA (or of every weight, if the model has no adapter); cosine decay.
        fresh_learning_rate: of meta tokens and projection. Defaults to the same. Without an adapter
            meta tokens are rows of the embedding and learn as the rest does.
        warmup_steps: of linear warm-up.
        output: a folder for the trained model, with ``checkpoints/`` every ``save_steps`` below
            it while training runs; the last one stays. Defaults to nothing on disk.
        save_steps: steps between checkpoints.
        resume: go on from the newest whole checkpoint in ``output``, if there is one, with the
            settings of that run. A run that finished goes on if ``steps`` is larger than it was.
        restart: delete the checkpoints in ``output`` of a run that did not finish, and start again.
        overwrite: replace the finished model in ``output``, once the new one is trained.
        card_examples: put a few captions and pictures of the training rows into the model's card.
        recipe: written as ``recipe.yaml`` next to the weights: what was trained on what, and how.
        log_steps: steps between rows of the curve.
        precision: of the arithmetic, "bf16" on a GPU that has it; weights keep their type.
        gradient_checkpointing: compute activations again in the backward pass: less memory, a
            third more time.
        seed: of the order of rows and of dropout.

    Returns:
        DataFrame with step, loss (weighted sum over budgets), grad_norm and one column per budget
        (unweighted InfoNCE, in nats). Values are means since the previous row, grad_norm is that
        of the last step. With another ``loss`` there are no columns per budget.

    Raises:
        ValueError: on no rows, wrong columns, fewer rows than a batch, an unknown precision,
            ``loss`` with settings of MMR, a model of which nothing trains, an ``output`` in which
            something would be lost, a resume with other settings, or weights that are not finite
            at the end (the model in ``output`` is then kept).
        MemoryError: if the estimate, which is logged, says that the run will not fit.
        BlockingIOError: if another process trains into ``output``.
    """
    devices = int(os.environ.get("WORLD_SIZE", 1))
    for count, name in (
        (steps, "steps"), (batch_size, "batch_size"), (log_steps, "log_steps"),
        (save_steps, "save_steps"),
    ):  # fmt: skip
        whole_number(count, name)
    whole_number(warmup_steps, "warmup_steps", least=0)
    whole_number(seed, "seed", least=0)
    check_rates(learning_rate=learning_rate, fresh_learning_rate=fresh_learning_rate)
    check_device(model, devices)
    if precision not in ("fp32", "bf16", "fp16"):
        raise ValueError(f"precision {precision!r}: choose 'fp32', 'bf16' or 'fp16'")
    for name, value in (("resume", resume), ("restart", restart), ("overwrite", overwrite)):
        if value and output is None:
            raise ValueError(
                f"{name}=True needs output, the folder of the model and its checkpoints"
            )
    if resume and restart:
        raise ValueError(
            "resume=True goes on from checkpoints and restart=True deletes them: choose one"
        )
    several = check_rows(rows, batch_size * devices)
    settings_of_mmr = (budgets, weights, temperature, mini_batch_size)
    mmr = None
    if loss is None:
        mmr = _mmr_loss(model, *settings_of_mmr, gather=devices > 1)
        sizes = (mmr.budgets, batch_size, mini_batch_size, gradient_checkpointing, devices)
        parts = [memory.estimate(model, part, *sizes) for part in several.values()]
        logger.info(memory.check(max(parts, key=lambda part: sum(part.values())), model.device))
    elif any(value is not None for value in settings_of_mmr):
        raise ValueError(
            "budgets, weights, temperature and mini_batch_size are settings of MMR: with a loss of "
            "your own, set them there"
        )
    elif getattr(loss, "model", model) is not model:
        raise ValueError("the loss was made for another model: make it with the one that trains")
    described = describe_trained(model)
    freeze_dropout(model)
    target = Path(os.path.abspath(output)) if output is not None else None
    if target is not None:
        check_not_backbone(model, target)
    notes = {} if recipe is None else {"recipe.yaml": yaml.safe_dump(dict(recipe), sort_keys=False)}
    first = int(os.environ.get("RANK", 0)) == 0
    with _reserve_checkpoints(target, first) as checkpoints:
        arguments = training_arguments(
            checkpoints,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            fresh_learning_rate=fresh_learning_rate,
            warmup_steps=warmup_steps,
            save_steps=save_steps if target is not None else None,
            log_steps=min(log_steps, steps),
            precision=precision,
            gradient_checkpointing=gradient_checkpointing,
            seed=seed,
            use_cpu=model.device.type == "cpu",
        )
        settings = {
            "steps": steps, "batch_size": batch_size, "mini_batch_size": mini_batch_size,
            "learning_rate": learning_rate, "fresh_learning_rate": fresh_learning_rate,
            "warmup_steps": warmup_steps, "save_steps": save_steps, "log_steps": log_steps,
            "precision": precision, "gradient_checkpointing": gradient_checkpointing,
            "seed": seed, "devices": devices, "rows": training_run.describe_rows(several),
            "model": describe_model(model), "loss": describe_loss(loss if mmr is None else mmr),
        }  # fmt: skip
        checkpoint = None
        if target is not None:
            with arguments.main_process_first(local=False):
                if first:
                    checkpoint = training_run.begin(
                        target, settings, resume=resume, restart=restart, overwrite=overwrite
                    )
                elif resume:
                    checkpoint = training_run.newest_whole(target)
        if first:
            print(described)
        by_budget = LossByBudget(mmr, devices)
        trainer = MultiVectorEncoderTrainer(
            model=model,
            args=arguments,
            train_dataset=several if len(several) > 1 else next(iter(several.values())),
            loss=loss if mmr is None else mmr,
            callbacks=[by_budget, MarkWhole(model, devices)],
        )
        if not card_examples:
            drop_examples(model)
        if checkpoint is not None and training_run.step_of(checkpoint) >= steps:
            # The run was cut off after its last step: nothing is left to train.
            model.load_state_dict(load(checkpoint, device=str(model.device)).state_dict())
            history = training_run.read_json(checkpoint / "trainer_state.json")["log_history"]
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            history = trainer.state.log_history
        model.eval()
        curve = _curve(history, [] if mmr is None else list(map(str, mmr.budgets)))
        if target is not None and first:
            notes["training_curve.csv"] = curve.round(4).to_csv(index=False)
            write_model(model, target, notes)
            training_run.keep_newest(target)
            training_run.write_run(target, settings, finished=steps)
    return curve


def _curve(history: Iterable[Mapping[str, Any]], budgets: Sequence[str]) -> pd.DataFrame:
    """The trainer's log as a table."""
    rows = pd.DataFrame(row for row in history if "loss" in row)
    return rows.reindex(columns=["step", "loss", "grad_norm", *budgets]).astype(float)


def check_rates(**rates: Any) -> None:
    """Raises ValueError unless each learning rate is a positive, finite number, or None."""
    for name, rate in rates.items():
        is_number = isinstance(rate, Real) and not isinstance(rate, bool)
        if rate is not None and not (is_number and 0 < rate < math.inf):
            raise ValueError(f"{name}={rate!r}: use a positive, finite number such as 1e-4")


def check_device(model: MultiVectorEncoder, devices: int) -> None:
    """Raises ValueError if one process would spread its batch over several GPUs."""
    if devices == 1 and model.device.type == "cuda" and torch.cuda.device_count() > 1:
        raise ValueError(
            f"{torch.cuda.device_count()} GPUs are visible to one process: start one process per "
            "GPU with accelerate launch, or set CUDA_VISIBLE_DEVICES=0 to use one"
        )


def training_arguments(
    checkpoints: str | Path,
    *,
    steps: int,
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
) -> MultiVectorEncoderTrainingArguments:
    """The trainer's arguments that ``train`` uses; see there for each.

    Args:
        checkpoints: the folder of the checkpoints.
        save_steps: steps between checkpoints; None writes none.
        use_cpu: train on the CPU, also where there is a GPU.
    """
    return MultiVectorEncoderTrainingArguments(
        str(checkpoints),
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
        save_strategy="no" if save_steps is None else "steps",
        save_steps=500 if save_steps is None else save_steps,
        save_total_limit=2,
        logging_steps=log_steps,
        use_cpu=use_cpu,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        **({"gradient_checkpointing": True} if gradient_checkpointing else {}),
        ddp_find_unused_parameters=False,
        report_to=[],
        seed=seed,
    )


@contextmanager
def _reserve_checkpoints(target: Path | None, first: bool) -> Iterator[Path]:
    """The folder of the checkpoints, reserved for this run; a temporary one without a target."""
    if target is not None:
        with lock(target, "training a model") if first else nullcontext():
            yield target / CHECKPOINTS
        return
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class LossByBudget(TrainerCallback):
    """Adds each budget's loss to the trainer's log: means since the previous row."""

    def __init__(self, mmr: Any, devices: int) -> None:
        self.mmr, self.devices = mmr, devices
        self.since: list[list[float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.mmr is None:
            return
        losses = self.mmr.group_losses.clone()
        if self.devices > 1:
            torch.distributed.all_reduce(losses)
        self.since.append((losses / self.devices).tolist())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.since and "loss" in logs:
            means = [sum(values) / len(self.since) for values in zip(*self.since, strict=True)]
            state.log_history[-1].update(zip(map(str, self.mmr.budgets), means, strict=True))
            self.since.clear()


class MarkWhole(TrainerCallback):
    """Marks a checkpoint as whole once every process has written its part; stops at NaN."""

    def __init__(self, model: MultiVectorEncoder, devices: int) -> None:
        self.model, self.devices = model, devices

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.devices > 1:
            torch.distributed.barrier()
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not parameter.isfinite().all():
                if state.is_world_process_zero:
                    shutil.rmtree(checkpoint)  # and the good one before it stays
                raise ValueError(
                    f"the weights {name} hold NaN or infinity at step {state.global_step}: lower "
                    "the learning rate and start again from an earlier state"
                )
        if state.is_world_process_zero:
            training_run.mark_whole(checkpoint)


def describe_trained(model: MultiVectorEncoder) -> str:
    """One line on which parameters train.

    Raises:
        ValueError: if the model's adapter is frozen, or nothing trains.
    """
    kinds = dict.fromkeys(["LoRA", "meta tokens", "projection", "backbone", "rest"], 0)
    frozen_adapter = False
    for name, parameter in model.named_parameters():
        if "lora_" in name and not parameter.requires_grad:
            frozen_adapter = True
        if not parameter.requires_grad:
            continue
        if "lora_" in name:
            kinds["LoRA"] += parameter.numel()
        elif "trainable_tokens" in name:
            kinds["meta tokens"] += parameter.numel()
        elif name.startswith("1.linear"):
            kinds["projection"] += parameter.numel()
        else:
            kinds["backbone" if name.startswith("0.model") else "rest"] += parameter.numel()
    if frozen_adapter or not sum(kinds.values()):
        raise ValueError(
            f"the model's {'adapter is' if frozen_adapter else 'weights are all'} frozen, so "
            "training would not move it: load it with metaembed_lite.load, or set "
            "requires_grad_(True) on what should train"
        )
    parts = ", ".join(f"{kind} {count:,}" for kind, count in kinds.items() if count)
    total = sum(p.numel() for p in model.parameters())
    return f"training {sum(kinds.values()):,} of {total:,} parameters: {parts}"


def describe_model(model: MultiVectorEncoder) -> dict[str, Any]:
    """A JSON-ready record of the model, which must be equal for a run to be resumed."""
    parameters = [
        f"{name} {tuple(p.shape)} {p.dtype} {p.requires_grad}"
        for name, p in model.named_parameters()
    ]
    record = {
        "modules": [type(module).__name__ for module in model],
        "parameters": hashlib.sha256("\n".join(parameters).encode()).hexdigest()[:16],
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "max_seq_length": model.max_seq_length,
    }
    if isinstance(model[0], AdapterTransformer):
        record["backbone"] = model[0].backbone_name
    if isinstance(model[0], MetaTokenTransformer):
        first = model[0]
        record |= {
            "backbone": first.backbone_name, "r_q": first.r_q, "r_c": first.r_c, "layout":
            first.layout,
        }  # fmt: skip
    for config in getattr(getattr(model[0], "model", None), "peft_config", {}).values():
        record |= {
            "lora_rank": config.r,
            "lora_alpha": config.lora_alpha,
            "lora_dropout": config.lora_dropout,
        }
    return record


def describe_loss(loss: nn.Module) -> dict[str, Any]:
    """The class and settings of the loss, ready for JSON."""
    settings = loss.get_config_dict() if hasattr(loss, "get_config_dict") else {}
    return {"class": type(loss).__name__, **json.loads(json.dumps(settings, default=str))}


def freeze_dropout(model: MultiVectorEncoder) -> None:
    """Switch off the dropout of a backbone whose own weights do not move; LoRA's stays."""
    if any("lora_" in name for name, _ in model.named_parameters()):
        for name, module in model.named_modules():
            if isinstance(module, nn.Dropout) and "lora_dropout" not in name:
                module.p = 0.0


def drop_examples(model: MultiVectorEncoder) -> None:
    """Remove captions and pictures of the training rows from the model's card."""
    card = model.model_card_data
    card.widget, card.usage_examples, card.usage_examples_display = [], None, None
    for described in [*card.train_datasets, *card.eval_datasets]:
        for key in ("examples", "examples_table", "stats", "stats_table"):
            described.pop(key, None)


def _mmr_loss(
    model: MultiVectorEncoder,
    budgets: Iterable[Budget | Sequence[int] | str] | None,
    weights: Sequence[float] | None,
    temperature: float | None,
    mini_batch_size: int | None,
    gather: bool,
) -> MatryoshkaMultiVectorLoss | CachedMatryoshkaMultiVectorLoss:
    settings = (model, budgets, weights, 0.03 if temperature is None else temperature, gather)
    if mini_batch_size is None:
        return MatryoshkaMultiVectorLoss(*settings)
    return CachedMatryoshkaMultiVectorLoss(*settings, mini_batch_size=mini_batch_size)


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
    write_whole(card, f"{before}{block}## Architecture\n{rest}")
