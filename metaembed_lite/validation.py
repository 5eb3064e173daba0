"""Validation while a model trains: quality per budget on data that it does not train on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from accelerate.utils import broadcast_object_list
from sentence_transformers import MultiVectorEncoderTrainer
from sentence_transformers.base.evaluation import BaseEvaluator

from metaembed_lite.arguments import whole_number
from metaembed_lite.budget import Budget, Budgets
from metaembed_lite.data.held_out import Rows, task_from_rows
from metaembed_lite.data.task import RetrievalTask
from metaembed_lite.evaluation import encode, ndcg_at_5, precision_at_1
from metaembed_lite.meta_tokens import choose_budgets
from metaembed_lite.scoring import maxsim

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

MEASURES = {"p_at_1": precision_at_1, "ndcg_at_5": ndcg_at_5}
PREFIX = "eval_"  # the trainer's, before the name of each value of an evaluation
MEAN = "p_at_1_mean"


class BudgetEvaluator(BaseEvaluator):
    """P@1 and NDCG@5 of a model per budget, as an evaluator of sentence-transformers' trainer.

    A task is encoded once, at the full budget. The values are those of ``sweep``.

    Args:
        model: the model that trains, from ``build`` or ``load``.
        task: queries, candidates and relevance, or rows as for ``train``, which become a task by
            ``task_from_rows``.
        budgets: a list, or a single budget. Defaults to those of the paper that the model can
            meet, and its full budget.
        batch_size: inputs per batch when encoding. Defaults to 64.
        keep: the value that decides which model is the best, such as "ndcg_at_5 4x8". A budget
            alone means P@1 at this budget. Defaults to the mean of P@1 over the budgets.

    Attributes:
        primary_metric: name of the value that decides which model is the best.

    Raises:
        ValueError: on rows that ``task_from_rows`` refuses, or an unknown measure or budget.

    Example:
        >>> from metaembed_lite import load
        >>> model = load("tiny", device="cpu")
        >>> rows = [{"query": "red apple", "positive": "apple", "negative": "violin"}]
        >>> evaluator = BudgetEvaluator(model, rows, "4x8")
        >>> sorted(evaluator(model))
        ['ndcg_at_5_4x8', 'ndcg_at_5_mean', 'p_at_1_4x8', 'p_at_1_mean']
    """

    def __init__(
        self,
        model: MultiVectorEncoder,
        task: RetrievalTask | Rows,
        budgets: Budgets | None = None,
        batch_size: int = 64,
        keep: str | None = None,
    ) -> None:
        super().__init__()
        self.task = task if isinstance(task, RetrievalTask) else task_from_rows(task)
        self.budgets = choose_budgets(model, budgets)
        self.batch_size = batch_size
        self.primary_metric = MEAN if keep is None else _read_measure(keep, self.budgets)

    def __call__(self, model: MultiVectorEncoder, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The values by name: each measure at each budget, and its mean over the budgets."""
        encoded = encode(model, self.task, self.batch_size)
        values: dict[str, list[float]] = {measure: [] for measure in MEASURES}
        for budget in self.budgets:
            scores = maxsim(encoded.queries, encoded.candidates, budget).numpy()  # (Q, N)
            for measure, judge in MEASURES.items():
                values[measure].append(judge(scores, self.task.relevance, self.task.pool))
        named = {
            name_value(measure, budget): value
            for measure, column in values.items()
            for budget, value in zip(self.budgets, column, strict=True)
        }
        return named | {f"{measure}_mean": float(np.mean(v)) for measure, v in values.items()}


def name_value(measure: str, budget: Budget) -> str:
    """The name of a measure at a budget in the trainer's log.

    Example:
        >>> name_value("p_at_1", Budget(4, 8))
        'p_at_1_4x8'
    """
    return f"{measure}_{budget.r_q}x{budget.r_c}"


def _read_measure(text: str, budgets: Sequence[Budget]) -> str:
    """The name of the value that a text such as "4x8" or "ndcg_at_5 4x8" means."""
    names = {name_value(measure, budget) for measure in MEASURES for budget in budgets}
    measure, _, rest = text.strip().partition(" ")
    if measure not in MEASURES:
        measure, rest = "p_at_1", text
    try:
        name = name_value(measure, Budget.parse(rest))
    except ValueError:
        name = ""
    if name not in names:
        budget = budgets[-1]
        raise ValueError(
            f"keep_best={text!r}: use True for the best mean P@1, or a budget that is validated "
            f"({', '.join(map(str, budgets))}) after p_at_1 or ndcg_at_5, such as "
            f"'ndcg_at_5 {budget.r_q}x{budget.r_c}'"
        )
    return name


