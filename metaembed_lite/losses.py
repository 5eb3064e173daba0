"""Matryoshka Multi-Vector Retrieval (MMR): one contrastive loss over nested budgets at once.

    L = sum over budgets g of  w_g * InfoNCE(S_g / tau_g),   S_g[u, v] = MaxSim of q_u and c_v at g

(MetaEmbed, section 3, with one tau for all budgets.) ``mmr_loss`` is the loss of given embeddings.
The two classes encode a batch for sentence-transformers' trainer and then compute this loss. One
holds all activations. The other caches gradients and holds the activations of a mini-batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from sentence_transformers.multi_vector_encoder.losses import (
    CachedMultiVectorMultipleNegativesRankingLoss,
)
from sentence_transformers.util.distributed import all_gather_with_grad, get_rank
from torch import Tensor, nn

from metaembed_lite.arguments import is_finite_number, whole_number
from metaembed_lite.budget import Budget, Budgets, budgets_within, check_nested, rings
from metaembed_lite.false_negatives import Keys, item_keys, mask_false_negatives
from metaembed_lite.meta_tokens import choose_budgets
from metaembed_lite.scoring import FLOAT_TYPES, at_least_float32, check_finite

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder


def mmr_loss(
    queries: Tensor,
    candidates: Tensor,
    budgets: Budgets | None = None,
    weights: Sequence[float] | None = None,
    temperature: float = 0.03,
    scale_temperature: bool = False,
) -> tuple[Tensor, Tensor]:
    """The MMR loss of a batch of embeddings. With a single budget it is plain InfoNCE.

    Every query is scored against all B (1 + n_neg) candidates of the batch. The loss is the plain
    weighted sum over budgets. The official code divides it by their number, which only scales the
    learning rate.

    Args:
        queries: (B, R_q, D), L2-normalized.
        candidates: (B, 1 + n_neg, R_c, D), each query's positive first.
        budgets: G nested budgets within (R_q, R_c). Defaults to those of the paper that fit, and
            (R_q, R_c).
        weights: w_g, one per budget. Defaults to 1 for all, as in the paper.
        temperature: tau. Defaults to the paper's 0.03.
        scale_temperature: whether tau_g is tau r_q, or tau at every budget as in the paper.
            Defaults to False.

    Returns:
        The loss, a scalar: sum over g of w_g CE(S_g / tau_g). And its unweighted parts, (G,), in
        nats and without gradients.

    Raises:
        ValueError: on shapes that do not fit, or an empty batch. Also on budgets that are not
            nested or do not fit, or weights or a temperature out of range. Also on embeddings that
            are not finite or not of a floating type, or a loss that overflows.

    Example:
        >>> q = torch.nn.functional.normalize(torch.randn(4, 8, 32), dim=-1)
        >>> c = torch.nn.functional.normalize(torch.randn(4, 2, 16, 32), dim=-1)
        >>> loss, per_budget = mmr_loss(q, c, budgets=[(1, 1), (4, 8), (8, 16)])
        >>> loss.shape, per_budget.shape, bool(torch.isclose(loss, per_budget.sum()))
        (torch.Size([]), torch.Size([3]), True)
    """
    _check_embeddings(queries, candidates)
    full = Budget(queries.shape[1], candidates.shape[2])
    budgets = check_nested(budgets_within(full, budgets))
    weights = _check_weights(weights, len(budgets))
    temperatures = _list_temperatures(temperature, budgets, scale_temperature)
    _check_used_vectors(queries, candidates, budgets[-1])
    pool = candidates.flatten(0, 1)  # (B, 1 + n_neg, R_c, D) -> (N, R_c, D)
    positives = torch.arange(len(queries), device=queries.device) * candidates.shape[1]
    per_budget = losses_by_budget(queries, pool, positives, budgets, temperatures)
    return _weighted_sum(per_budget, weights), per_budget.detach()


def nested_scores(queries: Tensor, candidates: Tensor, budgets: Budgets) -> list[Tensor]:
    """MaxSim at every budget from one similarity tensor.

    A budget is a corner of the tensor: a maximum over the first r_c candidate vectors, and a sum
    over the first r_q query vectors. Each ring is read once.

    Args:
        queries: (B, R_q, D).
        candidates: (N, R_c, D).
        budgets: G nested budgets within (R_q, R_c).

    Returns:
        G tensors (B, N): float64 if the queries are, and float32 otherwise, also under autocast.

    Example:
        >>> scores = nested_scores(torch.ones(2, 4, 3), torch.ones(5, 8, 3), ["1x1", "4x8"])
        >>> [s.shape for s in scores], scores[1][0, 0].item()
        ([torch.Size([2, 5]), torch.Size([2, 5])], 12.0)
    """
    nested = check_nested(budgets)
    full = nested[-1]
    q = at_least_float32(queries[:, : full.r_q])
    c = candidates[:, : full.r_c].to(q.dtype)
    with torch.autocast(q.device.type, enabled=False):
        similarities = torch.einsum("bqd,nrd->bnqr", q, c)  # (B, N, R_q, R_c)
    scores: list[Tensor] = []
    best = similarities[..., 0]  # (B, N, R_q): each query vector's maximum so far
    for budget, ring in zip(nested, rings(nested), strict=True):
        if ring.start < ring.stop:
            ring_best = similarities[..., ring].amax(dim=3)  # (B, N, R_q, ring) -> (B, N, R_q)
            best = ring_best if ring.start == 0 else torch.maximum(best, ring_best)
        scores.append(best[..., : budget.r_q].sum(dim=2))  # (B, N, R_q) -> (B, N)
    return scores


def losses_by_budget(
    queries: Tensor,
    candidates: Tensor,
    positives: Tensor,
    budgets: Budgets,
    temperatures: Sequence[float],
    false_negatives: Tensor | None = None,
) -> Tensor:
    """InfoNCE at each budget: the mean over the queries, not yet weighted.

    Args:
        queries: (B, R_q, D).
        candidates: (N, R_c, D), those that every query is scored against.
        positives: (B,), the index of each query's positive.
        budgets: G nested budgets within (R_q, R_c).
        temperatures: tau_g, one per budget.
        false_negatives: (B, N) bool, candidates to leave out. Defaults to none.

    Returns:
        (G,), in nats.

    Raises:
        ValueError: if a loss is not finite, with the reason.

    Example:
        >>> q, c = torch.eye(2)[:, None], torch.eye(2)[:, None]  # one vector per item
        >>> losses_by_budget(q, c, torch.tensor([0, 1]), "1x1", [1.0])
        tensor([0.3133])
    """
    scores = nested_scores(queries, candidates, budgets)
    logits = [s / tau for s, tau in zip(scores, temperatures, strict=True)]
    if false_negatives is not None:
        logits = [each.masked_fill(false_negatives, -torch.inf) for each in logits]
    losses = torch.stack([F.cross_entropy(each, positives) for each in logits])
    if not losses.isfinite().all():
        raise ValueError(_describe_overflow(scores, losses, temperatures))
    return losses


def _describe_overflow(
    scores: Sequence[Tensor], losses: Tensor, temperatures: Sequence[float]
) -> str:
    """Why the losses of finite embeddings are not finite."""
    text = f"the loss by budget is {losses.tolist()}, though no embedding is NaN or infinite: "
    if not all(s.isfinite().all() for s in scores):
        return text + f"their scores overflow {losses.dtype}; L2-normalize the embeddings"
    worst = int(losses.isfinite().logical_not().int().argmax())
    largest, temperature = scores[worst].abs().max().item(), temperatures[worst]
    return (
        f"{text}scores of up to {largest:.3g} over temperature={temperature} overflow "
        f"{losses.dtype}; use a larger temperature, such as the paper's 0.03"
    )


def _weighted_sum(per_budget: Tensor, weights: Sequence[float]) -> Tensor:
    """The losses per budget (G,) times their weights, summed, if the sum is finite."""
    total = (per_budget * per_budget.new_tensor(weights)).sum()
    if not total.isfinite():
        raise ValueError(
            f"weights {list(weights)} times the loss by budget {per_budget.tolist()} overflow "
            f"{per_budget.dtype}; use smaller weights"
        )
    return total


class MatryoshkaMultiVectorLoss(nn.Module):
    """The MMR loss for ``MultiVectorEncoderTrainer``: encodes a batch's columns, then ``mmr_loss``.

    Inputs are columns (query, positive) or (query, positive, negative, ...). Every query is scored
    against all positives and negatives of the batch, except those that also answer it. If a batch
    holds equal queries or equal candidates, they are not each other's negatives.

    Args:
        model: the ``MultiVectorEncoder`` to train, with meta tokens.
        budgets: nested budgets, or a single one. Defaults to those of the paper that the model can
            meet, and its full budget.
        weights: w_g, one per budget. Defaults to 1 for all, as in the paper.
        temperature: tau. A score is at most r_q, so a logit is at most r_q / tau. With tau = 0.03
            this is 33 for one query vector, and 533 for sixteen. Defaults to the paper's 0.03.
        scale_temperature: whether tau_g is tau r_q, so that a logit is at most 1 / tau at every
            budget. Defaults to False: tau at every budget, as in the paper.
        gather_across_devices: also score against the candidates of the other processes, with
            gradients. Every process needs the same B. Defaults to False.

    Attributes:
        losses_by_budget: (G,), the unweighted loss of each budget in the last batch.
        full_only: whether only the largest budget trains. The smaller ones then have weight 0, and
            their losses are still computed. ``NestAfter`` sets it. Defaults to False.

    Raises:
        ValueError: on budgets that are not nested or beyond the model's meta tokens. Also on
            weights that do not fit them or are not finite, or a temperature that is not finite and
            positive.

    Example:
        >>> from metaembed_lite import load
        >>> model = load("tiny", device="cpu")
        >>> loss = MatryoshkaMultiVectorLoss(model, budgets=[(1, 1), (4, 8)])
        >>> queries = model.preprocess(["violin, red apple", "sushi"], task="query")
        >>> positives = model.preprocess(["a violin", "a sushi"], task="document")
        >>> loss([queries, positives]).shape
        torch.Size([])
    """

    def __init__(
        self,
        model: MultiVectorEncoder,
        budgets: Budgets | None = None,
        weights: Sequence[float] | None = None,
        temperature: float = 0.03,
        scale_temperature: bool = False,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.budgets = check_nested(choose_budgets(model, budgets))
        self.weights = _check_weights(weights, len(self.budgets))
        self.temperatures = _list_temperatures(temperature, self.budgets, scale_temperature)
        self.gather_across_devices = gather_across_devices
        self.full_only = False
        self.losses_by_budget = torch.zeros(len(self.budgets))

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Any = None) -> Tensor:
        """The loss of a batch of tokenized columns, a scalar. The trainer calls it."""
        columns = [dict(features) for features in sentence_features]
        keys = item_keys(columns)
        queries = self.model(columns[0], task="query")["token_embeddings"]
        documents = [self.model(c, task="document")["token_embeddings"] for c in columns[1:]]
        return self.embedding_loss(queries, torch.stack(documents, dim=1), keys)

    def embedding_loss(
        self, queries: Tensor, candidates: Tensor, keys: Keys | None = None
    ) -> Tensor:
        """The loss of a batch of embeddings. Subclasses may override it.

        Args:
            queries: (B, R_q, D), L2-normalized.
            candidates: (B, 1 + n_neg, R_c, D), each query's positive first.
            keys: from ``item_keys``. Defaults to none: all items differ.

        Returns:
            Scalar. Its unweighted parts are left in ``losses_by_budget``, (G,).

        Raises:
            ValueError: as ``mmr_loss``, or on keys of other shapes.
        """
        pool, positives, left_out = _prepare_batch(self, queries, candidates, keys)
        losses = losses_by_budget(
            queries, pool, positives, self.budgets, self.temperatures, left_out
        )
        self.losses_by_budget = losses.detach()
        return _weighted_sum(losses, _active_weights(self))

    def get_config_dict(self) -> dict[str, Any]:
        """The settings that the model card shows."""
        return _describe_settings(self)


class CachedMatryoshkaMultiVectorLoss(CachedMultiVectorMultipleNegativesRankingLoss):
    """``MatryoshkaMultiVectorLoss`` with gradient caching: the same loss, the same gradients.

    GradCache (Gao et al., 2021) first embeds the batch in parts without gradients, scores it, and
    takes the gradient at the embeddings. Then it embeds each part again, with gradients. Memory for
    activations depends on ``mini_batch_size`` and not on the batch. Each input is encoded twice.
    sentence-transformers implements the caching.

    Args:
        model, budgets, weights, temperature, scale_temperature, gather_across_devices: as in
            ``MatryoshkaMultiVectorLoss``.
        mini_batch_size: inputs that are encoded at a time. Defaults to 32.
        score_mini_batch_size: queries that are scored at a time, against all candidates. Defaults
            to ``mini_batch_size``. It bounds the similarities in memory, (score_mini_batch_size,
            N, R_q, R_c).

    Attributes:
        losses_by_budget, full_only: as in ``MatryoshkaMultiVectorLoss``.

    Raises:
        ValueError: as ``MatryoshkaMultiVectorLoss``, or on a mini-batch size that is not a whole
            number from 1 up.

    Example:
        >>> from metaembed_lite import load
        >>> model = load("tiny", device="cpu")
        >>> loss = CachedMatryoshkaMultiVectorLoss(model, mini_batch_size=2)
        >>> [str(budget) for budget in loss.budgets]
        ['(1, 1)', '(2, 4)', '(4, 8)', '(8, 16)']
    """

    def __init__(
        self,
        model: MultiVectorEncoder,
        budgets: Budgets | None = None,
        weights: Sequence[float] | None = None,
        temperature: float = 0.03,
        scale_temperature: bool = False,
        gather_across_devices: bool = False,
        mini_batch_size: int = 32,
        score_mini_batch_size: int | None = None,
    ) -> None:
        mini_batch_size = whole_number(mini_batch_size, "mini_batch_size")
        if score_mini_batch_size is None:
            score_mini_batch_size = mini_batch_size
        nested = check_nested(choose_budgets(model, budgets))
        temperatures = _list_temperatures(temperature, nested, scale_temperature)
        super().__init__(
            model,
            scale=1 / temperatures[-1],  # not used: calculate_loss is our own
            mini_batch_size=mini_batch_size,
            score_mini_batch_size=whole_number(score_mini_batch_size, "score_mini_batch_size"),
            gather_across_devices=gather_across_devices,
        )
        self.budgets, self.temperatures = nested, temperatures
        self.weights = _check_weights(weights, len(nested))
        self.full_only = False
        self.losses_by_budget = torch.zeros(len(nested))
        self.item_keys: Keys | None = None  # of the batch

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Any = None) -> Tensor:
        """The loss of a batch of tokenized columns, a scalar. The trainer calls it."""
        columns = [dict(features) for features in sentence_features]
        self.item_keys = item_keys(columns)  # the mini-batches of the base class lack them
        return super().forward(columns, labels)

    def calculate_loss(
        self,
        reps: list[list[Tensor]],
        masks_chunks: list[list[Tensor]],
        *,
        with_backward: bool = False,
    ) -> Tensor:
        """The loss of a batch's embeddings, a scalar. The base class calls it.

        Args:
            reps: the parts (b, R, D) of each column.
            masks_chunks: not used, because they are all ones.
            with_backward: leave gradients at the parts. Defaults to False.
        """
        queries, *documents = [torch.cat(parts) for parts in reps]
        candidates = torch.stack(documents, dim=1)  # (B, 1 + n_neg, R_c, D)
        pool, positives, left_out = _prepare_batch(self, queries, candidates, self.item_keys)
        weights = _active_weights(self)
        total = torch.zeros(len(self.budgets), device=queries.device)
        for rows in torch.arange(len(queries)).split(self.score_mini_batch_size):
            losses = losses_by_budget(
                queries[rows], pool, positives[rows], self.budgets, self.temperatures,
                None if left_out is None else left_out[rows],
            )  # fmt: skip
            losses = losses * (len(rows) / len(queries))
            if with_backward:
                _weighted_sum(losses, weights).backward()
                losses = losses.detach()
            total = total + losses
        self.losses_by_budget = total.detach()
        return _weighted_sum(total, weights)

    def get_config_dict(self) -> dict[str, Any]:
        """The settings that the model card shows."""
        return {
            **_describe_settings(self),
            "mini_batch_size": self.mini_batch_size,
            "score_mini_batch_size": self.score_mini_batch_size,
        }


def _describe_settings(loss: Any) -> dict[str, Any]:
    return {
        "budgets": [str(budget) for budget in loss.budgets],
        "weights": loss.weights,
        "temperatures": loss.temperatures,
        "gather_across_devices": loss.gather_across_devices,
    }


def _active_weights(loss: Any) -> list[float]:
    """The weights of the next step. A weight of 0 keeps the graph, so DDP sees no change."""
    if not loss.full_only:
        return list(loss.weights)
    return [*[0.0] * (len(loss.weights) - 1), loss.weights[-1]]


def _prepare_batch(
    loss: Any, queries: Tensor, candidates: Tensor, keys: Keys | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Check the embeddings of a batch. Returns the candidates (N, R_c, D) that every query is
    scored against, each query's positive among them (B,), and those to leave out, (B, N) or None.
    """
    _check_embeddings(queries, candidates)
    _check_used_vectors(queries, candidates, loss.budgets[-1])
    pool, positives = _gather_candidates(candidates, loss.gather_across_devices)
    return pool, positives, mask_false_negatives(keys, positives, loss.gather_across_devices)


