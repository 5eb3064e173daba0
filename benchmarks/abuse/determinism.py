"""Determinism: the same numbers in other processes and threads, and when a notebook runs twice."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import torch
from nbclient import NotebookClient

from abuse.models import rows, small, tiny
from abuse.tally import Effort, Row
from abuse.things import ROOT, be_quiet, environment, start
from metaembed_lite import items, load_task, maxsim, sweep, train
from metaembed_lite.data import SUITES

ALL_SUITES = 99
NEED_DATA = ("image_folder", "mmeb")  # suites of files that are not in the repository
THREADS_MAY_CHANGE = ("queries", "candidates", "maxsim", "train")  # sums in another order
NOTEBOOKS = ("02_late_interaction", "03_meta_tokens")


def abuse(effort: Effort, folder: Path) -> list[Row]:
    """Two processes, two numbers of threads, two runs in one kernel."""
    rows = [processes(effort)]
    return rows if effort.is_short else [*rows, run_all_twice(effort)]


def measure(threads: int, n_suites: int, hash_seed: int) -> dict[str, str]:
    """The hashes that a new process computes. Python's own hashes are seeded differently there."""
    program = f"from abuse.determinism import print_hashes; print_hashes({threads}, {n_suites})"
    child = start(program, PYTHONHASHSEED=str(hash_seed))
    output, errors = child.communicate()
    if child.returncode:
        raise RuntimeError(errors[-1000:])
    values: dict[str, str] = json.loads(output.splitlines()[-1])
    return values


def print_hashes(threads: int, n_suites: int) -> None:
    """Print the hashes of ``hash_values``."""
    be_quiet()
    torch.set_num_threads(threads)
    print(json.dumps(hash_values(n_suites)))


def hash_values(n_suites: int) -> dict[str, str]:
    """A hash per value, by name, so that a difference has a name."""
    hashes = {}
    for name in [name for name in SUITES if name not in NEED_DATA][:n_suites]:
        hashes[f"suite {name}"] = hash_task(load_task(name, n_queries=6, n_train=6))
    task = load_task("stickers", n_queries=6, n_train=0)
    queries = torch.stack(tiny().encode_query(task.queries))
    candidates = torch.stack(tiny().encode_document(task.candidates, batch_size=4))
    scores = maxsim(queries, candidates)
    table = sweep(tiny(), task)
    values = {
        "queries": queries, "candidates": candidates, "maxsim": scores,
        "ranking": scores.argsort(dim=1, descending=True),
        "sweep": torch.tensor(table[["p_at_1", "ndcg_at_5", "mrr_at_10"]].to_numpy()),
    }  # fmt: skip
    for name, settings in (("train", {}), ("train, cached", {"mini_batch_size": 2})):
        model = small()
        with contextlib.redirect_stdout(io.StringIO()):
            curve = train(model, rows(), steps=2, batch_size=4, log_steps=1, **settings)
        trained = [p.detach().flatten() for p in model.parameters() if p.requires_grad]
        values |= {name: torch.cat(trained), f"{name}, loss": torch.tensor(curve.loss.to_numpy())}
    hashes |= {name: hash_bytes(value.cpu().numpy().tobytes()) for name, value in values.items()}
    return hashes


def hash_task(task: Any) -> str:
    """A hash of all items and grades of a task."""
    trained = [item for row in task.train for item in (row["query"], row["positive"])]
    keys = [items.key(items.read(item)) for item in [*task.queries, *task.candidates, *trained]]
    return hash_bytes(repr(keys).encode() + task.relevance.tobytes())


def hash_bytes(data: bytes) -> str:
    """The SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def processes(effort: Effort) -> Row:
    """Bit-equal in two processes of one thread; the same rankings in two threads."""
    row = Row("suites, vectors, scores, metrics, training: two processes, and two threads", 0)
    suites = effort.count(ALL_SUITES, 2)
    first = hash_values(suites) if effort.is_short else measure(1, suites, 1)
    second = measure(1, suites, 2)
    for name, value in first.items():
        row.check(f"{name}, two processes", second[name] == value, "it differs")
    if not effort.is_short:
        threads = measure(2, suites, 3)
        for name in [n for n in first if not n.startswith(THREADS_MAY_CHANGE)]:
            row.check(f"{name}, two threads", threads[name] == first[name], "it differs")
    row.planned = row.tried
    return row


def run_all_twice(effort: Effort) -> Row:
    """Run All, and again in the same kernel: no error, and the same texts."""
    row = Row("Run All twice in one kernel: every output of text is the same", 0)
    for name in NOTEBOOKS[: effort.count(2, 1)]:
        path = ROOT / "notebooks" / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(
            notebook, timeout=600, allow_errors=True,
            resources={"metadata": {"path": str(path.parent)}},
        )  # fmt: skip
        outputs: list[list[Any]] = []
        with client.setup_kernel(env=environment() | {"METAEMBED_PROFILE": "smoke"}):
            for _ in range(2):
                for i, cell in enumerate(notebook.cells):
                    if cell.cell_type == "code" and "skip-execution" not in cell.metadata.get(
                        "tags", []
                    ):
                        client.execute_cell(cell, i)
                outputs.append([_texts(cell) for cell in notebook.cells])
        for i, (once, twice) in enumerate(zip(*outputs, strict=True)):
            if notebook.cells[i].cell_type == "code":
                row.check(f"{name}, cell {i}", once == twice, f"{once} then {twice}")
    row.planned = row.tried
    return row


def _texts(cell: Any) -> list[str]:
    """The texts that a cell gave, without times, addresses in memory and widgets."""
    texts = []
    for output in cell.get("outputs", []):
        text = (
            output.get("text")
            or output.get("data", {}).get("text/plain", "")
            or output.get("ename", "")
        )
        text = re.sub(r"0x[0-9a-f]+|\d+(\.\d+)? ?(ms|s|µs)\b|IPY_MODEL_\w+", "", "".join(text))
        texts.append(text)
    return texts
