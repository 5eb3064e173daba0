"""Compare MaxSim's time and memory with sentence-transformers' function and a plain einsum.

python benchmarks/scoring.py
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
import typer
from allocations import largest_allocation
from report import write
from sentence_transformers.multi_vector_encoder.scoring import colbert_scores
from torch import Tensor

from metaembed_lite import PAPER_BUDGETS, maxsim
from metaembed_lite.timing import median_seconds


def maxsim_by_definition(q: Tensor, c: Tensor) -> Tensor:
    """Score with the whole (Q, N, R_q, R_c) tensor in memory."""
    return torch.einsum("qid,njd->qnij", q, c).amax(3).sum(2)


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "metaembed_lite.maxsim": maxsim,
    "sentence_transformers.colbert_scores": lambda q, c: colbert_scores(q, c[:, None]),
    "one einsum": maxsim_by_definition,
}


def main(candidates: int = 10_000, queries: int = 8, dim: int = 128, repeats: int = 5) -> None:
    """Measure every method at every budget of the paper, and check that the methods agree."""
    torch.manual_seed(0)
    q_all = F.normalize(torch.randn(queries, 16, dim), dim=-1)
    c_all = F.normalize(torch.randn(candidates, 64, dim), dim=-1)
    rows = []
    for budget in PAPER_BUDGETS:
        q, c = q_all[:, : budget.r_q].contiguous(), c_all[:, : budget.r_c].contiguous()
        reference = maxsim_by_definition(q.double(), c[:200].double())
        for name, method in METHODS.items():
            assert (method(q, c)[:, :200].double() - reference).abs().max() < 1e-4, name
            score = partial(method, q, c)
            rows.append(
                {
                    "budget": str(budget), "method": name,
                    "ms": round(1000 * median_seconds(score, repeats), 2),
                    "largest_tensor_mib": round(largest_allocation(score) / 2**20, 1),
                }
            )  # fmt: skip
            print(
                "{budget:>9}  {method:<38}{ms:>9.2f} ms{largest_tensor_mib:>9.1f} MiB".format(
                    **rows[-1]
                )
            )
    sizes = {"candidates": candidates, "queries": queries, "dim": dim, "repeats": repeats}
    print("written:", write("scoring", {**sizes, "rows": rows}))


if __name__ == "__main__":
    typer.run(main)
