"""Matryoshka Multi-Vector Retrieval: one contrastive loss over nested budgets at once.

    L = sum over g of  w_g * InfoNCE(S_g / tau),    S_g[u, v] = MaxSim of q_u and c_v at budget g

(MetaEmbed, section 3.) One similarity tensor at the full budget serves every group: group g is a
prefix slice of it, a max over the candidates' prefix, a sum over the query's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaembed_lite.arguments import is_finite_number
from metaembed_lite.budget import PAPER_BUDGETS, Budget, Budgets, choose_budgets, nested
from metaembed_lite.items import ITEM_KEYS
from metaembed_lite.model import vectors
from metaembed_lite.scoring import FLOAT_TYPES, at_least_float32, check_finite

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder


def group_scores(queries: Tensor, candidates: Tensor, budgets: Sequence[Budget]) -> list[Tensor]:
    """MaxSim at every budget from one similarity tensor.

    Args:
        queries: (B, R_q, D).
        candidates: (N, R_c, D).
        budgets: G nested budgets within (R_q, R_c).

    Returns:
        G tensors (B, N), float32, or float64 if the queries are; also under autocast, which would
        otherwise multiply in half precision.
    """
    full = budgets[-1]
    q = at_least_float32(queries[:, : full.r_q])
    c = candidates[:, : full.r_c].to(q.dtype)
    with torch.autocast(q.device.type, enabled=False):
        similarities = torch.einsum("bqd,nrd->bnqr", q, c)
    scores = []
    best, seen = None, 0  # max over the candidate vectors of the groups so far
    for budget in budgets:
        if budget.r_c > seen:
            ring = similarities[..., seen : budget.r_c].amax(dim=3)  # (B, N, R_q)
            best = ring if best is None else torch.maximum(best, ring)
            seen = budget.r_c
        assert best is not None
        scores.append(best[..., : budget.r_q].sum(dim=2))
    return scores


def item_keys(columns: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor] | None:
    """The keys of a batch's queries (B,) and candidates (B, 1 + n_neg); equal items, equal keys.

    Args:
        columns: features of the query, the positive and each negative. Without ``item_keys``, which
            ``ItemTransformer`` adds, there are none: None.
    """
    if any(ITEM_KEYS not in features for features in columns):
        return None
    queries, *candidates = [features[ITEM_KEYS] for features in columns]
    return queries, torch.stack(candidates, dim=1)


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
    """
    same_query = query_keys[:, None] == all_query_keys  # (B, W)
    is_positive = candidate_keys[:, :1] == candidate_keys.flatten()  # (W, N)
    right = same_query.float() @ is_positive.float() > 0  # (B, N)
    return right.scatter(1, positives[:, None], False)


