"""Ward clustering of an item's token vectors, and the clusters' means with gradient.

Token pooling stores one vector per cluster in place of one per token. The assignment of tokens to
clusters has no gradient. A cluster's mean has one, so a model can be trained through the pooling,
as in CRISP (Veneroso et al., 2025, arXiv 2505.11471) and in sentence-transformers 6.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from metaembed_lite.arguments import whole_number
from metaembed_lite.scoring import at_least_float32, check_finite

PADDING = -1  # the label of a token that is not there


def ward_labels(embeddings: Tensor, mask: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """The cluster of each token, at several numbers of clusters.

    Ward's tree is built once per item, on cosine distances, as in sentence-transformers'
    ``HierarchicalTokenPooling``. Cut to more clusters, it splits the clusters of the smaller cut.
    There is no gradient.

    Args:
        embeddings: (B, T, D), L2-normalized.
        mask: (B, T) bool, False where a token is padding.
        counts: numbers of clusters, each at least 1. An item with fewer tokens has one cluster per
            token. Ties in the distances can make fewer clusters.

    Returns:
        For each count (B, T) int64: labels from 0, and -1 at padding.

    Raises:
        ValueError: on a count that is not a whole number from 1 up, or embeddings that are not
            finite.

    Example:
        >>> tokens = torch.tensor([[[1.0, 0.0], [0.96, 0.28], [0.0, 1.0], [0.28, 0.96]]])
        >>> ward_labels(tokens, torch.ones(1, 4, dtype=torch.bool), counts=[1, 2])
        [tensor([[0, 0, 0, 0]]), tensor([[0, 0, 1, 1]])]
    """
    sizes = [whole_number(count, "vectors") for count in counts]
    embeddings = at_least_float32(check_finite(embeddings.detach(), "embeddings")).cpu()
    present = mask.bool().cpu()
    labels = np.full((len(sizes), *present.shape), PADDING, dtype=np.int64)  # (counts, B, T)
    for item, keep in enumerate(present):
        tokens = embeddings[item, keep]  # (t, D)
        columns = keep.numpy()
        if len(tokens) <= min(sizes):  # also a single token, of which scipy makes no tree
            labels[:, item, columns] = np.arange(len(tokens))
            continue
        distances = (1 - tokens @ tokens.T).clamp(0, 2).numpy()  # (t, t)
        tree = linkage(squareform(distances, checks=False), method="ward")
        for number, size in enumerate(sizes):
            if len(tokens) <= size:
                labels[number, item, columns] = np.arange(len(tokens))
            else:
                labels[number, item, columns] = fcluster(tree, size, criterion="maxclust") - 1
    return [torch.from_numpy(each).to(mask.device) for each in labels]


def cluster_means(embeddings: Tensor, labels: Tensor, n_clusters: int) -> tuple[Tensor, Tensor]:
    """The L2-normalized mean of each cluster, with gradient to its tokens.

    Args:
        embeddings: (B, T, D).
        labels: (B, T), from ``ward_labels``.
        n_clusters: R, the number of clusters that the labels can name.

    Returns:
        Means (B, R, D), and a mask (B, R), False where an item has no such cluster.

    Example:
        >>> tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.5]]])
        >>> means, mask = cluster_means(tokens, torch.tensor([[0, 1, 1]]), n_clusters=3)
        >>> means
        tensor([[[1., 0.],
                 [0., 1.],
                 [0., 0.]]])
        >>> mask
        tensor([[ True,  True, False]])
    """
    members = F.one_hot(labels - PADDING, n_clusters + 1)[..., 1:]  # (B, T, R), none at padding
    sums = members.to(embeddings.dtype).mT @ embeddings  # (B, T, D) -> (B, R, D)
    # A mean and a sum have the same direction, and only the direction is kept.
    return F.normalize(sums, dim=-1), members.any(dim=1)


def salient_means(
    embeddings: Tensor, saliency: Tensor, mask: Tensor, n_clusters: int
) -> tuple[Tensor, Tensor]:
    """Clusters around the most salient tokens, and their means weighted by saliency.

    Each token joins the center with the largest cosine. The choice of centers and clusters has no
    gradient. The means have one, to the embeddings and to the saliency.

    Args:
        embeddings: (B, T, D).
        saliency: (B, T), not negative.
        mask: (B, T) bool, False where a token is padding.
        n_clusters: R, the number of centers. An item with fewer tokens has one cluster per token.

    Returns:
        Means (B, R, D), not normalized, the most salient center first. And a mask (B, R), False
        where an item has no such cluster.

    Example:
        >>> tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.5]]])
        >>> mask = torch.ones(1, 3, dtype=torch.bool)
        >>> salient_means(tokens, torch.tensor([[0.2, 0.6, 0.2]]), mask, n_clusters=2)[0]
        tensor([[[0.0000, 0.8750],
                 [1.0000, 0.0000]]])
    """
    count = min(n_clusters, embeddings.shape[1])
    with torch.no_grad():
        order = saliency.masked_fill(~mask, -torch.inf)
        centers = order.topk(count, dim=1).indices  # (B, R)
        present = mask.gather(1, centers)
        units = F.normalize(embeddings, dim=-1)
        rows = centers[..., None].expand(-1, -1, units.shape[2])
        cosines = units @ units.gather(1, rows).mT  # (B, T, R)
        labels = cosines.masked_fill(~present[:, None], -torch.inf).argmax(dim=2)
        labels.scatter_(1, centers, torch.arange(count, device=labels.device).expand_as(centers))
        labels = labels.masked_fill(~mask, PADDING)
        members = F.one_hot(labels - PADDING, count + 1)[..., 1:]  # (B, T, R), none at padding
    smallest = torch.finfo(embeddings.dtype).tiny  # keeps a cluster that gets no attention finite
    weights = members * saliency.clamp(min=smallest)[..., None].to(embeddings.dtype)
    sums = weights.mT @ embeddings  # (B, T, D) -> (B, R, D)
    means = sums / weights.sum(dim=1).clamp(min=smallest)[..., None]
    missing = n_clusters - count  # more clusters than positions
    return F.pad(means, (0, 0, 0, missing)), F.pad(present, (0, missing))
