"""MaxSim's milliseconds and peak memory, beside sentence-transformers' and a plain einsum.

python benchmarks/scoring.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
import typer
from report import write
from sentence_transformers.multi_vector_encoder.scoring import colbert_scores
from torch import Tensor

from metaembed_lite import Budget, maxsim


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the bytes of the largest tensor that any operation made; ``given`` is not new."""

    def __init__(self, *given: Tensor):
        super().__init__()
        self.bytes = 0
        self.known = {tensor.untyped_storage().data_ptr() for tensor in given}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            storage = result.untyped_storage()
            if storage.data_ptr() not in self.known:
                self.bytes = max(self.bytes, storage.nbytes())
        return result


def einsum(q: Tensor, c: Tensor) -> Tensor:
    """The definition, with the whole (Q, N, R_q, R_c) tensor in memory."""
    return torch.einsum("qid,njd->qnij", q, c).amax(3).sum(2)


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "metaembed_lite.maxsim": maxsim,
    "sentence_transformers.colbert_scores": lambda q, c: colbert_scores(q, c[:, None]),
    "one einsum": einsum,
}


def main(candidates: int = 10_000, queries: int = 8, dim: int = 128, repeats: int = 5) -> None:
    """Time every method at every budget of the paper and check that they agree."""
    torch.manual_seed(0)
    q_all = F.normalize(torch.randn(queries, 16, dim), dim=-1)
    c_all = F.normalize(torch.randn(candidates, 64, dim), dim=-1)
    rows = []
    for budget in (Budget(1, 1), Budget(2, 4), Budget(4, 8), Budget(8, 16), Budget(16, 64)):
        q, c = q_all[:, : budget.r_q].contiguous(), c_all[:, : budget.r_c].contiguous()
        reference = einsum(q.double(), c[:200].double())
        for name, method in METHODS.items():
            assert (method(q, c)[:, :200].double() - reference).abs().max() < 1e-4, name
            seconds = []
            for _ in range(repeats):
                started = time.perf_counter()
                method(q, c)
                seconds.append(time.perf_counter() - started)
            with Largest(q, c) as largest:
                method(q, c)
            rows.append(
                {
                    "budget": str(budget), "method": name,
                    "ms": round(1000 * statistics.median(seconds), 2),
                    "largest_tensor_mib": round(largest.bytes / 2**20, 1),
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
