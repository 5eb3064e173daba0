"""Candidates of a batch that answer a query without being its positive: false negatives.

Equal items of a batch have equal keys, which ``ItemTransformer`` adds to its features. Where a
batch holds equal queries or equal candidates, they must not be each other's negatives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sentence_transformers.util.distributed import all_gather
from torch import Tensor

from metaembed_lite.items import ITEM_KEYS

Keys = tuple[Tensor, Tensor]  # of queries (B,) and of candidates (B, 1 + n_neg)


def item_keys(columns: Sequence[Mapping[str, Any]]) -> Keys | None:
    """The keys of a batch's items: equal items have equal keys.

    Args:
        columns: features of the query, the positive and each negative.

    Returns:
        Keys of the queries (B,) and the candidates (B, 1 + n_neg). None if the features have no
        keys, because the model is not from ``build`` or ``load``.

    Example:
        >>> columns = [{"item_keys": torch.tensor([1, 2])}, {"item_keys": torch.tensor([3, 3])}]
        >>> item_keys(columns)
        (tensor([1, 2]), tensor([[3],
                [3]]))
    """
    if any(ITEM_KEYS not in features for features in columns):
        return None
    queries, *candidates = [features[ITEM_KEYS] for features in columns]
    return queries, torch.stack(candidates, dim=1)


def mask_false_negatives(
    keys: Keys | None, positives: Tensor, gather_across_devices: bool = False
) -> Tensor | None:
    """(B, N) bool: the false negatives of each query. None without keys.

    Args:
        keys: from ``item_keys``.
        positives: (B,), the index of each query's positive.
        gather_across_devices: the N candidates are those of all processes. Defaults to False.

    Raises:
        ValueError: on keys whose shapes are not (B,) and (B, 1 + n_neg).

    Example:
        >>> keys = torch.tensor([7, 8]), torch.tensor([[1], [1]])  # one image, two captions
        >>> mask_false_negatives(keys, torch.tensor([0, 1]))
        tensor([[False,  True],
                [ True, False]])
    """
    if keys is None:
        return None
    query_keys, candidate_keys = keys
    shapes = tuple(query_keys.shape), tuple(candidate_keys.shape)
    if shapes[0] != positives.shape or shapes[1][:1] != positives.shape or len(shapes[1]) != 2:
        raise ValueError(
            f"keys of shapes {shapes[0]} and {shapes[1]}: expected (B,) and (B, 1 + n_neg) for "
            f"B = {len(positives)} queries"
        )
    all_query_keys = query_keys
    if gather_across_devices:
        all_query_keys, candidate_keys = all_gather(query_keys), all_gather(candidate_keys)
    return find_false_negatives(query_keys, all_query_keys, candidate_keys, positives)


def find_false_negatives(
    query_keys: Tensor, all_query_keys: Tensor, candidate_keys: Tensor, positives: Tensor
) -> Tensor:
    """Candidates that answer a query but are not its own positive: false negatives.

    A candidate answers a query if it equals the positive of that query or of an equal query.

    Args:
        query_keys: (B,) of the queries that are scored.
        all_query_keys: (W,) of the queries whose candidates they are scored against.
        candidate_keys: (W, 1 + n_neg), the positive first.
        positives: (B,) index of each query's own positive among the W (1 + n_neg) candidates.

    Returns:
        (B, W (1 + n_neg)) bool.

    Example:
        >>> queries = torch.tensor([7, 7])  # the same query twice, with two positives
        >>> find_false_negatives(queries, queries, torch.tensor([[1], [2]]), torch.tensor([0, 1]))
        tensor([[False,  True],
                [ True, False]])
    """
    same_query = query_keys[:, None] == all_query_keys  # (B, W)
    is_positive = candidate_keys[:, :1] == candidate_keys.flatten()  # (W, N)
    answers = same_query.float() @ is_positive.float() > 0  # (B, N)
    return answers.scatter(1, positives[:, None], False)
