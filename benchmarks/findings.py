"""Measure the book's claims, with the same data, steps and batches for every system, over seeds.

    python benchmarks/findings.py handwriting/MMR/0          # one cell: suite/system/seed
    python benchmarks/findings.py "scenes/*/0" --dry-run     # list the cells of a pattern

A cell trains one system with one seed and measures it on the suite's held-out test. Cells that are
in ``book/results/findings.json`` are skipped, so an interrupted run continues where it stopped.
``--again`` measures them again. Several processes may measure different cells of one result file at
the same time. A cell that another process is measuring raises an error. The seed determines meta
tokens, LoRA, projection, training data and the order of rows. The test is the same for all seeds.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
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
from matrix import BUDGETS, MATRIX, SEEDS, SUITES, SYSTEMS, Suite, System
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
from metaembed_lite.evaluation import encode, evaluate, mrr_at_10, ndcg_at_5, precision_at_1
from metaembed_lite.locking import lock
from metaembed_lite.model_card import add_to_card
from metaembed_lite.model_folder import check_output, is_finished
from metaembed_lite.results import PRETRAINING_LOG, load_pretraining_log
from metaembed_lite.saving import save

POOLED_SIZES = (1, 4, 8, 16)  # numbers of token vectors that remain after pooling
WRITE_TIMEOUT = 600  # seconds to wait until another process has written its cell
METRICS = {"p_at_1": precision_at_1, "ndcg_at_5": ndcg_at_5, "mrr_at_10": mrr_at_10}


def pretrain_once(width: int) -> Path:
    """Pretrain a tiny-vlm of another width, unless it exists, and return its folder."""
    folder = RESULTS.parents[1] / "_build" / f"tiny-vlm-{width}"
    if not (folder / PRETRAINING_LOG).is_file():
        with lock(folder, f"pretraining {folder.name}"):
            tiny_vlm.pretrain(folder, width=width)
    return folder


def cut_dimensions(embeddings: torch.Tensor, dim: int) -> torch.Tensor:
    """Cut (..., D) to the first ``dim`` values and normalize again: (..., dim)."""
    return F.normalize(embeddings[..., :dim], dim=-1)


class NestedDimensions(MatryoshkaMultiVectorLoss):
    """MMR summed over several dimensions (Kusupati et al., 2022, applied to every vector)."""

    def __init__(self, *args: Any, dims: Iterable[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dims = list(dims)

    def embedding_loss(
        self, queries: torch.Tensor, candidates: torch.Tensor, keys: Any = None
    ) -> torch.Tensor:
        full_loss = super().embedding_loss
        losses = [
            full_loss(cut_dimensions(queries, dim), cut_dimensions(candidates, dim), keys)
            for dim in self.dims
        ]
        return torch.stack(losses).sum()


def build_system(recipe: recipes.Recipe, name: str, seed: int) -> Any:
    """Build the untrained model of a system, with the recipe's backbone, LoRA and projection."""
    settings = recipe.model
    if name == "untrained":
        return single_vector(settings["backbone"], "mean", lora_rank=None)  # as published
    keys = ("backbone", "dim", "lora_rank", "max_seq_length")
    baseline = {key: settings[key] for key in keys if key in settings} | {"seed": seed}
    if name in ("last", "mean"):
        return single_vector(mode=name, **baseline)
    if name in ("tokens", "patches"):
        return token_vectors(patches_only=name == "patches", **baseline)
    r_q, r_c = SYSTEMS[name].budgets[-1]
    return build(**settings | {"r_q": r_q, "r_c": r_c, "seed": seed})


def prepare_rows(rows: Any, system: System, seed: int) -> Any:
    """Drop hard negatives or shuffle pairs, as the system says. ``rows`` may be a dict by task."""
    if isinstance(rows, dict):
        return {task: prepare_rows(task_rows, system, seed) for task, task_rows in rows.items()}
    if not system.hard_negatives:
        rows = rows.remove_columns("negative")
    if system.shuffled:
        order = np.random.default_rng(seed).permutation(len(rows)).tolist()
        answers = rows.select_columns([name for name in rows.column_names if name != "query"])
        rows = concatenate_datasets([rows.select_columns("query"), answers.select(order)], axis=1)
    return rows