class ValidatingTrainer(MultiVectorEncoderTrainer):
    """sentence-transformers' trainer, whose evaluations do not disturb the training.

    The first process evaluates. The model's mode and torch's random states are then restored.

    Args:
        *args: as the parent class.
        keep_best: write a checkpoint whenever the evaluator's primary value is the best so far.
            Defaults to False.
        **kwargs: as the parent class.

    Example:
        >>> import tempfile
        >>> from metaembed_lite import MatryoshkaMultiVectorLoss, load, training_arguments
        >>> model = load("tiny", device="cpu")
        >>> rows = [{"query": "red apple", "positive": "apple"}]
        >>> trainer = ValidatingTrainer(
        ...     model,
        ...     training_arguments(tempfile.mkdtemp(), use_cpu=True, save_steps=None),
        ...     loss=MatryoshkaMultiVectorLoss(model),
        ...     evaluator=BudgetEvaluator(model, rows),
        ... )
        >>> trainer.evaluate()["eval_p_at_1_1x1"]
        1.0
    """

    def __init__(self, *args: Any, keep_best: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keep_best = keep_best

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Log the values of the evaluator, and return them."""
        measured: list[dict[str, float]] = [{}]
        if self.is_world_process_zero():
            with _keep_state(self.model):
                measured = [self.evaluator(self.model)]
        measured = broadcast_object_list(measured)  # to the other processes, which wait here
        values = {f"{metric_key_prefix}_{name}": value for name, value in measured[0].items()}
        self.log(dict(values))
        is_best = self.keep_best and self._is_best(values)
        control = self.callback_handler.on_evaluate(self.args, self.state, self.control, values)
        self.control: Any = control
        if is_best:
            self.control.should_save = True
        return values

    def _is_best(self, values: Mapping[str, float]) -> bool:
        best, value = self.state.best_metric, values[PREFIX + self.evaluator.primary_metric]
        return self.state.global_step > 0 and (best is None or value > best)


@contextmanager
def _keep_state(model: MultiVectorEncoder) -> Iterator[None]:
    """Restore torch's random states and the model's mode at the end."""
    training = model.training
    try:
        with torch.random.fork_rng():
            yield
    finally:
        model.train(training)


def make_evaluator(
    model: MultiVectorEncoder,
    validation: RetrievalTask | Rows | None,
    budgets: Budgets | None,
    batch_size: int,
    *,
    validate_every: int | None,
    keep_best: bool | str,
) -> BudgetEvaluator | None:
    """The evaluator for these arguments of ``train``, or None without ``validation``.

    Raises:
        ValueError: naming the argument that is wrong, or that needs ``validation``.

    Example:
        >>> from metaembed_lite import load
        >>> model = load("tiny", device="cpu")
        >>> make_evaluator(model, None, None, 64, validate_every=None, keep_best=True)
        Traceback (most recent call last):
        ...
        ValueError: keep_best=True needs validation: a RetrievalTask, or rows that do not train
    """
    if not isinstance(keep_best, bool | str):
        raise ValueError(f"keep_best={keep_best!r}: use True, or a text such as 'ndcg_at_5 4x8'")
    if validate_every is not None:
        whole_number(validate_every, "validate_every")
    if validation is not None:
        keep = keep_best if isinstance(keep_best, str) else None
        return BudgetEvaluator(model, validation, budgets, batch_size, keep)
    for name, value in {"validate_every": validate_every, "keep_best": keep_best}.items():
        if value:
            raise ValueError(
                f"{name}={value!r} needs validation: a RetrievalTask, or rows that do not train"
            )
    return None


def validation_arguments(
    evaluator: BudgetEvaluator | None, validate_every: int, keep_best: bool | str
) -> dict[str, Any]:
    """The trainer's arguments for validation. There are none without an evaluator.

    Example:
        >>> validation_arguments(None, 10, keep_best=False)
        {}
    """
    if evaluator is None:
        return {}
    return {
        "eval_strategy": "steps",
        "eval_steps": validate_every,
        "metric_for_best_model": evaluator.primary_metric,
        "greater_is_better": True,
        "save_total_limit": 3 if keep_best else 2,  # the best, and as many others as without it
    }


def rank_steps(history: Iterable[Mapping[str, Any]], value: str) -> list[int]:
    """The steps of a trainer's log that were validated, the best first. Of equal ones, the first.

    Args:
        history: the log. Step 0, before the training, does not count.
        value: name of the value, such as "p_at_1_mean".

    Example:
        >>> rank_steps([{"step": 1, "eval_p": 0.5}, {"step": 2, "eval_p": 0.7}], "p")
        [2, 1]
    """
    rows = [row for row in history if PREFIX + value in row and row["step"] > 0]
    return [
        row["step"] for row in sorted(rows, key=lambda row: (-row[PREFIX + value], row["step"]))
    ]


def tabulate(history: Iterable[Mapping[str, Any]], budgets: Sequence[Budget]) -> pd.DataFrame:
    """The validations of a trainer's log as a table, one row per validated step.

    Args:
        history: the log.
        budgets: the budgets that were validated.

    Returns:
        DataFrame with step, and columns such as "p_at_1 (4, 8)" and "ndcg_at_5 (4, 8)".

    Example:
        >>> tabulate([{"step": 2, "eval_p_at_1_1x1": 0.5}], [Budget(1, 1)]).columns.tolist()
        ['step', 'p_at_1 (1, 1)', 'ndcg_at_5 (1, 1)']
    """
    columns = {"step": "step"} | {
        PREFIX + name_value(measure, budget): f"{measure} {budget}"
        for measure in MEASURES
        for budget in budgets
    }
    validated = [row for row in history if PREFIX + MEAN in row]
    rows = pd.DataFrame(validated, columns=list(columns)) if validated else pd.DataFrame()
    return rows.reindex(columns=list(columns)).rename(columns=columns).astype(float)
