"""Kill training runs at random moments, and check that every resume ends with the same weights.

    python benchmarks/kill_training.py --kills 100

A child process trains with a checkpoint at every step, and is killed (SIGKILL) at a random moment.
The next child resumes. When a run ends, its trained weights are compared bit by bit with those of a
run that was never killed. Then a new run begins. The counts are printed and written to
``book/results/kill_training.json``.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated

import typer
from report import write

STEPS = 6


def train_and_hash(output: Path, resume: bool, hash_file: Path) -> None:
    """Train to the end in this process, and write the hash of the trained weights."""
    # Imported here, because the process that starts and kills the others does not need them.
    import hashlib
    import logging

    import torch

    from metaembed_lite import build, load, train
    from metaembed_lite.data.handwriting import training_rows

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    log = os.open(hash_file.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    model = build(r_q=2, r_c=4, lora_rank=2, dim=8, device="cpu")
    try:
        train(
            model, training_rows(24), steps=STEPS, batch_size=4, warmup_steps=0,
            learning_rate=1e-3, output=output, save_steps=1, resume=resume,
        )  # fmt: skip
    except ValueError as error:  # killed after the end, before the hash was written
        if "there is nothing to resume" not in str(error):
            raise
        model = load(output, device="cpu")
    digest = hashlib.sha256()
    for parameter in model.parameters():
        if parameter.requires_grad:
            digest.update(parameter.detach().numpy().tobytes())
    hash_file.write_text(digest.hexdigest())


@dataclass
class Trainings:
    """Starts and kills trainings in a folder.

    Attributes:
        folder: for the runs, the hash of the latest one and its log.
        rng: draws the moments at which a training is killed.
        seconds: time that an undisturbed run takes. ``measure_undisturbed`` sets it.
        expected_hash: hash of the weights after an undisturbed run. ``measure_undisturbed`` sets
            it.
    """

    folder: Path
    rng: random.Random
    seconds: float = 0
    expected_hash: str = ""
    context: ForkServerContext = field(
        default_factory=lambda: multiprocessing.get_context("forkserver")
    )

    def __post_init__(self) -> None:
        self.context.set_forkserver_preload(
            ["metaembed_lite.training", "metaembed_lite.data.handwriting", "sklearn.datasets"]
        )

    @property
    def hash_file(self) -> Path:
        """Where a training writes the hash of its weights."""
        return self.folder / "hash"

    def start(self, name: str, resume: bool = False) -> BaseProcess:
        """Start a training as a child process."""
        self.hash_file.unlink(missing_ok=True)
        arguments = (self.folder / name, resume, self.hash_file)
        child = self.context.Process(target=train_and_hash, args=arguments)
        child.start()
        return child

    def measure_undisturbed(self) -> None:
        """Train without a kill, to measure the time and get the expected weights."""
        self.start("warm-up").join()
        started = time.perf_counter()
        self.start("undisturbed").join()
        self.seconds = time.perf_counter() - started
        self.expected_hash = self.hash_file.read_text()

    def run_with_kills(self, name: str, most: int) -> int:
        """Train to the end, and kill and resume at most ``most`` times. Returns the kills.

        Raises:
            typer.Exit: with code 1, if the run fails or ends with other weights.
        """
        kills = 0
        child = self.start(name)
        while kills < most:
            child.join(self.rng.uniform(0.2, 1.1) * self.seconds)
            if not child.is_alive():
                break
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            kills += 1
            child = self.start(name, resume=True)
        child.join()
        self.check_weights(name, kills, child.exitcode)
        return kills

    def check_weights(self, name: str, kills: int, exit_code: int | None) -> None:
        """Compare the weights of a run that has ended with those of the undisturbed run."""
        final_hash = self.hash_file.read_text() if self.hash_file.is_file() else None
        if exit_code == 0 and final_hash == self.expected_hash:
            return
        print(self.hash_file.with_suffix(".log").read_text()[-3000:])
        weights = "no weights" if final_hash is None else "weights that differ"
        print(f"{name}, killed {kills} times, ended with exit code {exit_code} and {weights}")
        raise typer.Exit(1)


def main(
    kills: Annotated[int, typer.Option(min=1, help="How often to kill.")] = 100,
    seed: Annotated[int, typer.Option(help="Random seed of the moments of the kills.")] = 0,
    no_write: Annotated[bool, typer.Option("--no-write", help="Print only.")] = False,
) -> None:
    """Kill and resume trainings, and compare the weights at the end of each run."""
    kills_per_run: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        trainings = Trainings(Path(folder), random.Random(seed))
        trainings.measure_undisturbed()
        while (remaining := kills - sum(kills_per_run)) > 0:
            name = f"run-{len(kills_per_run)}"
            kills_per_run.append(trainings.run_with_kills(name, remaining))
    counts = {
        "kills": sum(kills_per_run), "runs": len(kills_per_run), "steps": STEPS,
        "most_kills_of_a_run": max(kills_per_run),
    }  # fmt: skip
    print(
        f"After {counts['kills']} kills every resumed run ended with the expected weights, bit by "
        f"bit. There were {counts['runs']} runs of {STEPS} steps. One of them was killed "
        f"{counts['most_kills_of_a_run']} times."
    )
    if not no_write:
        write("kill_training", {**counts, "seed": seed})


if __name__ == "__main__":
    typer.run(main)
