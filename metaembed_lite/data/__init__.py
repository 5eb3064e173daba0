"""The suites: real handwriting, scenes, pages, the reader's own packages, pictures, and MMEB."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from metaembed_lite.arguments import whole_number
from metaembed_lite.data.task import RetrievalTask


def load_task(name: str, **sizes: Any) -> RetrievalTask:
    """A suite's task by name.

    Args:
        name: "handwriting", "scenes", "codesearch", "pages", "folder" (your own pictures and
            captions), "mmeb", one of ``meta_tasks.TASKS``, such as "scenes/vqa", or a collection
            of pages, such as "pages/bars".
        **sizes: arguments of the suite's function: ``n_queries``, ``n_train``, and others such as
            ``seed``, ``split``, ``collection`` or ``path``.

    Raises:
        ValueError: on an unknown suite or setting, a missing setting, or a value of another type.
    """
    from metaembed_lite.settings import check

    function = suite(name)
    whole_number(sizes.get("seed", 0), "seed", least=0)
    return function(**check(function, sizes, f"suite {name!r}"))


def suite(name: str) -> Callable[..., RetrievalTask]:
    """The function that makes a suite's task; its parameters are the suite's settings.

    Raises:
        ValueError: on an unknown name.
    """
    from functools import partial

    from metaembed_lite.data import codesearch, folder, handwriting, hub, meta_tasks, pages, scenes

    suites: dict[str, Callable[..., RetrievalTask]] = {
        "handwriting": handwriting.handwriting,
        "scenes": scenes.scenes,
        "codesearch": codesearch.codesearch,
        "pages": pages.pages,
        "folder": folder.folder,
        "mmeb": hub.mmeb,
        **{task: partial(meta_tasks.meta_task, task) for task in meta_tasks.TASKS},
        **{f"pages/{kind}": partial(pages.pages, kind) for kind in pages.COLLECTIONS},
    }
    if name not in suites:
        raise ValueError(f"unknown suite {name!r}; choose from {', '.join(suites)}")
    return suites[name]


__all__ = ["RetrievalTask", "load_task"]
