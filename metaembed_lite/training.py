"""Train a model on a task with MMR, by sentence-transformers' trainer."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch
import yaml
from sentence_transformers import MultiVectorEncoderTrainingArguments
from torch import nn
from transformers import PrinterCallback

from metaembed_lite import memory, provenance, training_run
from metaembed_lite.best_checkpoint import read_weights, restore_best
from metaembed_lite.budget import Budget, Budgets
from metaembed_lite.callbacks import LossByBudget, MarkWhole, NestAfter
from metaembed_lite.data.rows import check_rows
from metaembed_lite.locking import lock
from metaembed_lite.losses import CachedMatryoshkaMultiVectorLoss, MatryoshkaMultiVectorLoss
from metaembed_lite.model_card import remove_examples
from metaembed_lite.model_folder import CHECKPOINTS, naming
from metaembed_lite.progress import ProgressBar, choose_loggers
from metaembed_lite.saving import check_not_backbone, write_model
from metaembed_lite.schedule import check_schedule, count_steps, training_arguments
from metaembed_lite.trainable import describe_trained, freeze_dropout
from metaembed_lite.validation import (
    BudgetEvaluator,
    ValidatingTrainer,
    make_evaluator,
    tabulate,
    validation_arguments,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import MultiVectorEncoder
    from transformers import TrainerCallback

    from metaembed_lite.data.held_out import Rows
    from metaembed_lite.data.task import RetrievalTask

logger = logging.getLogger(__name__)


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
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int = 64,
    mini_batch_size: int | None = None,
    learning_rate: float = 1e-4,
    fresh_learning_rate: float | None = None,
    warmup_steps: int = 50,
    validation: RetrievalTask | Rows | None = None,
    validate_every: int | None = None,
    keep_best: bool | str = False,
    output: str | Path | None = None,
    save_steps: int = 250,
    resume: bool = False,
    restart: bool = False,
    overwrite: bool = False,
    card_examples: bool = False,
    recipe: Mapping[str, Any] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    report_to: str | Sequence[str] = (),
    progress: bool = True,
    log_steps: int = 10,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    gradient_checkpointing: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Train a model in place, print which parameters train, and return the training curve.

    It uses ``MultiVectorEncoderTrainer``. Without the memory estimate, validation, safe folders and
    the curve, this program does the same training::

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
        steps: optimizer steps. Defaults to 1000, unless ``epochs`` is given.
        epochs: passes over the rows, in place of ``steps``. In a pass, rows that do not fill a
            batch are left out. Defaults to None.
        batch_size: queries per step and device. Defaults to 64.
        mini_batch_size: inputs encoded at a time, by gradient caching. It is the same training in
            less memory, and each input is encoded twice. Defaults to the whole batch at once.
        learning_rate: learning rate of LoRA, or of every weight if the model has no adapter. It
            decays as a cosine. Defaults to 1e-4.
        fresh_learning_rate: learning rate of meta tokens and projection. Without an adapter, meta
            tokens are rows of the embedding and learn at ``learning_rate``. Defaults to
            ``learning_rate``.
        warmup_steps: steps of linear warm-up. Defaults to 50.
        validation: a RetrievalTask, or rows like those of the training, on which P@1 and NDCG@5
            are measured per budget: before the first step, while the model trains, and after the
            last step. It does not change the training. It runs in the precision of the training.
            Rows become a task by ``data.held_out.task_from_rows``. Defaults to None.
        validate_every: steps between validations. Defaults to ``save_steps``.
        keep_best: end with the best validated model in place of the last one, in memory and in
            ``output``. True takes the mean of P@1 over the budgets. "4x8" takes P@1 at this budget,
            and "ndcg_at_5 4x8" NDCG@5. Of equal ones, the first is kept. Each new best is written
            as a checkpoint. Defaults to False.
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
            to the weights. Defaults to what is known: the model, the number of rows, and these
            settings.
        callbacks: more callbacks of transformers' trainer, such as ``EarlyStoppingCallback``, which
            needs ``validation``. A resume does not check that they are the same. Defaults to none.
        report_to: loggers of transformers, such as "tensorboard" or ["wandb", "mlflow"]. They get
            the loss and the validation per budget. Files of tensorboard go to ``checkpoints/runs``
            in ``output``. Defaults to none.
        progress: show a progress bar with the loss per budget. Defaults to True.
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
        step. Another ``loss`` gives no columns per budget. With ``validation``, there are also
        columns such as "p_at_1 (4, 8)" and "ndcg_at_5 (4, 8)", which are NaN in rows without a
        validation. With ``keep_best``, ``attrs["best_step"]`` is the step of the model.

    Raises:
        ValueError: on no rows, wrong columns, fewer rows than a batch, or an unknown precision.
            Also on both ``steps`` and ``epochs``. Also on ``validate_every`` or ``keep_best``
            without ``validation``, and on ``validation`` of a model without meta tokens. Also on
            ``nest_after`` out of range or with a single budget. Also on ``loss`` with settings of
            MMR, or a model of which nothing trains. Also if something in ``output`` would be lost,
            or on a resume with other settings. Also if weights are not finite at the end. The model
            in ``output`` is then kept.
        ImportError: naming the package of a logger that is not installed.
        MemoryError: if the run will not fit according to the estimate, which is logged.
        BlockingIOError: if another process trains into ``output``.

    Example:
        >>> from metaembed_lite import build, load_task
        >>> task = load_task("stickers", n_queries=4, n_train=16, side=2)
        >>> model = build("tiny-vlm", r_q=2, r_c=4, dim=32, lora_rank=4, device="cpu")
        >>> curve = train(model, task.train, steps=2, batch_size=8, log_steps=1)
        training 44,288 of 1,812,992 parameters: LoRA 39,424, meta tokens 768, projection 4,096
        >>> curve.columns.tolist()
        ['step', 'loss', 'grad_norm', '(1, 1)', '(2, 4)']
    """
    devices = int(os.environ.get("WORLD_SIZE", 1))
    is_main = int(os.environ.get("RANK", 0)) == 0
    schedule: dict[str, Any] = {
        "batch_size": batch_size, "learning_rate": learning_rate,
        "fresh_learning_rate": fresh_learning_rate, "warmup_steps": warmup_steps,
        "save_steps": save_steps, "log_steps": log_steps, "precision": precision,
        "gradient_checkpointing": gradient_checkpointing, "seed": seed,
    }  # fmt: skip
    check_schedule(schedule | {"steps": steps, "epochs": epochs})
    check_device(model, devices)
    _check_modes(output, resume=resume, restart=restart, overwrite=overwrite)
    loggers = choose_loggers(report_to, has_output=output is not None)
    datasets = check_rows(rows, batch_size * devices)
    lengths = [len(dataset) for dataset in datasets.values()]
    steps = schedule["steps"] = count_steps(steps, epochs, lengths, batch_size, devices)
    mmr_settings = {
        "budgets": budgets, "weights": weights, "temperature": temperature,
        "scale_temperature": None if scale_temperature is False else scale_temperature,
        "mini_batch_size": mini_batch_size,
    }  # fmt: skip
    curve_budgets: Sequence[Budget] = ()
    own_callbacks: list[Any] = [MarkWhole(model, devices)]
    full_steps = 0
    own_loss = None if loss is None else type(loss).__name__
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
    evaluator = make_evaluator(
        model, validation, curve_budgets or None, mini_batch_size or batch_size,
        validate_every=validate_every, keep_best=keep_best,
    )  # fmt: skip
    trained = describe_trained(model)
    freeze_dropout(model)
    target = None if output is None else Path(os.path.abspath(output))
    if target is not None:
        check_not_backbone(model, target)
    if recipe is None:
        choices = {
            **mmr_settings, "budgets": curve_budgets or None, "loss": own_loss,
            "nest_after": nest_after or None, "validate_every": validate_every,
            "keep_best": keep_best or None,
        }  # fmt: skip
        recipe = provenance.describe_training(model, datasets, evaluator, choices | schedule)
    # Written before training, so that a recipe that is not YAML costs no run.
    recipe_text = yaml.safe_dump(dict(recipe), sort_keys=False)
    with _reserve_checkpoints(target, is_main) as checkpoints:
        has_checkpoints = target is not None or keep_best
        arguments = training_arguments(
            checkpoints,
            **schedule | {"save_steps": save_steps if has_checkpoints else None},
            use_cpu=model.device.type == "cpu",
            disable_tqdm=True,
            restore_callback_states_from_checkpoint=bool(callbacks),
            **validation_arguments(evaluator, min(validate_every or save_steps, steps), keep_best),
        )
        settings = schedule | {
            "mini_batch_size": mini_batch_size, "devices": devices,
            "rows": training_run.describe_rows(datasets),
            "model": training_run.describe_model(model),
            "loss": training_run.describe_loss(loss),
        }  # fmt: skip
        if full_steps:  # in steps, because a lengthened run must not return to the first phase
            settings["nest_after"] = f"{full_steps} steps"
        if evaluator is not None and keep_best:  # the best so far was chosen by these
            settings["keep_best"] = training_run.describe_evaluator(evaluator)
        modes = {"resume": resume, "restart": restart, "overwrite": overwrite}
        checkpoint = _begin(target, settings, arguments, is_main, **modes)
        arguments.eval_on_start = evaluator is not None and checkpoint is None
        if is_main:
            print(trained)
        trainer = ValidatingTrainer(
            model=model,
            args=arguments,
            train_dataset=datasets if len(datasets) > 1 else next(iter(datasets.values())),
            loss=loss,
            evaluator=evaluator,
            keep_best=bool(keep_best),
            callbacks=[*own_callbacks, *loggers, *([ProgressBar()] * progress), *callbacks],
        )
        trainer.remove_callback(PrinterCallback)
        if not card_examples:
            remove_examples(model)
        history = _run(trainer, checkpoint, steps)
        curve = _to_curve(history, curve_budgets, evaluator)
        if keep_best:
            curve.attrs["best_step"] = restore_best(trainer, history, is_main)
        model.trained_recipe = recipe_text
        trainer.accelerator.wait_for_everyone()  # others may still read a checkpoint
        if target is not None and is_main:
            _finish(model, target, settings, curve)
    return curve


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


