"""Kill a training run again and again: does every resume end with the same weights?

    python benchmarks/kill_training.py --kills 100

A child process trains with a checkpoint at every step and is killed (SIGKILL) at a random moment;
the next child resumes. When a run ends, its trained weights are compared bit for bit with those of
a run that was never killed, and a new run begins. Prints what happened and writes it to
`book/results/kill_training.json`.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from report import write

STEPS = 6


def run(output: Path, resume: bool, result: Path) -> None:
    """Train to the end in this process and write the hash of the trained weights."""
    import hashlib
    import logging

    import torch

    from metaembed_lite import build, load, train
    from metaembed_lite.data.handwriting import training_rows

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    log = os.open(result.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
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
    result.write_text(digest.hexdigest())


def main(
    kills: Annotated[int, typer.Option(min=1, help="How often to kill.")] = 100,
    seed: int = 0,
    no_write: Annotated[bool, typer.Option("--no-write", help="Print only.")] = False,
) -> None:
    """Kill, resume, compare."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["metaembed_lite.training", "metaembed_lite.data.handwriting", "sklearn.datasets"]
    )
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        at = Path(scratch)

        def start(output: Path, resume: bool) -> multiprocessing.process.BaseProcess:
            child = context.Process(target=run, args=(output, resume, at / "hash"))
            child.start()
            return child

        start(at / "warm", False).join()
        started = time.perf_counter()
        start(at / "whole", False).join()
        seconds = time.perf_counter() - started
        expected = (at / "hash").read_text()
        killed, runs, longest = 0, 0, 0
        while killed < kills:
            output, cuts = at / f"run-{runs}", 0
            while True:
                (at / "hash").unlink(missing_ok=True)
                child = start(output, resume=cuts > 0)
                if killed < kills:
                    child.join(rng.uniform(0.2, 1.1) * seconds)
                    if child.is_alive():
                        os.kill(child.pid, signal.SIGKILL)
                        child.join()
                        killed, cuts = killed + 1, cuts + 1
                        continue
                child.join()
                break
            runs, longest = runs + 1, max(longest, cuts)
            if (
                child.exitcode
                or not (at / "hash").is_file()
                or (at / "hash").read_text() != expected
            ):
                print((at / "hash.log").read_text()[-3000:])
                print(
                    f"run {runs}, killed {cuts} times: exit code {child.exitcode}, other weights "
                    "or none"
                )
                raise typer.Exit(1)
        print(
            f"{killed} of {killed} kills resumed; the weights are bit-equal: {runs} runs of "
            f"{STEPS} steps, one killed "
            f"{longest} times"
        )
    if not no_write:
        counted = {"kills": killed, "runs": runs, "steps": STEPS, "most_kills_of_a_run": longest}
        write("kill_training", {**counted, "seed": seed})


if __name__ == "__main__":
    typer.run(main)
