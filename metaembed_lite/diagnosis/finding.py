"""What a check found, and the four results that it may have."""

from __future__ import annotations

from typing import NamedTuple

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"


class Finding(NamedTuple):
    """The result of a check.

    Attributes:
        result: "ok", "warning", "failed" or "skipped".
        measured: what was measured, with its numbers. For a skipped check, why it does not apply.
        remedy: what to do. Empty if there is nothing to do.

    Example:
        >>> Finding("ok", "12 items").remedy
        ''
    """

    result: str
    measured: str
    remedy: str = ""


def judge(difference: float, tolerance: float, measured: str, remedy: str) -> Finding:
    """A finding that failed if a difference is above its tolerance, or is not a number.

    Example:
        >>> judge(0.5, 0.001, "vectors differ by 0.5", "mend the masks").result
        'failed'
        >>> judge(0.0, 0.001, "vectors are equal", "mend the masks")
        Finding(result='ok', measured='vectors are equal', remedy='')
    """
    if difference <= tolerance:
        return Finding(OK, measured)
    return Finding(FAILED, f"{measured}, and {tolerance:.0e} is allowed", remedy)