def train_system(model: Any, recipe: recipes.Recipe, system: System, rows: Any, seed: int) -> Any:
    """Train with the settings of recipe and system. Returns the training curve."""
    settings = recipe.train | system.train_overrides | {"seed": seed}
    rows = prepare_rows(rows, system, seed)
    if not system.budgets:
        scale = 1 / settings.pop("temperature")
        del settings["budgets"]
        loss: Any = MultiVectorMultipleNegativesRankingLoss(model, scale=scale)
        return train(model, rows, **settings, loss=loss)
    settings["budgets"] = system.budgets
    if len(system.dim_fractions) == 1:
        return train(model, rows, **settings)
    dims = [round(fraction * recipe.model["dim"]) for fraction in system.dim_fractions]
    budgets, temperature = settings.pop("budgets"), settings.pop("temperature")
    loss = NestedDimensions(model, budgets, temperature=temperature, dims=dims)
    return train(model, rows, **settings, loss=loss)


def measure_suite(model: Any, suite: Suite, system: System) -> list[dict[str, Any]]:
    """Measure every task and split of a suite. Each point names its ``task`` and ``split``."""
    measure = measure_meta_tokens if system.budgets else measure_tokens
    points = []
    for task_name, split in itertools.product(suite.tasks, suite.splits):
        task = load_task(task_name, n_queries=suite.n_queries, n_train=0, split=split)
        source = {"task": task_name, "split": split}
        points += [source | point for point in measure(model, system, task)]
    return points


def measure_meta_tokens(model: Any, system: System, task: Any) -> list[dict[str, float]]:
    """Measure quality and bytes on a task at every budget and dimension that the system has."""
    encoded = encode(model, task)
    r_q, r_c = system.budgets[-1]
    budgets = [budget for budget in BUDGETS if budget[0] <= r_q and budget[1] <= r_c]
    points = []
    for fraction in system.dim_fractions:
        dim = round(fraction * encoded.queries.shape[2])
        encoded_at_dim = replace(
            encoded,
            queries=cut_dimensions(encoded.queries, dim),
            candidates=cut_dimensions(encoded.candidates, dim),
        )
        table = evaluate(encoded_at_dim, budgets).assign(dim=dim)
        columns = ["r_q", "r_c", "dim", *METRICS, "bytes_per_candidate"]
        points += json.loads(table[columns].round(4).to_json(orient="records"))
    return points


def measure_tokens(model: Any, system: System, task: Any) -> list[dict[str, float]]:
    """Measure a system without meta tokens, also with its token vectors pooled to fewer."""
    queries = model.encode_query(task.queries)
    all_vectors = model.encode_document(task.candidates)
    longest, dim = max(map(len, all_vectors)), all_vectors[0].shape[1]
    points = []
    for size in [*(size for size in POOLED_SIZES if size < longest), longest]:
        pooling = HierarchicalTokenPooling(longest / size, num_protected_tokens=0)
        candidates = all_vectors if size == longest else pooling.pool(all_vectors)
        scores = model.similarity(queries, candidates).cpu().numpy()
        r_c = float(np.mean([len(candidate) for candidate in candidates]))
        point = {"r_q": float(np.mean([len(query) for query in queries])), "r_c": r_c, "dim": dim}
        for name, metric in METRICS.items():
            point[name] = round(metric(scores, task.relevance), 4)
        points.append({**point, "bytes_per_candidate": round(4 * dim * r_c)})
    return points


def measure_cell(cell: str, overrides: Sequence[str], keep: Path | None) -> dict[str, Any]:
    """Train and measure one cell. Returns a record that can be written as JSON.

    Args:
        cell: suite/system/seed.
        overrides: settings that differ from the recipe's, such as "train.steps=1500".
        keep: a folder for the trained model with its recipe, curve and card, or None.
    """
    suite_name, name, seed = cell.split("/")
    suite, system = SUITES[suite_name], SYSTEMS[name]
    backbone = [f"model.backbone={pretrain_once(suite.width)}"] if suite.width else []
    recipe = recipes.read(suite.recipe, [*suite.overrides, *backbone, *overrides])
    budgets = {"budgets": [list(budget) for budget in system.budgets]}
    train_settings = recipe.train | budgets | system.train_overrides
    model = build_system(recipe, name, int(seed))
    started = time.perf_counter()
    curve = None
    if name != "untrained":
        rows = suite.training_rows(recipe.data["n_train"], int(seed))
        curve = train_system(model, recipe, system, rows, int(seed))
    seconds = round(time.perf_counter() - started)
    if keep is not None and curve is not None:
        save(model, keep)
        curve.round(4).to_csv(keep / "training_curve.csv", index=False)
        write_recipe(keep, recipe, system, train_settings, int(seed))
    points = measure_suite(model, suite, system)
    if keep is not None and system.budgets and len(suite.tasks) == 1:
        task = load_task(suite.tasks[0], n_queries=suite.n_queries, n_train=0)
        add_to_card(keep, task, sweep(model, task))
    record = {
        "suite": suite_name, "system": name, "label": system.label, "seed": int(seed),
        "train": None if curve is None else train_settings,
        "rows": 0 if curve is None else recipe.data["n_train"],
        "train_seconds": seconds, "points": points, "environment": environment(),
    }  # fmt: skip
    if suite.width:
        record["backbone"] = load_pretraining_log(pretrain_once(suite.width))
    return record