class MatryoshkaMultiVectorLoss(nn.Module):
    """The MMR loss, for ``MultiVectorEncoderTrainer``; one budget alone is plain InfoNCE.

    Inputs are columns (query, positive) or (query, positive, negative, ...). Every query is scored
    against all positives and negatives of the batch, except those that are right for it as well:
    where a batch holds equal queries or equal candidates, they are not each other's negatives. The
    loss is the plain weighted sum over groups; the official code divides it by their number, which
    only scales the learning rate.

    Args:
        model: the ``MultiVectorEncoder`` to train; None to use ``score_loss`` alone.
        budgets: nested (r_q, r_c), or a single budget; None takes the paper's that the model can
            meet and its full one, or without a model the paper's five.
        weights: w_g, one per budget; None: all 1, as in the paper.
        temperature: tau. Scores are sums that range to r_q, so logits range to r_q / tau: at the
            paper's 0.03 to 33 with one query vector and 533 with sixteen.
        gather_across_devices: also score against the other processes' candidates, with gradients;
            every process needs the same B.

    Raises:
        ValueError: on budgets that are not nested or beyond the model's meta tokens, weights that
            do not fit them or are not finite, or a temperature that is not finite and positive.
    """

    def __init__(
        self,
        model: MultiVectorEncoder | None = None,
        budgets: Budgets | None = None,
        weights: Sequence[float] | None = None,
        temperature: float = 0.03,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        if model is not None:
            full = vectors(model)
            budgets = choose_budgets(budgets, full.r_q, full.r_c)
        self.budgets = nested(PAPER_BUDGETS if budgets is None else budgets)
        self.weights = _checked_weights(weights, len(self.budgets))
        if not is_finite_number(temperature) or temperature <= 0:
            raise ValueError(
                f"temperature={temperature!r}: it divides the scores; use a positive, finite number"
            )
        self.temperature = float(temperature)
        self.gather_across_devices = gather_across_devices
        self.group_losses = torch.zeros(len(self.budgets))  # of the last batch, unweighted

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Any = None) -> Tensor:
        """The loss of a batch of tokenized columns, as the trainer calls it; a scalar."""
        if self.model is None:
            raise ValueError("this loss has no model: pass one, or call score_loss on embeddings")
        columns = [dict(features) for features in sentence_features]
        keys = item_keys(columns)
        queries = self.model(columns[0], task="query")["token_embeddings"]
        candidates = [self.model(c, task="document")["token_embeddings"] for c in columns[1:]]
        return self.score_loss(queries, torch.stack(candidates, dim=1), keys)

    def score_loss(
        self, queries: Tensor, candidates: Tensor, keys: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """The loss on ready embeddings.

        Args:
            queries: (B, R_q, D), L2-normalized.
            candidates: (B, 1 + n_neg, R_c, D), each query's positive first.
            keys: integers (B,) and (B, 1 + n_neg) that are equal where two queries, or two
                candidates, are the same item. Defaults to all different.

        Returns:
            Scalar: sum over g of w_g CE(S_g / tau), S_g of shape (B, B (1 + n_neg)), or that many
            times the number of processes with ``gather_across_devices``.

        Raises:
            ValueError: on shapes that do not fit, a batch of size 0, a budget beyond R_q or R_c,
                embeddings that are not finite or not of a floating type, or a loss that overflows.
        """
        candidates, positives = self.shared(queries, candidates)
        false_negatives = self.false_negatives(keys, positives)
        return self.weigh(self.losses(queries, candidates, positives, false_negatives))

    def false_negatives(
        self, keys: tuple[Tensor, Tensor] | None, positives: Tensor
    ) -> Tensor | None:
        """(B, N) bool: the false negatives of each query; None without keys."""
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
        if self.gather_across_devices:
            from sentence_transformers.util.distributed import all_gather

            all_query_keys, candidate_keys = all_gather(query_keys), all_gather(candidate_keys)
        return find_false_negatives(query_keys, all_query_keys, candidate_keys, positives)

    def shared(self, queries: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """The candidates (N, R_c, D) that every query is scored against, and the index of each
        query's positive among them, (B,).

        Checks what ``score_loss`` promises to check, and gathers over processes if asked to.
        """
        for name, side in (("queries", queries), ("candidates", candidates)):
            if not isinstance(side, Tensor) or side.dtype not in FLOAT_TYPES:
                kind = getattr(side, "dtype", type(side).__name__)
                raise ValueError(f"{name}: expected a tensor of a floating type, got {kind}")
        if queries.ndim != 3 or candidates.ndim != 4 or len(queries) != len(candidates):
            raise ValueError(
                f"queries {tuple(queries.shape)}, candidates {tuple(candidates.shape)}: expected "
                "(B, R_q, D) and (B, 1 + n_neg, R_c, D) with the same B"
            )
        if queries.shape[2] != candidates.shape[3]:
            raise ValueError(
                f"queries have {queries.shape[2]} dimensions, candidates {candidates.shape[3]}"
            )
        if 0 in queries.shape or 0 in candidates.shape:
            raise ValueError(
                f"queries {tuple(queries.shape)}, candidates {tuple(candidates.shape)}: the batch "
                "is empty; give at least one query with its positive"
            )
        full = self.budgets[-1].check(queries.shape[1], candidates.shape[2])
        check_finite(queries[:, : full.r_q], "queries")
        check_finite(candidates[:, :, : full.r_c], "candidates")
        per_query = candidates.shape[1]
        positives = torch.arange(len(queries), device=queries.device) * per_query
        if self.gather_across_devices:
            from sentence_transformers.util.distributed import all_gather_with_grad, get_rank

            candidates = all_gather_with_grad(candidates)
            if candidates.requires_grad:  # gloo misplaces a strided gradient (pytorch#192920)
                candidates.register_hook(Tensor.contiguous)
            positives = positives + get_rank() * len(queries) * per_query
        return candidates.flatten(0, 1), positives

    def losses(
        self,
        queries: Tensor,
        candidates: Tensor,
        positives: Tensor,
        false_negatives: Tensor | None = None,
    ) -> Tensor:
        """InfoNCE at each of the G budgets, (G,): mean over the queries, not yet weighted.

        ``false_negatives`` (B, N) are left out.
        """
        scores = group_scores(queries, candidates, self.budgets)
        logits = [s / self.temperature for s in scores]
        if false_negatives is not None:
            logits = [each.masked_fill(false_negatives, -torch.inf) for each in logits]
        losses = torch.stack([F.cross_entropy(each, positives) for each in logits])
        if not losses.isfinite().all():
            raise ValueError(self._overflow(scores, losses))
        return losses

    def _overflow(self, scores: Sequence[Tensor], losses: Tensor) -> str:
        """Why the losses of finite embeddings are not finite."""
        text = f"the loss by budget is {losses.tolist()}, though no embedding is NaN or infinite: "
        if not all(s.isfinite().all() for s in scores):
            return text + f"their scores overflow {losses.dtype}; L2-normalize the embeddings"
        largest = max(s.abs().max().item() for s in scores)
        return (
            f"{text}scores of up to {largest:.3g} over temperature={self.temperature} overflow "
            f"{losses.dtype}; use a larger temperature, such as the paper's 0.03"
        )

    def weigh(self, losses: Tensor) -> Tensor:
        """The weighted sum of the (G,) losses, which are kept in ``group_losses``.

        Raises:
            ValueError: if the sum overflows.
        """
        self.group_losses = losses.detach()
        total = (losses * losses.new_tensor(self.weights)).sum()
        if not total.isfinite():
            raise ValueError(
                f"weights {self.weights} times the loss by budget {losses.tolist()} overflow "
                f"{losses.dtype}; use smaller weights"
            )
        return total

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says of the loss."""
        return {
            "budgets": [str(b) for b in self.budgets],
            "weights": self.weights,
            "temperature": self.temperature,
            "gather_across_devices": self.gather_across_devices,
        }


def _checked_weights(weights: Sequence[float] | None, n: int) -> list[float]:
    """The weights as ``n`` floats.

    Raises:
        ValueError: unless there are ``n`` finite numbers, none negative and not all 0.
    """
    if weights is None:
        return [1.0] * n
    given: Any = weights.tolist() if hasattr(weights, "tolist") else weights  # arrays and tensors
    fits = isinstance(given, tuple | list) and len(given) == n and all(map(is_finite_number, given))
    tiny = torch.finfo(torch.float32).tiny  # below it, a weight is 0 in the loss
    if not fits or min(given) < 0 or max(given) < tiny:
        raise ValueError(
            f"weights {weights!r}: expected a list of {n} finite numbers, one per budget, none "
            "negative and not all 0"
        )
    return [float(weight) for weight in given]
