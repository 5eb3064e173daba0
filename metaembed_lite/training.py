"""Train a model on a task with MMR, by sentence-transformers' trainer."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch
import yaml
from sentence_transformers import MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
from sentence_transformers.base.sampler import BatchSamplers
from torch import nn

from metaembed_lite import memory, training_run
from metaembed_lite.arguments import is_finite_number, whole_number
from metaembed_lite.budget import Budget, Budgets
from metaembed_lite.callbacks import LossByBudget, MarkWhole, NestAfter
from metaembed_lite.data.rows import check_rows
from metaembed_lite.loading import load
from metaembed_lite.locking import lock
from metaembed_lite.losses import CachedMatryoshkaMultiVectorLoss, MatryoshkaMultiVectorLoss
from metaembed_lite.model_card import remove_examples
from metaembed_lite.model_folder import CHECKPOINTS
from metaembed_lite.saving import check_not_backbone, write_model

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import MultiVectorEncoder
    from transformers import TrainerCallback

logger = logging.getLogger(__name__)

# Meta tokens, the projection and LinearPooling start at random values, so they may need a larger
# learning rate.
FRESH_WEIGHTS = r"trainable_tokens|(^|model\.)\d+\.linear\."
PRECISIONS = ("fp32", "bf16", "fp16")


def train(
    model: MultiVectorEncoder,
    rows: Dataset | Mapping[str, Dataset] | pd.DataFrame | Sequence[Mapping[str, Any]],
    *,
    budgets: Budgets | None = None,
    weights: Sequence[float] | None = None,
    temperature: float | None = None,
    scale_temperature: bool = False,
    nest_after: float = 0.0,
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
    callbacks: Sequence[TrainerCallback] = (),
    log_steps: int = 10,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    gradient_checkpointing: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Train a model in place, print which parameters train, and return the training curve.

    It uses ``MultiVectorEncoderTrainer``. Without the memory estimate, safe folders and the curve,
    this program does the same training::

        loss = MatryoshkaMultiVectorLoss(model)
        freeze_dropout(model)
        arguments = training_arguments("out", steps=1000)
        MultiVectorEncoderTrainer(model, arguments, task.train, loss=loss).train()

    Under ``accelerate launch`` every process takes its share of the rows. Queries are scored
    against the candidates of all processes, with gradients. The first process saves.

    Args:
        model: from ``build``, or from ``load`` to train it further.
        rows: a Dataset, a DataFrame, a list of dicts or a dict of lists, with the columns query,
            positive and any number of negatives (negative, negative_1, ...). A dict of Datasets
            trains on several sets. Each batch then comes from one of them, in proportion to their
            size.
        budgets: nested budgets. A single one, the full budget, trains without MMR. Defaults to
            those of the paper that the model can meet, and its full budget.
        weights: w_g, one per budget. Defaults to 1 for all.
        temperature: tau of InfoNCE. Defaults to the paper's 0.03.
        scale_temperature: whether tau is multiplied by r_q at each budget, so that the small
            budgets and the large ones have logits of one size. Defaults to False, as in the paper.
        nest_after: fraction of the steps during which only the largest budget is trained,
            0 <= nest_after < 1. All nested budgets are trained after that. A run that continues
            with more steps must nest after the same step: 0.5 of 1000 steps is 0.125 of 4000.
            Defaults to 0.0, which trains all budgets from the first step.
        loss: another loss in place of MMR, such as one of sentence-transformers for a model without
            meta tokens. ``budgets``, ``weights``, ``temperature``, ``scale_temperature`` and
            ``mini_batch_size`` must then be set in that loss, ``nest_after`` stays 0, and no memory
            is estimated. Defaults to MMR.
        steps: optimizer steps. Defaults to 1000.
        batch_size: queries per step and device. Defaults to 64.
        mini_batch_size: inputs encoded at a time, by gradient caching. It is the same training in
            less memory, and each input is encoded twice. Defaults to the whole batch at once.
        learning_rate: learning rate of LoRA, or of every weight if the model has no adapter. It
            decays as a cosine. Defaults to 1e-4.
        fresh_learning_rate: learning rate of meta tokens and projection. Without an adapter, meta
            tokens are rows of the embedding and learn at ``learning_rate``. Defaults to
            ``learning_rate``.
        warmup_steps: steps of linear warm-up. Defaults to 50.
        output: a folder for the trained model. While training runs, ``checkpoints/`` in it gets a
            checkpoint every ``save_steps``, and the last one stays. Defaults to None, which writes
            nothing.
        save_steps: steps between checkpoints. Defaults to 250.
        resume: continue from the newest complete checkpoint in ``output``, if there is one, with
            the settings of that run. A finished run continues if ``steps`` is larger than it was.
            Defaults to False.
        restart: delete the checkpoints of an unfinished run in ``output``, and start again.
            Defaults to False.
        overwrite: replace the finished model in ``output``, once the new one is trained. Defaults
            to False.
        card_examples: put a few captions and images of the training rows into the model's card.
            Defaults to False.
        recipe: a record of what was trained on what, and how. It is written as ``recipe.yaml`` next
            to the weights. Defaults to none.
        callbacks: more callbacks of transformers' trainer, such as one that evaluates the model. A
            resume does not check that they are the same. Defaults to none.
        log_steps: steps between rows of the curve. Defaults to 10.
        precision: precision of the arithmetic, such as "bf16" on a GPU that supports it. Weights
            keep their type. Defaults to "fp32".
        gradient_checkpointing: compute activations again in the backward pass. This takes less
            memory and a third more time. Defaults to False.
        seed: random seed of the order of rows and of dropout. Defaults to 0.

    Returns:
        DataFrame with step, loss (weighted sum over the budgets that are trained), grad_norm and
        one column per budget (unweighted InfoNCE, in nats, also of budgets that are not trained
        yet). Values are means since the previous row, except that grad_norm is that of the last
        step. Another ``loss`` gives no columns per budget.

    Raises:
        ValueError: on no rows, wrong columns, fewer rows than a batch, or an unknown precision.
            Also on ``nest_after`` out of range or with a single budget. Also on ``loss`` with
            settings of MMR, or a model of which nothing trains. Also if something in ``output``
            would be lost, or on a resume with other settings. Also if weights are not finite at
            the end. The model in ``output`` is then kept.
        MemoryError: if the run will not fit according to the estimate, which is logged.
        BlockingIOError: if another process trains into ``output``.

    Example:
        >>> from metaembed_lite import build, load_task
        >>> task = load_task("stickers", n_queries=4, n_train=16, side=2)
        >>> model = build("tiny-vlm", r_q=2, r_c=4, dim=32, lora_rank=4, device="cpu")
        >>> curve = train(model, task.train, steps=2, batch_size=8, log_steps=1)
        training 44,288 of 1,812,992 parameters: LoRA 39,424, meta tokens 768, projection 4,096
        ...
        >>> curve.columns.tolist()
        ['step', 'loss', 'grad_norm', '(1, 1)', '(2, 4)']
    """
    devices = int(os.environ.get("WORLD_SIZE", 1))
    is_main = int(os.environ.get("RANK", 0)) == 0
    schedule: dict[str, Any] = {
        "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate,
        "fresh_learning_rate": fresh_learning_rate, "warmup_steps": warmup_steps,
        "save_steps": save_steps, "log_steps": log_steps, "precision": precision,
        "gradient_checkpointing": gradient_checkpointing, "seed": seed,
    }  # fmt: skip
    check_schedule(schedule)
    check_device(model, devices)
    _check_modes(output, resume=resume, restart=restart, overwrite=overwrite)
    datasets = check_rows(rows, batch_size * devices)
    mmr_settings = {
        "budgets": budgets, "weights": weights, "temperature": temperature,
        "scale_temperature": None if scale_temperature is False else scale_temperature,
        "mini_batch_size": mini_batch_size,
    }  # fmt: skip
    curve_budgets: Sequence[Budget] = ()
    own_callbacks: list[TrainerCallback] = [MarkWhole(model, devices)]
    full_steps = 0
    if loss is None:
        loss = _make_loss(model, mmr_settings, gather=devices > 1)
        curve_budgets = loss.budgets
        nesting = NestAfter(loss, nest_after)
        full_steps = nesting.count_full_steps(steps)
        own_callbacks = [nesting, LossByBudget(loss, devices), *own_callbacks]
        sizes = (batch_size, mini_batch_size, gradient_checkpointing, devices)
        logger.info(_check_memory(model, datasets, loss.budgets, *sizes))
    else:
        _check_own_loss(model, loss, mmr_settings, nest_after)
    trained = describe_trained(model)
    freeze_dropout(model)
    target = None if output is None else Path(os.path.abspath(output))
    if target is not None:
        check_not_backbone(model, target)
    notes = {}  # written before training, so that a recipe that is not YAML costs no run
    if recipe is not None:
        notes["recipe.yaml"] = yaml.safe_dump(dict(recipe), sort_keys=False)
    with _reserve_checkpoints(target, is_main) as checkpoints:
        arguments = training_arguments(
            checkpoints,
            **schedule | {"save_steps": save_steps if target is not None else None},
            use_cpu=model.device.type == "cpu",
        )
        settings = schedule | {
            "mini_batch_size": mini_batch_size, "devices": devices,
            "rows": training_run.describe_rows(datasets),
            "model": training_run.describe_model(model),
            "loss": training_run.describe_loss(loss),
        }  # fmt: skip
        if full_steps:  # in steps, because a lengthened run must not return to the first phase
            settings["nest_after"] = f"{full_steps} steps"
        modes = {"resume": resume, "restart": restart, "overwrite": overwrite}
        checkpoint = _begin(target, settings, arguments, is_main, **modes)
        if is_main:
            print(trained)
        trainer = MultiVectorEncoderTrainer(
            model=model,
            args=arguments,
            train_dataset=datasets if len(datasets) > 1 else next(iter(datasets.values())),
            loss=loss,
            callbacks=[*own_callbacks, *callbacks],
        )
        if not card_examples:
            remove_examples(model)
        curve = _to_curve(_run(trainer, checkpoint, steps), curve_budgets)
        if target is not None and is_main:
            _finish(model, target, settings, curve, notes)
    return curve


