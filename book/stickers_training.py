"""The training of MetaEmbed on the suite stickers, as Markdown: curves, and the whole surface.

The surface is P@1 at all numbers of query and candidate vectors.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from results_tables import (
    NOT_MEASURED,
    fold,
    format_seeds,
    format_table,
    join_words,
    quote_labels,
    to_plain_text,
)
from stickers_cells import (
    CURVES,
    SUITE,
    SURFACES,
    check_seeds,
    find_cells,
    name_command,
    read_field,
)

from metaembed_lite.canvas import INK
from metaembed_lite.plots import plot_alignment, plot_curves
from metaembed_lite.results import check_quality

CURVE_SIZE = 16  # vectors per candidate
SIZE = re.compile(r"\((\S+), (\S+)\) x (\d+)")  # "(r_q, r_c) x D"


def render_curve(findings: dict[str, Any]) -> str:
    """Show the training curves, and say where they fall and how much they changed at the end."""
    table = tabulate_curves(findings)
    if table.empty:
        return NOT_MEASURED
    return (
        f"P@1 on validation sheets during training, at {CURVE_SIZE} vectors per candidate. A "
        "system that was not validated at this size has its largest size. Mean over the seeds. "
        "There are fewer sheets than in the test, so P@1 is higher.\n\n"
        "```{image} results/curve.png\n:alt: validation P at 1 against training steps, one line "
        f"per system\n```\n\n{explain_curves(table)}"
    )


def render_surface(findings: dict[str, Any]) -> str:
    """Show P@1 at all numbers of query and candidate vectors, one table per system."""
    parts = []
    for system in SURFACES:
        cells = find_cells(findings, [system])
        if cells:
            surface = tabulate_surface(cells)
            label = to_plain_text(next(iter(cells.values()))["label"])
            title = f"{label}, mean over {format_seeds(len(cells))}"
            if system == SURFACES[0]:
                alt = f"heat map of P at 1 by query and candidate vectors, {title}"
                parts.append(f"```{{image}} results/surface.png\n:alt: {alt}\n```")
            parts += [f"**{title}.** {explain_surface(surface)}"]
            parts.append(fold(f"The numbers of {label}", format_surface(surface)))
    return "\n\n".join(parts) or NOT_MEASURED


def plot_mean_surface(findings: dict[str, Any]) -> Figure | None:
    """Plot P@1 of MMR at all pairs of query and candidate vectors. None if it was not measured.

    The budget of each row that MMR trains is outlined, if the surface has all of them.
    """
    cells = find_cells(findings, SURFACES[:1])
    if not cells:
        return None
    surface = tabulate_surface(cells)
    trained = {p["r_q"]: p["r_c"] for cell in cells.values() for p in cell["points"]}
    columns = list(surface.columns)
    marks = [columns.index(trained[r]) for r in surface.index if trained.get(r) in columns]
    return plot_alignment(
        surface.to_numpy(),
        [str(r_q) for r_q in surface.index],
        [str(r_c) for r_c in surface.columns],
        marks=marks if len(marks) == len(surface) else [],
        x_label="candidate vectors r_c",
        y_label="query vectors r_q",
        value_label="P@1",
    )


def tabulate_curves(findings: dict[str, Any]) -> pd.DataFrame:
    """Return validation P@1 at ``CURVE_SIZE`` vectors.

    Returns:
        system, label, seed, nest_step, step and p_at_1. From ``nest_step`` on, the nested budgets
        train. It is 0 if they train from the first step or never.

    Raises:
        ValueError: if a cell has no curve, or if the seeds of a system have different steps.
    """
    rows = []
    for name, cell in find_cells(findings, CURVES).items():
        validation = read_field(name, cell, "validation")
        size = find_curve_size(name, validation[0])
        train = read_field(name, cell, "train")
        for row in validation:
            step = read_field(name, row, "step")
            check_quality(f"cell {name}: validation at step {step}", size, row.get(size))
            source = {key: cell[key] for key in ("system", "label", "seed")}
            source["nest_step"] = (train.get("nest_after") or 0) * train["steps"]
            rows.append(source | {"step": step, "p_at_1": row[size]})
    table = pd.DataFrame(rows)
    if rows:
        check_seeds(table, ["step"])
    return table


def find_curve_size(cell_name: str, row: dict[str, Any]) -> str:
    """Find the key of ``CURVE_SIZE`` in a row of a validation, or else that of the largest size."""
    sizes = {match[0]: float(match[2]) for match in map(SIZE.fullmatch, row) if match}
    if not sizes:
        raise ValueError(
            f"cell {cell_name}: validation has the columns {list(row)}, expected step and sizes "
            f"such as '(8, 16) x 128'; {name_command(cell_name)}"
        )
    return max(sizes, key=lambda size: (sizes[size] == CURVE_SIZE, sizes[size]))


def average_curves(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Average each system's curve over the seeds: P@1 by step."""
    by_system = table.groupby("system", sort=False)
    return {system: rows.groupby("step").p_at_1.mean() for system, rows in by_system}


