"""The suites: real handwriting, scenes, pages, the reader's own packages, pictures, and MMEB."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Any

from metaembed_lite.data import (
    codesearch,
    handwriting,
    image_folder,
    meta_tasks,
    mmeb,
    pages,
    scenes,
)
from metaembed_lite.data.task import RetrievalTask
from metaembed_lite.settings import check


def load_task(name: str, **sizes: Any) -> RetrievalTask:
    """A suite's task by name.

    Args:
        name: "handwriting", "scenes", "codesearch", "pages", "image_folder" (your own pictures and
            captions), "mmeb", one of ``meta_tasks.TASKS``, such as "scenes/vqa", or a collection
            of pages, such as "pages/bars".
        **sizes: arguments of the suite's function: ``n_queries``, ``n_train``, and others such as
            ``seed``, ``split``, ``collection`` or ``path``.

    Raises:
        ValueError: on an unknown suite or setting, a missing setting, or a value of another type.
    """
    function = suite(name)
    return function(**check(function, sizes, f"suite {name!r}"))


def suite(name: str) -> Callable[..., RetrievalTask]:
    """The function that makes a suite's task; its parameters are the suite's settings.

    Raises:
        ValueError: on an unknown name.
    """
    suites: dict[str, Callable[..., RetrievalTask]] = {
        "handwriting": handwriting.handwriting,
        "scenes": scenes.scenes,
        "codesearch": codesearch.codesearch,
        "pages": pages.pages,
        "image_folder": image_folder.image_folder,
        "mmeb": mmeb.mmeb,
        **{task: partial(meta_tasks.meta_task, task) for task in meta_tasks.TASKS},
        **{f"pages/{kind}": partial(pages.pages, kind) for kind in pages.COLLECTIONS},
    }
    if name not in suites:
        near = get_close_matches(name, suites, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown suite {name!r}.{hint} Choose from {', '.join(suites)}")
    return suites[name]


__all__ = ["RetrievalTask", "load_task"]
