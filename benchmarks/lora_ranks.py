"""Compare LoRA of several ranks with training all weights, on tiny-vlm and sheets of stickers.

    python benchmarks/lora_ranks.py          # 20 minutes on one core

All runs have the model and the learning rates of the recipe `tiny`: the same first weights, the
same rows in the same order, and the same meta tokens, which train in every run. To keep the runs
short, only the full budget is trained. The runs differ in what trains inside the language model's
28 linear layers: nothing, LoRA of a rank, or every weight. For every weight, the best learning rate
of ``RATES`` on validation sheets counts.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import torch
import typer
from cpu_speed import speed_up
from peft.tuners.lora import LoraLayer
from report import RESULTS, write

from metaembed_lite import build, load_task, recipes, sweep, train
from metaembed_lite.results import load_result

RECIPE = "tiny"
RANKS = (0, 1, 2, 8, 32)  # 0: only meta tokens train
RATES = (1e-3, 3e-4)  # of every weight; 1e-3 is the recipe's, for LoRA
SHARES = (1, 2, 8, 32)  # ranks at which the learned difference is cut


def make_model(rank: int | None, seed: int) -> Any:
    """Build the model of a run: LoRA of a rank, 0 for no change, or None for every weight."""
    model = build(**recipes.read(RECIPE).model | {"lora_rank": rank or 1}, seed=seed, device="cpu")
    speed_up(model)
    for layer in adapted_layers(model).values():
        layer.get_base_layer().weight.requires_grad_(rank is None)
        if not rank:  # train() refuses a frozen adapter; with zero gradients it adds nothing
            for name, parameter in layer.named_parameters():
                if "lora_" in name:
                    parameter.register_hook(torch.zeros_like)
    return model


def adapted_layers(model: Any) -> dict[str, Any]:
    """Return the linear layers that carry LoRA, by name."""
    modules = model[0].model.named_modules()
    return {name: module for name, module in modules if isinstance(module, LoraLayer)}


def count_trained(model: Any, rank: int | None) -> int:
    """Count the weights that train inside the adapted layers."""
    layers = adapted_layers(model).values()
    if rank is None:
        return sum(layer.get_base_layer().weight.numel() for layer in layers)
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers)


@cache
def make_rows(n: int, seed: int) -> Any:
    """Make the training rows, which are the same in every run of a seed."""
    return load_task("stickers", n_queries=1, n_train=n, seed=seed).train


def measure_run(
    rank: int | None, rate: float, steps: int, seed: int, n_queries: int = 500
) -> dict[str, Any]:
    """Train and measure one run. Returns a record that can be written as JSON."""
    recipe = recipes.read(RECIPE)
    full = (recipe.model["r_q"], recipe.model["r_c"])
    settings = recipe.train | {
        "budgets": [full], "nest_after": 0, "steps": steps, "warmup_steps": steps // 10,
        "learning_rate": rate, "seed": seed,
    }  # fmt: skip
    model = make_model(rank, seed)
    layers = adapted_layers(model)
    start = {name: layer.get_base_layer().weight.detach().clone() for name, layer in layers.items()}
    started = time.perf_counter(), time.process_time()
    curve = train(model, make_rows(steps * settings["batch_size"], seed), **settings)
    seconds = time.perf_counter() - started[0], time.process_time() - started[1]
    quality = {}
    for split in ("test", "validation") if rank is None else ("test",):
        n = n_queries if split == "test" else 2 * n_queries // 5
        task = load_task("stickers", n_queries=n, n_train=0, split=split)
        quality[split] = round(float(sweep(model, task, [full]).p_at_1.iloc[0]), 4)
    record = {
        "rank": rank, "seed": seed, "learning_rate": rate,
        "layer_weights": count_trained(model, rank), "p_at_1": quality,
        "final_loss": round(float(curve.loss.iloc[-1]), 4),
        "seconds": round(seconds[0]), "cpu_seconds": round(seconds[1]),
    }  # fmt: skip
    if rank is None:
        changes = [layers[n].get_base_layer().weight.detach() - start[n] for n in layers]
        record["shares"] = {str(r): share_of_rank(changes, r) for r in SHARES}
    return record


def share_of_rank(changes: list[torch.Tensor], rank: int) -> float:
    """Return how much of a difference its best approximation of a rank has.

    It is the share of the squared size, as a mean over the layers.

    Example:
        >>> share_of_rank([torch.diag(torch.tensor([2.0, 1.0]))], 1)
        0.8
    """
    squares = [torch.linalg.svdvals(change) ** 2 for change in changes]  # descending
    return round(sum(float(s[:rank].sum() / s.sum()) for s in squares) / len(squares), 4)


def read_runs(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Read the runs of an earlier call, if it had the same settings."""
    path = RESULTS / "lora_ranks.json"
    if not path.exists():
        return []
    result = load_result(path)
    return result["runs"] if settings.items() <= result.items() else []


def main(steps: int = 240, seeds: int = 1) -> None:
    """Measure what is missing in book/results/lora_ranks.json, and write it after each run."""
    rate = recipes.read(RECIPE).train["learning_rate"]
    settings = {"recipe": RECIPE, "steps": steps}
    runs = read_runs(settings)
    done = {(run["rank"], run["learning_rate"], run["seed"]) for run in runs}
    variants = [(rank, rate) for rank in RANKS] + [(None, rate) for rate in RATES]
    for seed in range(seeds):
        for rank, learning_rate in variants:
            if (rank, learning_rate, seed) in done:
                continue
            runs.append(measure_run(rank, learning_rate, steps, seed))
            print(runs[-1], flush=True)
            print("written:", write("lora_ranks", {**settings, "runs": runs}))


if __name__ == "__main__":
    typer.run(main)