def plot_training(findings: dict[str, Any]) -> Figure | None:
    """Plot validation P@1 against steps, mean over the seeds. None if there is no curve."""
    table = tabulate_curves(findings)
    if table.empty:
        return None
    labels = table.groupby("system").label.first()
    curves = average_curves(table).items()
    series = {labels[system]: (curve.index, curve) for system, curve in curves}
    figure = plot_curves(series, "training step", "validation P@1")
    figure.set_size_inches(7.2, 5.4)
    ax = figure.axes[0]
    ax.set_ylim(bottom=math.floor(10 * table.p_at_1.min()) / 10)  # all curves are above it
    for step in set(table.nest_step) - {0}:
        ax.axvline(step, color=INK, linestyle=":", label="the nested budgets start")
    handles, names = ax.get_legend_handles_labels()
    figure.legends[0].remove()  # next to the curves, its long names would leave them no room
    figure.legend(handles, names, loc="outside lower left", ncols=2, frameon=False, labelcolor=INK)
    return figure


def explain_curves(table: pd.DataFrame) -> str:
    """Say where the nested budgets lower a curve, and how much curves changed at the end.

    Raises:
        ValueError: if a curve has one step only.
    """
    names = quote_labels(table)
    nest_steps = table.groupby("system").nest_step.first()
    sentences, changes = [], {}
    for system, curve in average_curves(table).items():
        sentences += explain_nesting(names[system], curve, nest_steps[system])
        last, earlier = curve.index[-1], curve.index[:-1]
        if earlier.empty:
            raise ValueError(
                f"{SUITE}/{system}: validation has step {last} only, expected several steps; "
                f"{name_command(f'{SUITE}/{system}/*')}"
            )
        before = min(earlier, key=lambda step: abs(step - 0.8 * last))
        changes[system] = 100 * (curve[last] - curve[before])
    large = {system: change for system, change in changes.items() if abs(change) >= 1}
    moved = [
        f"{'rose' if change > 0 else 'fell'} by {abs(change):.1f} points for {names[system]}"
        for system, change in large.items()
    ]
    small = [abs(change) for system, change in changes.items() if system not in large]
    if moved:
        sentences.append(f"Over the last fifth of the steps, P@1 {join_words(moved)}.")
    if small:
        subject = "The other curves" if moved else "Over the last fifth of the steps, all curves"
        sentences.append(f"{subject} changed by at most {max(small):.1f} points.")
    return " ".join(sentences)


def explain_nesting(name: str, curve: pd.Series, nest_step: float) -> list[str]:
    """Explain a fall of the curve at the step at which the nested budgets start, if there is one.

    Args:
        name: of the system.
        curve: P@1 by step.
        nest_step: the step, or 0 if there is none.
    """
    before, after = curve[curve.index <= nest_step], curve[curve.index > nest_step]
    if before.empty or after.empty or after.iloc[0] >= before.iloc[-1]:
        return []
    return [
        f"The curve of {name} falls from {before.iloc[-1]:.3f} to {after.iloc[0]:.3f} after step "
        f"{nest_step:,.0f}. Up to there, only the full budget is trained. From there on, the first "
        "vectors also have to rank well without the others."
    ]


def tabulate_surface(cells: dict[str, Any]) -> pd.DataFrame:
    """Return P@1 of one system, mean over the seeds: a row per r_q, a column per r_c.

    Raises:
        ValueError: if a cell has no surface, if a row of it is not [r_q, r_c, P@1], or if the seeds
            were not measured at the same budgets, or not at all pairs of them.
    """
    rows = []
    for name, cell in cells.items():
        for row in read_field(name, cell, "surface"):
            if len(row) != 3:
                raise ValueError(
                    f"cell {name}: surface has the row {row}, expected [r_q, r_c, P@1]; "
                    f"{name_command(name)}"
                )
            check_quality(f"cell {name}: surface at ({row[0]}, {row[1]})", "p_at_1", row[2])
            rows.append([cell["system"], cell["seed"], int(row[0]), int(row[1]), row[2]])
    table = pd.DataFrame(rows, columns=["system", "seed", "r_q", "r_c", "p_at_1"])
    check_seeds(table, ["r_q", "r_c"])
    surface = table.pivot_table(index="r_q", columns="r_c", values="p_at_1")
    if surface.isna().any(axis=None):
        raise ValueError(
            f"cells {', '.join(cells)}: surface has no P@1 at some of r_q = {list(surface.index)} "
            f"and r_c = {list(surface.columns)}; measure them again"
        )
    return surface


def format_surface(surface: pd.DataFrame) -> str:
    """Write the surface as a table."""
    lines = [
        [f"r_q = {r_q}", *(f"{p_at_1:.3f}" for p_at_1 in row)]
        for r_q, row in zip(surface.index, surface.to_numpy(), strict=True)
    ]
    return format_table(["P@1", *(f"r_c = {r_c}" for r_c in surface.columns)], lines)


def explain_surface(surface: pd.DataFrame) -> str:
    """Say how often more vectors on one side lowered P@1, and what the largest loss is."""
    down, right = surface.diff(axis=0).iloc[1:], surface.diff(axis=1).iloc[:, 1:]
    in_rows, in_columns = (
        f"{(change.to_numpy() < -1e-9).sum()} of {change.size} steps" for change in (down, right)
    )
    budgets = itertools.product(surface.index, surface.columns)
    losses = {
        (small, large): surface.loc[small] - surface.loc[large]
        for small, large in itertools.combinations(budgets, 2)
        if (small[0] == large[0]) != (small[1] == large[1])  # more on one side only
    }
    small, large = max(losses, key=losses.__getitem__)
    loss = losses[small, large]
    return (
        f"From row to row, more query vectors lowered P@1 in {in_rows}. From column to column, "
        f"more candidate vectors lowered it in {in_columns}. "
        + (
            f"The largest loss is {100 * loss:.1f} points, from {small} to {large}."
            if loss > 1e-9
            else "More vectors on one side never lost anything."
        )
    )
