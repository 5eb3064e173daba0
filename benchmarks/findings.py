"""The book's claims, measured: the same data, steps and batches for every system, over seeds.

    python benchmarks/findings.py handwriting/MMR/0          one cell: suite/system/seed
    python benchmarks/findings.py "scenes/*/0" --dry-run      which cells a pattern names

A cell trains one system with one seed and measures it on the suite's held-out test. Cells that are
in ``book/results/findings.json`` are not run again, so a run that was cut off goes on; ``--again``
runs them anew. A seed sets meta tokens, LoRA, projection, order of rows and training data; the test
is the same for all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from report import RESULTS, environment, write
from sentence_transformers.multi_vector_encoder.losses import (
    MultiVectorMultipleNegativesRankingLoss,
)
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

from metaembed_lite import MatryoshkaMultiVectorLoss, build, load_task, recipes, sweep, train
from metaembed_lite.baselines import single_vector, token_vectors
from metaembed_lite.evaluation import encode, ndcg_at_5, precision_at_1
from metaembed_lite.training import add_to_card, save

RECIPE = recipes.read("tiny")
SUITES = ("handwriting", "scenes")
SEEDS = (0, 1, 2)
BUDGETS = [(1, 1), (2, 4), (4, 8), (8, 16)]
DIM = RECIPE.model["dim"]
DIMS = [2, 8, 16, DIM]  # as many bytes at the full budget as each of BUDGETS at DIM
TOKENS_KEPT = (1, 4, 8, 16)


@dataclass(frozen=True)
class System:
    """How a system is trained, and where it is measured.

    Attributes:
        says: what the tables call it.
        budgets: it is trained at; () for a system without meta tokens.
        dims: it is trained at, each cut and normalized anew.
        settings: of ``train``, other than the recipe's.
        hard_negatives: whether training rows have one.
    """

    says: str
    budgets: Iterable[tuple[int, int]] = ()
    dims: Iterable[int] = (DIM,)
    settings: dict[str, Any] = field(default_factory=dict)
    hard_negatives: bool = True


SYSTEMS = {
    "MMR": System("MetaEmbed with MMR", BUDGETS),
    "no-MMR": System("MetaEmbed without MMR", BUDGETS[-1:]),
    "last": System("single vector, last token"),
    "mean": System("single vector, mean of tokens"),
    "tokens": System("all token vectors (ColBERT)"),
    "patches": System("patch vectors (ColPali)"),
    "fixed-1x1": System("trained for (1, 1) alone", BUDGETS[:1]),
    "fixed-2x4": System("trained for (2, 4) alone", BUDGETS[1:2]),
    "fixed-4x8": System("trained for (4, 8) alone", BUDGETS[2:3]),
    "MRL": System("nested dimensions", BUDGETS[-1:], DIMS),
    "MMR+MRL": System("nested budgets and dimensions", BUDGETS, DIMS),
    "easy": System("MMR, no hard negatives", BUDGETS, hard_negatives=False),
    "tau-0.03": System("MMR, temperature 0.03", BUDGETS, settings={"temperature": 0.03}),
    "tau-0.3": System("MMR, temperature 0.3", BUDGETS, settings={"temperature": 0.3}),
    "w-large": System("MMR, weights 1 1 1 4", BUDGETS, settings={"weights": [1, 1, 1, 4]}),
}


def shrink(embeddings: torch.Tensor, dim: int) -> torch.Tensor:
    """(..., D) cut to its first ``dim`` values and normalized anew."""
    return F.normalize(embeddings[..., :dim], dim=-1)


class NestedDimensions(MatryoshkaMultiVectorLoss):
    """MMR at several dimensions at once (Kusupati et al., 2022, on every vector)."""

    def __init__(self, *args: Any, dims: Iterable[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dims = list(dims)

    def score_loss(self, queries: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        loss_at = super().score_loss
        losses = [loss_at(shrink(queries, d), shrink(candidates, d)) for d in self.dims]
        return torch.stack(losses).sum()


def make(name: str, seed: int) -> Any:
    """An untrained model of a system: the recipe's backbone, LoRA and projection."""
    size = {"backbone": RECIPE.model["backbone"], "dim": DIM, "seed": seed}
    size["lora_rank"] = RECIPE.model["lora_rank"]
    if name in ("last", "mean"):
        return single_vector(how=name, **size)
    if name in ("tokens", "patches"):
        return token_vectors(patches_only=name == "patches", **size)
    r_q, r_c = max(SYSTEMS[name].budgets)
    return build(**RECIPE.model | {"r_q": r_q, "r_c": r_c}, seed=seed)


