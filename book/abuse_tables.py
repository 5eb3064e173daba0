"""The tables of book/security.md: what was tried, and how it ended."""

from __future__ import annotations

from typing import Any

from results_tables import format_environment, format_table, join_words, to_plain_text

COUNTS = ("tried", "survived", "unclear", "failed")


def render_abuse(abuse: dict[str, Any]) -> str:
    """Write the table of ``make abuse``, with how much of the long form was run."""
    rows, total = [], dict.fromkeys(COUNTS, 0)
    for chapter in abuse["chapters"].values():
        for row in chapter["rows"]:
            counts = [f"{row[count]:,}" for count in COUNTS]
            rows.append([to_plain_text(row["what"]), *counts])
            total = {count: total[count] + row[count] for count in COUNTS}
    rows.append(["**all**", *(f"{total[count]:,}" for count in COUNTS)])
    parts = [
        format_table(["what", *COUNTS], rows), describe_share(abuse), describe_load(abuse),
        format_environment(abuse),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def describe_share(abuse: dict[str, Any]) -> str:
    """Say how long it took, and which rows are shorter than the long form."""
    chapters = abuse["chapters"].values()
    minutes = sum(chapter["seconds"] for chapter in chapters) / 60
    rows = [row for chapter in chapters for row in chapter["rows"]]
    short = [row for row in rows if row["tried"] < row["planned"]]
    text = f"It took {minutes:.0f} minutes."
    if abuse["not_run"]:
        names = join_words([name.replace("_", " ") for name in abuse["not_run"]])
        text += (
            f" These chapters were not run in the long form: {names}. The tests run them, shorter."
        )
    if not short:
        return text if abuse["not_run"] else f"This is the long form. {text}"
    parts = [f"{to_plain_text(r['what'])}: {r['tried']:,} of {r['planned']:,}" for r in short]
    return f"{text} These rows are shorter than the long form:\n\n" + "\n".join(
        f"- {part}" for part in parts
    )


def describe_load(abuse: dict[str, Any]) -> str:
    """Say how long searches took under load, and how much memory they needed."""
    rows = abuse["chapters"].get("load", {"rows": []})["rows"]
    measured = rows[0]["measured"] if rows else {}
    if "latency" not in measured:
        return ""
    header = ["search", "searches", "50%, ms", "95%, ms", "99%, ms", "longest, ms"]
    table = [
        [to_plain_text(name), f"{times['searches']:,}",
         *(f"{times[key]:,.1f}" for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms"))]
        for name, times in measured["latency"].items()
    ]  # fmt: skip
    return (
        f"Under load, an index of {measured['candidates']:,} candidates of 16 vectors was searched "
        f"{measured['queries']:,} times. The process took at most "
        f"{measured['memory_bytes'] / 1e9:.1f} GB of memory.\n\n{format_table(header, table)}"
    )
