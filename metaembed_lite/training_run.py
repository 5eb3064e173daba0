"""A training run on disk: its settings, its complete checkpoints, and where it resumes.

Checkpoints lie in ``output/checkpoints`` while a model is trained. The last one stays there, so the
run can be lengthened. ``run.json`` next to them holds the settings of the run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from metaembed_lite.adapter import AdapterTransformer
from metaembed_lite.locking import write_whole
from metaembed_lite.meta_tokens import MetaTokenTransformer
from metaembed_lite.model_folder import (
    CHECKPOINT,
    CHECKPOINTS,
    RUN,
    WHOLE,
    check_output,
    is_finished,
    read_json,
    recover,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import MultiVectorEncoder

logger = logging.getLogger(__name__)

MAY_CHANGE = {"steps", "save_steps", "log_steps"}  # settings that a resumed run may change
# At least this many evenly spaced rows are compared. A change in another row goes unnoticed.
SAMPLED_ROWS = 64


def begin(
    output: Path, settings: dict[str, Any], *, resume: bool, restart: bool, overwrite: bool
) -> Path | None:
    """Prepare a folder for a run, and return the checkpoint to resume from.

    Returns:
        The checkpoint to continue from. None to start at step 0.

    Raises:
        ValueError: if files would be lost without ``restart`` or ``overwrite``, or the resumed run
            had other settings.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> begin(folder, {"steps": 10}, resume=False, restart=False, overwrite=False) is None
        True
    """
    recover(output)
    check_free(output, resume=resume, restart=restart, overwrite=overwrite)
    run = read_run(output, tolerate_damage=restart)
    if resume:
        checkpoint = _resumed(output, run, settings)
    else:
        # One by one: run.json stays, so a crash in between does no harm.
        for old in find_checkpoints(output):
            shutil.rmtree(old)
        checkpoint = None
    (output / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    write_run(output, settings, finished=None)
    return checkpoint


def read_run(output: Path, tolerate_damage: bool = False) -> dict[str, Any] | None:
    """The content of ``run.json``: settings, and the step at which the run finished.

    Args:
        output: the folder of the model.
        tolerate_damage: return an empty run instead of an error on a damaged file. Defaults to
            False.

    Returns:
        None if there is no such file.

    Raises:
        ValueError: if it is damaged.

    Example:
        >>> read_run(Path("no-such-folder")) is None
        True
    """
    file = output / CHECKPOINTS / RUN
    if not file.is_file():
        return None
    try:
        run = read_json(file)
        if not isinstance(run.get("settings"), dict) or "finished" not in run:
            raise ValueError(f"{file} does not hold a run's settings: it is damaged")
    except ValueError as error:
        if tolerate_damage:
            return {"finished": None, "settings": {}}
        raise ValueError(f"{error}. restart=True (--restart) starts again") from error
    return run


def write_run(
    output: Path, settings: dict[str, Any], finished: int | None, best: int | None = None
) -> None:
    """Write the settings of a run, and the step at which it finished, or None.

    Args:
        output: the folder of the model.
        settings: of the run, ready for JSON.
        finished: the last step of a finished run.
        best: the step of the saved model, if it is not the last one. Defaults to None.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "checkpoints").mkdir()
        >>> write_run(folder, {"steps": 10}, finished=10)
        >>> read_run(folder)["finished"]
        10
    """
    content = {"finished": finished, "settings": settings}
    if best is not None:
        content["best"] = best
    write_whole(output / CHECKPOINTS / RUN, json.dumps(content, indent=1) + "\n")


def check_free(output: Path, *, resume: bool, restart: bool, overwrite: bool) -> None:
    """Check that a run may write to a folder, before anything is loaded. Nothing is changed.

    Raises:
        ValueError: if something in the folder would be lost, or there is nothing to resume.

    Example:
        >>> check_free(Path("a new folder"), resume=False, restart=False, overwrite=False)
    """
    check_output(output)
    run = read_run(output, tolerate_damage=restart)
    finished = is_finished(output)
    if resume:
        if run is None and finished:
            raise ValueError(
                f"{output} holds a finished model and no checkpoint of its training: there is "
                "nothing to resume. train(load(...), ...) trains it further"
            )
        return
    steps = [step_of(path) for path in find_checkpoints(output)]
    unfinished = run is not None and run["finished"] is None
    if unfinished and steps and not restart:
        raise ValueError(
            f"{output} holds the checkpoints of a run that was cut off after step {max(steps)}: "
            "resume=True (--resume) continues from there, restart=True (--restart) deletes them "
            "and starts again"
        )
    if finished and not overwrite:
        raise ValueError(
            f"{output} holds a finished model: overwrite=True (--overwrite) replaces it when the "
            "new one is trained, resume=True (--resume) with more steps lengthens its training"
        )


def _resumed(output: Path, run: dict[str, Any] | None, settings: dict[str, Any]) -> Path | None:
    if run is None:
        return None
    check_settings(run["settings"], settings, output)
    checkpoint = find_newest_whole(output)
    done = 0 if checkpoint is None else step_of(checkpoint)
    if run["finished"] is not None and checkpoint is None:
        raise ValueError(
            f"{output} holds a finished model, and none of its checkpoints is complete: it cannot "
            "be lengthened. train(load(...), ...) trains it further"
        )
    if run["finished"] is not None and settings["steps"] <= done:
        raise ValueError(
            f"{output} finished at step {done}: there is nothing to resume. Give more steps than "
            f"that to lengthen the run (now steps={settings['steps']})"
        )
    if settings["steps"] < done:
        raise ValueError(
            f"steps={settings['steps']}: the run in {output} is at step {done} already"
        )
    return checkpoint


def check_settings(before: dict[str, Any], now: dict[str, Any], output: Path) -> None:
    """Check that a resumed run has the settings that it had before.

    Raises:
        ValueError: naming every setting that differs.

    Example:
        >>> check_settings({"steps": 10, "seed": 0}, {"steps": 20, "seed": 0}, Path("out"))
    """
    differences = [
        f"{name}: {_brief(before.get(name))} before, {_brief(now.get(name))} now"
        for name in sorted(before.keys() | now.keys())
        if name not in MAY_CHANGE and before.get(name) != now.get(name)
    ]
    if differences:
        text = "; ".join(differences)
        raise ValueError(
            f"the run in {output} cannot be resumed with other settings ({text}). Use "
            "the same, or start again with restart=True (--restart)"
        )


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 300 else text[:300] + " ..."


def find_checkpoints(output: Path) -> list[Path]:
    """The checkpoints of a run, complete or not, the newest first.

    Example:
        >>> find_checkpoints(Path("no-such-folder"))
        []
    """
    folders = (output / CHECKPOINTS).glob("checkpoint-*")
    named = [folder for folder in folders if CHECKPOINT.fullmatch(folder.name)]
    return sorted(named, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was written.

    Example:
        >>> step_of(Path("out/checkpoints/checkpoint-250"))
        250
    """
    return int(checkpoint.name.rpartition("-")[2])


