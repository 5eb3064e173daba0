"""The blocks of the results page on scoring and on searching an index."""

from __future__ import annotations

from typing import Any

import pandas as pd
from results_tables import fold, format_environment, format_table, to_plain_text

OURS, ROUNDED = "maxsim", "maxsim, bfloat16 products"
SHOWN_DIM, SHOWN_CANDIDATES = 128, 10_000
WRONG = 0.01  # a larger difference from the definition, in float32, is no rounding
MISSED = (
    "A cascade reads single rows, and each of them costs much more than a row of a scan (chapter 9 "
    "shows the time per megabyte of each stage). With more sheets the scan grows, and the number "
    "of single rows does not."
)
AIM = 10  # times as fast as the exact search, set before anything was measured
SHARE = 0.99  # of the exact search's NDCG@5 that a cascade must keep


def render_scoring(scoring: dict[str, Any]) -> str:
    """Compare the time of maxsim with peers and with the limits of the machine, per budget."""
    table = tabulate_scoring(scoring)
    of_size = table[(table.dim == SHOWN_DIM) & (table.candidates == SHOWN_CANDIDATES)]
    parts = [
        f"Milliseconds, medians of {scoring['runs']:d} runs, for {SHOWN_CANDIDATES:,} candidates "
        f"with D = {SHOWN_DIM} in float32. *Products* is the time for the multiplications alone, "
        "on data that stay in the cache. The fastest method without rounding is bold. *Wrong* "
        "means that the scores are not those of the definition."
    ]
    for n_queries, rows in of_size[of_size.storage == "float32"].groupby("queries"):
        if n_queries == 1:
            parts.append(f"One query:\n\n{format_times(rows)}")
        else:
            parts.append(fold(f"{n_queries:,} queries at once", format_times(rows)))
    parts += describe_wins(table)
    halves = of_size[of_size.storage != "float32"]
    if not halves.empty:
        parts.append(fold("Candidates stored in half precision", format_halves(halves)))
    return "\n\n".join([*parts, format_environment(scoring)])


def tabulate_scoring(scoring: dict[str, Any]) -> pd.DataFrame:
    """One row per cell and method, with the limits of the cell."""
    rows = []
    for cell in scoring["rows"]:
        sizes = {n: cell[n] for n in ("budget", "dim", "candidates", "queries", "storage")}
        products = cell["limits_ms"]["products, from cache"]
        for method, times in cell["methods"].items():
            rows.append({**sizes, "method": method, "products": products, **times})
    return pd.DataFrame(rows)


def format_times(rows: pd.DataFrame) -> str:
    """A table with one line per method and one column per budget. The fastest exact one is bold."""
    methods = list(rows.method.unique())
    columns = {}
    for budget, cell in rows.groupby("budget", sort=False):
        right = cell[cell.error < WRONG].set_index("method").ms
        fastest = right.drop(ROUNDED).idxmin()
        texts = []
        for method in methods:
            missing = "wrong" if method in set(cell.method) else "too large"
            text = format_ms(right[method]) if method in right else missing
            texts.append(f"**{text}**" if method == fastest else text)
        columns[to_plain_text(budget)] = [*texts, format_ms(cell.products.iloc[0])]
    names = [*map(to_plain_text, methods), "*products*"]
    lines = zip(names, *columns.values(), strict=True)
    return format_table(["ms at budget", *columns], lines)


def format_ms(value: float) -> str:
    """Milliseconds with two digits that matter."""
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def describe_wins(table: pd.DataFrame) -> list[str]:
    """Say in how many cells maxsim is the fastest exact method, and list where it is not."""
    exact = table[(table.storage == "float32") & (table.method != ROUNDED) & (table.error < WRONG)]
    cells = exact.groupby(["budget", "dim", "candidates", "queries"], sort=False)
    ours = exact[exact.method == OURS].set_index(["budget", "dim", "candidates", "queries"])
    others = exact[exact.method != OURS]
    rival = others.loc[others.groupby(["budget", "dim", "candidates", "queries"]).ms.idxmin()]
    rival = rival.set_index(["budget", "dim", "candidates", "queries"])
    ratio = (ours.ms / rival.ms).sort_values()
    slower = ratio[ratio > 1]
    largest = ours.xs("(16, 64)", level="budget")
    share = largest.products / largest.ms
    sentences = [
        f"Over all {len(cells):d} sizes in float32 (D from {exact['dim'].min()} to "
        f"{exact['dim'].max():,}, {exact.candidates.min():,} to {exact.candidates.max():,} "
        f"candidates, {exact.queries.min()} to {exact.queries.max()} queries), `maxsim` is the "
        f"fastest exact method in {len(cells) - len(slower):d}. The median rival takes "
        f"{1 / ratio.median():.1f} times as long.",
        f"At (16, 64) it takes between {1 / share.max():.1f} and {1 / share.min():.1f} times the "
        "time of the products alone.",
    ]
    misses = fold("The sizes that it misses", format_misses(slower, ours, rival))
    return [" ".join(sentences), *([misses] if len(slower) else [])]


