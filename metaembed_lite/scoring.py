"""MaxSim, the late-interaction score, at any budget and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaembed_lite.budget import BudgetLike, as_budget

CHUNK_VALUES = 1 << 20  # similarities at a time: 4 MB of float32, the size of a core's cache
FEW_VECTORS = 32  # with fewer query vectors, a row of similarities per query vector is faster
EXACT_UP_TO = {torch.float32: 1 << 24, torch.float64: 1 << 53}  # whole numbers without a gap
WHOLE_TYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def as_embeddings(embeddings: Tensor | Sequence[Tensor], name: str = "embeddings") -> Tensor:
    """Stack what ``encode_query`` and ``encode_document`` return: n tensors (R, D) -> (n, R, D).

    Args:
        embeddings: a tensor, an array or a list of them.
        name: the name in errors. Defaults to "embeddings".

    Raises:
        ValueError: if the list is empty, a shape is not (R, D), or the shapes differ. Also if a
            type holds no real numbers, or a value is not finite.

    Example:
        >>> as_embeddings([torch.ones(4, 8), torch.ones(4, 8)]).shape
        torch.Size([2, 4, 8])
    """
    return check_finite(_stacked(embeddings, name), name)


def _stacked(embeddings: Any, name: str) -> Tensor:
    if isinstance(embeddings, Tensor | np.ndarray) and embeddings.dtype != object:
        tensor = _tensor(embeddings, name)
    else:
        unordered = isinstance(embeddings, str | bytes | Mapping | Set)
        if unordered or not hasattr(embeddings, "__len__"):
            kind = type(embeddings).__name__
            raise ValueError(f"{name}: got {kind}; give a tensor, an array or a list of them")
        if len(embeddings) == 0:
            raise ValueError(f"no {name}: got an empty list; give at least one")
        items = [_tensor(e, f"{name}[{i}]") for i, e in enumerate(embeddings)]
        shapes = {tuple(item.shape) for item in items}
        if len(shapes) > 1:
            raise ValueError(
                f"{name} differ in shape, {sorted(shapes)[:3]}: pad them to one and pass a mask"
            )
        tensor = torch.stack(items)
    if tensor.ndim != 3 or 0 in tensor.shape:
        raise ValueError(
            f"{name} have shape {tuple(tensor.shape)}: expected (items, vectors, dimensions), none "
            "of them 0; for a single item use embedding[None]"
        )
    return tensor


def _tensor(value: Any, name: str) -> Tensor:
    """The value as a dense tensor of real numbers."""
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(
            f"{name} is a numpy masked array, whose mask would be lost: pass its .data, and the "
            "vectors to keep as query_mask or candidate_mask"
        )
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name}: got {type(value).__name__}, which is not a tensor of numbers ({error})"
        ) from error
    if tensor.dtype not in (*WHOLE_TYPES, *FLOAT_TYPES):
        raise ValueError(
            f"{name} has type {tensor.dtype}: scores need real numbers; convert it to "
            "torch.float32, or to int8 if it is quantized"
        )
    return _dense(tensor, name)


def _dense(tensor: Tensor, name: str) -> Tensor:
    if tensor.is_nested or tensor.layout != torch.strided or tensor.device.type == "meta":
        raise ValueError(f"{name} is sparse, nested or on the meta device: pass a dense tensor")
    return tensor


def check_finite(tensor: Tensor, name: str) -> Tensor:
    """The embeddings as given, if they are finite.

    Raises:
        ValueError: naming the first value that is NaN or infinite.

    Example:
        >>> check_finite(torch.tensor([1.0, 2.0]), "queries")
        tensor([1., 2.])
    """
    if not _all_finite(tensor):
        place = (~torch.isfinite(tensor)).nonzero()[0].tolist()
        raise ValueError(
            f"{name}{place} is {tensor[tuple(place)].item()}: embeddings must be finite; look for "
            "a diverged training run or a division by a zero norm"
        )
    return tensor


def _all_finite(tensor: Tensor) -> bool:
    # The sum comes first, because isfinite on all values costs more than scoring them at a small
    # budget, and as much memory again. A half-precision sum may overflow, so it decides nothing.
    return bool(torch.isfinite(tensor.detach().sum()) or torch.isfinite(tensor).all())


def maxsim(
    queries: Tensor | Sequence[Tensor],
    candidates: Tensor | Sequence[Tensor],
    budget: BudgetLike | None = None,
    *,
    query_mask: Tensor | None = None,
    candidate_mask: Tensor | None = None,
    products: str = "exact",
    reduce: str = "sum",
) -> Tensor:
    """Every query's late-interaction score with every candidate.

    ``s(q, c) = sum over i <= r_q of max over j <= r_c of <q_i, c_j>`` (MetaEmbed, section 3;
    ColBERT's MaxSim on prefixes). Scores are sums, so normalized vectors give at most r_q, and
    scores at two values of r_q have two scales. ``reduce="mean"`` divides by the number of query
    vectors, so that normalized vectors give at most 1 at every budget. A ranking does not change.
    A threshold still needs ``choose_threshold`` per budget, because more candidate vectors raise
    the maxima.

    Args:
        queries: (Q, R_q, D), or Q tensors (R_q, D).
        candidates: (N, R_c, D), or N tensors (R_c, D).
        budget: a Budget, a pair or a text such as "4x8". Only the first r_q and r_c vectors are
            used. Defaults to all vectors.
        query_mask: (Q, R_q) bool or 0/1, False where a vector is padding and adds nothing. Defaults
            to none.
        candidate_mask: (N, R_c) bool or 0/1, False where a vector is padding and cannot be the
            maximum. Defaults to none.
        products: "exact", or "bfloat16" to round both sides and each similarity to 8 bits. That
            takes half to a quarter of the time on a CPU with AVX512-BF16, and changes a score by up
            to 0.01 (benchmarks/scoring.py). Sums stay float32. Defaults to "exact".
        reduce: "sum", or "mean" over the query vectors that ``query_mask`` keeps. A query that
            keeps none scores 0. Defaults to "sum", as in the paper.

    Returns:
        (Q, N) scores. They are float32 for half-precision input, because bf16 sums between 8 and 16
        have steps of 1/16 and make ties. Whole numbers on both sides, such as int8, are scored
        exactly, in float64. Besides the result, memory holds O(Q R_q R_c) similarities at a time,
        for any N. With gradients, autograd keeps O(Q R_q N) indices.

    Raises:
        ValueError: on shapes that do not fit, types other than real numbers, or values within the
            budget that are not finite. Also on scores that overflow, or whole numbers too large to
            be scored exactly. Also on a mask of values other than 0 and 1, a budget beyond R_q or
            R_c, or a candidate without an unmasked vector within the budget. Also on bfloat16
            products of whole numbers or float64, or an unknown ``reduce``.

    Example:
        >>> query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # (Q, R_q, D) = (1, 2, 2)
        >>> candidates = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
        >>> maxsim(query, candidates)
        tensor([[2., 1.]])
        >>> maxsim(query, candidates, budget=(1, 1))
        tensor([[1., 1.]])
        >>> maxsim(query, candidates, reduce="mean")
        tensor([[1.0000, 0.5000]])
    """
    check_reduce(reduce)
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
        budget = as_budget(budget).check(queries.shape[1], candidates.shape[1])
        queries, candidates = queries[:, : budget.r_q], candidates[:, : budget.r_c]
        query_mask = None if query_mask is None else query_mask[:, : budget.r_q]
        candidate_mask = None if candidate_mask is None else candidate_mask[:, : budget.r_c]
    dtype = _scoring_type(queries, candidates, products)
    if candidate_mask is not None and not candidate_mask.any(dim=1).all():
        empty = (~candidate_mask.any(dim=1)).nonzero()[0].item()
        raise ValueError(
            f"candidate {empty} has no unmasked vector in its first {candidates.shape[1]}: its "
            "score is undefined; drop it or widen the budget"
        )
    with _without_autocast(queries.device.type):  # it would multiply in half precision
        scores, total = _maxsim(queries.to(dtype), candidates, query_mask, candidate_mask)
    if query_mask is not None or not torch.isfinite(total):  # a mask may hide what is not finite
        check_finite(queries, "queries")
        check_finite(candidates, "candidates")
    if not torch.isfinite(total) and not _all_finite(scores):
        query, candidate = (~torch.isfinite(scores)).nonzero()[0].tolist()
        raise ValueError(
            f"the score of query {query} and candidate {candidate} is "
            f"{scores[query, candidate].item()}: the embeddings are too large for {dtype}; "
            "L2-normalize them, or pass both as float64"
        )
    return scores if reduce == "sum" else scores / _query_sizes(queries, query_mask)


def check_reduce(reduce: str) -> None:
    """Check how similarities are reduced to a score: "sum" or "mean".

    Raises:
        ValueError: on anything else.

    Example:
        >>> check_reduce("mean")
    """
    if reduce not in ("sum", "mean"):
        raise ValueError(f"reduce={reduce!r}: choose 'sum' or 'mean'")


def _query_sizes(queries: Tensor, query_mask: Tensor | None) -> Tensor | int:
    """How many vectors of each query count: a number, or (Q, 1) of at least 1."""
    if query_mask is None:
        return int(queries.shape[1])
    return query_mask.sum(dim=1, keepdim=True).clamp(min=1)


def best_similarities(
    queries: Tensor, candidates: Tensor, candidate_mask: Tensor | None = None
) -> Tensor:
    """For each query vector and candidate, the largest similarity to one of its vectors.

    The sum over a query's vectors is the MaxSim score. The maximum of two results is the result
    for the vectors of both, so an index computes it ring by ring. Nothing is checked here.

    Args:
        queries: (Q, r_q, D) in the type to multiply in.
        candidates: (N, r_c, D), of any type.
        candidate_mask: (N, r_c) bool, False where a vector cannot be the maximum. Defaults to none.

    Returns:
        (Q, r_q, N).

    Example:
        >>> query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> best_similarities(query, torch.tensor([[[0.6, 0.8], [0.8, 0.6]]])).squeeze()
        tensor([0.8000, 0.8000])
    """
    chunks = _best_by_chunk(queries, candidates, candidate_mask)
    return torch.cat([best for best, _ in chunks], dim=2)


def _maxsim(
    queries: Tensor, candidates: Tensor, query_mask: Tensor | None, candidate_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scores (Q, N), and a sum that is finite only if all scores and all candidates are.

    A maximum hides a candidate's -inf. The first query vector's similarities do not, because a
    finite vector times one that is not finite is never finite. To add them up costs less than to
    read the candidates again.
    """
    parts, sums = [], []
    for best, similarity_sum in _best_by_chunk(queries, candidates, candidate_mask):
        if query_mask is not None:
            best = best.masked_fill(~query_mask[:, :, None], 0.0)
        parts.append(at_least_float32(best).sum(dim=1))  # (Q, r_q, n) -> (Q, n)
        sums.append(similarity_sum)
    scores = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return scores, scores.detach().sum() + sum(sums)


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    active = torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if active else nullcontext()


def _best_by_chunk(
    queries: Tensor, candidates: Tensor, candidate_mask: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """For n candidates at a time: the best similarities (Q, r_q, n), and the sum of those of the
    first query vector.
    """
    n_queries, r_q, dim = queries.shape
    r_c = candidates.shape[1]
    flat = queries.reshape(n_queries * r_q, dim)
    few = len(flat) < FEW_VECTORS
    values = CHUNK_VALUES if few or flat.dtype == torch.bfloat16 else CHUNK_VALUES // 4
    step = max(1, values // (r_c * max(len(flat), dim)))
    for start in range(0, len(candidates), step):
        chunk = candidates[start : start + step].to(flat.dtype)
        vectors = chunk.reshape(-1, dim)  # (n r_c, D)
        hidden = None if candidate_mask is None else ~candidate_mask[start : start + step]
        if few:  # the maximum runs over neighbors in memory
            similarities = flat @ vectors.T  # (Q r_q, n r_c)
            similarity_sum = similarities[0].detach().sum()
            similarities = similarities.view(len(flat), len(chunk), r_c)
            best = _largest_of(similarities, hidden, dim=2)  # (Q r_q, n)
        else:  # the maximum runs over whole rows, many query vectors at a time
            similarities = vectors @ flat.T  # (n r_c, Q r_q)
            similarity_sum = similarities[:, 0].detach().sum()
            similarities = similarities.view(len(chunk), r_c, len(flat))
            best = _largest_of(
                similarities, None if hidden is None else hidden[:, :, None], dim=1
            ).T
        yield best.reshape(n_queries, r_q, len(chunk)), similarity_sum


def _largest_of(similarities: Tensor, hidden: Tensor | None, dim: int) -> Tensor:
    if similarities.shape[dim] == 1:  # masks leave each candidate a vector
        return similarities.squeeze(dim)
    if hidden is not None:
        similarities = similarities.masked_fill(hidden, -torch.inf)
    if similarities.requires_grad:  # max keeps indices for its gradient, amax all similarities
        return similarities.max(dim=dim).values
    return similarities.amax(dim=dim)  # ten times as fast


def at_least_float32(embeddings: Tensor) -> Tensor:
    """Half-precision values and integers as float32. float32 and float64 stay as they are.

    Example:
        >>> at_least_float32(torch.ones(2, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return embeddings if embeddings.dtype in (torch.float32, torch.float64) else embeddings.float()


def _scoring_type(queries: Tensor, candidates: Tensor, products: str) -> torch.dtype:
    """The type to multiply in: that of the queries, at least float32, or bfloat16 if asked for.

    Raises:
        ValueError: if whole numbers would be rounded.
    """
    sides = {"queries": queries, "candidates": candidates}
    if not isinstance(products, str):
        raise ValueError(f"products {products!r:.80}: choose 'exact' or 'bfloat16'")
    if products == "bfloat16":
        for name, side in sides.items():
            if side.dtype in (*WHOLE_TYPES, torch.float64):
                raise ValueError(
                    f"products='bfloat16' would round {name} of {side.dtype}: convert them to "
                    "float32, or leave products out"
                )
        return torch.bfloat16
    if products != "exact":
        raise ValueError(f"products {products!r}: choose 'exact' or 'bfloat16'")
    whole = {name: side for name, side in sides.items() if side.dtype in WHOLE_TYPES}
    if len(whole) == 2:
        largest = queries.shape[1] * queries.shape[2] * _largest(queries) * _largest(candidates)
        if largest > EXACT_UP_TO[torch.float64]:
            raise ValueError(
                f"queries {queries.dtype} and candidates {candidates.dtype} hold whole numbers "
                f"whose scores may reach {largest:,}, beyond what float64 counts exactly; convert "
                "them to float64 to accept rounding"
            )
        return torch.float64
    floats = candidates if queries.dtype in WHOLE_TYPES else queries
    dtype = torch.float64 if floats.dtype == torch.float64 else torch.float32
    for name, side in whole.items():
        if _largest(side) > EXACT_UP_TO[dtype]:
            raise ValueError(
                f"{name} {side.dtype} hold whole numbers up to {_largest(side):,}, which {dtype} "
                "would round; scale them down or convert both sides to float64"
            )
    return dtype


def _largest(whole: Tensor) -> int:
    """A bound on the absolute value of whole numbers, from the type alone where it is small."""
    if whole.dtype == torch.bool:
        return 1
    if whole.dtype not in (torch.int32, torch.int64):
        return -torch.iinfo(whole.dtype).min or torch.iinfo(whole.dtype).max
    least, most = torch.aminmax(whole)
    return max(-int(least), int(most))


def _fit_mask(mask: Any, embeddings: Tensor, name: str) -> Tensor | None:
    if mask is None:
        return None
    if isinstance(mask, np.ma.MaskedArray):
        raise ValueError(f"{name} is a numpy masked array: pass a plain bool array, True to keep")
    try:
        mask = torch.as_tensor(mask, device=embeddings.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name}: got {type(mask).__name__}, which is not a mask ({error})"
        ) from error
    mask = _dense(mask, name)
    if mask.shape != embeddings.shape[:2]:
        raise ValueError(
            f"{name} has shape {tuple(mask.shape)}: expected {tuple(embeddings.shape[:2])}, one "
            "value per vector"
        )
    if mask.dtype == torch.bool:
        return mask
    strange = mask[(mask != 0) & (mask != 1)]
    if len(strange):
        additive = not mask.is_complex() and mask.max() <= 0 and mask.min() <= -1e4
        raise ValueError(
            f"{name} holds {strange[0].item()}: "
            + (
                "an additive mask (0 keeps, -inf drops) is not supported; pass mask == 0"
                if additive
                else "expected bool, or 1 to keep a vector and 0 to drop it"
            )
        )
    return mask == 1