def fit(model: Any, system: System, rows: Any, steps: int, seed: int) -> Any:
    """Train with the recipe's settings and the system's; the curve."""
    settings = RECIPE.train | {"steps": steps} | system.settings
    if not system.hard_negatives:
        rows = rows.remove_columns("negative")
    if not system.budgets:
        temperature = settings.pop("temperature")
        del settings["budgets"]
        loss = MultiVectorMultipleNegativesRankingLoss(model, scale=1 / temperature)
        return train(model, rows, **settings, loss=loss, seed=seed)
    settings["budgets"] = system.budgets
    if len(list(system.dims)) == 1:
        return train(model, rows, **settings, seed=seed)
    loss = NestedDimensions(
        model, settings.pop("budgets"), temperature=settings.pop("temperature"), dims=system.dims
    )
    return train(model, rows, **settings, loss=loss, seed=seed)


def measure(model: Any, name: str, task: Any) -> list[dict[str, float]]:
    """Quality and bytes of a model at every point where the system can stand."""
    system = SYSTEMS[name]
    if system.budgets:
        encoded = encode(model, task)
        reachable = [b for b in BUDGETS if b <= max(system.budgets)]
        points = []
        for dim in DIMS if len(list(system.dims)) > 1 else [DIM]:
            cut = replace(
                encoded,
                queries=shrink(encoded.queries, dim),
                candidates=shrink(encoded.candidates, dim),
            )
            table = sweep(model, task, reachable, encoded=cut).assign(dim=dim)
            points += json.loads(table.round(4).to_json(orient="records"))
        return points
    queries = model.encode_query(task.queries)
    whole = model.encode_document(task.candidates)
    longest = max(map(len, whole))
    points = []
    for kept in [k for k in TOKENS_KEPT if k < longest] + [longest]:
        pooling = HierarchicalTokenPooling(longest / kept, num_protected_tokens=0)
        candidates = whole if kept == longest else pooling.pool(whole)
        scores = model.similarity(queries, candidates).cpu().numpy()
        vectors = float(np.mean([len(c) for c in candidates]))
        points.append(
            {
                "r_q": float(np.mean([len(q) for q in queries])), "r_c": vectors, "dim": DIM,
                "p_at_1": round(precision_at_1(scores, task.relevance), 4),
                "ndcg_at_5": round(ndcg_at_5(scores, task.relevance), 4),
                "bytes_per_candidate": round(4 * DIM * vectors),
            }
        )  # fmt: skip
    return points


def one_cell(cell: str, steps: int, rows: int, queries: int, keep: Path | None) -> dict[str, Any]:
    """Train and measure one cell: a JSON-ready record."""
    suite, name, seed = cell.split("/")[0], cell.split("/")[1], int(cell.split("/")[2])
    data = load_task(suite, n_queries=1, n_train=rows, seed=seed).train
    task = load_task(suite, n_queries=queries, n_train=0)
    model = make(name, seed)
    started = time.perf_counter()
    curve = fit(model, SYSTEMS[name], data, steps, seed)
    seconds = round(time.perf_counter() - started)
    if keep is not None:
        save(model, keep)
        curve.round(4).to_csv(keep / "training_curve.csv", index=False)
        add_to_card(keep, task, sweep(model, task))
    return {
        "suite": suite, "system": name, "says": SYSTEMS[name].says, "seed": seed,
        "steps": steps, "rows": rows, "task": repr(task), "train_seconds": seconds,
        "points": measure(model, name, task), "environment": environment(),
    }  # fmt: skip


def main(
    cells: Annotated[
        list[str], typer.Argument(help='suite/system/seed, or patterns: "scenes/*/0"')
    ],
    steps: int = RECIPE.train["steps"],
    rows: int = RECIPE.data["n_train"],
    queries: int = 500,
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
            f"{cells} names no cell: suites {SUITES}, systems {', '.join(SYSTEMS)}, seeds {SEEDS}"
        )
    path = RESULTS / f"{name}.json"
    for cell in dict.fromkeys(asked):
        kept = json.loads(path.read_text())["cells"] if path.is_file() else {}
        if dry_run or (cell in kept and not again):
            print(f"{cell}: {'measured' if cell in kept else 'missing'}")
            continue
        record = one_cell(cell, steps, rows, queries, keep)
        write(
            name, {"model": RECIPE.model, "recipe": RECIPE.train, "cells": {**kept, cell: record}}
        )
        shown = ", ".join(
            f"({p['r_q']:.3g}, {p['r_c']:.3g}) x {p['dim']} {p['p_at_1']:.3f}"
            for p in record["points"]
        )
        print(f"{cell}: {shown}, {record['train_seconds']} s", flush=True)


if __name__ == "__main__":
    typer.run(main)