def mark_whole(checkpoint: Path) -> None:
    """Record the size of each file of a checkpoint, once all of them are written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> mark_whole(folder)
        >>> describe_damage(folder) is None
        True
    """
    sizes = {
        file.relative_to(checkpoint).as_posix(): file.stat().st_size
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file() and file.name != WHOLE
    }
    write_whole(checkpoint / WHOLE, json.dumps(sizes, indent=1) + "\n")


def describe_damage(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be used. None if it is complete.

    Example:
        >>> describe_damage(Path("no-such-folder"))
        'it was cut off while it was written'
    """
    try:
        sizes = read_json(checkpoint / WHOLE)
    except (OSError, ValueError):
        return "it was cut off while it was written"
    for name, size in sizes.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, not {size}"
    return None


def find_newest_whole(output: Path) -> Path | None:
    """The newest complete checkpoint. Newer, broken ones are reported and removed.

    Example:
        >>> find_newest_whole(Path("no-such-folder")) is None
        True
    """
    for checkpoint in find_checkpoints(output):
        damage = describe_damage(checkpoint)
        if damage is None:
            return checkpoint
        logger.warning("%s is skipped and removed: %s", checkpoint, damage)
        shutil.rmtree(checkpoint)
    return None


def find_best_whole(folder: Path, steps: Sequence[int]) -> int:
    """The first of some steps whose checkpoint is complete.

    Args:
        folder: the folder of the checkpoints.
        steps: the best first.

    Raises:
        ValueError: if none is complete.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "checkpoint-20").mkdir()
        >>> mark_whole(folder / "checkpoint-20")
        >>> find_best_whole(folder, [10, 20])  # checkpoint-10 was lost
        20
    """
    for step in steps:
        damage = describe_damage(folder / f"checkpoint-{step}")
        if damage is None:
            return step
        logger.warning("the best model, of step %d, is lost: %s", step, damage)
    raise ValueError(f"no checkpoint in {folder} of a validated step is complete: train again")


def keep_newest(output: Path, best: int | None = None) -> None:
    """Remove the old checkpoints of a finished run. The newest stays, to lengthen the run from it.

    Args:
        output: the folder of the model.
        best: a step whose checkpoint stays, too. Defaults to None.

    Example:
        >>> keep_newest(Path("no-such-folder"))
    """
    for checkpoint in find_checkpoints(output)[1:]:
        if step_of(checkpoint) != best:
            shutil.rmtree(checkpoint)


def describe_rows(datasets: Mapping[str, Dataset]) -> list[list[Any]]:
    """A record of training sets, to compare them: names, columns, lengths and a hash of some rows.

    Example:
        >>> from datasets import Dataset
        >>> rows = Dataset.from_list([{"query": "a", "positive": "b"}])
        >>> describe_rows({"pairs": rows})[0][1]["columns"]
        ['query', 'positive']
    """
    return [[name, _describe_dataset(rows)] for name, rows in datasets.items()]


def _describe_dataset(rows: Dataset) -> dict[str, Any]:
    step = max(1, len(rows) // SAMPLED_ROWS)
    table = rows.with_format("arrow")[list(range(0, len(rows), step))]
    digest = hashlib.sha256(repr(table.to_pydict()).encode()).hexdigest()
    return {"rows": len(rows), "columns": rows.column_names, "sample": digest[:16]}


def describe_model(model: MultiVectorEncoder) -> dict[str, Any]:
    """A record of a model, ready for JSON. A run is resumed only if the record is the same.

    Example:
        >>> from metaembed_lite import load
        >>> record = describe_model(load("tiny", device="cpu"))
        >>> record["backbone"], record["r_q"], record["r_c"]
        ('metaembed_lite/tiny-vlm', 8, 16)
    """
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
        transformer = model[0]
        record |= {
            "backbone": transformer.backbone_name, "r_q": transformer.r_q, "r_c": transformer.r_c,
            "layout": transformer.layout,
        }  # fmt: skip
    for config in getattr(getattr(model[0], "model", None), "peft_config", {}).values():
        record |= {
            "lora_rank": config.r,
            "lora_alpha": config.lora_alpha,
            "lora_dropout": config.lora_dropout,
        }
    return record


def describe_evaluator(evaluator: Any) -> dict[str, Any]:
    """A record of the validation that chooses the best model, ready for JSON.

    Args:
        evaluator: a ``BudgetEvaluator``.

    Example:
        >>> from metaembed_lite import load
        >>> from metaembed_lite.validation import BudgetEvaluator
        >>> rows = [{"query": "red apple", "positive": "apple"}]
        >>> describe_evaluator(BudgetEvaluator(load("tiny", device="cpu"), rows))["by"]
        'p_at_1_mean'
    """
    task = evaluator.task
    return {
        "by": evaluator.primary_metric,
        "budgets": [str(budget) for budget in evaluator.budgets],
        "queries": len(task.queries),
        "candidates": len(task.candidates),
        "relevance": hashlib.sha256(task.relevance.tobytes()).hexdigest()[:16],
    }


def describe_loss(loss: nn.Module) -> dict[str, Any]:
    """The class and settings of a loss, ready for JSON.

    Example:
        >>> describe_loss(nn.CrossEntropyLoss())
        {'class': 'CrossEntropyLoss'}
    """
    settings = loss.get_config_dict() if hasattr(loss, "get_config_dict") else {}
    return {"class": type(loss).__name__, **json.loads(json.dumps(settings, default=str))}