def _run(trainer: ValidatingTrainer, checkpoint: Path | None, steps: int) -> list[dict[str, Any]]:
    """Train from a checkpoint on, or from the start. Returns the trainer's log."""
    model = trainer.model
    if checkpoint is not None and training_run.step_of(checkpoint) >= steps:
        # The run was cut off after its last step: nothing is left to train.
        read_weights(model, checkpoint)
        history = training_run.read_json(checkpoint / "trainer_state.json")["log_history"]
    else:
        with naming(trainer.args.output_dir):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        history = trainer.state.log_history
        # The model would otherwise go on to encode in the precision of the training.
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    model.eval()
    return list(history)


def _to_curve(
    history: Sequence[Mapping[str, Any]],
    budgets: Sequence[Budget],
    evaluator: BudgetEvaluator | None,
) -> pd.DataFrame:
    """The trainer's log as a table."""
    rows = pd.DataFrame(row for row in history if "loss" in row)
    columns = ["step", "loss", "grad_norm", *map(str, budgets)]
    curve = rows.reindex(columns=columns).astype(float)
    if evaluator is None:
        return curve
    return curve.merge(tabulate(history, evaluator.budgets), on="step", how="outer", sort=True)


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
    model: MultiVectorEncoder, target: Path, settings: dict[str, Any], curve: pd.DataFrame
) -> None:
    """Save the trained model with its curve and recipe, and close the run."""
    table = curve.round(4).to_csv(index=False)
    best = curve.attrs.get("best_step")
    write_model(model, target, {"training_curve.csv": table})
    training_run.keep_newest(target, best)
    training_run.write_run(target, settings, finished=settings["steps"], best=best)


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
