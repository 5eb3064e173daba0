"""The best validated checkpoint of a training run, whose weights the model gets at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list

from metaembed_lite import training_run
from metaembed_lite.loading import load
from metaembed_lite.validation import PREFIX, ValidatingTrainer, rank_steps

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder


def restore_best(
    trainer: ValidatingTrainer, history: Sequence[Mapping[str, Any]], is_main: bool
) -> int:
    """Read the weights of the best validated step into the trainer's model, and print the step.

    Args:
        trainer: after its training, with an evaluator and checkpoints.
        history: its log.
        is_main: whether this is the first process, which chooses and prints.

    Returns:
        The step.

    Raises:
        ValueError: if no checkpoint of a validated step is complete.

    Example:
        >>> from metaembed_lite import load, train
        >>> rows = [{"query": "red apple", "positive": "apple"}] * 4
        >>> curve = train(
        ...     load("tiny", device="cpu"), rows, steps=2, batch_size=4, validation=rows,
        ...     validate_every=1, keep_best=True,
        ... )  # it calls restore_best at the end
        training ...
        kept the model of step 1 of 2: p_at_1_mean 1.000
        No step is better than the start: p_at_1_mean 1.000
        >>> curve.attrs["best_step"]
        1
    """
    name = trainer.evaluator.primary_metric
    folder = Path(trainer.args.output_dir)
    chosen = [0]
    if is_main:
        chosen = [training_run.find_best_whole(folder, rank_steps(history, name))]
    best = broadcast_object_list(chosen)[0]
    read_weights(trainer.model, folder / f"checkpoint-{best}")
    if is_main:
        values = {r["step"]: r[PREFIX + name] for r in history if PREFIX + name in r}
        print(f"kept the model of step {best} of {max(values)}: {name} {values[best]:.3f}")
        if values.get(0, -1) >= values[best]:
            print(f"No step is better than the start: {name} {values[0]:.3f}")
    return int(best)


def read_weights(model: MultiVectorEncoder, checkpoint: Path) -> None:
    """Read the weights of a checkpoint into a model.

    Example:
        >>> import tempfile
        >>> model, folder = load("tiny", device="cpu"), tempfile.mkdtemp()
        >>> model.save_pretrained(folder)
        >>> read_weights(model, Path(folder))
    """
    model.load_state_dict(load(checkpoint, device="cpu").state_dict())
