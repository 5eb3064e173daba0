"""The book's claims, measured: the same data, steps and batches for every system, over seeds.

    python benchmarks/findings.py handwriting/MMR/0          one cell: suite/system/seed
    python benchmarks/findings.py "scenes/*/0" --dry-run      which cells a pattern names

A cell trains one system with one seed and measures it on the suite's held-out test. Cells that are
in ``book/results/findings.json`` are not run again, so a run that was cut off goes on; ``--again``
runs them again. Processes may run different cells of one result file at the same time; a cell that
another process is running is refused. A seed sets meta tokens, LoRA, projection, order of rows and
training data; the test is the same for all.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tiny_vlm
import torch
import torch.nn.functional as F
import typer
import yaml
from datasets import concatenate_datasets
from report import RESULTS, environment, write
from sentence_transformers.multi_vector_encoder.losses import (
    MultiVectorMultipleNegativesRankingLoss,
)
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

from metaembed_lite import (
    MatryoshkaMultiVectorLoss,
    build,
    load_task,
    recipes,
    sweep,
    train,
)
from metaembed_lite.baselines import single_vector, token_vectors
from metaembed_lite.data.meta_tasks import HELD_OUT, TASKS
from metaembed_lite.data.pages import COLLECTIONS
from metaembed_lite.evaluation import encode, mrr_at_10, ndcg_at_5, precision_at_1
from metaembed_lite.locking import lock
from metaembed_lite.model import save
from metaembed_lite.model_folder import check_output, is_finished
from metaembed_lite.results import PRETRAINING_LOG, load_pretraining_log
from metaembed_lite.training import add_to_card

SEEDS = (0, 1, 2)
BUDGETS = [(1, 1), (2, 4), (4, 8), (8, 16)]
SHARES = [1 / 16, 1 / 4, 1 / 2, 1]  # of D: as many bytes at (8, 16) as each of BUDGETS has at D
TOKENS_KEPT = (1, 4, 8, 16)
WRITING_SECONDS = 600  # that a process waits until another has added its cell
MEASURES = {"p_at_1": precision_at_1, "ndcg_at_5": ndcg_at_5, "mrr_at_10": mrr_at_10}


@dataclass(frozen=True)
class Suite:
    """What is trained on and measured.

    Attributes:
        recipe: the settings of every system on this suite, by name.
        overrides: of the recipe.
        tasks: that are measured.
        n_queries: a task.
        splits: that are measured; "train" tells what was learned but does not carry over.
        width: of a backbone pretrained as tiny-vlm was, for the study of scale; None: the recipe's.
        measure: that the tables show, of ``MEASURES``.
    """

    recipe: str
    overrides: tuple[str, ...]
    tasks: tuple[str, ...]
    n_queries: int = 500
    splits: tuple[str, ...] = ("test",)
    width: int | None = None
    measure: str = "p_at_1"

    def rows(self, n: int, seed: int) -> Any:
        """``n`` training rows, or n in all of several tasks by name; none of those held out."""
        trained = [task for task in self.tasks if task not in HELD_OUT]
        sets = {
            task: load_task(task, n_queries=1, n_train=n // len(trained), seed=seed).train
            for task in trained
        }
        return sets if len(sets) > 1 else sets[trained[0]]


SUITES = {
    "handwriting": Suite("tiny", (), ("handwriting",)),
    "scenes": Suite("tiny", ("data.name=scenes",), ("scenes",)),
    "meta-tasks": Suite("tiny", ("data.n_train=48000", "train.steps=1500"), TASKS),
    "pages": Suite(
        "tiny",
        ("data.n_train=48000", "train.steps=1500"),
        tuple(f"pages/{kind}" for kind in COLLECTIONS),
        measure="ndcg_at_5",
    ),
    "handwriting-64": Suite("tiny", (), ("handwriting",), width=64),
    "handwriting-192": Suite("tiny", (), ("handwriting",), width=192),
    "codesearch": Suite(
        "minilm-codesearch", (), ("codesearch",), n_queries=1000, splits=("test", "train")
    ),
}


@dataclass(frozen=True)
class System:
    """How a system is trained, and where it is measured.

    Attributes:
        label: what the tables call it.
        budgets: it is trained at; () for a system without meta tokens.
        shares: of D that it is trained at, each vector cut and normalized anew.
        settings: of ``train``, other than the recipe's.
        hard_negatives: whether training rows have one.
        shuffled: train on wrong pairs: what leaks shows as a score above chance.
    """

    label: str
    budgets: Sequence[tuple[int, int]] = ()
    shares: Sequence[float] = (1,)
    settings: dict[str, Any] = field(default_factory=dict)
    hard_negatives: bool = True
    shuffled: bool = False


SYSTEMS = {
    "untrained": System("the backbone's own mean of tokens, untrained"),
    "MMR": System("MetaEmbed with MMR", BUDGETS),
    "no-MMR": System("MetaEmbed without MMR", BUDGETS[-1:]),
    "last": System("single vector, last token"),
    "mean": System("single vector, mean of tokens"),
    "tokens": System("all token vectors (ColBERT)"),
    "patches": System("patch vectors (ColPali)"),
    "fixed-1x1": System("trained for (1, 1) alone", BUDGETS[:1]),
    "fixed-2x4": System("trained for (2, 4) alone", BUDGETS[1:2]),
    "fixed-4x8": System("trained for (4, 8) alone", BUDGETS[2:3]),
    "MRL": System("nested dimensions", BUDGETS[-1:], SHARES),
    "MMR+MRL": System("nested budgets and dimensions", BUDGETS, SHARES),
    "easy": System("MMR, no hard negatives", BUDGETS, hard_negatives=False),
    "shuffled": System("MMR, trained on shuffled pairs", BUDGETS, shuffled=True),
    "tau-0.03": System("MMR, temperature 0.03", BUDGETS, settings={"temperature": 0.03}),
    "tau-0.3": System("MMR, temperature 0.3", BUDGETS, settings={"temperature": 0.3}),
    "w-large": System("MMR, weights 1 1 1 4", BUDGETS, settings={"weights": [1, 1, 1, 4]}),
}

MATRIX = {  # written beside the cells, so that a reader of them sees what is missing
    "suites": {name: suite.measure for name, suite in SUITES.items()},
    "systems": {name: system.label for name, system in SYSTEMS.items()},
}


def tiny_vlm_of(width: int) -> Path:
    """The folder of a tiny-vlm of another width; pretrained, as the shipped one was, if missing."""
    folder = RESULTS.parents[1] / "_build" / f"tiny-vlm-{width}"
    if not (folder / PRETRAINING_LOG).is_file():
        with lock(folder, f"pretraining {folder.name}"):
            tiny_vlm.pretrain(folder, width=width)
    return folder


def shrink(embeddings: torch.Tensor, dim: int) -> torch.Tensor:
    """(..., D) cut to its first ``dim`` values and normalized anew."""
    return F.normalize(embeddings[..., :dim], dim=-1)


class NestedDimensions(MatryoshkaMultiVectorLoss):
    """MMR at several dimensions at once (Kusupati et al., 2022, on every vector)."""

    def __init__(self, *args: Any, dims: Iterable[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dims = list(dims)

    def score_loss(
        self, queries: torch.Tensor, candidates: torch.Tensor, keys: Any = None
    ) -> torch.Tensor:
        loss_at = super().score_loss
        losses = [loss_at(shrink(queries, d), shrink(candidates, d), keys) for d in self.dims]
        return torch.stack(losses).sum()


def make(recipe: recipes.Recipe, name: str, seed: int) -> Any:
    """An untrained model of a system: the recipe's backbone, LoRA and projection."""
    chosen = recipe.model
    if name == "untrained":
        return single_vector(chosen["backbone"], "mean", lora_rank=None)  # as it was published
    keys = ("backbone", "dim", "lora_rank", "max_seq_length")
    size = {key: chosen[key] for key in keys if key in chosen} | {"seed": seed}
    if name in ("last", "mean"):
        return single_vector(how=name, **size)
    if name in ("tokens", "patches"):
        return token_vectors(patches_only=name == "patches", **size)
    r_q, r_c = SYSTEMS[name].budgets[-1]
    return build(**chosen | {"r_q": r_q, "r_c": r_c, "seed": seed})


