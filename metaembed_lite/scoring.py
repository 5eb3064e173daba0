"""MaxSim, the late-interaction score, at any budget and in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metaembed_lite.budget import Budget, as_budget

CHUNK_VALUES = 1 << 20  # values held at a time: 4 MB of float32, the size of a core's cache


def as_embeddings(embeddings: Tensor | Sequence[Tensor], name: str = "embeddings") -> Tensor:
    """Stack what ``encode_query`` and ``encode_document`` return, n tensors (R, D), to (n, R, D).

    Raises:
        ValueError: if there is none, a shape is not (R, D), the shapes differ, or a value is not
            finite.
    """
    return _finite(_stacked(embeddings, name), name)


def _stacked(embeddings: Tensor | Sequence[Tensor], name: str) -> Tensor:
    if isinstance(embeddings, Tensor):
        tensor = embeddings
    else:
        if len(embeddings) == 0:
            raise ValueError(f"no {name}: got an empty list; give at least one")
        shapes = {tuple(e.shape) for e in embeddings}
        if len(shapes) > 1:
            raise ValueError(
                f"{name} differ in shape, {sorted(shapes)[:3]}: pad them to one and pass a mask"
            )
        tensor = torch.stack([torch.as_tensor(e) for e in embeddings])
    if tensor.ndim != 3 or 0 in tensor.shape:
        raise ValueError(
            f"{name} have shape {tuple(tensor.shape)}: expected (items, vectors, dimensions), none "
            "of them 0; for a single item use embedding[None]"
        )
    return tensor


def _finite(tensor: Tensor, name: str) -> Tensor:
    # The sum first: isfinite on all values costs more than scoring them at a small budget, and
    # as much memory again. A half-precision sum may overflow, so it only raises a suspicion.
    if not torch.isfinite(tensor.detach().sum()) and not torch.isfinite(tensor).all():
        where = (~torch.isfinite(tensor)).nonzero()[0].tolist()
        raise ValueError(
            f"{name}{where} is {tensor[tuple(where)].item()}: embeddings must be finite; look for "
            "a diverged training run or a division by a zero norm"
        )
    return tensor


def maxsim(
    queries: Tensor | Sequence[Tensor],
    candidates: Tensor | Sequence[Tensor],
    budget: Budget | tuple[int, int] | str | None = None,
    *,
    query_mask: Tensor | None = None,
    candidate_mask: Tensor | None = None,
) -> Tensor:
    """Every query's late-interaction score with every candidate.

    ``s(q, c) = sum over i <= r_q of max over j <= r_c of <q_i, c_j>`` (MetaEmbed, section 3;
    ColBERT's MaxSim on prefixes). Scores are summed, not averaged, so they range to r_q.

    Args:
        queries: (Q, R_q, D), or Q tensors (R_q, D).
        candidates: (N, R_c, D), or N tensors (R_c, D).
        budget: use only the first r_q and r_c vectors; None uses all.
        query_mask: (Q, R_q) bool, False where a vector is padding and adds nothing.
        candidate_mask: (N, R_c) bool, False where a vector is padding and cannot be the maximum.

    Returns:
        (Q, N) scores, float32 for half-precision input: bf16 sums between 8 and 16 have steps of
        1/16 and make ties. Beside the result, memory holds O(Q R_q R_c) similarities at a time,
        whatever N is; with gradients, autograd keeps O(Q R_q N) indices.

    Raises:
        ValueError: on shapes that do not fit, values within the budget that are not finite, a
            budget beyond R_q or R_c, or a candidate without a single unmasked vector within it.
    """
    queries = _stacked(queries, "queries")
    candidates = _stacked(candidates, "candidates")
    if queries.shape[2] != candidates.shape[2]:
        raise ValueError(
            f"queries have {queries.shape[2]} dimensions, candidates {candidates.shape[2]}: encode "
            "both with the same model"
        )
    query_mask = _fit_mask(query_mask, queries, "query_mask")
    candidate_mask = _fit_mask(candidate_mask, candidates, "candidate_mask")
    if budget is not None:  # cut first: what lies beyond the budget is never read
        chosen = as_budget(budget).check(queries.shape[1], candidates.shape[1])
        queries, candidates = queries[:, : chosen.r_q], candidates[:, : chosen.r_c]
        query_mask = None if query_mask is None else query_mask[:, : chosen.r_q]
        candidate_mask = None if candidate_mask is None else candidate_mask[:, : chosen.r_c]
    queries, candidates = _finite(queries, "queries"), _finite(candidates, "candidates")
    if candidate_mask is not None and not candidate_mask.any(dim=1).all():
        empty = (~candidate_mask.any(dim=1)).nonzero()[0].item()
        raise ValueError(
            f"candidate {empty} has no unmasked vector in its first {candidates.shape[1]}: its "
            "score is undefined; drop it or widen the budget"
        )
    with torch.autocast(queries.device.type, enabled=False):  # it would multiply in half precision
        return _maxsim(queries, candidates, query_mask, candidate_mask)


def _maxsim(
    queries: Tensor, candidates: Tensor, query_mask: Tensor | None, candidate_mask: Tensor | None
) -> Tensor:
    n_queries, r_q, dim = queries.shape
    r_c = candidates.shape[1]
    flat = at_least_float32(queries).reshape(n_queries * r_q, dim)
    step = max(1, CHUNK_VALUES // (r_c * max(n_queries * r_q, dim)))
    scores = []
    for start in range(0, len(candidates), step):
        chunk = candidates[start : start + step].to(flat.dtype)
        similarities = flat @ chunk.reshape(-1, dim).T  # (Q r_q, n r_c)
        similarities = similarities.view(n_queries, r_q, len(chunk), r_c)
        if candidate_mask is not None:
            hidden = ~candidate_mask[start : start + step]
            similarities = similarities.masked_fill(hidden[None, None], -torch.inf)
        if similarities.requires_grad:  # for its gradient max keeps indices, amax all similarities
            best = similarities.max(dim=3).values  # (Q, r_q, n)
        else:
            best = similarities.amax(dim=3)  # ten times as fast
        if query_mask is not None:
            best = best.masked_fill(~query_mask[:, :, None], 0.0)
        scores.append(best.sum(dim=1))
    return torch.cat(scores, dim=1)


def at_least_float32(embeddings: Tensor) -> Tensor:
    """Half-precision (and integer) values as float32; float32 and float64 as they are."""
    return embeddings if embeddings.dtype in (torch.float32, torch.float64) else embeddings.float()


def _fit_mask(mask: Tensor | None, embeddings: Tensor, name: str) -> Tensor | None:
    if mask is None:
        return None
    mask = torch.as_tensor(mask, device=embeddings.device).bool()
    if mask.shape != embeddings.shape[:2]:
        raise ValueError(
            f"{name} has shape {tuple(mask.shape)}: expected {tuple(embeddings.shape[:2])}, one "
            "value a vector"
        )
    return mask