def write_recipe(
    folder: Path, recipe: recipes.Recipe, system: System, train_settings: dict, seed: int
) -> None:
    """Write a recipe that trains the same model again."""
    budgets = {"budgets": [f"{r_q}x{r_c}" for r_q, r_c in system.budgets]}
    sections = {"model": recipe.model, "data": recipe.data, "train": train_settings | budgets}
    content = {name: {**section, "seed": seed} for name, section in sections.items()}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def read_cells(path: Path) -> dict[str, Any]:
    """Read the records of a result file, by cell. Empty if there is no file."""
    return json.loads(path.read_text())["cells"] if path.is_file() else {}


def add_cell(name: str, cell: str, record: dict[str, Any]) -> None:
    """Add a record to a result file without losing records that other processes add."""
    path = RESULTS / f"{name}.json"
    matrix = MATRIX if name == "findings" else {}
    with lock(path, f"writing {cell}", wait=WRITE_TIMEOUT):
        write(name, matrix | {"cells": {**read_cells(path), cell: record}})


def find_cells(patterns: Sequence[str]) -> list[str]:
    """List the cells that match a pattern, without duplicates.

    Raises:
        typer.BadParameter: if none does.
    """
    cells = [f"{suite}/{system}/{seed}" for suite in SUITES for system in SYSTEMS for seed in SEEDS]
    matches = [cell for pattern in patterns for cell in cells if fnmatch(cell, pattern)]
    if not matches:
        raise typer.BadParameter(
            f"no cell matches {' '.join(patterns)}. Suites: {', '.join(SUITES)}. Systems: "
            f"{', '.join(SYSTEMS)}. Seeds: {', '.join(map(str, SEEDS))}"
        )
    return list(dict.fromkeys(matches))


def check_keep(folder: Path, cell: str, skipped: bool) -> None:
    """Check before a training that its model can be saved to a folder.

    Raises:
        typer.BadParameter: if the cell is skipped, or if the folder holds a saved model.
    """
    if skipped:
        raise typer.BadParameter(
            f"--keep {folder}: {cell} is not run; add --again, or --name for another result file"
        )
    check_output(folder)
    if is_finished(folder):
        raise typer.BadParameter(f"--keep {folder} holds a saved model: name a new folder")


def format_points(record: dict[str, Any]) -> str:
    """Write the P@1 of every point on one line."""
    points = ", ".join(
        f"{p['task']} {p['split']} ({p['r_q']:.3g}, {p['r_c']:.3g}) x {p['dim']} {p['p_at_1']:.3f}"
        for p in record["points"]
    )
    return f"{points}, {record['train_seconds']} s"


def main(
    cells: Annotated[
        list[str], typer.Argument(help='suite/system/seed, or patterns: "scenes/*/0".')
    ],
    override: Annotated[
        list[str] | None,
        typer.Option(help="A setting of the recipe, such as model.backbone=my/folder."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Measure cells again that have a result.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells only.")] = False,
    keep: Annotated[
        Path | None, typer.Option(help="Folder for the trained model. For a single cell.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the file in book/results.")] = "findings",
) -> None:
    """Measure the missing cells and add them to ``book/results/<name>.json``."""
    path = RESULTS / f"{name}.json"
    for cell in find_cells(cells):
        measured = cell in read_cells(path)
        skipped = dry_run or (measured and not again)
        if skipped:
            print(f"{cell}: {'measured' if measured else 'missing'}")
        if keep is not None:
            check_keep(keep, cell, skipped)
        if skipped:
            continue
        cell_path = path.with_name(f"{name}-{cell.replace('/', '-')}")
        try:
            with lock(cell_path, f"measuring {cell} for {path.name}"):
                record = measure_cell(cell, override or [], keep)
                add_cell(name, cell, record)
        except BlockingIOError as error:
            typer.secho(f"error: {error}", err=True)
            raise typer.Exit(1) from error
        print(f"{cell}: {format_points(record)}", flush=True)


if __name__ == "__main__":
    typer.run(main)
