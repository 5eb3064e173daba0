"""The matrix of experiments: the suites that are measured, and the systems that are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ideas import (
    DistilledBudgets,
    OrthogonalVectors,
    RandomBudgets,
    start_from_rows,
    start_with_offsets,
)

from metaembed_lite import load_task
from metaembed_lite.data.meta_tasks import HELD_OUT, TASKS

SEEDS = (0, 1, 2)
BUDGETS = [(1, 1), (2, 4), (4, 8), (8, 16)]
DIM_FRACTIONS = [1 / 16, 1 / 4, 1 / 2, 1]  # at (8, 16) the same bytes as BUDGETS at the full D


@dataclass(frozen=True)
class Suite:
    """The tasks that systems are trained and measured on.

    Attributes:
        recipe: name of the recipe, with the settings of every system on this suite.
        overrides: settings that differ from the recipe's.
        tasks: names of the tasks.
        n_queries: number of queries per task. Defaults to 500.
        splits: what to measure: a name, and the settings of ``load_task`` that give it. Split
            "train" shows what was learned but does not generalize. Defaults to the test split.
        width: hidden size of a backbone that is pretrained as tiny-vlm was, for the study of scale.
            Defaults to the recipe's backbone.
        measure: the measure of the tables, a key of ``METRICS``. Defaults to P@1.
    """

    recipe: str
    overrides: tuple[str, ...]
    tasks: tuple[str, ...]
    n_queries: int = 500
    splits: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"test": {}})
    width: int | None = None
    measure: str = "p_at_1"

    def training_rows(self, n: int, seed: int) -> Any:
        """Load ``n`` rows, or a dict of n rows in total if there are several tasks to train on."""
        task_names = [task for task in self.tasks if task not in HELD_OUT]
        rows_by_task = {
            task: load_task(task, n_queries=1, n_train=n // len(task_names), seed=seed).train
            for task in task_names
        }
        return rows_by_task if len(task_names) > 1 else rows_by_task[task_names[0]]


_STICKER_SPLITS = {"test": {}, "unseen artist": {"unseen_artist": True}}
SUITES = {
    "stickers": Suite("tiny", (), ("stickers",), splits=_STICKER_SPLITS),
    "stickers-64": Suite("tiny", (), ("stickers",), width=64),
    "stickers-192": Suite("tiny", (), ("stickers",), width=192),
    "handwriting": Suite("tiny-handwriting", (), ("handwriting",)),
    "meta-tasks": Suite("tiny", (), TASKS),
    "codesearch": Suite(
        "minilm-codesearch",
        (),
        ("codesearch",),
        n_queries=1000,
        splits={"test": {}, "train": {"split": "train"}},
    ),
}


@dataclass(frozen=True)
class System:
    """How a system is trained.

    Attributes:
        label: its name in tables.
        budgets: budgets of the loss. Defaults to (), for a system without meta tokens.
        dim_fractions: fractions of D that the loss is summed over. Vectors are cut to that
            fraction and normalized again. Defaults to the full D.
        one_vector: whether an item has a single vector. Defaults to False.
        pooled_sizes: numbers of clusters that training pools the token vectors of a candidate to.
            Defaults to (), which trains all token vectors.
        loss: a variant of MMR's loss, of ``ideas.py``. Defaults to MMR itself.
        model_overrides: arguments of ``build`` that differ from the recipe's.
        start: changes the untrained model, such as ``ideas.start_from_rows``. Defaults to nothing.
        train_overrides: arguments of ``train`` that differ from the recipe's.
        hard_negatives: whether training rows have a hard negative. Defaults to True.
        shuffled: whether to train on wrong pairs. A score above chance then shows a leak of test
            data. Defaults to False.
    """

    label: str
    budgets: Sequence[tuple[int, int]] = ()
    dim_fractions: Sequence[float] = (1,)
    one_vector: bool = False
    pooled_sizes: Sequence[int] = ()
    loss: Callable[..., Any] | None = None
    model_overrides: dict[str, Any] = field(default_factory=dict)
    start: Callable[[Any], None] | None = None
    train_overrides: dict[str, Any] = field(default_factory=dict)
    hard_negatives: bool = True
    shuffled: bool = False


SYSTEMS = {
    "untrained": System("the backbone's own mean of tokens, untrained"),
    "MMR": System("MetaEmbed with MMR", BUDGETS),
    "late-0": System("MMR from the first step", BUDGETS, train_overrides={"nest_after": 0.0}),
    "late-50": System("MMR after 50 % of the steps", BUDGETS, train_overrides={"nest_after": 0.5}),
    "late-75": System("MMR after 75 % of the steps", BUDGETS, train_overrides={"nest_after": 0.75}),
    "no-MMR": System("MetaEmbed without MMR", BUDGETS[-1:]),
    "last": System("single vector, last token", one_vector=True),
    "mean": System("single vector, mean of tokens", one_vector=True),
    "tokens": System("all token vectors (ColBERT)"),
    "patches": System("patch vectors (ColPali)"),
    "pooled": System("token vectors, trained for pooling to 16", pooled_sizes=[16]),
    "pooled-nested": System(
        "token vectors, trained for pooling to 1, 4, 8 and 16", pooled_sizes=[1, 4, 8, 16]
    ),
    "constant": System("learned linear map of tokens to 16 vectors (ConstBERT)"),
    "attention": System("attention-guided clustering to 16 vectors"),
    "fixed-1x1": System("trained for (1, 1) alone", BUDGETS[:1]),
    "fixed-2x4": System("trained for (2, 4) alone", BUDGETS[1:2]),
    "fixed-4x8": System("trained for (4, 8) alone", BUDGETS[2:3]),
    "MRL": System("nested dimensions", BUDGETS[-1:], DIM_FRACTIONS),
    "MMR+MRL": System("nested budgets and dimensions", BUDGETS, DIM_FRACTIONS),
    "easy": System("MMR, no hard negatives", BUDGETS, hard_negatives=False),
    "shuffled": System("MMR, trained on shuffled pairs", BUDGETS, shuffled=True),
    "tau-0.03": System("MMR, temperature 0.03", BUDGETS, train_overrides={"temperature": 0.03}),
    "tau-0.3": System("MMR, temperature 0.3", BUDGETS, train_overrides={"temperature": 0.3}),
    "orthogonal": System(
        "MMR, vectors of an item orthogonal", BUDGETS, loss=partial(OrthogonalVectors, weight=1.0)
    ),
    "random-budgets": System("MMR and 2 random budgets", BUDGETS, loss=partial(RandomBudgets, n=2)),
    "distilled": System(
        "MMR, the full budget teaches the smaller ones",
        BUDGETS,
        loss=partial(DistilledBudgets, weight=1.0, teacher_temperature=0.4),
    ),
    "one-tau": System(
        "MMR, one temperature", BUDGETS, train_overrides={"scale_temperature": False}
    ),
    "start-random": System(
        "MMR, meta tokens start at random values", BUDGETS, model_overrides={"init_text": None}
    ),
    "start-offsets": System(
        "MMR, random offsets added to the start of each meta token",
        BUDGETS,
        start=partial(start_with_offsets, scale=0.5),
    ),
    "start-rows": System(
        "MMR, each meta token starts at a random word", BUDGETS, start=start_from_rows
    ),
    "w-large": System("MMR, weights 1 1 1 4", BUDGETS, train_overrides={"weights": [1, 1, 1, 4]}),
}

MATRIX = {  # stored with the cells, for the names and the order of tables
    "suites": {name: suite.measure for name, suite in SUITES.items()},
    "systems": {name: system.label for name, system in SYSTEMS.items()},
}
