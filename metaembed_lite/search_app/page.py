"""The page of ``metaembed-lite serve``: the explorer's modules around its own."""

from __future__ import annotations

import json
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from metaembed_lite.explorer.page import JS as SHARED_JS
from metaembed_lite.explorer.page import join_modules, script_json
from metaembed_lite.search_app.guard import IMAGE_LIMIT
from metaembed_lite.search_app.request import MOST_RESULTS
from metaembed_lite.search_app.searcher import Searcher, to_records

JS = Path(__file__).parent / "js"
# Modules of the explorer, each after those that it imports. The page's own come last.
SHARED = (
    "dom", "theme", "vectors", "choices", "slider", "cells", "frames", "ranking",
    "alignment",
)  # fmt: skip
SAMPLE = 12  # candidates that are shown before the first search
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Ccircle cx='7' cy='7' r='5' fill='none' stroke='%230b5cad' stroke-width='2'/%3E"
    "%3Cpath d='m11 11 4 4' stroke='%230b5cad' stroke-width='2'/%3E%3C/svg%3E"
)


@cache
def bundle_js() -> str:
    """The page's script as one module that needs no other file, and starts itself.

    Example:
        >>> "import " in bundle_js(), "alignmentView" in bundle_js()
        (False, True)
    """
    sheets = [SHARED_JS / "instrument.css", SHARED_JS / "explorer.css", JS / "search.css"]
    css = "".join(sheet.read_text("utf-8") for sheet in sheets)
    sources = {"style": f"export const STYLE = {json.dumps(css)};\n"}
    sources |= {name: (SHARED_JS / f"{name}.js").read_text("utf-8") for name in SHARED}
    sources |= {name: (JS / f"{name}.js").read_text("utf-8") for name in ("requests", "search")}
    start = 'start(document.getElementById("search"), JSON.parse(state.textContent));'
    return f'{join_modules(sources)}\nconst state = document.getElementById("state");\n{start}\n'


def render_page(searcher: Searcher) -> str:
    """The HTML of the page.

    Args:
        searcher: its index is described.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from metaembed_lite import MetaIndex, load
        >>> model = load("tiny", device="cpu")
        >>> with TemporaryDirectory() as folder:
        ...     index = MetaIndex.create(f"{folder}/index", 128, [(1, 1), (8, 16)], model=model)
        ...     html = render_page(Searcher(index, model))
        >>> html[:15]
        '<!doctype html>'
    """
    state = describe_index(searcher)
    title = escape(f"{state['name']} · metaembed-lite")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{title}</title><link rel="icon" href="{ICON}">'
        "<style>:root { color-scheme: light dark; } body { margin: 0; background: #fff; }"
        "@media (prefers-color-scheme: dark) { body { background: #14181e; } }</style>"
        '</head><body><main id="search"><noscript>This page needs JavaScript. '
        "<code>metaembed-lite search</code> searches without it.</noscript></main>"
        f'<script type="application/json" id="state">{script_json(state)}</script>'
        '<script type="module" src="search.js"></script></body></html>'
    )


def describe_index(searcher: Searcher) -> dict[str, Any]:
    """What the page shows of an index, and the limits of a request.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from metaembed_lite import MetaIndex, load
        >>> model = load("tiny", device="cpu")
        >>> with TemporaryDirectory() as folder:
        ...     index = MetaIndex.create(f"{folder}/index", 128, [(1, 1), (8, 16)], model=model)
        ...     describe_index(Searcher(index, model))["budgets"]
        [[1, 1], [8, 16]]
    """
    index = searcher.index
    columns = index.columns
    full = columns.full_budget
    return {
        "name": Path(index.path).resolve().name if "://" not in index.path else index.path,
        "model": index.header.model or index.header.fingerprint,
        "credit": index.header.credit,
        "candidates": len(index),
        "dim": columns.dim,
        "dtype": columns.dtype,
        "r_q": full.r_q,
        "r_c": full.r_c,
        "budgets": [[budget.r_q, budget.r_c] for budget in columns.budgets],
        "bytes": [columns.bytes_per_candidate(r_c) for r_c in range(1, full.r_c + 1)],
        "sample": to_records(searcher.head(SAMPLE)),
        "reads_images": searcher.reads_images,
        "image_limit": IMAGE_LIMIT,
        "most_results": MOST_RESULTS,
    }
