"""The measured cells of the suite stickers: which systems the pages show, and checked access."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

SUITE = "stickers"
METAEMBED = ("MMR", "late-0", "no-MMR")
COMPARED = (  # in the order of the rows
    "last", "mean", *METAEMBED,
    "tokens", "patches", "pooled", "pooled-nested", "constant", "attention",
)  # fmt: skip
SINGLE = ("last", "mean", "fixed-1x1")  # systems with one vector
IDEAS = (  # MMR, and trainings that differ from it in one setting
    "MMR", "late-0", "late-50", "late-75", "one-tau", "tau-0.03", "tau-0.3", "w-large",
    "orthogonal", "random-budgets", "distilled", "start-random", "start-rows", "start-offsets",
    "fixed-1x1", "fixed-2x4", "fixed-4x8",
)  # fmt: skip
CURVES = ("mean", "MMR", "late-0", "no-MMR", "tokens", "pooled", "constant")
SURFACES = ("MMR", "late-0")


def find_cells(findings: dict[str, Any], systems: Iterable[str] = COMPARED) -> dict[str, Any]:
    """Return the measured cells of the suite by name, in the order of ``systems``."""
    return {
        name: cell
        for system in systems
        for name, cell in findings["cells"].items()
        if (cell["suite"], cell["system"]) == (SUITE, system)
    }


def name_command(cells: str) -> str:
    """Write the command that measures a cell again, or the cells of a pattern."""
    return f"run python benchmarks/findings.py '{cells}' --again"


def read_field(cell_name: str, record: dict[str, Any], field: str) -> Any:
    """Return a field of a cell or of one of its rows.

    Raises:
        ValueError: naming cell and field, if the field is missing or empty.
    """
    value = record.get(field)
    if value is None or value == []:
        raise ValueError(f"cell {cell_name} has no {field!r}; {name_command(cell_name)}")
    return value


def check_seeds(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Check that the seeds of a system were all measured at the same points.

    Args:
        table: one row per system, seed and point.
        columns: the columns that tell the points of a seed apart.

    Raises:
        ValueError: naming the system, and a point that a seed lacks or has twice.
    """
    for system, rows in table.groupby("system"):
        n_seeds = rows.seed.nunique()
        for point, of_point in rows.groupby(list(columns)):
            if not len(of_point) == of_point.seed.nunique() == n_seeds:
                where = ", ".join(f"{k} = {value}" for k, value in zip(columns, point, strict=True))
                raise ValueError(
                    f"{SUITE}/{system}: not every seed has one value at {where}; "
                    f"{name_command(f'{SUITE}/{system}/*')}"
                )
