"""Measure the book's claims, with the same data, steps and batches for every system, over seeds.

    python benchmarks/findings.py stickers/MMR/0             # one cell: suite/system/seed
    python benchmarks/findings.py "stickers/*/0" --dry-run   # list the cells of a pattern

A cell trains one system with one seed and measures it on the suite's held-out test. Cells that are
in ``book/results/findings.json`` are skipped, so an interrupted run continues where it stopped.
``--again`` measures them again. Several processes may measure different cells of one result file at
the same time. A cell that another process is measuring raises an error. The seed determines meta
tokens, LoRA, projection, training data and the order of rows. The test is the same for all seeds.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pretrain
import torch
import torch.nn.functional as F
import typer
import yaml
from cpu_speed import speed_up
from datasets import concatenate_datasets
from matrix import BUDGETS, MATRIX, SEEDS, SUITES, SYSTEMS, Suite, System
from report import RESULTS, environment, write
from rivals import PooledTokensLoss
from sentence_transformers.multi_vector_encoder.losses import (
    MultiVectorMultipleNegativesRankingLoss,
)
from transformers import TrainerCallback

from metaembed_lite import (
    MatryoshkaMultiVectorLoss,
    build,
    load_task,
    recipes,
    sweep,
    train,
)
from metaembed_lite.baselines import (
    attention_clusters,
    constant_vectors,
    single_vector,
    token_vectors,
)
from metaembed_lite.callbacks import NestAfter
from metaembed_lite.evaluation import encode, evaluate, mrr_at_10, ndcg_at_5, precision_at_1
from metaembed_lite.locking import lock
from metaembed_lite.model_card import add_to_card
from metaembed_lite.model_folder import check_output, is_finished
from metaembed_lite.pooling import WardPooling
from metaembed_lite.results import PRETRAINING_LOG, load_pretraining_log
from metaembed_lite.saving import save
from metaembed_lite.schedule import FRESH_WEIGHTS

POOLED_SIZES = (1, 4, 8, 16)  # numbers of token vectors that remain after pooling
VALIDATIONS = 10  # per training run
VALIDATION_QUERIES = 200
WRITE_TIMEOUT = 600  # seconds to wait until another process has written its cell
METRICS = {"p_at_1": precision_at_1, "ndcg_at_5": ndcg_at_5, "mrr_at_10": mrr_at_10}


def pretrain_once(recipe: str, width: int) -> Path:
    """Pretrain a recipe's backbone at another width, unless it exists, and return its folder."""
    folder = RESULTS.parents[1] / "_build" / f"{recipe}-vlm-{width}"
    if not (folder / PRETRAINING_LOG).is_file():
        with lock(folder, f"pretraining {folder.name}"):
            pretrain.pretrain(folder, width=width)
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


