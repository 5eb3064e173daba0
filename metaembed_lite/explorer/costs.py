"""How long one query takes to encode, and to score at every budget."""

from __future__ import annotations

import os
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch

from metaembed_lite.budget import Budget
from metaembed_lite.evaluation import EncodedTask
from metaembed_lite.scoring import maxsim
from metaembed_lite.timing import median_seconds, processor_name

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

MIN_CANDIDATES = 1000  # scored in one call, at least


class Costs(TypedDict):
    """Measured milliseconds.

    Keys:
        encode_query_ms: time to encode one query.
        score_ms: R_q rows of R_c values, time to score one query against the measured candidates.
        measured_candidates: number of these candidates.
        where: the hardware.
    """

    encode_query_ms: float
    score_ms: list[list[float]]
    measured_candidates: int
    where: str


def measure_costs(model: MultiVectorEncoder, encoded: EncodedTask) -> Costs:
    """Measure the encoding of one query and its scoring at each budget, as medians of five calls.

    Scoring is measured at powers of two and at the full budget, and interpolated linearly between
    them. The candidates of a small task are repeated up to ``MIN_CANDIDATES``. Otherwise the fixed
    cost of a call would be scaled with the size of a corpus.

    Args:
        model: built or loaded with meta tokens. It is set to evaluation mode.
        encoded: a task and its embeddings. Its first query is encoded.

    Example:
        >>> from metaembed_lite import build, load_task
        >>> from metaembed_lite.evaluation import encode
        >>> model = build("tiny-vlm", r_q=1, r_c=2, dim=8, device="cpu")
        >>> task = load_task("stickers", n_queries=2, n_train=0, side=2)
        >>> costs = measure_costs(model, encode(model, task))
        >>> costs["measured_candidates"], np.shape(costs["score_ms"])
        (1000, (1, 2))
    """
    model.eval()
    first_query = [encoded.task.queries[0]]
    encoding = median_seconds(lambda: model.encode_query(first_query, show_progress_bar=False))
    n_candidates, r_c, _ = encoded.candidates.shape
    r_q = encoded.queries.shape[1]
    candidates = encoded.candidates.repeat(-(-MIN_CANDIDATES // n_candidates), 1, 1)
    query_counts, candidate_counts = _powers_of_two(r_q), _powers_of_two(r_c)
    measured = np.empty((len(query_counts), len(candidate_counts)))
    with torch.inference_mode():
        for (i, q), (j, c) in product(enumerate(query_counts), enumerate(candidate_counts)):
            budget = Budget(q, c)
            score = partial(maxsim, encoded.queries[:1], candidates, budget)
            measured[i, j] = 1000 * median_seconds(score)
    # First along r_c, then along r_q: (measured r_q, measured r_c) -> (R_q, R_c)
    rows = np.array([np.interp(range(1, r_c + 1), candidate_counts, row) for row in measured])
    columns = np.array([np.interp(range(1, r_q + 1), query_counts, column) for column in rows.T])
    return {
        "encode_query_ms": round(1000 * encoding, 3),
        "score_ms": np.round(columns.T, 4).tolist(),
        "measured_candidates": len(candidates),
        "where": _describe_hardware(model.device),
    }


def _powers_of_two(largest: int) -> list[int]:
    """The powers of two up to a number, and the number itself."""
    return sorted({1 << i for i in range(largest.bit_length())} | {largest})


def _describe_hardware(device: torch.device) -> str:
    machine = f"{processor_name()}, {os.cpu_count()} cores"
    if device.type != "cpu":
        return f"{torch.cuda.get_device_name()} (encoding) and {machine} (scoring)"
    n_threads = torch.get_num_threads()
    threads = "one thread" if n_threads == 1 else f"{n_threads} threads"
    return f"{machine}, {threads}, on the CPU"
