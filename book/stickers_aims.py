"""What MetaEmbed was to reach on the suite stickers, and what it did."""

from __future__ import annotations

from typing import Any

from results_tables import NOT_MEASURED, format_table, held_out_points
from stickers_cells import SINGLE, SUITE

ALONE = {4: "fixed-2x4", 8: "fixed-4x8"}  # vectors per candidate -> trained for them alone
FULL = 16  # vectors per candidate
Aim = tuple[str, str, str, bool]  # claim, aim, measured, whether it was reached


def render_aims(findings: dict[str, Any]) -> str:
    """Compare the aims with what was measured, mean over the seeds."""
    points = held_out_points(findings)
    points = points[points.suite == SUITE]
    aims = list_aims(points.groupby(["system", "r_c"]).p_at_1.mean().to_dict())
    rows = [[*texts, "reached" if reached else "not reached"] for *texts, reached in aims]
    return format_table(["", "aim", "measured", "verdict"], rows) if rows else NOT_MEASURED


def list_aims(p_at_1: dict[tuple[str, int], float]) -> list[Aim]:
    """List the aims whose systems were measured.

    Args:
        p_at_1: mean P@1 by system and vectors per candidate.
    """
    if ("MMR", FULL) not in p_at_1:
        return []
    one, full = p_at_1["MMR", 1], p_at_1["MMR", FULL]
    aims = [
        at_least(0.4, one, "P@1 of MMR with one vector"),
        at_least(0.9, full, "P@1 of MMR at the full budget"),
    ]
    single = [p_at_1[system, 1] for system in SINGLE if (system, 1) in p_at_1]
    if single:
        best = max(single)
        aims.append(loses(3, best - one, "MMR's first vector, against the best single vector"))
        gain = 100 * (full - best)
        claim = "MMR's full budget, against the best single vector"
        aims.append((claim, "gains at least 15 points", f"{gain:+.1f} points", gain >= 15))
    if ("no-MMR", FULL) in p_at_1:
        plain = p_at_1["no-MMR", FULL]
        aims.append(loses(2, plain - full, "MMR's full budget, against training without MMR"))
        kept = p_at_1["no-MMR", 1] / plain
        claim = "without MMR, P@1 with one vector as a share of the full P@1"
        aims.append((claim, "less than a third", f"{kept:.3f}", kept < 1 / 3))
    for size, system in ALONE.items():
        if (system, size) in p_at_1:
            lost = p_at_1[system, size] - p_at_1["MMR", size]
            aims.append(loses(2, lost, f"{size} vectors of MMR, against training for them alone"))
    return aims


def at_least(aim: float, measured: float, claim: str) -> Aim:
    """A P@1 that should be high."""
    return claim, f"at least {aim:.2f}", f"{measured:.3f}", measured >= aim


def loses(points: float, lost: float, claim: str) -> Aim:
    """A difference in P@1 that should be small."""
    aim = f"loses at most {points} points"
    return claim, aim, f"{-100 * lost:+.1f} points", 100 * lost <= points