class ValidationCurve(TrainerCallback):
    """Measures P@1 on validation queries several times during a training.

    Args:
        model: the model that is trained.
        system: how it is measured: at every budget, or with all token vectors.
        task: validation queries and candidates.
        steps: of the training.

    Attributes:
        rows: one dict per measurement: step, and P@1 by size.
    """

    def __init__(self, model: Any, system: System, task: Any, steps: int) -> None:
        self.model, self.system, self.task = model, system, task
        self.steps = {round(steps * i / VALIDATIONS) for i in range(1, VALIDATIONS + 1)}
        self.rows: list[dict[str, Any]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step not in self.steps:
            return
        measure = measure_meta_tokens if self.system.budgets else measure_all_tokens
        with torch.random.fork_rng(devices=[]):  # training continues as if nobody had looked
            points = measure(self.model, self.system, self.task)
        self.model.train()
        sizes = {f"({p['r_q']:.3g}, {p['r_c']:.3g}) x {p['dim']}": p["p_at_1"] for p in points}
        self.rows.append({"step": state.global_step, **sizes})
        print(f"\nstep {state.global_step}, validation P@1: {sizes}", flush=True)


def build_system(recipe: recipes.Recipe, name: str, seed: int) -> Any:
    """Build the untrained model of a system, with the recipe's backbone, LoRA and projection."""
    settings = recipe.model
    if name == "untrained":
        return single_vector(settings["backbone"], "mean", lora_rank=None)  # as published
    keys = ("backbone", "dim", "lora_rank", "max_seq_length")
    baseline = {key: settings[key] for key in keys if key in settings} | {"seed": seed}
    if name in ("last", "mean"):
        return single_vector(mode=name, **baseline)
    if name in ("tokens", "patches", "pooled", "pooled-nested"):
        return token_vectors(patches_only=name == "patches", **baseline)
    if name == "constant":
        return constant_vectors(r_c=settings["r_c"], **baseline)
    if name == "attention":
        return attention_clusters(r_c=settings["r_c"], **baseline)
    system = SYSTEMS[name]
    r_q, r_c = system.budgets[-1]
    model = build(**settings | system.model_overrides | {"r_q": r_q, "r_c": r_c, "seed": seed})
    if system.start is not None:
        system.start(model)
    return model


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


def settings_of(recipe: recipes.Recipe, system: System) -> dict[str, Any]:
    """The settings of a training: the recipe's, at the budgets of the system."""
    settings = recipe.train | {"budgets": [list(budget) for budget in system.budgets]}
    settings |= system.train_overrides
    if len(system.budgets) < 2:
        settings.pop("nest_after", None)
    if settings.get("scale_temperature") and not system.budgets:
        del settings["scale_temperature"]
        if not system.one_vector:  # then a score is a sum over query vectors, as in MMR
            settings["temperature"] *= BUDGETS[-1][0]
    return settings


def train_system(
    model: Any,
    recipe: recipes.Recipe,
    system: System,
    rows: Any,
    seed: int,
    callbacks: Sequence[TrainerCallback] = (),
) -> Any:
    """Train with the settings of recipe and system. Returns the training curve."""
    settings = settings_of(recipe, system) | {"seed": seed, "callbacks": callbacks}
    rows = prepare_rows(rows, system, seed)
    if system.budgets and len(system.dim_fractions) == 1 and system.loss is None:
        return train(model, rows, **settings)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not any(re.search(FRESH_WEIGHTS, name) for name in names):
        settings.pop("fresh_learning_rate", None)  # LoRA is all that trains
    temperature = settings.pop("temperature")
    del settings["budgets"]
    nest_after = settings.pop("nest_after", 0.0)
    loss: Any
    scale = {"scale_temperature": settings.pop("scale_temperature", False)}
    if system.loss is not None:
        loss = system.loss(model, system.budgets, temperature=temperature, **scale)
    elif system.budgets:
        full_dim = model.get_embedding_dimension()
        dims = [round(fraction * full_dim) for fraction in system.dim_fractions]
        loss = NestedDimensions(model, system.budgets, temperature=temperature, **scale, dims=dims)
    elif system.pooled_sizes:
        loss = PooledTokensLoss(model, system.pooled_sizes, temperature)
    else:
        loss = MultiVectorMultipleNegativesRankingLoss(model, scale=1 / temperature)
    if nest_after:
        settings["callbacks"] = [*callbacks, NestAfter(loss, nest_after)]
    return train(model, rows, **settings, loss=loss)


def measure_suite(model: Any, suite: Suite, system: System) -> list[dict[str, Any]]:
    """Measure every task and split of a suite. Each point names its ``task`` and ``split``."""
    measure = measure_meta_tokens if system.budgets else measure_tokens
    points = []
    for task_name, split in itertools.product(suite.tasks, suite.splits):
        settings = {"n_queries": suite.n_queries, "n_train": 0, **suite.splits[split]}
        task = load_task(task_name, **settings)
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


def measure_surface(model: Any, suite: Suite, system: System) -> list[list[float]]:
    """Measure P@1 on the test at all pairs of powers of two: rows (r_q, r_c, P@1)."""
    r_q, r_c = system.budgets[-1]
    sizes = [[2**i for i in range(size.bit_length())] for size in (r_q, r_c)]
    task = load_task(suite.tasks[0], n_queries=suite.n_queries, n_train=0)
    table = sweep(model, task, list(itertools.product(*sizes)))
    return table[["r_q", "r_c", "p_at_1"]].round(4).to_numpy().tolist()


def measure_all_tokens(model: Any, system: System, task: Any) -> list[dict[str, float]]:
    """Measure a system without meta tokens, and pool only if the system was trained for that."""
    return measure_tokens(model, system, task, system.pooled_sizes)


def measure_tokens(
    model: Any, system: System, task: Any, pooled_sizes: Sequence[int] = POOLED_SIZES
) -> list[dict[str, float]]:
    """Measure a system without meta tokens, also with its token vectors pooled to fewer."""
    queries = model.encode_query(task.queries)
    all_vectors = model.encode_document(task.candidates)
    longest, dim = max(map(len, all_vectors)), all_vectors[0].shape[1]
    points = []
    for size in [*(size for size in pooled_sizes if size < longest), longest]:
        candidates = all_vectors if size == longest else WardPooling(size).pool(all_vectors)
        scores = model.similarity(queries, candidates).cpu().numpy()
        r_c = float(np.mean([len(candidate) for candidate in candidates]))
        point = {"r_q": float(np.mean([len(query) for query in queries])), "r_c": r_c, "dim": dim}
        for name, metric in METRICS.items():
            point[name] = round(metric(scores, task.relevance), 4)
        points.append({**point, "bytes_per_candidate": round(4 * dim * r_c)})
    return points


def measure_cell(
    cell: str, overrides: Sequence[str], keep: Path | None, compile_layers: bool = False
) -> dict[str, Any]:
    """Train and measure one cell. Returns a record that can be written as JSON.

    Args:
        cell: suite/system/seed.
        overrides: settings that differ from the recipe's, such as "train.steps=1500".
        keep: a folder for the trained model with its recipe, curve and card, or None.
        compile_layers: as in ``cpu_speed.speed_up``.
    """
    suite_name, name, seed = cell.split("/")
    suite, system = SUITES[suite_name], SYSTEMS[name]
    backbone = []
    if suite.width:
        backbone = [f"model.backbone={pretrain_once(suite.recipe, suite.width)}"]
    recipe = recipes.read(suite.recipe, [*suite.overrides, *backbone, *overrides])
    train_settings = settings_of(recipe, system)
    model = build_system(recipe, name, int(seed))
    speed_up(model, compile_layers)
    started = time.perf_counter()
    curve = None
    validation: list[dict[str, Any]] = []
    if name != "untrained":
        rows = suite.training_rows(recipe.data["n_train"], int(seed))
        callbacks = []
        if len(suite.tasks) == 1:
            task = load_task(
                suite.tasks[0], n_queries=VALIDATION_QUERIES, n_train=0, split="validation"
            )
            callbacks = [ValidationCurve(model, system, task, recipe.train["steps"])]
            validation = callbacks[0].rows
        curve = train_system(model, recipe, system, rows, int(seed), callbacks)
    seconds = round(time.perf_counter() - started)
    if keep is not None and curve is not None:
        save(model, keep)
        curve.round(4).to_csv(keep / "training_curve.csv", index=False)
        if system.budgets:  # a recipe builds a model with meta tokens
            write_recipe(keep, recipe, system, train_settings, int(seed))
    points = measure_suite(model, suite, system)
    if keep is not None and system.budgets and len(suite.tasks) == 1:
        task = load_task(suite.tasks[0], n_queries=suite.n_queries, n_train=0)
        add_to_card(keep, task, sweep(model, task))
    record = {
        "suite": suite_name, "system": name, "label": system.label, "seed": int(seed),
        "train": None if curve is None else train_settings,
        "rows": 0 if curve is None else recipe.data["n_train"],
        "train_seconds": seconds, "validation": validation, "points": points,
        "environment": environment(),
    }  # fmt: skip
    if system.budgets and len(suite.tasks) == 1:
        record["surface"] = measure_surface(model, suite, system)
    if suite.width:
        record["backbone"] = load_pretraining_log(pretrain_once(suite.recipe, suite.width))
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
        list[str], typer.Argument(help='suite/system/seed, or patterns: "stickers/*/0".')
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
    compile_layers: Annotated[
        bool,
        typer.Option("--compile", help="Compile the model: faster steps. Needs a C++ compiler."),
    ] = False,
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
                record = measure_cell(cell, override or [], keep, compile_layers)
                add_cell(name, cell, record)
        except BlockingIOError as error:
            typer.secho(f"error: {error}", err=True)
            raise typer.Exit(1) from error
        print(f"{cell}: {format_points(record)}", flush=True)


if __name__ == "__main__":
    typer.run(main)
