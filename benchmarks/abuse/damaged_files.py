"""Damaged files: one random damage each, to a saved model, an index, a run and a result."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from abuse.models import answer, rows, saved, small
from abuse.pictures import damage
from abuse.tally import Effort, Row
from abuse.things import BUDGETS, DIM, unit
from metaembed_lite import MetaIndex, load, train
from metaembed_lite.results import load_result


class StopAfterTwo(TrainerCallback):
    """Ends a run after its second step, as an interruption does."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop."""
        control.should_training_stop = state.global_step >= 2


def abuse(effort: Effort, folder: Path) -> list[Row]:
    """A damage must be refused with the file's name, or change nothing."""
    return [
        saved_model(effort, folder), index(effort, folder), checkpoint(effort, folder),
        results(effort, folder),
    ]  # fmt: skip


def harm(file: Path, rng: random.Random) -> None:
    """Damage a file, or remove it."""
    data = file.read_bytes()
    if rng.random() < 0.1:
        file.unlink()
        return
    while (changed := damage(data, rng)) == data and data:
        pass
    file.write_bytes(changed)


def saved_model(effort: Effort, folder: Path) -> Row:
    """The marker has the hash of every file, so damage is found before anything is read."""
    row = Row("a saved model, one random damage each", 450)
    model, copy = saved(folder), folder / "damaged"
    right, rng = answer(load(model, device="cpu")), random.Random(0)
    names = sorted(p.relative_to(model) for p in model.rglob("*") if p.is_file())
    for i in range(effort.count(row.planned, 60)):
        shutil.copytree(model, copy)
        name = names[i % len(names)]
        harm(copy / name, rng)
        case = f"{name}, damage {i}"
        row.attempt(
            case, lambda: answer(load(copy, device="cpu")), names=[str(copy)], seconds=30,
            is_right=lambda got: torch.equal(got, right),
        )  # fmt: skip
        shutil.rmtree(copy)
    return row


def index(effort: Effort, folder: Path) -> Row:
    """It is refused, or the answer is right. ``check`` finds what a search does not."""
    row = Row("an index, one random damage each: search and check", 300)
    path, copy = folder / "index", folder / "damaged-index"
    vectors = unit(60, 6, DIM)
    made = MetaIndex.create(path, DIM, BUDGETS)
    made.add([f"item {i}" for i in range(60)], vectors, {"page": list(range(60))})
    query, rng = unit(4, DIM, seed=1), random.Random(1)
    right = made.search(query)
    files = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())

    def read() -> Any:
        opened = MetaIndex.open(copy)
        found = opened.search(query)
        opened.check()  # what a search cannot see
        return found

    for i in range(effort.count(row.planned, 40)):
        shutil.copytree(path, copy)
        name = files[i % len(files)]
        harm(copy / name, rng)
        row.attempt(
            f"{name}, damage {i}", read, names=[str(copy)], seconds=30,
            is_right=lambda found: found.equals(right),
        )  # fmt: skip
        shutil.rmtree(copy)
    return row


def checkpoint(effort: Effort, folder: Path) -> Row:
    """A run with a damaged checkpoint resumes to the same weights, or refuses by name."""
    row = Row("a training run, one random damage each, then resumed", 40)
    run, copy, settings = folder / "run", folder / "damaged-run", {"steps": 3, "batch_size": 4,
        "warmup_steps": 0, "save_steps": 1, "learning_rate": 1e-3}  # fmt: skip
    whole = small()
    train(whole, rows(), output=run, **settings)
    right = answer(whole)
    shutil.rmtree(run)
    stopped = small()
    train(stopped, rows(), output=run, callbacks=[StopAfterTwo()], **settings)
    files = sorted(p.relative_to(run) for p in run.rglob("*") if p.is_file())
    rng = random.Random(2)

    def resume() -> Any:
        model = small()
        train(model, rows(), output=copy, resume=True, **settings)
        return answer(model)

    n = effort.count(row.planned, 6)
    for i in range(n):
        shutil.copytree(run, copy)
        name = files[(i * len(files) // n + i) % len(files)]
        harm(copy / name, rng)
        row.attempt(
            f"{name}, damage {i}", resume, names=[str(copy)], seconds=120,
            is_right=lambda got: torch.equal(got, right),
        )  # fmt: skip
        shutil.rmtree(copy)
    return row


def results(effort: Effort, folder: Path) -> Row:
    """A result file of a benchmark: every page is rendered from such files."""
    row = Row("result files of the book, one random damage each", 200)
    good = json.dumps({"rows": [1.5, 2.5], "environment": {"cores": 2}}, indent=1).encode()
    file, rng = folder / "result.json", random.Random(3)

    def is_right(content: Any) -> bool:
        return content == json.loads(file.read_bytes())

    for i in range(effort.count(row.planned, 60)):
        file.write_bytes(damage(good, rng))
        row.attempt(f"damage {i}", lambda: load_result(file), is_right=is_right, names=[file.name])
    return row
