"""doctor(): runs every check on a model, and collects the findings in a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from metaembed_lite.diagnosis import batching, embeddings, inputs, precision, weights
from metaembed_lite.diagnosis.finding import FAILED, SKIPPED, Finding
from metaembed_lite.diagnosis.round_trip import check_round_trip
from metaembed_lite.diagnosis.subject import Subject

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

Check = Callable[[Subject], Finding]

# What the vectors depend on. If one fails, the checks of vectors would all fail with it.
FIRST: dict[str, Check] = {
    "finite weights": weights.check_finite_weights,
    "repeatable": embeddings.check_repeatable,
}
WITHOUT_VECTORS: dict[str, Check] = {
    "items": inputs.check_items,
    "lengths": inputs.check_lengths,
    "special tokens": inputs.check_special_tokens,
    "trained parameters": weights.check_trained_parameters,
    "adapted layers": weights.check_adapted_layers,
}
WITH_VECTORS: dict[str, Check] = {
    "norms": embeddings.check_norms,
    "padding side": batching.check_padding_side,
    "batch size": batching.check_batch_size,
    "masks": batching.check_masks,
    "score sums": precision.check_score_sums,
    "half precision": precision.check_half_precision,
    "pictures": inputs.check_pictures,
    "budgets": embeddings.check_budgets,
    "prefixes": embeddings.check_prefixes,
    "duplicates": embeddings.check_duplicates,
    "collapse": embeddings.check_collapse,
}


def doctor(
    model: MultiVectorEncoder, items: Sequence[Any] = (), *, round_trip: bool = False
) -> pd.DataFrame:
    """Check a model and items for the traps that this project knows.

    The model is compared with itself: an item alone and in a batch, padded left and right, as a
    path and as a PIL image, and more. Generated items are used for that, and a few of yours. All
    your items are read, encoded as candidates once, and compared with each other. A few hundred
    are enough.

    Args:
        model: from ``build`` or ``load``, or any ``MultiVectorEncoder`` of sentence-transformers.
            It is the same afterwards.
        items: yours, each a text, an image or a dict with both. Defaults to none.
        round_trip: also save the model to a temporary folder, load it, and compare vectors.
            Defaults to False.

    Returns:
        DataFrame with one row per check:

        - check: its name.
        - result: "ok", "warning", "failed", or "skipped" if it does not apply.
        - measured: what was measured, or why the check was skipped.
        - remedy: what to do. Empty if there is nothing to do.

    Raises:
        ValueError: if the model has no ``encode_query`` and ``encode_document``, or ``items`` is
            not a list.

    Example:
        >>> from metaembed_lite import load
        >>> table = doctor(load("tiny", device="cpu"), ["violin", "red apple"])
        >>> table[table.result == "failed"].empty
        True
    """
    rows = [
        {
            "check": name,
            "result": finding.result,
            "measured": finding.measured,
            "remedy": finding.remedy,
        }
        for name, finding in examine(model, items, round_trip=round_trip)
    ]
    return pd.DataFrame(rows)


def examine(
    model: MultiVectorEncoder, items: Sequence[Any] = (), *, round_trip: bool = False
) -> Iterator[tuple[str, Finding]]:
    """The checks of ``doctor`` one after the other, to show each as soon as it is done.

    Arguments and errors are those of ``doctor``.

    Yields:
        The name of a check, and what it found.

    Example:
        >>> from metaembed_lite import load
        >>> name, finding = next(examine(load("tiny", device="cpu")))
        >>> name, finding.result
        ('finite weights', 'ok')
    """
    _check_arguments(model, items)
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield from _examine(Subject(model, items), round_trip)
    finally:
        for module, training in modes:
            module.training = training


def _examine(subject: Subject, round_trip: bool) -> Iterator[tuple[str, Finding]]:
    broken = ""
    for name, check in FIRST.items():
        finding = _skip(broken) if broken else _run(check, subject)
        broken = broken or (name if finding.result == FAILED else "")
        yield name, finding
    for name, check in WITHOUT_VECTORS.items():
        yield name, _run(check, subject)
    for name, check in WITH_VECTORS.items():
        yield name, _skip(broken) if broken else _run(check, subject)
    if not round_trip:
        yield "save and load", Finding(SKIPPED, "it was not asked for: pass round_trip=True")
    else:
        yield "save and load", _skip(broken) if broken else _run(check_round_trip, subject)


def _run(check: Check, subject: Subject) -> Finding:
    try:
        return check(subject)
    except Exception as error:  # a broken model may raise anything
        return Finding(
            FAILED,
            f"{type(error).__name__}: {error}",
            "the check could not finish: encode the items that the message names, and read its "
            "traceback",
        )


def _skip(broken: str) -> Finding:
    return Finding(SKIPPED, f"it needs vectors, and {broken!r} failed")


def _check_arguments(model: Any, items: Any) -> None:
    if not (hasattr(model, "encode_query") and hasattr(model, "encode_document")):
        raise ValueError(
            f"model is {type(model).__name__}, which has no encode_query and encode_document: give "
            "a model from build() or load()"
        )
    if isinstance(items, str | bytes | dict) or not hasattr(items, "__len__"):
        raise ValueError(f"items is {type(items).__name__}: give a list of texts and images")
