"""Determinism: the same numbers in other processes and threads, and when a notebook runs twice."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from abuse.tally import Effort, Row
from abuse.things import ROOT, start

# Prints a hash per value. Values are named, so that a difference has a name.
PROGRAM = """
import hashlib, json, os, sys
import torch
torch.set_num_threads(int(sys.argv[1]))
from abuse.things import be_quiet, small, tiny, rows
from metaembed_lite import load_task, maxsim, sweep, train
from metaembed_lite.data import SUITES
be_quiet()
values = {}
def keep(name, tensor):
    values[name] = hashlib.sha256(torch.as_tensor(tensor).contiguous().numpy().tobytes()).hexdigest()
names = [n for n in SUITES if n not in ("image_folder", "mmeb")][:int(sys.argv[2])]
for name in names:
    task = load_task(name, n_queries=6, n_train=6)
    values[name] = hashlib.sha256(repr([q if isinstance(q, str) else str(q)[:9] for q in task.queries]).encode()
        + task.relevance.tobytes() + repr(task.train[0]["query"])[:40].encode()[:1]).hexdigest()
task = load_task("stickers", n_queries=6, n_train=0)
queries = torch.stack(tiny().encode_query(task.queries)).cpu()
candidates = torch.stack(tiny().encode_document(task.candidates, batch_size=4)).cpu()
keep("queries", queries); keep("candidates", candidates); keep("maxsim", maxsim(queries, candidates))
keep("ranking", maxsim(queries, candidates).argsort(dim=1, descending=True))
table = sweep(tiny(), task)
keep("sweep", table[["p_at_1", "ndcg_at_5", "mrr_at_10"]].to_numpy())
for name, more in (("train", {}), ("train cached", {"mini_batch_size": 2})):
    model = small()
    curve = train(model, rows(), steps=2, batch_size=4, log_steps=1, **more)
    keep(name, torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad]))
    keep(name + ", loss", curve.loss.to_numpy())
print("VALUES" + json.dumps(values))
"""
ALL_SUITES = 99
SAME_IN_ANY_NUMBER_OF_THREADS = ("ranking", "sweep")
NOTEBOOKS = ("02_late_interaction", "03_meta_tokens")


def abuse(effort: Effort, folder: Path) -> list[Row]:
    """Two processes, two numbers of threads, two runs in one kernel."""
    return [processes(effort), run_all_twice(effort)]


def measure(threads: int, suites: int, seed: int) -> dict[str, str]:
    """The hashes that a new process prints. Its hashes of texts are seeded differently."""
    program = f"import os\nos.environ['PYTHONHASHSEED'] = '{seed}'\n{PROGRAM}"
    child = start(program, str(threads), str(suites))
    output, errors = child.communicate()
    line = next((line for line in output.splitlines() if line.startswith("VALUES")), None)
    if line is None:
        raise RuntimeError(errors[-1000:])
    values: dict[str, str] = json.loads(line.removeprefix("VALUES"))
    return values


def processes(effort: Effort) -> Row:
    """Bit-equal in two processes of one thread; the same rankings in two threads."""
    row = Row("suites, vectors, scores, metrics, training: two processes, and two threads", 0)
    suites = effort.count(ALL_SUITES, 2)
    first, second = (measure(1, suites, seed) for seed in (1, 2))
    for name, value in first.items():
        row.check(f"{name}, two processes", second[name] == value, "it differs")
    if not effort.is_short:
        threads = measure(2, suites, 3)
        for name in [n for n in first if n in SAME_IN_ANY_NUMBER_OF_THREADS or "/" in n]:
            row.check(f"{name}, two threads", threads[name] == first[name], "it differs")
    row.planned = row.tried
    return row


def run_all_twice(effort: Effort) -> Row:
    """Run All, and again in the same kernel: no error, and the same texts."""
    row = Row("Run All twice in one kernel: every output of text is the same", 0)
    for name in NOTEBOOKS[: effort.count(2, 0)]:
        path = ROOT / "notebooks" / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(
            notebook, timeout=600, allow_errors=True,
            resources={"metadata": {"path": str(path.parent)}},
        )  # fmt: skip
        outputs: list[list[Any]] = []
        with client.setup_kernel(env=_environment()):
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


def _environment() -> dict[str, str]:
    from abuse.things import environment

    return environment() | {"METAEMBED_PROFILE": "smoke"}


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