def _gather_candidates(
    candidates: Tensor, gather_across_devices: bool = False
) -> tuple[Tensor, Tensor]:
    """The candidates (N, R_c, D) that every query is scored against, and the index of each query's
    positive among them, (B,). ``candidates`` is (B, 1 + n_neg, R_c, D), the positive first.
    """
    batch, per_query = candidates.shape[:2]
    positives = torch.arange(batch, device=candidates.device) * per_query
    if gather_across_devices:
        candidates = all_gather_with_grad(candidates)
        if candidates.requires_grad:  # gloo misplaces a strided gradient (pytorch#192920)
            candidates.register_hook(Tensor.contiguous)
        positives = positives + get_rank() * batch * per_query
    return candidates.flatten(0, 1), positives


def _check_embeddings(queries: Tensor, candidates: Tensor) -> None:
    """Check types and shapes: queries (B, R_q, D), candidates (B, 1 + n_neg, R_c, D)."""
    for name, side in (("queries", queries), ("candidates", candidates)):
        if not isinstance(side, Tensor) or side.dtype not in FLOAT_TYPES:
            kind = getattr(side, "dtype", type(side).__name__)
            raise ValueError(f"{name}: expected a tensor of a floating type, got {kind}")
    shapes = f"queries {tuple(queries.shape)}, candidates {tuple(candidates.shape)}"
    if queries.ndim != 3 or candidates.ndim != 4 or len(queries) != len(candidates):
        raise ValueError(
            f"{shapes}: expected (B, R_q, D) and (B, 1 + n_neg, R_c, D) with the same B"
        )
    if queries.shape[2] != candidates.shape[3]:
        raise ValueError(
            f"queries have {queries.shape[2]} dimensions, candidates {candidates.shape[3]}"
        )
    if 0 in queries.shape or 0 in candidates.shape:
        raise ValueError(f"{shapes}: the batch is empty; give at least one query with its positive")


