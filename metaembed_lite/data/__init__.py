"""The suites: real handwriting, rendered scenes, and the reader's own installed packages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from metaembed_lite.data.task import RetrievalTask


def load_task(name: str, **sizes: Any) -> RetrievalTask:
    """A suite's task by name: "handwriting", "scenes" or "codesearch".

    Args:
        name: of the suite.
        **sizes: passed to the suite's function: ``n_queries``, ``n_train``, ``seed``, ``split``.

    Raises:
        ValueError: on an unknown name.
    """
    from metaembed_lite.data import codesearch, handwriting, scenes

    suites: dict[str, Callable[..., RetrievalTask]] = {
        "handwriting": handwriting.handwriting,
        "scenes": scenes.scenes,
        "codesearch": codesearch.codesearch,
    }
    if name not in suites:
        raise ValueError(f"unknown suite {name!r}; choose from {', '.join(suites)}")
    return suites[name](**sizes)


__all__ = ["RetrievalTask", "load_task"]
