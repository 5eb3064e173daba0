"""A BudgetExplorer as an element of a page: its ES modules as one, its state, and a table."""

from __future__ import annotations

import json
import re
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

FRONT_END = Path(__file__).parent / "js"
MODULES = (  # in the order of their imports
    "dom", "vectors", "choices", "slider", "targets", "curve", "ranking", "alignment", "explorer",
)  # fmt: skip
PAGE_LIMIT = 1_000_000  # bytes of the static page element


@cache
def front_end() -> str:
    """The ES modules of ``explorer_js/`` and their style as one, which needs no other file."""
    parts = [f"const STYLE = {json.dumps((FRONT_END / 'explorer.css').read_text('utf-8'))};"]
    for name in MODULES:
        source = (FRONT_END / f"{name}.js").read_text("utf-8")
        source = re.sub(r"^import [^;]*;\n", "", source, flags=re.MULTILINE)
        parts.append(re.sub(r"^export (?=const|function)", "", source, flags=re.MULTILINE))
    return "\n".join(parts)


def script_json(value: Any) -> str:
    """JSON that may stand inside a ``<script>``: no text in it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII: no U+2028 either
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def element(key: str, state: dict[str, Any], fallback: str) -> str:
    """A ``<div id=key>``, its state and its module; ``fallback`` shows without JavaScript."""
    return (
        f'<div id="{key}"><noscript>{fallback}</noscript></div>\n'
        f'<script type="application/json" id="{key}-state">{script_json(state)}</script>\n'
        f'<script type="module">\n{front_end()}\n'
        f'start(document.getElementById("{key}"), '
        f'JSON.parse(document.getElementById("{key}-state").textContent));\n</script>'
    )


def table(page: dict[str, Any], quality: pd.DataFrame) -> str:
    """For readers without JavaScript: the trained budgets' quality and cost, as HTML."""
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
    heads = (
        "budget (r_q, r_c)",
        "NDCG@5",
        "P@1",
        "index bytes per candidate (float32)",
        f"ms to score one query against {page['cost']['measured_candidates']:,} candidates",
    )
    titles = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        f"<table><caption>{escape(page['task'])}: quality and cost at the trained budgets (the "
        f"sliders need JavaScript)</caption><thead><tr>{titles}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def check_size(page: dict[str, Any], candidates: int) -> None:
    """Stop where the element would be too large for a page.

    Raises:
        ValueError: naming how many candidates would fit.
    """
    size = len(element("explorer", page, ""))
    if size > PAGE_LIMIT:
        fixed = size - len(script_json([page["candidates"], page["vectors"], page["attention"]]))
        fitting = int(candidates * (PAGE_LIMIT - fixed) / (size - fixed))
        raise ValueError(
            f"the explorer would take {size:,} bytes of a page, above {PAGE_LIMIT:,}: ask for "
            f"candidates={max(fitting, 1)} instead of {candidates}, or build(..., dim=...) for "
            "fewer dimensions"
        )