def _check_used_vectors(queries: Tensor, candidates: Tensor, largest: Budget) -> None:
    """Check that the vectors of the largest budget are there, and finite."""
    largest.check(queries.shape[1], candidates.shape[2])
    check_finite(queries[:, : largest.r_q], "queries")
    check_finite(candidates[:, :, : largest.r_c], "candidates")


def _list_temperatures(temperature: Any, budgets: Sequence[Budget], scale: Any) -> list[float]:
    """tau_g of every budget: tau, or with ``scale`` tau r_q."""
    if not isinstance(scale, bool):
        raise ValueError(f"scale_temperature={scale!r}: use True or False")
    tau = _check_temperature(temperature)
    return [tau * budget.r_q if scale else tau for budget in budgets]


def _check_temperature(temperature: Any) -> float:
    """The temperature as a float, if it is positive and finite."""
    if not is_finite_number(temperature) or temperature <= 0:
        raise ValueError(
            f"temperature={temperature!r}: it divides the scores; use a positive, finite number"
        )
    return float(temperature)


def _check_weights(weights: Sequence[float] | None, n: int) -> list[float]:
    """The weights as n floats, finite, none negative and not all 0. Defaults to all 1."""
    if weights is None:
        return [1.0] * n
    numbers: Any = weights.tolist() if hasattr(weights, "tolist") else weights  # arrays, tensors
    fits = isinstance(numbers, tuple | list) and len(numbers) == n
    fits = fits and all(map(is_finite_number, numbers))
    tiny = torch.finfo(torch.float32).tiny  # a smaller weight is 0 in the loss
    if not fits or min(numbers) < 0 or max(numbers) < tiny:
        raise ValueError(
            f"weights {weights!r}: expected a list of {n} finite numbers, one per budget, none "
            "negative and not all 0"
        )
    return [float(weight) for weight in numbers]