def prepared(rows: Any, system: System, seed: int) -> Any:
    """Training rows, of one task or several, as a system takes them."""
    if isinstance(rows, dict):
        return {name: prepared(part, system, seed) for name, part in rows.items()}
    if not system.hard_negatives:
        rows = rows.remove_columns("negative")
    if system.shuffled:
        order = np.random.default_rng(seed).permutation(len(rows)).tolist()
        answers = rows.select_columns([c for c in rows.column_names if c != "query"])
        rows = concatenate_datasets([rows.select_columns("query"), answers.select(order)], axis=1)
    return rows


def fit(model: Any, recipe: recipes.Recipe, system: System, rows: Any, seed: int) -> Any:
    """Train with the recipe's settings and the system's; the curve."""
    settings = recipe.train | system.settings | {"seed": seed}
    rows = prepared(rows, system, seed)
    if not system.budgets:
        scale = 1 / settings.pop("temperature")
        del settings["budgets"]
        loss: Any = MultiVectorMultipleNegativesRankingLoss(model, scale=scale)
        return train(model, rows, **settings, loss=loss)
    settings["budgets"] = system.budgets
    if len(system.shares) == 1:
        return train(model, rows, **settings)
    dims = [round(share * recipe.model["dim"]) for share in system.shares]
    budgets, temperature = settings.pop("budgets"), settings.pop("temperature")
    loss = NestedDimensions(model, budgets, temperature=temperature, dims=dims)
    return train(model, rows, **settings, loss=loss)