def format_misses(slower: pd.Series, ours: pd.DataFrame, rival: pd.DataFrame) -> str:
    """One line per budget and number of queries at which a rival is faster."""
    rows = slower.rename("ratio").reset_index()
    rows["extra"] = [(ours.ms[key] - rival.ms[key]) for key in slower.index]
    rows["fastest"] = [rival.method[key] for key in slower.index]
    lines = []
    for (budget, n_queries), group in rows.groupby(["budget", "queries"], sort=False):
        worst = group.loc[group.ratio.idxmax()]
        lines.append(
            [
                to_plain_text(budget), str(n_queries), str(len(group)),
                f"{worst.ratio:.2f}, {to_plain_text(worst.fastest)}", format_ms(group.extra.max()),
            ]
        )  # fmt: skip
    header = ["budget", "queries", "sizes missed", "largest ratio, and to whom", "most ms lost"]
    return format_table(header, sorted(lines))


def format_halves(rows: pd.DataFrame) -> str:
    """Time and largest error of each method on candidates in half precision."""
    methods = list(rows.method.unique())
    lines = []
    for (storage, n_queries, budget), cell in rows.groupby(
        ["storage", "queries", "budget"], sort=False
    ):
        by_method = cell.set_index("method")
        cells = [
            f"{format_ms(by_method.ms[method])} ({by_method.error[method]:.4f})"
            if method in by_method.index
            else "too large"
            for method in methods
        ]
        lines.append([storage, str(n_queries), to_plain_text(budget), *cells])
    header = ["stored as", "queries", "budget"]
    return format_table([*header, *(f"{to_plain_text(m)}, ms (error)" for m in methods)], lines)


def render_search(search: dict[str, Any]) -> str:
    """Compare ways to search an index on disk: bytes, time and quality."""
    table = pd.DataFrame(search["rows"])
    lines = [
        [
            to_plain_text(row.search), to_plain_text(describe_storage(row)),
            f"{row.bytes_read / 1e6:.1f}", f"{row.ms:.1f}", f"{row.ms_cold:.0f}",
            f"{row.p_at_1:.3f}", f"{row.ndcg_at_5:.3f}",
        ]
        for row in table.itertuples()
    ]  # fmt: skip
    header = ["search", "stored as", "MB read", "ms", "ms, cold", "P@1", "NDCG@5"]
    memory = search["memory"]
    grown = memory["mb_at_most"] - memory["mb_after_imports"]
    return "\n\n".join(
        [
            f"{search['sheets']:,} sheets of stickers, half of them hard negatives, encoded by "
            f"`tiny` and stored with one column per ring. {search['queries']} queries, on average "
            f"with {search['relevant_per_query']:.0f} right sheets each. Each is searched by "
            "itself. *Cold* means that the files were not in the system's cache.",
            format_table(header, lines),
            describe_cascades(table),
            f"A search at the full budget over {memory['candidates']:,} candidates of 16 x 64 "
            f"numbers takes {grown:,.0f} MB of memory, besides the "
            f"{memory['mb_after_imports']:,.0f} MB of the imported libraries.",
            format_environment(search),
        ]
    )


def render_kills(kills: dict[str, Any]) -> str:
    """Say how many killed writers an index survived."""
    return (
        f"`python benchmarks/kill_index.py --kills {kills['kills']}` killed a writing process "
        f"{kills['kills']} times, at random moments. Each time the index held exactly the writes "
        f"that were finished ({kills['writes']} in all)."
    )


def describe_storage(row: Any) -> str:
    """The type that is scanned, and the one that rescores."""
    return f"{row.dtype} and {row.rescore}" if isinstance(row.rescore, str) else row.dtype


def describe_cascades(table: pd.DataFrame) -> str:
    """Say which search keeps the quality of the exact one, and how much faster it is."""
    plain = table[(table.dtype == "float16") & table.rescore.isna()]
    full = plain[plain.search == "(8, 16)"].iloc[0]
    staged = plain[plain.search.str.match(r"\(.*keeps")]  # without the ANN index
    good = staged[staged.ndcg_at_5 >= SHARE * full.ndcg_at_5].sort_values("ms")
    if good.empty:
        best = staged.loc[staged.ndcg_at_5.idxmax()]
        return (
            f"No cascade keeps {SHARE:.0%} of the exact search's NDCG@5. The best one, "
            f'"{to_plain_text(best.search)}", keeps {best.ndcg_at_5 / full.ndcg_at_5:.1%}.'
        )
    best = good.iloc[0]
    reason = "" if full.ms / best.ms >= AIM else f" {MISSED}"
    return (
        f'"{to_plain_text(best.search)}" is {full.ms / best.ms:.1f} times as fast as the exact '
        f"search at the full budget, reads 1 byte where that reads "
        f"{full.bytes_read / best.bytes_read:.0f}, and keeps "
        f"{best.ndcg_at_5 / full.ndcg_at_5:.1%} of its NDCG@5. The aim was {AIM} times as "
        f"fast.{reason}"
    )
