"""Compare MaxSim with other implementations and with the limits of the machine, in one run.

    pip install --no-deps --target /tmp/peers pylate colpali-engine maxsim-cpu fast-maxsim
    OMP_NUM_THREADS=2 python benchmarks/scoring.py --peers /tmp/peers

The peers pin other versions of their dependencies, so they are loaded from a folder, without them.
A cell is a budget, D, a number of candidates N and of queries Q, and a type of storage. Cells are
left out if their candidates take more than 2 GiB, or their scores over 4 x 10^10 multiply-adds.
Each method is compared with float64. A peer whose scores are wrong is marked on the results page.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from report import write
from sentence_transformers.multi_vector_encoder.scoring import colbert_scores
from torch import Tensor

from metaembed_lite import PAPER_BUDGETS, Budget, maxsim

DIMS = (64, 128, 768, 2048)
CANDIDATES = (1_000, 10_000, 100_000)
QUERIES = (1, 16, 256)
MOST_BYTES, MOST_MULTIPLY_ADDS = 2 << 30, 4 * 10**10
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
CACHED_BYTES = 1 << 20  # of candidates that stay in a core's cache
RUNS, LONG_SECONDS = 3, 0.5  # runs per median; a method that takes longer is run twice
STABLE_DIM = 128  # beyond it, maxsim-cpu 0.1.0 and fast-maxsim 0.2.0 gave wrong scores or crashed

Score = Callable[[Tensor, Tensor], Any]


@dataclass(frozen=True)
class Cell:
    """What is measured: a budget and sizes."""

    budget: Budget
    dim: int
    candidates: int
    queries: int
    storage: str = "float32"


def list_cells() -> Iterator[Cell]:
    """All sizes in float32, and the half-precision types at D = 128 and 10,000 candidates."""
    for dim in DIMS:
        for n_candidates in CANDIDATES:
            for n_queries in QUERIES:
                for budget in PAPER_BUDGETS:
                    n_bytes = n_candidates * budget.bytes_per_candidate(dim)
                    work = n_queries * budget.multiply_adds(dim, n_candidates)
                    if n_bytes <= MOST_BYTES and work <= MOST_MULTIPLY_ADDS:
                        yield Cell(budget, dim, n_candidates, n_queries)
    for storage in HALF:
        for n_queries in QUERIES[:2]:
            for budget in PAPER_BUDGETS:
                yield Cell(budget, 128, 10_000, n_queries, storage)


def score_by_einsum(queries: Tensor, candidates: Tensor) -> Tensor:
    """Score with the whole (Q, N, R_q, R_c) tensor in memory."""
    return torch.einsum("qid,njd->qnij", queries, candidates).amax(3).sum(2)


def load_peers(folder: Path) -> dict[str, Score]:
    """The peers' functions, of float32 (Q, R_q, D) and (N, R_c, D).

    Raises:
        ImportError: if one is not in the folder.
    """
    sys.path.append(str(folder))
    import fast_maxsim
    import maxsim_cpu
    from colpali_engine.utils.processing_utils import BaseVisualRetrieverProcessor
    from pylate.scores.colbert import colbert_scores as pylate_scores

    def per_query(score: Callable[..., Any]) -> Score:
        def run(queries: Tensor, candidates: Tensor) -> Tensor:
            array = candidates.numpy()
            return torch.stack([torch.from_numpy(score(q.numpy(), array)) for q in queries])

        return run

    return {
        "PyLate": pylate_scores,
        "colpali-engine": partial(BaseVisualRetrieverProcessor.score_multi_vector, device="cpu"),
        "maxsim-cpu": per_query(maxsim_cpu.maxsim_scores),
        "fast-maxsim": per_query(fast_maxsim.maxsim_scores),
    }


def list_methods(cell: Cell, peers: dict[str, Score]) -> dict[str, Score]:
    """What is measured in a cell. The peers are for float32, and two of them for small D."""
    methods: dict[str, Score] = {
        "maxsim": maxsim,
        "maxsim, bfloat16 products": partial(maxsim, products="bfloat16"),
        "sentence-transformers": lambda q, c: colbert_scores(q, c[:, None]),
        "one einsum": score_by_einsum,
    }
    similarities = cell.queries * cell.candidates * cell.budget.r_q * cell.budget.r_c
    if 4 * similarities > MOST_BYTES:
        del methods["one einsum"]
    if cell.storage != "float32":
        return methods
    crash = ("maxsim-cpu", "fast-maxsim") if cell.dim > STABLE_DIM else ()
    return methods | {name: score for name, score in peers.items() if name not in crash}


def measure_limits(cell: Cell, queries: Tensor, candidates: Tensor) -> dict[str, float]:
    """Milliseconds for the products alone, from cache, and to read all candidates once."""
    flat, vectors = queries.flatten(0, 1), candidates.flatten(0, 1)
    n_cached = max(1, min(len(vectors), CACHED_BYTES // (4 * cell.dim)))
    few = vectors[:n_cached].float()
    product = torch.empty(len(flat), n_cached)
    cached = partial(torch.mm, flat.float(), few.T, out=product)
    scale = len(vectors) / n_cached
    times = time_runs(lambda: [cached() for _ in range(20)])
    return {
        "products, from cache": round(scale * median(times) / 20, 3),
        "reading": round(median(time_runs(candidates.sum)), 3),
    }


def time_runs(run: Callable[[], object]) -> list[float]:
    """Milliseconds of several runs, after one that is not counted."""
    times: list[float] = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
        if len(times) == 3 and times[0] > 1000 * LONG_SECONDS:
            break
    return times[1:]


def measure_cell(cell: Cell, peers: dict[str, Score]) -> dict[str, Any]:
    """Milliseconds of every method (median, least, most), errors and limits."""
    generator = torch.Generator().manual_seed(0)
    budget, dtype = cell.budget, HALF.get(cell.storage, torch.float32)
    shape = (cell.queries, budget.r_q, cell.dim), (cell.candidates, budget.r_c, cell.dim)
    queries, candidates = (
        F.normalize(torch.randn(s, generator=generator), dim=-1).to(dtype) for s in shape
    )
    expected = score_by_einsum(queries[:4].double(), candidates[:100].double())
    methods = {}
    for name, score in list_methods(cell, peers).items():
        result = score(queries[:4], candidates[:100])
        error = (result.double() - expected).abs().max().item()
        times = time_runs(partial(score, queries, candidates))
        methods[name] = {
            "ms": round(median(times), 3), "least": round(min(times), 3),
            "most": round(max(times), 3), "error": float(f"{error:.1e}"),
        }  # fmt: skip
        if name == "maxsim":
            assert error < 1e-4, error
    limits = measure_limits(cell, queries, candidates)
    return {**asdict(cell), "budget": str(budget), "methods": methods, "limits_ms": limits}


def main(
    peers: Annotated[Path, typer.Option(help="Folder with the peers, see above.")],
    only_dim: Annotated[int | None, typer.Option(help="One D only, and write nothing.")] = None,
) -> None:
    """Measure every cell, print a line for each, and write ``book/results/scoring.json``."""
    functions = load_peers(peers)
    rows = []
    for cell in list_cells():
        if only_dim in (None, cell.dim):
            rows.append(measure_cell(cell, functions))
            print_row(rows[-1])
    if only_dim is None:
        print("written:", write("scoring", {"runs": RUNS, "rows": rows}))


def print_row(row: dict[str, Any]) -> None:
    """One line: the cell, milliseconds of each method, and the limits."""
    times = {name: method["ms"] for name, method in row["methods"].items()}
    exact = {name: ms for name, ms in times.items() if "bfloat16" not in name}
    best = "*" if min(exact, key=lambda name: exact[name]) == "maxsim" else " "
    cell = f"{row['budget']:>8} D={row['dim']} N={row['candidates']} Q={row['queries']}"
    print(best, cell, row["storage"], times, row["limits_ms"], sep="  ", flush=True)


if __name__ == "__main__":
    typer.run(main)
