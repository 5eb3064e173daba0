"""The MMR loss over batches larger than memory: encode a part at a time, score all together.

GradCache (Gao et al., 2021): embed the batch in parts without gradients; score it and take the
gradient at the embeddings; embed each part again, now with gradients, and carry on from there.
Activations of one part are held at a time, and the gradient is that of the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.multi_vector_encoder.losses import (
    CachedMultiVectorMultipleNegativesRankingLoss,
)
from torch import Tensor

from metaembed_lite.arguments import whole_number
from metaembed_lite.budget import Budget, Budgets, choose_budgets
from metaembed_lite.mmr import MatryoshkaMultiVectorLoss, item_keys
from metaembed_lite.model import vectors

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder


class CachedMatryoshkaMultiVectorLoss(CachedMultiVectorMultipleNegativesRankingLoss):
    """``MatryoshkaMultiVectorLoss`` with gradient caching: the same loss, the same gradients.

    Memory for activations depends on ``mini_batch_size`` and not on the batch; each input is
    encoded twice. The caching is sentence-transformers' own.

    Args:
        model: the ``MultiVectorEncoder`` to train.
        budgets, weights, temperature, gather_across_devices: as in ``MatryoshkaMultiVectorLoss``.
        mini_batch_size: inputs encoded at a time, a whole number from 1 up.
        score_mini_batch_size: queries scored at a time, against all candidates; None: the same.
            The similarities held are score_mini_batch_size x N x R_q x R_c.

    Raises:
        ValueError: as ``MatryoshkaMultiVectorLoss``; or on a mini-batch size that is not a
            whole number from 1 up.
    """

    def __init__(
        self,
        model: MultiVectorEncoder,
        budgets: Budgets | None = None,
        weights: Sequence[float] | None = None,
        temperature: float = 0.03,
        gather_across_devices: bool = False,
        mini_batch_size: int = 32,
        score_mini_batch_size: int | None = None,
    ) -> None:
        mini_batch_size = whole_number(mini_batch_size, "mini_batch_size")
        if score_mini_batch_size is None:
            score_mini_batch_size = mini_batch_size
        score_mini_batch_size = whole_number(score_mini_batch_size, "score_mini_batch_size")
        full = vectors(model)
        budgets = choose_budgets(budgets, full.r_q, full.r_c)
        mmr = MatryoshkaMultiVectorLoss(None, budgets, weights, temperature, gather_across_devices)
        super().__init__(
            model,
            scale=1 / mmr.temperature,
            mini_batch_size=mini_batch_size,
            score_mini_batch_size=score_mini_batch_size,
            gather_across_devices=gather_across_devices,
        )
        self.mmr = mmr
        self.keys: tuple[Tensor, Tensor] | None = None  # of the batch's items

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The G nested budgets."""
        return self.mmr.budgets

    @property
    def group_losses(self) -> Tensor:
        """Each budget's own loss on the last batch, (G,), unweighted."""
        return self.mmr.group_losses

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Any = None) -> Tensor:
        """The loss of a batch of tokenized columns, as the trainer calls it; a scalar."""
        columns = [dict(features) for features in sentence_features]
        self.keys = item_keys(columns)  # the parts that the base class makes go without
        return super().forward(columns, labels)

    def calculate_loss(
        self,
        reps: list[list[Tensor]],
        masks_chunks: list[list[Tensor]],
        *,
        with_backward: bool = False,
    ) -> Tensor:
        """The loss of a batch's embeddings, a scalar; a hook of the base class.

        ``reps`` holds, for each column, its parts (b, R, D); ``masks_chunks``, all ones, is not
        needed. ``with_backward`` leaves the gradients at the parts.
        """
        queries, *columns = [torch.cat(parts) for parts in reps]
        candidates, positives = self.mmr.shared(queries, torch.stack(columns, dim=1))
        false_negatives = self.mmr.false_negatives(self.keys, positives)
        total = torch.zeros(len(self.budgets), device=queries.device)
        for some in torch.arange(len(queries)).split(self.score_mini_batch_size):
            share = len(some) / len(queries)
            rows = None if false_negatives is None else false_negatives[some]
            losses = share * self.mmr.losses(queries[some], candidates, positives[some], rows)
            if with_backward:
                (losses * losses.new_tensor(self.mmr.weights)).sum().backward()
                losses = losses.detach()
            total = total + losses
        return self.mmr.weigh(total)

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says of the loss."""
        return {
            **self.mmr.get_config_dict(),
            "mini_batch_size": self.mini_batch_size,
            "score_mini_batch_size": self.score_mini_batch_size,
        }
