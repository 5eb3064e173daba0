"""With and without MMR, on held-out handwriting, over seeds: the claim of chapter 5.

    python benchmarks/mmr.py --seeds 3

A seed sets the meta tokens, LoRA, projection, order of rows and training boards; the test task is
the same for all. Finished runs are kept in the JSON, so that a run that was cut off goes on.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import typer
from report import RESULTS, write

from metaembed_lite import build, load_task, recipes, sweep, train
from metaembed_lite.data.handwriting import training_rows
from metaembed_lite.training import add_to_card, save

BUDGETS = [(1, 1), (2, 4), (4, 8), (8, 16)]
RECIPE = recipes.read("tiny")
TRAINED_AT = {"with MMR": BUDGETS, "without MMR": BUDGETS[-1:]}


def one_run(system: str, seed: int, steps: int, rows: int, task: Any, keep: Path | None) -> dict:
    """Train one system with one seed and sweep it: a JSON-ready record."""
    model = build(**RECIPE.model, seed=seed)
    started = time.perf_counter()
    settings = RECIPE.train | {"budgets": TRAINED_AT[system], "steps": steps}
    curve = train(model, training_rows(rows, seed), **settings, seed=seed)
    seconds = time.perf_counter() - started
    table = sweep(model, task, BUDGETS)
    if keep is not None:
        save(model, keep)
        curve.round(4).to_csv(keep / "training_curve.csv", index=False)
        add_to_card(keep, task, table)
    return {
        "system": system, "seed": seed, "steps": steps, "rows": rows,
        "train_seconds": round(seconds),
        "budgets": json.loads(table.round(4).to_json(orient="records")),
    }  # fmt: skip


def main(
    seeds: int = 3,
    steps: int = RECIPE.train["steps"],
    rows: int = RECIPE.data["n_train"],
    name: str = "mmr",
    keep: Path | None = None,
) -> None:
    """Run what is missing of ``seeds`` x two systems; ``keep`` saves seed 0's MMR model there."""
    path = RESULTS / f"{name}.json"
    kept = json.loads(path.read_text()) if path.is_file() else {"runs": []}
    runs: list[dict] = kept["runs"]
    same = kept.get("recipe", RECIPE.train) == RECIPE.train
    if not same or any((r["steps"], r["rows"]) != (steps, rows) for r in runs):
        raise typer.BadParameter(f"{path} holds runs of other settings: remove it, or use --name")
    task = load_task("handwriting", n_queries=500, n_train=0)
    for seed in range(seeds):
        for system in TRAINED_AT:
            if any((r["system"], r["seed"], r["steps"]) == (system, seed, steps) for r in runs):
                continue
            target = keep if keep is not None and (system, seed) == ("with MMR", 0) else None
            runs.append(one_run(system, seed, steps, rows, task, target))
            at = ", ".join(
                f"({b['r_q']}, {b['r_c']}) {b['p_at_1']:.3f}" for b in runs[-1]["budgets"]
            )
            print(f"{system}, seed {seed}: {at}, {runs[-1]['train_seconds']} s", flush=True)
            write(
                name,
                {"task": repr(task), "model": RECIPE.model, "recipe": RECIPE.train, "runs": runs},
            )
    print(f"written: {path}")


if __name__ == "__main__":
    typer.run(main)
