"""What each system finds on the suite stickers for the bytes of its index: a figure, in words too.

A line shows the best point of a system with these bytes or fewer. So it never falls.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from results_tables import (
    NOT_MEASURED,
    format_seeds,
    held_out_points,
    join_words,
    to_plain_text,
)
from stickers_cells import COMPARED, METAEMBED, SUITE, find_cells

from metaembed_lite.canvas import INK
from metaembed_lite.plots import plot_budget_curve

NESTED_DIMENSIONS = ("MRL", "MMR+MRL")
DRAWN = (*COMPARED, *NESTED_DIMENSIONS)  # in the order of the legend
PICTURE = "frontier.png"


def render_bytes(findings: dict[str, Any]) -> str:
    """Show the figure, and say which system is best and what nested dimensions find."""
    table = tabulate_bytes(findings)
    if table.empty:
        return NOT_MEASURED
    parts = [
        "Each line is one system on unseen sheets of stickers, mean over the seeds: the highest "
        "P@1 that it reaches with these bytes per sheet or fewer, in float32.",
        f"```{{image}} results/{PICTURE}\n:alt: {describe_lines(table)}\n```",
        describe_best(table),
        describe_dimensions(table),
    ]
    return "\n\n".join(filter(None, parts))


def tabulate_bytes(findings: dict[str, Any]) -> pd.DataFrame:
    """Return P@1 by system and index bytes, mean over the seeds, with the best point of each size.

    Returns:
        system, label, seed (their number), bytes_per_candidate, p_at_1 and best. ``best`` is the
        highest P@1 with at most these bytes.
    """
    columns = ["system", "label", "seed", "bytes_per_candidate", "p_at_1", "best"]
    if not find_cells(findings, DRAWN):
        return pd.DataFrame(columns=columns)
    points = held_out_points(findings)
    points = points[(points.suite == SUITE) & points.system.isin(DRAWN)]
    names = ["system", "label", "bytes_per_candidate"]
    per_seed = points.groupby([*names, "seed"], as_index=False).p_at_1.max()
    table = per_seed.groupby(names, as_index=False).agg(
        p_at_1=("p_at_1", "mean"), seed=("seed", "nunique")
    )
    order = {system: place for place, system in enumerate(DRAWN)}
    table = table.sort_values(
        ["system", "bytes_per_candidate"],
        key=lambda column: column.map(order) if column.name == "system" else column,
    )
    table["best"] = table.groupby("system").p_at_1.cummax()
    return table[columns].reset_index(drop=True)


def plot_bytes(findings: dict[str, Any]) -> Figure | None:
    """Plot the best P@1 against index bytes, one line per system. None without a cell.

    The lines of MetaEmbed are thick.
    """
    table = tabulate_bytes(findings)
    if table.empty:
        return None
    rows = table.assign(system=table.label, r_q=0, r_c=0, label="")
    figure = plot_budget_curve(rows, y="best")
    (ax,) = figure.axes
    own = set(table.label[table.system.isin(METAEMBED)])
    for line in ax.lines:
        line.set_linewidth(2.6 if line.get_label() in own else 1.1)
    ax.set_xlabel("index bytes per sheet")
    handles, names = ax.get_legend_handles_labels()
    for legend in figure.legends:
        legend.remove()
    figure.set_size_inches(7.2, 6.0)
    figure.legend(
        handles, names, loc="outside lower left", ncols=2, frameon=False, labelcolor=INK, fontsize=8
    )
    return figure


def describe_lines(table: pd.DataFrame) -> str:
    """Describe the figure for who cannot see it: where each line starts and ends."""
    texts = []
    for _, rows in table.groupby("system", sort=False):
        label = to_plain_text(rows.label.iloc[0])
        ends = [f"{row.best:.2f} at {row.bytes_per_candidate:,.0f}" for row in rows.itertuples()]
        texts.append(f"{label} {' to '.join(dict.fromkeys((ends[0], ends[-1])))}")
    return f"P at 1 against index bytes per sheet, one line per system. {join_words(texts)}."


def describe_best(table: pd.DataFrame) -> str:
    """Say which system is highest at the bytes of MMR's budgets, and which without dimensions."""
    sizes = table.bytes_per_candidate[table.system == "MMR"].tolist()
    if not sizes:
        return ""
    names = {system: f'"{to_plain_text(rows.label.iloc[0])}"' for system, rows in of_systems(table)}
    sentences = []
    for subject, left_out in (
        ("The highest line", ()),
        ("Without nested dimensions, it", NESTED_DIMENSIONS),
    ):
        winners = [find_best(table[~table.system.isin(left_out)], size) for size in sizes]
        by_winner: dict[str, list[str]] = {}
        for size, (system, best) in zip(sizes, winners, strict=True):
            by_winner.setdefault(system, []).append(f"{best:.3f} at {size:,.0f} bytes")
        parts = [f"{names[system]} ({join_words(where)})" for system, where in by_winner.items()]
        sentences.append(f"{subject} is {join_words(parts)}.")
    one = len({text.partition(" is ")[2] for text in sentences}) == 1
    return sentences[0] if one else " ".join(sentences)


def of_systems(table: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    """The rows of each system, in the order of the table."""
    return ((str(system), rows) for system, rows in table.groupby("system", sort=False))


def find_best(table: pd.DataFrame, size: float) -> tuple[str, float]:
    """Find the system with the highest P@1 in at most ``size`` bytes."""
    fitting = table[table.bytes_per_candidate <= size]
    row = fitting.loc[fitting.p_at_1.idxmax()]
    return str(row.system), float(row.p_at_1)


def summarize_dimensions(findings: dict[str, Any]) -> str:
    """Say in one sentence what short vectors find in the bytes of one long vector."""
    table = tabulate_bytes(findings)
    if not {"MMR", "MRL"} <= set(table.system):
        return ""
    rows = table[table.system == "MRL"]
    size = table.bytes_per_candidate[table.system == "MMR"].min()
    found = rows[rows.bytes_per_candidate == size]
    if found.empty:
        return ""
    label = to_plain_text(rows.label.iloc[0])
    return (
        f'For the fewest bytes, cut the vectors and not their number: "{label}" has '
        f"{found.p_at_1.iloc[0]:.3f} at {size:,.0f} bytes, the size of one vector of MMR. Its "
        "searches always compare all vectors."
    )


def describe_dimensions(table: pd.DataFrame) -> str:
    """Say how far nested dimensions are ahead of MMR at the bytes of MMR's budgets."""
    p_at_1 = table.set_index(["system", "bytes_per_candidate"]).p_at_1
    if not {"MMR", "MRL"} <= set(table.system):
        return ""
    gaps = (100 * (p_at_1["MRL"] - p_at_1["MMR"])).dropna()
    sizes = join_words([f"{gap:.1f} at {size:,.0f} bytes" for size, gap in gaps.items()])
    count = table.seed[table.system == "MRL"].iloc[0]
    return (
        f"**Nested dimensions find more at equal bytes.** Their points ({format_seeds(count)}), "
        f"less those of MMR: {sizes}. They keep all vectors of a sheet and a query, and cut the "
        "numbers of each. So every score still compares all vectors, and a search cannot begin "
        "with one vector per sheet. MMR saves bytes, comparisons and query vectors at once."
    )
