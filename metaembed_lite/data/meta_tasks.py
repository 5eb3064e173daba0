"""Handwriting and stickers in MMEB's four meta-tasks: 14 tasks, seven per suite."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from datasets import Dataset

from metaembed_lite.data import questions, sticker_questions
from metaembed_lite.data.mmeb import average_by_meta_task
from metaembed_lite.data.questions import Example, Facts
from metaembed_lite.data.rows import rows_from_examples, rows_from_stored
from metaembed_lite.data.sheets import store_sheet
from metaembed_lite.data.sticker_art import ATTRIBUTION
from metaembed_lite.data.task import RetrievalTask, check_sizes, split_rng, training_rng

ABOUT = f"""\
Handwriting and stickers in MMEB's four meta-tasks: 14 tasks, seven per suite.

Every query opens with an instruction, as in MMEB, and asks one kind of question. About boards of
4 x 4 digits:

    Retrieval         t2i       a text that names some places   -> a board that fits it
                      i2t       a board                         -> a text that fits it
                      i2i       a board                         -> the same board, rendered again
                      composed  a board and a change in words   -> the changed board
    Classification    classify  a board                         -> the first three digits of row 2
    VQA               vqa       a board and names of places     -> what these places hold
    Visual grounding  ground    a board and the name of a place -> the crop of that place

And about sheets of 4 x 4 stickers:

    Retrieval         t2i       a text that names some things   -> a sheet that shows them
                      i2t       a sheet                         -> a text that names some of it
                      i2i       a sheet                         -> the things by the other artist
                      composed  a sheet and a change in words   -> the changed sheet
    Classification    classify  a sheet                         -> the kinds that occur three times
    VQA               vqa       a sheet and a thing's neighbor  -> the name of the neighbor
    Visual grounding  ground    a sheet and a thing's neighbor  -> the crop of the neighbor

A hard negative differs in one digit, thing or place. The candidates of classify and vqa are all
possible answers. The candidates of the other tasks are every query's answer and hard negative. Four
tasks are held out of training, so they are out of distribution. The same kind of task in the other
suite is trained.

Half of a query is not enough: a model that sees only the text or only the image must guess among
the candidates that fit that half. In one task such a guess is often right. In stickers/composed the
image alone is right half of the time, because two candidates change one thing of the sheet.

{ATTRIBUTION}
"""
META_TASKS = {
    "Retrieval": ("t2i", "i2t", "i2i", "composed"),
    "Classification": ("classify",),
    "VQA": ("vqa",),
    "Visual grounding": ("ground",),
}
KINDS = tuple(kind for kinds in META_TASKS.values() for kind in kinds)
# A task's random stream is its position here, so new tasks go to the end.
TASKS = tuple(f"{suite}/{kind}" for suite in ("handwriting", "stickers") for kind in KINDS)
HELD_OUT = frozenset({
    "handwriting/composed", "handwriting/classify", "stickers/i2t", "stickers/ground",
})  # fmt: skip


def load_meta_task(
    name: str, n_queries: int = 500, n_train: int = 0, seed: int = 0, split: str = "test"
) -> RetrievalTask:
    """Load one of the 14 tasks.

    Args:
        name: suite/kind, such as "stickers/vqa". ``TASKS`` lists them.
        n_queries: number of queries. The candidates are every query's answer and hard negative,
            ``2 * n_queries``. For ``classify`` and ``vqa`` they are all answers: 300 names of
            stickers, 4,060 triples of kinds, or 1,000 triples of digits. Defaults to 500.
        n_train: number of training rows. Tasks that are held out have them too, if requested.
            Defaults to 0.
        seed: random seed of the sampling. Defaults to 0.
        split: "train", "validation" or "test". Those of handwriting have different writers. Those
            of stickers are different random samples. Defaults to "test".

    Raises:
        ValueError: on an unknown task or split, fewer than one query, or a negative ``n_train``.

    Example:
        >>> load_meta_task("stickers/t2i", n_queries=3)
        RetrievalTask('stickers/t2i': 3 queries, 6 candidates, 0 training rows)
    """
    suite, kind = _split_name(name)
    check_sizes(n_queries, n_train)
    rng = split_rng(seed, split, TASKS.index(name))
    examples = [_sample_example(suite, kind, rng, split) for _ in range(n_queries)]
    candidates = [e.positive for e in examples] + [e.negative for e in examples]
    facts = [e.facts[1] for e in examples] + [e.facts[2] for e in examples]
    source = sticker_questions if suite == "stickers" else questions
    answers = source.list_answers(kind)
    if answers is not None:
        candidates, facts = answers, [Facts([answer]) for answer in answers]
    matches = [[e.facts[0] <= f or f <= e.facts[0] for f in facts] for e in examples]
    return RetrievalTask(
        name=name,
        queries=[e.query for e in examples],
        candidates=candidates,
        relevance=np.array(matches, dtype=np.float32),
        train=training_rows(name, n_train, seed) if n_train else None,
        about=ABOUT,
    )


def training_rows(name: str, n: int, seed: int = 0) -> Dataset:
    """Sample ``n`` rows (query, positive, negative) of a task, with the training writers' scans.

    Sheets of stickers are stored as ``store_sheet`` does and rendered when a row is read.

    Raises:
        ValueError: on an unknown task.

    Example:
        >>> training_rows("handwriting/vqa", 2)["positive"][:]
        ['3, 5, 1', '3, 6, 8']
    """
    suite, kind = _split_name(name)
    rng = training_rng(seed, TASKS.index(name))
    if suite == "stickers":
        sample = sticker_questions.sample_example
        return rows_from_stored(sample(kind, rng, store_sheet)[:3] for _ in range(n))
    return rows_from_examples(_sample_example(suite, kind, rng, "train")[:3] for _ in range(n))


def training_sets(n_train: int, seed: int = 0) -> dict[str, Dataset]:
    """Sample ``n_train`` rows of each task that is not held out, for ``train``.

    Example:
        >>> len(training_sets(1))
        10
    """
    return {name: training_rows(name, n_train, seed) for name in TASKS if name not in HELD_OUT}


def tabulate_meta_tasks(p_at_1: Mapping[str, float]) -> pd.DataFrame:
    """Tabulate P@1 per task and the averages that MMEB reports.

    Args:
        p_at_1: task -> P@1, for any of the 14 tasks.

    Returns:
        The DataFrame of ``mmeb.average_by_meta_task``.

    Raises:
        ValueError: on a name that is not a task.

    Example:
        >>> table = tabulate_meta_tasks({"stickers/vqa": 0.5, "handwriting/vqa": 0.7})
        >>> table.set_index("meta_task").tasks["overall"]
        '2 of 14'
    """
    tasks_by_meta_task = {
        meta: tuple(name for name in TASKS if name.partition("/")[2] in kinds)
        for meta, kinds in META_TASKS.items()
    }
    return average_by_meta_task(p_at_1, tasks_by_meta_task, HELD_OUT)


def _split_name(name: str) -> tuple[str, str]:
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; choose from {', '.join(TASKS)}")
    suite, _, kind = name.partition("/")
    return suite, kind


def _sample_example(suite: str, kind: str, rng: np.random.Generator, split: str) -> Example:
    if suite == "stickers":
        return sticker_questions.sample_example(kind, rng)
    return questions.sample_example(kind, rng, split)
