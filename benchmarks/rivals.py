"""Losses of MetaEmbed's rivals: training for token pooling.

A model that is trained on all token vectors loses quality when they are clustered. Trained through
the clustering, it loses less: CRISP (Veneroso et al., 2025, arXiv 2505.11471) and
``MultiVectorTokenPoolingLoss`` of sentence-transformers 6.3. The loss here follows the same idea.
With several numbers of clusters it is the counterpart of MMR: one model for several sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.modules import BaseTokenPooling
from sentence_transformers.util import stack_padded_token_embeddings
from torch import Tensor, nn

from metaembed_lite import maxsim
from metaembed_lite.arguments import is_count, is_finite_number
from metaembed_lite.clustering import cluster_means, ward_labels
from metaembed_lite.false_negatives import Keys, item_keys, mask_false_negatives


class PooledTokensLoss(nn.Module):
    """InfoNCE on candidates whose token vectors are clustered, summed over numbers of clusters.

    Queries keep all their token vectors. Candidates are clustered by Ward's method, without
    gradient, and scored by the L2-normalized means of the clusters, with gradient. Every query is
    scored against all candidates of the batch, except those that also answer it, as in MMR.
    Encode the trained model with ``token_pooling=WardPooling(r)``, which clusters the same way.

    Inputs are columns (query, positive) or (query, positive, negative, ...).

    Args:
        model: the ``MultiVectorEncoder`` to train, with one vector per token.
        vectors: the number of clusters per candidate, or several, such as (1, 4, 8, 16). Defaults
            to 16.
        temperature: tau, which divides MaxSim. Defaults to MMR's 0.03.

    Raises:
        ValueError: on a number of vectors that is not a whole number from 1 up, on no number or a
            repeated one, or on a temperature that is not positive and finite. Also on a model that
            already pools candidates.

    Example:
        >>> from metaembed_lite.baselines import token_vectors
        >>> model = token_vectors("tiny-vlm", lora_rank=None, device="cpu")
        >>> loss = PooledTokensLoss(model, vectors=(1, 4))
        >>> queries = model.preprocess(["3 A1", "7 B2"], task="query")
        >>> positives = model.preprocess(["a 3", "a 7"], task="document")
        >>> loss([queries, positives]).shape
        torch.Size([])
    """

    def __init__(
        self,
        model: MultiVectorEncoder,
        vectors: int | Sequence[int] = 16,
        temperature: float = 0.03,
    ) -> None:
        super().__init__()
        counts = [vectors] if is_count(vectors) else vectors
        if not isinstance(counts, list | tuple) or not counts or not all(map(is_count, counts)):
            raise ValueError(
                f"vectors={vectors!r}: use a whole number from 1 up, or a list of them"
            )
        if len(set(counts)) < len(counts):
            raise ValueError(f"vectors={vectors!r}: name every number of vectors once")
        if not is_finite_number(temperature) or temperature <= 0:
            raise ValueError(f"temperature={temperature!r}: use a positive, finite number")
        for module in model:
            if isinstance(module, BaseTokenPooling) and module.applies_to("document"):
                raise ValueError(
                    f"the model already pools candidates, by {type(module).__name__}: this loss "
                    "needs one vector per token, as token_vectors() gives"
                )
        self.model = model
        self.vectors = [int(count) for count in counts]
        self.temperature = float(temperature)
        self.losses_by_count = torch.zeros(len(self.vectors))  # of the last batch

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Any = None) -> Tensor:
        """Compute the loss of a batch of tokenized columns, a scalar. The trainer calls it."""
        columns = [dict(features) for features in sentence_features]
        keys = item_keys(columns)
        queries = self.model(columns[0], task="query")
        query_mask = queries["attention_mask"].bool()
        documents = [self.model(column, task="document") for column in columns[1:]]
        candidates, candidate_mask = stack_padded_token_embeddings(
            [column["token_embeddings"] for column in documents],
            [column["attention_mask"].bool() for column in documents],
        )
        return self.embedding_loss(
            queries["token_embeddings"], query_mask, candidates, candidate_mask, keys
        )

    def embedding_loss(
        self,
        queries: Tensor,
        query_mask: Tensor,
        candidates: Tensor,
        candidate_mask: Tensor,
        keys: Keys | None = None,
    ) -> Tensor:
        """Compute the loss of a batch of token vectors.

        Args:
            queries: (B, T_q, D), L2-normalized.
            query_mask: (B, T_q) bool, False at padding.
            candidates: (B, 1 + n_neg, T_c, D), each query's positive first.
            candidate_mask: (B, 1 + n_neg, T_c) bool, False at padding.
            keys: from ``item_keys``. Defaults to none: all items differ.

        Returns:
            Scalar. Its parts are left in ``losses_by_count``, one per number of vectors.
        """
        positives = torch.arange(len(queries), device=queries.device) * candidates.shape[1]
        pool = candidates.flatten(0, 1)  # (B, 1 + n_neg, T_c, D) -> (N, T_c, D)
        left_out = mask_false_negatives(keys, positives)
        losses = []
        labels_by_count = ward_labels(pool, candidate_mask.flatten(0, 1), self.vectors)
        for count, labels in zip(self.vectors, labels_by_count, strict=True):
            means, mask = cluster_means(pool, labels, count)  # (N, count, D), (N, count)
            scores = maxsim(queries, means, query_mask=query_mask, candidate_mask=mask)  # (B, N)
            logits = scores / self.temperature
            if left_out is not None:
                logits = logits.masked_fill(left_out, -torch.inf)
            losses.append(F.cross_entropy(logits, positives))
        self.losses_by_count = torch.stack(losses).detach()
        return torch.stack(losses).sum()

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings that the model card shows."""
        return {"vectors": self.vectors, "temperature": self.temperature}
