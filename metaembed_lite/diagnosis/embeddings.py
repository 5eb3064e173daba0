"""Checks of the vectors: repeatable, of length 1, as many as the budget, nested, not collapsed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from metaembed_lite import items
from metaembed_lite.budget import check_nested
from metaembed_lite.diagnosis.finding import FAILED, OK, SKIPPED, WARNING, Finding, judge
from metaembed_lite.diagnosis.subject import TASKS, Subject, difference
from metaembed_lite.meta_tokens import MetaTokenTransformer, choose_budgets, full_budget
from metaembed_lite.scoring import maxsim

NO_META_TOKENS = "the model has no meta tokens"
COLLAPSED, CLOSE = 0.99, 0.9  # mean cosines of different items
LEAST_ITEMS = 8  # for a mean over the user's items
MAX_COMPARED = 2048  # items whose pairs are compared


def check_repeatable(subject: Subject) -> Finding:
    """Encoding twice gives the same finite vectors.

    Example:
        >>> from metaembed_lite import load
        >>> check_repeatable(Subject(load("tiny", device="cpu"), [])).result
        'ok'
    """
    largest = 0.0
    for task in TASKS:
        vectors = subject.embeddings[task]
        bad = [i for i, v in enumerate(vectors) if not torch.isfinite(v).all()]
        if bad:
            item = items.describe(subject.samples[bad[0]])
            return Finding(
                FAILED,
                f"{len(bad)} of {len(vectors)} items give NaN or infinity as a {task}, first "
                f"{item}",
                "half precision may overflow: load with dtype='bfloat16' or 'float32'",
            )
        largest = max(largest, difference(vectors, subject.encode(subject.samples, task)))
    n, shapes = len(subject.samples), " and ".join(map(_describe_shape, subject.embeddings.items()))
    return judge(
        largest,
        subject.tolerance,
        f"{n} items encoded twice differ by {largest:.1e}; {shapes}",
        "something is random: model.eval(), or a dropout or sampling outside of training mode",
    )


def _describe_shape(entry: tuple[str, list[Tensor]]) -> str:
    task, vectors = entry
    counts = sorted({v.shape[0] for v in vectors})
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{n} vectors of {vectors[0].shape[-1]} numbers per {task}"


def check_norms(subject: Subject) -> Finding:
    """Every vector has length 1.

    Example:
        >>> from metaembed_lite import load
        >>> check_norms(Subject(load("tiny", device="cpu"), [])).result
        'ok'
    """
    vectors = [v for task in TASKS for v in subject.embeddings[task] if len(v)]
    norms = torch.cat([v.double().norm(dim=-1) for v in vectors])
    largest = (norms - 1).abs().max().item()
    half = any(v.dtype in (torch.float16, torch.bfloat16) for v in vectors)
    return judge(
        largest,
        0.01 if half else 1e-3,
        f"{len(norms):,} vectors of length {norms.min():.4f} to {norms.max():.4f}",
        "MaxSim prefers long vectors: end the model with sentence-transformers' Normalize, as "
        "build() does, and train with it",
    )


def check_budgets(subject: Subject) -> Finding:
    """There are as many vectors as the full budget says, and every budget can be scored.

    Example:
        >>> from metaembed_lite import load
        >>> check_budgets(Subject(load("tiny", device="cpu"), [])).measured
        '8 query and 16 candidate vectors; nested budgets (1, 1), (2, 4), (4, 8), (8, 16)'
    """
    if not isinstance(subject.transformer, MetaTokenTransformer):
        return Finding(SKIPPED, NO_META_TOKENS)
    full = full_budget(subject.model)
    for task, expected in zip(TASKS, (full.r_q, full.r_c), strict=True):
        counts = sorted({len(v) for v in subject.embeddings[task]})
        if counts != [expected]:
            return Finding(
                FAILED,
                f"a {task} has {' or '.join(map(str, counts))} vectors, and the full budget is "
                f"{full}",
                "take token_pooling out of the model and pass it to encode, or build with fewer "
                "meta tokens",
            )
    budgets = check_nested(choose_budgets(subject.model))
    queries, candidates = (torch.stack(subject.embeddings[task]) for task in TASKS)
    for budget in budgets:
        maxsim(queries, candidates, budget)  # raises if a score is not finite
    names = ", ".join(map(str, budgets))
    return Finding(OK, f"{full.r_q} query and {full.r_c} candidate vectors; nested budgets {names}")


def check_prefixes(subject: Subject) -> Finding:
    """Queries encoded with fewer meta tokens have the first vectors of the full embedding.

    Example:
        >>> from metaembed_lite import load
        >>> check_prefixes(Subject(load("tiny", device="cpu"), [])).result
        'ok'
    """
    transformer = subject.transformer
    if not isinstance(transformer, MetaTokenTransformer):
        return Finding(SKIPPED, NO_META_TOKENS)
    if transformer.r_q == 1:
        return Finding(SKIPPED, "the model has one query meta token, which has no shorter prefix")
    if not transformer.is_causal():
        return Finding(
            SKIPPED,
            "every token sees all others, so encode_query refuses fewer meta tokens; keep the "
            "first vectors of the full embedding",
        )
    sizes = sorted({1, transformer.r_q // 2, transformer.r_q - 1})
    full = subject.encode(subject.texts, "query")
    largest = 0.0
    for r_q in sizes:
        short = subject.model.encode_query(subject.texts, r_q=r_q, show_progress_bar=False)
        prefix = [v[:r_q] for v in full]
        largest = max(largest, difference([v.detach().cpu() for v in short], prefix))
    return judge(
        largest,
        subject.tolerance,
        f"encode_query(..., r_q={', '.join(map(str, sizes))}) differs from the prefix of "
        f"{transformer.r_q} vectors by {largest:.1e}",
        "encode with all query meta tokens and keep the first, or check the attention mask",
    )


def check_duplicates(subject: Subject) -> Finding:
    """No two of the user's items have equal vectors.

    Example:
        >>> from metaembed_lite import load
        >>> subject = Subject(load("tiny", device="cpu"), ["violin", "red apple", "violin"])
        >>> check_duplicates(subject).measured
        '1 of 3 items encodes as an earlier one does: items 0 and 2 (the same item)'
    """
    if len(subject.own) < 2:
        return Finding(SKIPPED, "there are no two items of yours to compare")
    pairs = _find_equal(subject.own_embeddings[:MAX_COMPARED], subject.tolerance)
    n = min(len(subject.own), MAX_COMPARED)
    if not pairs:
        return Finding(OK, f"{n:,} items encode to different vectors")
    keys = {i: items.key(items.read(subject.own[i])) for pair in pairs for i in pair}
    same = sum(keys[i] == keys[j] for i, j in pairs)
    details = "; ".join(
        f"items {i} and {j} ({'the same item' if keys[i] == keys[j] else 'different items'})"
        for i, j in pairs[:3]
    )
    remedies = []
    if same:
        remedies.append("remove copies, or list all of them as relevant")
    if same < len(pairs):
        remedies.append("different items with equal vectors differ only in what the model does not "
                        "see, such as a text beyond its limit")  # fmt: skip
    verb = "items encodes" if len(pairs) == 1 else "items encode"
    return Finding(
        WARNING,
        f"{len(pairs)} of {n:,} {verb} as an earlier one does: {details}",
        "; ".join(remedies),
    )


def _find_equal(embeddings: Sequence[Tensor], tolerance: float) -> list[tuple[int, int]]:
    """For each embedding that equals an earlier one, the first such pair of indices."""
    by_shape: dict[torch.Size, list[int]] = defaultdict(list)
    for index, vectors in enumerate(embeddings):
        by_shape[vectors.shape].append(index)
    pairs = []
    for indices in by_shape.values():
        flat = torch.stack([embeddings[i].float().flatten() for i in indices])  # (n, R D)
        scale = flat.norm(dim=1).max().clamp(min=1e-12).item()
        distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
        is_equal = (distances <= tolerance * scale).tril(diagonal=-1)  # (n, n), earlier ones
        for row in is_equal.any(dim=1).nonzero()[:, 0].tolist():
            pairs.append((indices[int(is_equal[row].int().argmax())], indices[row]))
    return sorted(pairs)


def check_collapse(subject: Subject) -> Finding:
    """Different items have different vectors: their mean cosine is not close to 1.

    Example:
        >>> from metaembed_lite import load
        >>> check_collapse(Subject(load("tiny", device="cpu"), [])).result
        'ok'
    """
    enough = len(subject.own) >= LEAST_ITEMS
    vectors = subject.own_embeddings if enough else subject.embeddings["document"]
    source = "of your" if enough else "generated"
    means = [v.float().mean(dim=0) for v in vectors[:MAX_COMPARED] if len(v)]
    if len({v.shape for v in vectors}) == 1:  # every vector counts, not only their mean
        means = [v.float().flatten() for v in vectors[:MAX_COMPARED]]
    unit = torch.nn.functional.normalize(torch.stack(means), dim=1)  # (n, R D)
    n = len(unit)
    cosine = ((unit.sum(dim=0).square().sum() - n) / (n * (n - 1))).item()  # over ordered pairs
    measured = f"mean cosine {cosine:.3f} between {n:,} {source} items"
    if cosine > COLLAPSED:
        return Finding(
            FAILED,
            measured,
            "the model has collapsed: lower the learning rate, look for equal captions in the "
            "training data, and train again",
        )
    if cosine > CLOSE:
        return Finding(
            WARNING, measured, "an untrained model looks like this; a trained one should not"
        )
    return Finding(OK, measured)