def measure(model: Any, system: System, task: Any) -> list[dict[str, float]]:
    """Quality and bytes of a model on a task, wherever the system can stand."""
    if not system.budgets:
        return measure_tokens(model, task)
    encoded = encode(model, task)
    reachable = [b for b in BUDGETS if b <= system.budgets[-1]]
    points = []
    for share in system.shares:
        dim = round(share * encoded.queries.shape[2])
        cut = replace(
            encoded,
            queries=shrink(encoded.queries, dim),
            candidates=shrink(encoded.candidates, dim),
        )
        table = sweep(model, task, reachable, encoded=cut).assign(dim=dim)
        columns = ["r_q", "r_c", "dim", *MEASURES, "bytes_per_candidate"]
        points += json.loads(table[columns].round(4).to_json(orient="records"))
    return points


def measure_all(model: Any, suite: Suite, system: System) -> list[dict[str, Any]]:
    """The points of every task and split of a suite, with ``task`` and ``split``."""
    points = []
    for task_name, split in itertools.product(suite.tasks, suite.splits):
        task = load_task(task_name, n_queries=suite.n_queries, n_train=0, split=split)
        named = {"task": task_name, "split": split}
        points += [named | point for point in measure(model, system, task)]
    return points


def measure_tokens(model: Any, task: Any) -> list[dict[str, float]]:
    """The same for a model without meta tokens; many token vectors are pooled to fewer."""
    queries = model.encode_query(task.queries)
    whole = model.encode_document(task.candidates)
    longest, dim = max(map(len, whole)), whole[0].shape[1]
    points = []
    for kept in [*(k for k in TOKENS_KEPT if k < longest), longest]:
        pooling = HierarchicalTokenPooling(longest / kept, num_protected_tokens=0)
        candidates = whole if kept == longest else pooling.pool(whole)
        scores = model.similarity(queries, candidates).cpu().numpy()
        vectors = float(np.mean([len(c) for c in candidates]))
        point = {"r_q": float(np.mean([len(q) for q in queries])), "r_c": vectors, "dim": dim}
        for name, metric in MEASURES.items():
            point[name] = round(metric(scores, task.relevance), 4)
        points.append({**point, "bytes_per_candidate": round(4 * dim * vectors)})
    return points


