"""What MetaEmbed was to reach, and what it did."""

from __future__ import annotations

from typing import Any

from results_tables import NOT_MEASURED, format_table, held_out_points
from stickers_cells import SINGLE, SUITE
from stickers_rivals import describe_gap

ALONE = {4: "fixed-2x4", 8: "fixed-4x8"}  # vectors per candidate -> trained for them alone
FULL = 16  # vectors per candidate
Aim = tuple[str, str, str, bool]  # claim, aim, measured, whether it was reached


def render_aims(findings: dict[str, Any]) -> str:
    """Compare the aims with what was measured, mean over the seeds."""
    means = held_out_points(findings).groupby(["suite", "system", "r_c"]).p_at_1.mean()
    p_at_1 = {suite: rows.droplevel("suite").to_dict() for suite, rows in means.groupby("suite")}
    aims = list_aims(p_at_1.get(SUITE, {}))
    if not aims:
        return NOT_MEASURED
    aims += list_other_aims(p_at_1.get("handwriting", {}), p_at_1.get("codesearch", {}))
    rows = [[*texts, "reached" if reached else "not reached"] for *texts, reached in aims]
    return format_table(["", "aim", "measured", "verdict"], rows)


def list_aims(p_at_1: dict[tuple[str, int], float]) -> list[Aim]:
    """List the aims on stickers whose systems were measured.

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
        aims += [
            behind(3, one - best, "MMR's first vector, against the best single vector"),
            ahead(15, full - best, "MMR's full budget, against the best single vector"),
        ]
    if ("no-MMR", FULL) in p_at_1:
        plain = p_at_1["no-MMR", FULL]
        aims.append(behind(2, full - plain, "MMR's full budget, against training without MMR"))
        kept = p_at_1["no-MMR", 1] / plain
        claim = "without MMR, P@1 with one vector as a share of the full P@1"
        aims.append((claim, "less than a third", f"{kept:.3f}", kept < 1 / 3))
    for size, system in ALONE.items():
        if (system, size) in p_at_1:
            gain = p_at_1["MMR", size] - p_at_1[system, size]
            aims.append(behind(2, gain, f"{size} vectors of MMR, against training for them alone"))
    return aims


def list_other_aims(
    handwriting: dict[tuple[str, int], float], codesearch: dict[tuple[str, int], float]
) -> list[Aim]:
    """List the aims on the other suites that were measured. The keys are as in ``list_aims``."""
    aims = []
    if ("MMR", FULL) in handwriting:
        claim = "`handwriting`: P@1 of MMR at the full budget"
        aims.append(at_least(0.9, handwriting["MMR", FULL], claim))
    if ("MMR", FULL) in codesearch and ("untrained", 1) in codesearch:
        gain = codesearch["MMR", FULL] - codesearch["untrained", 1]
        claim = "`codesearch`: MMR's full budget, against one untrained vector"
        aims.append(ahead(15, gain, claim))
    return aims


def at_least(aim: float, measured: float, claim: str) -> Aim:
    """A P@1 that should be high."""
    return claim, f"at least {aim:.2f}", f"{measured:.3f}", measured >= aim


def behind(points: int, gain: float, claim: str) -> Aim:
    """A difference in P@1 that should be no large loss."""
    return claim, f"at most {points} points behind", describe_gap(100 * gain), 100 * gain >= -points


def ahead(points: int, gain: float, claim: str) -> Aim:
    """A difference in P@1 that should be a large gain."""
    return claim, f"at least {points} points ahead", describe_gap(100 * gain), 100 * gain >= points