def training_arguments(
    checkpoints: str | Path,
    *,
    steps: int = 1000,
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
    """The trainer's arguments that ``train`` uses. Those not listed here are described there.

    Args:
        checkpoints: the folder of the checkpoints.
        save_steps: steps between checkpoints. None writes none. Defaults to 250.
        use_cpu: train on the CPU even where there is a GPU. Defaults to False.

    Example:
        >>> arguments = training_arguments("out", steps=100, save_steps=None, use_cpu=True)
        >>> arguments.max_steps, arguments.lr_scheduler_type.value
        (100, 'cosine')
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
        logging_steps=min(log_steps, steps),
        use_cpu=use_cpu,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        **({"gradient_checkpointing": True} if gradient_checkpointing else {}),
        ddp_find_unused_parameters=False,
        report_to=[],
        seed=seed,
    )


def freeze_dropout(model: MultiVectorEncoder) -> None:
    """Switch off the dropout of a frozen backbone. That of LoRA stays.

    Dropout regularizes weights, and those of a frozen backbone do not change. Dropout also prevents
    the fast kernels of attention.

    Example:
        >>> from metaembed_lite import build
        >>> model = build("tiny-vlm", r_q=2, r_c=4, lora_rank=4, lora_dropout=0.1, device="cpu")
        >>> freeze_dropout(model)
    """
    if any("lora_" in name for name, _ in model.named_parameters()):
        for name, module in model.named_modules():
            if isinstance(module, nn.Dropout) and "lora_dropout" not in name:
                module.p = 0.0


def describe_trained(model: MultiVectorEncoder) -> str:
    """One line on which parameters train.

    Raises:
        ValueError: if the model's adapter is frozen, or nothing trains.

    Example:
        >>> from metaembed_lite import build
        >>> describe_trained(build("tiny-vlm", r_q=2, r_c=4, lora_rank=4, device="cpu"))
        'training 40,192 of 1,808,896 parameters: LoRA 39,424, meta tokens 768'
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


def check_schedule(schedule: Mapping[str, Any]) -> None:
    """Check the numbers and the precision of a training run.

    Raises:
        ValueError: naming the argument and its value.

    Example:
        >>> check_schedule({"steps": 100, "learning_rate": 1e-4, "precision": "bf16"})
    """
    for name, value in schedule.items():
        if name in ("steps", "batch_size", "log_steps", "save_steps"):
            whole_number(value, name)
        elif name in ("warmup_steps", "seed"):
            whole_number(value, name, least=0)
        elif name.endswith("learning_rate"):
            optional = name == "fresh_learning_rate" and value is None
            if not optional and not (is_finite_number(value) and value > 0):
                raise ValueError(f"{name}={value!r}: use a positive, finite number such as 1e-4")
        elif name == "precision" and value not in PRECISIONS:
            raise ValueError(f"precision {value!r}: choose 'fp32', 'bf16' or 'fp16'")


def check_device(model: MultiVectorEncoder, devices: int) -> None:
    """Check that no process would spread its batch over several GPUs.

    Args:
        model: the model to train.
        devices: number of processes.

    Raises:
        ValueError: if one process sees several GPUs.

    Example:
        >>> from metaembed_lite import load
        >>> check_device(load("tiny", device="cpu"), devices=1)
    """
    if devices == 1 and model.device.type == "cuda" and torch.cuda.device_count() > 1:
        raise ValueError(
            f"{torch.cuda.device_count()} GPUs are visible to one process: start one process per "
            "GPU with accelerate launch, or set CUDA_VISIBLE_DEVICES=0 to use one"
        )


def _check_modes(output: str | Path | None, **modes: bool) -> None:
    for name, value in modes.items():
        if value and output is None:
            raise ValueError(
                f"{name}=True needs output, the folder of the model and its checkpoints"
            )
    if modes["resume"] and modes["restart"]:
        raise ValueError(
            "resume=True continues from checkpoints and restart=True deletes them: choose one"
        )


def _make_loss(model: MultiVectorEncoder, settings: Mapping[str, Any], gather: bool) -> Any:
    """The MMR loss. Settings that are None take the defaults of the loss."""
    chosen = {name: value for name, value in settings.items() if value is not None}
    cached = "mini_batch_size" in chosen
    loss_class = CachedMatryoshkaMultiVectorLoss if cached else MatryoshkaMultiVectorLoss
    return loss_class(model, gather_across_devices=gather, **chosen)


def _check_own_loss(
    model: MultiVectorEncoder,
    loss: nn.Module,
    mmr_settings: Mapping[str, Any],
    nest_after: float,
) -> None:
    if any(value is not None for value in mmr_settings.values()):
        raise ValueError(
            "budgets, weights, temperature, scale_temperature and mini_batch_size are settings of "
            "MMR: if you pass your own loss, set them there"
        )
    if nest_after != 0:
        raise ValueError(
            f"nest_after={nest_after!r} switches the budgets of MMR, and you pass your own loss: "
            "leave nest_after at 0"
        )
    if getattr(loss, "model", model) is not model:
        raise ValueError("the loss was made for another model: make it with the one that trains")


def _check_memory(
    model: MultiVectorEncoder, datasets: Mapping[str, Dataset], budgets: Sequence[Budget],
    *sizes: Any,
) -> str:  # fmt: skip
    """A line on the memory that the most demanding training set needs, if there is enough."""
    estimates = [memory.estimate(model, rows, budgets, *sizes) for rows in datasets.values()]
    largest = max(estimates, key=lambda parts: sum(parts.values()))
    return memory.check(largest, model.device)


def _run(
    trainer: MultiVectorEncoderTrainer, checkpoint: Path | None, steps: int
) -> list[dict[str, Any]]:
    """Train from a checkpoint on, or from the start. Returns the trainer's log."""
    model = trainer.model
    if checkpoint is not None and training_run.step_of(checkpoint) >= steps:
        # The run was cut off after its last step: nothing is left to train.
        model.load_state_dict(load(checkpoint, device=str(model.device)).state_dict())
        history = training_run.read_json(checkpoint / "trainer_state.json")["log_history"]
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        history = trainer.state.log_history
        # The model would otherwise go on to encode in the precision of the training.
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    model.eval()
    return list(history)


def _to_curve(history: Iterable[Mapping[str, Any]], budgets: Sequence[Budget]) -> pd.DataFrame:
    """The trainer's log as a table."""
    rows = pd.DataFrame(row for row in history if "loss" in row)
    columns = ["step", "loss", "grad_norm", *map(str, budgets)]
    return rows.reindex(columns=columns).astype(float)


def _begin(
    target: Path | None,
    settings: dict[str, Any],
    arguments: MultiVectorEncoderTrainingArguments,
    is_main: bool,
    **modes: bool,
) -> Path | None:
    """Prepare the output folder in the first process. Returns the checkpoint to continue from."""
    if target is None:
        return None
    with arguments.main_process_first(local=False):
        if is_main:
            return training_run.begin(target, settings, **modes)
        return training_run.find_newest_whole(target) if modes["resume"] else None


def _finish(
    model: MultiVectorEncoder,
    target: Path,
    settings: dict[str, Any],
    curve: pd.DataFrame,
    notes: Mapping[str, str],
) -> None:
    """Save the trained model with its curve and further notes, and close the run."""
    table = curve.round(4).to_csv(index=False)
    write_model(model, target, {**notes, "training_curve.csv": table})
    training_run.keep_newest(target)
    training_run.write_run(target, settings, finished=settings["steps"])


@contextmanager
def _reserve_checkpoints(target: Path | None, is_main: bool) -> Iterator[Path]:
    """The folder of the checkpoints, reserved for this run. Temporary if there is no target."""
    if target is not None:
        with lock(target, "training a model") if is_main else nullcontext():
            yield target / CHECKPOINTS
        return
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