def one_cell(cell: str, settings: Sequence[str], keep: Path | None) -> dict[str, Any]:
    """Train and measure one cell: a JSON-ready record."""
    suite_name, name, seed = cell.split("/")
    suite, system = SUITES[suite_name], SYSTEMS[name]
    scale = [f"model.backbone={tiny_vlm_of(suite.width)}"] if suite.width else []
    recipe = recipes.read(suite.recipe, [*suite.overrides, *scale, *settings])
    trained = recipe.train | {"budgets": [list(b) for b in system.budgets]} | system.settings
    model = make(recipe, name, int(seed))
    started = time.perf_counter()
    curve = None
    if name != "untrained":
        rows = suite.rows(recipe.data["n_train"], int(seed))
        curve = fit(model, recipe, system, rows, int(seed))
    seconds = round(time.perf_counter() - started)
    if keep is not None and curve is not None:
        save(model, keep)
        curve.round(4).to_csv(keep / "training_curve.csv", index=False)
        at = {"budgets": [f"{r_q}x{r_c}" for r_q, r_c in system.budgets]}
        sections = {"model": recipe.model, "data": recipe.data, "train": trained | at}
        again = {section: {**of, "seed": int(seed)} for section, of in sections.items()}
        (keep / "recipe.yaml").write_text(yaml.safe_dump(again, sort_keys=False))
    points = measure_all(model, suite, system)
    if keep is not None and system.budgets and len(suite.tasks) == 1:
        task = load_task(suite.tasks[0], n_queries=suite.n_queries, n_train=0)
        add_to_card(keep, task, sweep(model, task))
    record = {
        "suite": suite_name, "system": name, "label": system.label, "seed": int(seed),
        "train": None if curve is None else trained,
        "rows": 0 if curve is None else recipe.data["n_train"],
        "train_seconds": seconds, "points": points, "environment": environment(),
    }  # fmt: skip
    if suite.width:
        record["backbone"] = load_pretraining_log(tiny_vlm_of(suite.width))
    return record


def measured_cells(path: Path) -> dict[str, Any]:
    """The records that a result file holds, by cell."""
    return json.loads(path.read_text())["cells"] if path.is_file() else {}


def add_cell(name: str, cell: str, record: dict[str, Any]) -> None:
    """Add a record to a result file without losing records that other processes add."""
    path = RESULTS / f"{name}.json"
    matrix = MATRIX if name == "findings" else {}
    with lock(path, f"writing {cell}", wait=WRITING_SECONDS):
        write(name, matrix | {"cells": {**measured_cells(path), cell: record}})


def main(
    cells: Annotated[
        list[str], typer.Argument(help='suite/system/seed, or patterns: "scenes/*/0"')
    ],
    override: Annotated[
        list[str] | None, typer.Option(help="Of the recipe, such as model.backbone=my/folder.")
    ] = None,
    again: bool = False,
    dry_run: bool = False,
    keep: Annotated[Path | None, typer.Option(help="Save the model there; one cell.")] = None,
    name: str = "findings",
) -> None:
    """Run what is missing of the cells and merge it into ``book/results/<name>.json``."""
    every = [f"{suite}/{system}/{seed}" for suite in SUITES for system in SYSTEMS for seed in SEEDS]
    asked = [cell for pattern in cells for cell in every if fnmatch(cell, pattern)]
    if not asked:
        raise typer.BadParameter(
            f"{cells} names no cell: suites {', '.join(SUITES)}, systems {', '.join(SYSTEMS)}, "
            f"seeds {SEEDS}"
        )
    path = RESULTS / f"{name}.json"
    for cell in dict.fromkeys(asked):
        measured = cell in measured_cells(path)
        if dry_run or (measured and not again):
            print(f"{cell}: {'measured' if measured else 'missing'}")
            if keep is not None:
                raise typer.BadParameter(
                    f"--keep {keep}: {cell} is not run; add --again, or --name for other results"
                )
            continue
        if keep is not None:  # before the training, not after it
            check_output(keep)
            if is_finished(keep):
                raise typer.BadParameter(f"--keep {keep} holds a saved model: name a new folder")
        running = RESULTS / f"{name}-{cell.replace('/', '-')}"
        try:
            with lock(running, f"measuring {cell} for {path.name}"):
                record = one_cell(cell, override or [], keep)
                add_cell(name, cell, record)
        except BlockingIOError as taken:
            typer.secho(f"error: {taken}", err=True)
            raise typer.Exit(1) from taken
        shown = ", ".join(
            f"{p['task']} {p['split']} ({p['r_q']:.3g}, {p['r_c']:.3g}) x {p['dim']} "
            f"{p['p_at_1']:.3f}"
            for p in record["points"]
        )
        print(f"{cell}: {shown}, {record['train_seconds']} s", flush=True)


if __name__ == "__main__":
    typer.run(main)
