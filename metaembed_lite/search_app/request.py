"""What a search request asks for, read from JSON, a form or the command line, and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from metaembed_lite.arguments import whole_number
from metaembed_lite.budget import Budget, as_budget
from metaembed_lite.search_app.guard import IMAGE_LIMIT

MOST_RESULTS = 200
FIELDS = ("text", "image", "query", "budget", "k", "where", "prefetch")


class RequestError(ValueError):
    """A mistake in a request, which its sender can correct. Any other ``ValueError`` is a bug.

    Example:
        >>> str(RequestError("k=0: use a whole number from 1 up"))
        'k=0: use a whole number from 1 up'
    """


@contextmanager
def checking_the_request() -> Iterator[None]:
    """Turn a ``ValueError`` into a ``RequestError``. Only checks of what was sent stand inside.

    Raises:
        RequestError: for every ``ValueError`` inside.

    Example:
        >>> with checking_the_request():
        ...     as_budget("4")
        Traceback (most recent call last):
        ...
        metaembed_lite.search_app.request.RequestError: budget '4': write it as r_q x r_c, ...
    """
    try:
        yield
    except ValueError as error:
        raise RequestError(str(error)) from error


@dataclass(frozen=True)
class SearchRequest:
    """One search.

    Attributes:
        item: a text, the bytes of an image, or a dict with both. None if ``token`` is given.
        token: of a query that was encoded before.
        budget: of the scores, or None for the full budget.
        k: results.
        where: a filter, or None.
        prefetch: earlier stages, as pairs of a budget and how many candidates to keep.

    Example:
        >>> SearchRequest("violin").k
        10
    """

    item: Any
    token: str | None = None
    budget: Budget | None = None
    k: int = 10
    where: str | None = None
    prefetch: tuple[tuple[Budget, int], ...] = ()


def read_request(fields: Mapping[str, Any]) -> SearchRequest:
    """Check the fields of a request.

    Args:
        fields: ``text``, ``image`` (bytes), or ``query`` (the token of an earlier one). Then
            ``budget``, ``k``, ``where`` and ``prefetch``, which have defaults.

    Raises:
        ValueError: naming the field and its value.

    Example:
        >>> request = read_request({"text": "violin", "budget": "4x8", "prefetch": "1x1:100"})
        >>> request.item, request.budget, request.k, request.prefetch[0][1]
        ('violin', Budget(r_q=4, r_c=8), 10, 100)
        >>> read_request({"text": "violin", "k": 0})
        Traceback (most recent call last):
        ...
        ValueError: k=0: it counts results; use a whole number from 1 up
    """
    for name in fields:
        if name not in FIELDS:
            raise ValueError(f"unknown field {name!r:.80}: choose from {', '.join(FIELDS)}")
    for name in ("text", "query", "where"):
        if not isinstance(fields.get(name) or "", str):
            raise ValueError(f"{name}={fields[name]!r:.80}: give a text")
    token = fields.get("query") or None
    budget = fields.get("budget") or None
    k = whole_number(_number(fields.get("k", 10)), "k", reason="it counts results; ")
    if k > MOST_RESULTS:
        raise ValueError(f"k={k}: use at most {MOST_RESULTS}")
    return SearchRequest(
        item=None if token else read_item(fields.get("text"), fields.get("image")),
        token=token,
        budget=None if budget is None else as_budget(budget),
        k=k,
        where=(fields.get("where") or "").strip() or None,
        prefetch=read_prefetch(fields.get("prefetch") or ()),
    )


def read_item(text: str | None, image: bytes | None) -> Any:
    """A query of a text, an image, or both.

    Raises:
        ValueError: if there is neither, or the image is too large.

    Example:
        >>> read_item(" violin ", None)
        'violin'
        >>> read_item(" ", None)
        Traceback (most recent call last):
        ...
        ValueError: the query is empty: give a text, an image or both
    """
    text = (text or "").strip()
    if image is not None and not isinstance(image, bytes):
        raise ValueError("image: send the file as a part of multipart/form-data")
    if image is not None and len(image) > IMAGE_LIMIT:
        raise ValueError(f"image of {len(image):,} bytes: the limit is {IMAGE_LIMIT:,} bytes")
    if not text and image is None:
        raise ValueError("the query is empty: give a text, an image or both")
    if image is None:
        return text
    return {"text": text, "image": image} if text else image


def read_prefetch(stages: Any) -> tuple[tuple[Budget, int], ...]:
    """The stages of a cascade, from pairs or from a text such as "1x1:1000, 4x8:200".

    Raises:
        ValueError: naming the stage that is not a budget and a number.

    Example:
        >>> read_prefetch("1x1:1000") == read_prefetch([["1x1", 1000]])
        True
    """
    if isinstance(stages, str):
        stages = [stage.split(":") for stage in stages.split(",")]
    if not isinstance(stages, list | tuple):
        stages = [stages]
    return tuple(_read_stage(stage) for stage in stages)


def _read_stage(stage: Any) -> tuple[Budget, int]:
    if not isinstance(stage, list | tuple) or len(stage) != 2:
        raise ValueError(
            f"prefetch: {stage!r:.80} is no stage: write a budget and how many candidates to keep, "
            "such as 1x1:1000"
        )
    return as_budget(stage[0]), whole_number(_number(stage[1]), "prefetch: candidates")


def read_json(body: bytes) -> dict[str, Any]:
    """The fields of a JSON body.

    Raises:
        ValueError: if it is no JSON object.

    Example:
        >>> read_json(b'{"k": 3}')
        {'k': 3}
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"the body is {type(fields).__name__}: send an object of fields")
    if fields.get("image") is not None:
        raise ValueError("image: send the file as a part of multipart/form-data")
    return fields


def _number(value: Any) -> Any:
    """A form and a command line give numbers as text."""
    text = value.strip() if isinstance(value, str) else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else value
