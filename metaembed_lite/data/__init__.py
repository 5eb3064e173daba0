"""Retrieval tasks by name: stickers, handwriting, pages, code, your own images, MMEB and more."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Any

from metaembed_lite.arguments import whole_number
from metaembed_lite.data import (
    codesearch,
    handwriting,
    image_folder,
    meta_tasks,
    mmeb,
    pages,
    stickers,
)
from metaembed_lite.data.task import RetrievalTask
from metaembed_lite.settings import check

SUITES: dict[str, Callable[..., RetrievalTask]] = {
    "stickers": stickers.load_stickers,
    "handwriting": handwriting.load_handwriting,
    "codesearch": codesearch.load_codesearch,
    "pages": pages.load_pages,
    "image_folder": image_folder.load_image_folder,
    "mmeb": mmeb.load_mmeb,
    **{name: partial(meta_tasks.load_meta_task, name) for name in meta_tasks.TASKS},
    **{f"pages/{kind}": partial(pages.load_pages, kind) for kind in pages.COLLECTIONS},
}


def load_task(name: str, **settings: Any) -> RetrievalTask:
    """Load the retrieval task of a suite.

    Args:
        name: "stickers", "handwriting", "codesearch", "pages", "image_folder" (your own images and
            captions) or "mmeb". Also one of ``meta_tasks.TASKS``, such as "stickers/vqa", or one
            collection of pages, such as "pages/bars".
        **settings: arguments of the suite's function, such as ``n_queries``, ``n_train``,
            ``seed``, ``split``, ``collection`` or ``path``.

    Raises:
        ValueError: on an unknown suite or setting, a missing setting, or a value of a wrong type.

    Example:
        >>> load_task("stickers", n_queries=5, n_train=2)
        RetrievalTask('stickers': 5 queries, 10 candidates, 2 training rows)
    """
    load = find_suite(name)
    arguments = check(load, settings, f"suite {name!r}")
    whole_number(arguments.get("seed", 0), "seed", least=0)
    return load(**arguments)


def find_suite(name: str) -> Callable[..., RetrievalTask]:
    """Return the function that loads a suite's task. Its parameters are the suite's settings.

    Raises:
        ValueError: on an unknown name. The error suggests the closest one.

    Example:
        >>> find_suite("folder")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: unknown suite 'folder'. Did you mean 'image_folder'? Choose from ...
    """
    if name not in SUITES:
        near = get_close_matches(name, SUITES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown suite {name!r}.{hint} Choose from {', '.join(SUITES)}")
    return SUITES[name]


__all__ = ["SUITES", "RetrievalTask", "find_suite", "load_task"]
