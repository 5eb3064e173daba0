"""Checks of precision: sums of maxima in float32, and half precision against float32."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from metaembed_lite.diagnosis.finding import FAILED, OK, SKIPPED, WARNING, Finding
from metaembed_lite.diagnosis.subject import TASKS, Subject
from metaembed_lite.scoring import maxsim

COPY_LIMIT = 500_000_000  # weights. A float32 copy of more takes over 2 GB
# Errors of a score per query vector. Two items differ by 0.01 to 0.1 per query vector.
NOTICEABLE, WRONG = 1e-4, 2e-3
HALF_NOTICEABLE, HALF_WRONG = 0.02, 0.1


def check_score_sums(subject: Subject) -> Finding:
    """The model's own ``similarity`` and ``maxsim`` add up maxima without rounding them.

    The oracle multiplies and adds the same vectors in float64.

    Example:
        >>> from metaembed_lite import load
        >>> check_score_sums(Subject(load("tiny", device="cpu"), [])).result
        'ok'
    """
    queries, candidates = _sides(subject)
    exact = torch.stack([_score_exactly(q, candidates) for q in queries])  # (Q, N)
    per_vector = torch.tensor([len(q) for q in queries])[:, None]  # (Q, 1)
    name = getattr(subject.model, "similarity_fn_name", "maxsim")
    if name == "meanmaxsim":
        exact = exact / per_vector
        per_vector = torch.ones_like(per_vector)
    elif name != "maxsim":
        return Finding(SKIPPED, f"the model's similarity is {name!r}, not maxsim")
    scores = subject.model.similarity(queries, candidates).double().cpu()
    error = ((scores - exact).abs() / per_vector).max().item()
    dtype = str(queries[0].dtype).removeprefix("torch.")
    measured = (
        f"model.similarity of {dtype} vectors is off by {error:.1e} per query vector, compared "
        "with sums in float64"
    )
    remedy = (
        "score with metaembed_lite.maxsim, which adds in float32, or convert vectors with .float()"
    )
    if not error <= WRONG:
        return Finding(FAILED, measured, remedy)
    if error > NOTICEABLE:
        return Finding(WARNING, measured, remedy)
    return Finding(OK, measured)


def check_half_precision(subject: Subject) -> Finding:
    """A model in half precision gives nearly the scores of its float32 copy.

    Example:
        >>> from metaembed_lite import load
        >>> check_half_precision(Subject(load("tiny", device="cpu"), [])).measured
        'the weights are float32'
    """
    dtype = str(subject.dtype).removeprefix("torch.")
    if subject.dtype not in (torch.float16, torch.bfloat16):
        return Finding(SKIPPED, f"the weights are {dtype}")
    size = sum(parameter.numel() for parameter in subject.model.parameters())
    if size > COPY_LIMIT:
        return Finding(
            SKIPPED,
            f"a float32 copy of {size:,} weights takes {4 * size / 1e9:.1f} GB: compare a few "
            "scores with load(..., dtype='float32') yourself",
        )
    queries, candidates = _sides(subject)
    exact = Subject(copy.deepcopy(subject.model).float(), [])
    exact.samples = subject.samples
    exact_queries, exact_candidates = _sides(exact)
    errors, moved = [], 0
    for rounded, precise in zip(queries, exact_queries, strict=True):
        scores = _score_exactly(rounded, candidates)
        expected = _score_exactly(precise, exact_candidates)
        errors.append(((scores - expected).abs() / len(rounded)).max().item())
        moved += int(scores.argmax() != expected.argmax())
    error = max(errors)
    measured = (
        f"scores of the {dtype} model are off by {error:.1e} per query vector, compared with "
        f"float32; the best candidate changes for {moved} of {len(queries)} queries"
    )
    if not error <= HALF_WRONG:
        return Finding(
            FAILED, measured, "load with dtype='float32', or with 'bfloat16' instead of 'float16'"
        )
    if error > HALF_NOTICEABLE:
        return Finding(WARNING, measured, "load with dtype='float32' if the quality is lower")
    return Finding(OK, measured)


def _sides(subject: Subject) -> tuple[list[Tensor], list[Tensor]]:
    """The samples as queries and as candidates, without those that have no vector."""
    queries, candidates = (
        [vectors for vectors in subject.embeddings[task] if len(vectors)] for task in TASKS
    )
    return queries, candidates


def _score_exactly(query: Tensor, candidates: list[Tensor]) -> Tensor:
    """MaxSim in float64 of one query (R_q, D) with N candidates (R_c, D): (N,)."""
    return torch.cat([maxsim(query[None].double(), c[None].double())[0] for c in candidates])
