"""An instrument as a part of an HTML page: its ES modules in one script, its state, and a table."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from metaembed_lite.explorer.state import PageState

JS = Path(__file__).parent / "js"
# Instrument -> its modules, each after those that it imports. The last one starts it.
MODULES = {
    "explorer": (
        "style", "dom", "theme", "mount", "vectors", "choices", "slider", "targets", "labels",
        "curve", "cells", "frames", "ranking", "alignment", "tour", "explorer",
    ),
    "stepper": ("style", "dom", "theme", "mount", "frames", "scan", "stepper"),
}  # fmt: skip
PAGE_LIMIT = 2_000_000  # bytes of the explorer on a page


@cache
def bundle_js(instrument: str = "explorer") -> str:
    """The ES modules and the style sheets of an instrument as one module that needs no other file.

    Args:
        instrument: one of ``MODULES``. Defaults to "explorer".

    Example:
        >>> "function render(" in bundle_js("stepper"), "import " in bundle_js("stepper")
        (True, False)
    """
    sources = {name: (JS / f"{name}.js").read_text("utf-8") for name in MODULES[instrument]}
    sheets = ("instrument", instrument)
    css = "".join((JS / f"{name}.css").read_text("utf-8") for name in sheets)
    sources["style"] = f"export const STYLE = {json.dumps(css)};\n"
    return join_modules(sources)


def join_modules(sources: Mapping[str, str]) -> str:
    """Join ES modules into one: drop their imports, and the ``export`` before a declaration.

    Joined modules share one scope. So no two may declare the same name, and none may rename what
    it imports.

    Args:
        sources: name -> source text, each module after those that it imports.

    Raises:
        ValueError: if two modules declare the same top-level name, a module renames an import, or
            a top-level declaration has no single name.

    Example:
        >>> b = 'import { A } from "./a.js";\\nconst B = A;\\n'
        >>> join_modules({"a": "export const A = 1;\\n", "b": b})
        'const A = 1;\\n\\nconst B = A;\\n'
    """
    homes: dict[str, str] = {}
    parts = []
    for module, source in sources.items():
        for name in _top_level_names(module, source):
            if name in homes:
                raise ValueError(
                    f"{module}.js declares {name!r}, which {homes[name]}.js declares too: rename "
                    "one of them, because the page joins all modules into one"
                )
            homes[name] = module
        for statement in re.findall(r"^import [^;]*;\n", source, re.MULTILINE):
            if re.search(r"\bas\b", statement):
                raise ValueError(
                    f"{module}.js renames an import: {statement.strip()!r}. Import it under the "
                    "name that it is declared with"
                )
        source = re.sub(r"^import [^;]*;\n", "", source, flags=re.MULTILINE)
        declarations = r"^export (?=const|let|function|async|class)"
        parts.append(re.sub(declarations, "", source, flags=re.MULTILINE))
    return "\n".join(parts)


def _top_level_names(module: str, source: str) -> list[str]:
    """The names that a module declares at the beginning of a line, as our modules do."""
    names = []
    declarations = r"^(?:export )?(?:const|let|var|class|(?:async )?function\*?) +([^\s(=;]+)"
    for name in re.findall(declarations, source, re.MULTILINE):
        if not re.fullmatch(r"[\w$]+", name):
            raise ValueError(
                f"{module}.js declares {name!r} at the top level: declare one name per statement"
            )
        names.append(name)
    return names


def script_json(value: Any) -> str:
    """JSON that may stand inside a ``<script>``: no text in it can end the element.

    Example:
        >>> script_json({"text": "</script>"})
        '{"text":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII: no U+2028 either
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def render_html(
    key: str, state: Mapping[str, Any], fallback: str, instrument: str = "explorer"
) -> str:
    """A ``<div>`` with an instrument, its state, and the script that starts it.

    Args:
        key: id of the ``<div>``, unique on the page.
        state: the traits that the instrument shares with Python. For the explorer ``page`` (a
            ``PageState``), ``budget`` as [r_q, r_c], ``query`` and ``selection``.
        fallback: HTML to show without JavaScript.
        instrument: one of ``MODULES``. Defaults to "explorer".

    Example:
        >>> render_html("explorer-1", {}, "<p>needs JavaScript</p>").splitlines()[0]
        '<div id="explorer-1"><noscript><p>needs JavaScript</p></noscript></div>'
    """
    return (
        f'<div id="{key}"><noscript>{fallback}</noscript></div>\n'
        f'<script type="application/json" id="{key}-state">{script_json(state)}</script>\n'
        f'<script type="module">\n{bundle_js(instrument)}\n'
        f'start(document.getElementById("{key}"), '
        f'JSON.parse(document.getElementById("{key}-state").textContent));\n</script>'
    )


def noscript_table(page: PageState, quality: pd.DataFrame) -> str:
    """HTML table of quality and cost at the trained budgets, for readers without JavaScript.

    Args:
        page: its task, trained budgets and costs are used.
        quality: the table of ``evaluation.evaluate_all``.

    Example:
        >>> import pandas as pd
        >>> row = {"r_q": 1, "r_c": 1, "ndcg_at_5": 0.5, "p_at_1": 0.25, "bytes_per_candidate": 64}
        >>> cost = {"score_ms": [[0.12]], "measured_candidates": 1000}
        >>> page = {"task": "letters", "trained": [[1, 1]], "cost": cost}
        >>> "<td>0.500</td><td>0.250</td><td>64</td>" in noscript_table(page, pd.DataFrame([row]))
        True
    """
    rows = []
    for r_q, r_c in page["trained"]:
        row = quality[(quality.r_q == r_q) & (quality.r_c == r_c)].iloc[0]
        cells = (
            f"{row.ndcg_at_5:.3f}",
            f"{row.p_at_1:.3f}",
            f"{row.bytes_per_candidate:,.0f}",
            f"{page['cost']['score_ms'][r_q - 1][r_c - 1]:.2f}",
        )
        values = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">({r_q}, {r_c})</th>{values}</tr>')
    titles = (
        "budget (r_q, r_c)",
        "NDCG@5",
        "P@1",
        "index bytes per candidate (float32)",
        f"ms to score one query against {page['cost']['measured_candidates']:,} candidates",
    )
    header = "".join(f'<th scope="col">{title}</th>' for title in titles)
    return (
        f"<table><caption>{escape(page['task'])}: quality and cost at the trained budgets (the "
        f"sliders need JavaScript)</caption><thead><tr>{header}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def check_size(page: PageState) -> None:
    """Check that the explorer is small enough for a page.

    Raises:
        ValueError: if it takes more than ``PAGE_LIMIT`` bytes, naming how many candidates fit.

    Example:
        >>> check_size({"candidates": [], "vectors": {}, "attention": None})
    """
    size = len(render_html("explorer", page, ""))
    if size > PAGE_LIMIT:
        n_candidates = len(page["candidates"])
        fixed = size - len(script_json([page["candidates"], page["vectors"], page["attention"]]))
        fitting = int(n_candidates * (PAGE_LIMIT - fixed) / (size - fixed))
        raise ValueError(
            f"the explorer would take {size:,} bytes of a page, above the limit of "
            f"{PAGE_LIMIT:,}: use candidates={max(fitting, 1)} instead of {n_candidates}, or "
            "build(..., dim=...) for fewer dimensions"
        )
