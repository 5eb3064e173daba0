"""Measured results as Markdown: the format of numbers, and the tables of findings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import pandas as pd

from metaembed_lite.data.meta_tasks import TASKS, tabulate_meta_tasks
from metaembed_lite.results import MEASURES, points_table

NOT_MEASURED = "*Not measured yet.*"
MOST_COLUMNS = 6  # sizes in one table, so that a page of 1,280 pixels shows all of it


def to_plain_text(text: Any) -> str:
    """Make a text from a result file safe in a Markdown table: no markup, no cells, no code."""
    return escape(" ".join(str(text).split()), quote=False).replace("|", "\\|").replace("`", "'")


def format_quality(value: float) -> str:
    """Write three decimals, or nothing where there is no value."""
    return "" if math.isnan(value) else f"{value:.3f}"


def format_mean_and_range(summary: Any) -> str:
    """Write a mean, and the range over seeds if there is more than one seed."""
    mean = f"{summary['mean']:.3f}"
    if summary["count"] == 1:
        return mean
    return f"{mean} ({summary['min']:.3f} to {summary['max']:.3f})"


def format_span(numbers: Iterable[float]) -> str:
    """Write the range of whole numbers: "3", or "2 to 3" if they differ."""
    numbers = list(numbers)
    least, most = min(numbers), max(numbers)
    return f"{least:,.0f}" if least == most else f"{least:,.0f} to {most:,.0f}"


def format_seeds(count: Any) -> str:
    """Write a number of seeds, such as "1 seed" or "2 to 3 seeds"."""
    return f"{count} seed" + ("" if str(count) == "1" else "s")


def join_words(words: Sequence[str]) -> str:
    """Write a list for a sentence: "a", "a and b" or "a, b, and c"."""
    if len(words) < 3:
        return " and ".join(words)
    return f"{', '.join(words[:-1])}, and {words[-1]}"


def quote_labels(table: pd.DataFrame) -> dict[str, str]:
    """Write each system's name for a sentence, with its number of seeds. The keys are systems."""
    systems = table.groupby("system")
    labels, seeds = systems.label.first(), systems.seed.nunique()
    return {
        system: f'"{to_plain_text(label)}" ({format_seeds(seeds[system])})'
        for system, label in labels.items()
    }


def format_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Write a Markdown table. All cells are texts that are safe already."""
    header = list(header)
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def fold(title: str, text: str) -> str:
    """Fold a part of a page that few readers need. It opens with a click, and without a script."""
    return f'<details class="record"><summary>{title}</summary>\n\n{text}\n\n</details>'


def format_environment(result: dict[str, Any]) -> str:
    """Write hardware, versions and date of a result as one line."""
    environment = {
        name: to_plain_text(value)
        for name, value in result["environment"].items()
        if value is not None
    }
    threads = "1 thread" if environment["threads"] == "1" else f"{environment['threads']} threads"
    processor = f"{environment['processor']}, {threads}"
    names = ("torch", "transformers", "sentence-transformers", "peft")
    versions = ", ".join(f"{name} {environment[name]}" for name in names)
    return (
        f"*{environment.get('accelerator') or processor}; Python {environment['python']}, "
        f"{versions}; {environment['date']}.*"
    )


def format_environments(results: Iterable[dict[str, Any]]) -> str:
    """Write each hardware, set of versions and date of several results once, one per paragraph."""
    return "\n\n".join(dict.fromkeys(map(format_environment, results)))


def held_out_points(findings: dict[str, Any]) -> pd.DataFrame:
    """Return the points that were measured on a test, one row per cell and point."""
    points = points_table(findings)
    return points[points.split == "test"]


def summarize_seeds(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Summarize the points of one system: mean, min, max and count over seeds, and bytes.

    A point of several tasks is the mean over them. So are its bytes, because the number of token
    vectors differs between tasks.

    Raises:
        ValueError: if a seed or a task has more points than another, so that they do not match.
    """
    sizes = rows.groupby(["seed", "task"]).size()
    if sizes.nunique() > 1:
        raise ValueError(
            f"{rows.label.iloc[0]}: {sizes.idxmin()} (seed, task) has {sizes.min()} points and "
            f"{sizes.idxmax()} has {sizes.max()}; measure this system again"
        )
    position = rows.groupby(["seed", "task"]).cumcount()  # the order is the same in every cell
    points = rows.groupby([position, "seed"])[[measure, "bytes_per_candidate"]].mean()
    by_position = points.groupby(level=0)
    summary = by_position[measure].agg(["mean", "min", "max", "count"])
    return summary.assign(bytes=by_position.bytes_per_candidate.mean().round())


def format_suite(points: pd.DataFrame, suite: str, measure: str = "p_at_1") -> str:
    """Write the quality of every system of a suite at equal index bytes.

    Args:
        points: those of all suites, as ``held_out_points`` returns them.
        suite: a measured suite. Several tasks are averaged, and a second table lists them one by
            one.
        measure: the measure to show. Defaults to P@1.
    """
    rows = points[points.suite == suite]
    summaries = {
        label: summarize_seeds(part, measure) for label, part in rows.groupby("label", sort=False)
    }
    title = f"{MEASURES[measure]} at index bytes"
    tables = [format_systems(group, title) for group in group_by_sizes(summaries)]
    if rows.task.nunique() > 1:
        tables.append(format_tasks(rows, measure))
    return "\n\n".join([f"`{to_plain_text(suite)}`:", *tables])


def group_by_sizes(summaries: dict[str, pd.DataFrame]) -> list[dict[str, pd.DataFrame]]:
    """Divide systems into tables of at most ``MOST_COLUMNS`` sizes.

    A system with more sizes than that is not divided.
    """
    groups: list[dict[str, pd.DataFrame]] = []
    columns: list[set[float]] = []
    for label, summary in summaries.items():
        sizes = set(summary.bytes)
        for group, known in zip(groups, columns, strict=True):
            if len(known | sizes) <= max(MOST_COLUMNS, len(known)):
                group[label] = summary
                known |= sizes
                break
        else:
            groups.append({label: summary})
            columns.append(sizes)
    return groups


def format_systems(summaries: dict[str, pd.DataFrame], title: str) -> str:
    """Write one row per system and one column per size. A system's best point of a size counts."""
    sizes = sorted({size for summary in summaries.values() for size in summary.bytes})
    lines = []
    for label, summary in summaries.items():
        by_size = summary.sort_values("mean").groupby("bytes")
        best = {size: of_size.iloc[-1] for size, of_size in by_size}
        cells = [format_mean_and_range(best[size]) if size in best else "" for size in sizes]
        lines.append([to_plain_text(label), *cells, format_span(summary["count"])])
    return format_table([title, *(f"{size:,.0f}" for size in sizes), "seeds"], lines)


def format_tasks(rows: pd.DataFrame, measure: str) -> str:
    """Write the quality per task, one column per system at its largest size, mean over seeds."""
    largest = rows.groupby(["label", "task"]).bytes_per_candidate.transform("max")
    table = rows[rows.bytes_per_candidate == largest]
    table = table.pivot_table(index="task", columns="label", values=measure, sort=False)
    if set(table.index) <= set(TASKS):
        tables = {label: tabulate_meta_tasks(column.to_dict()) for label, column in table.items()}
        columns = {label: t.set_index(["task", "meta_task"]).p_at_1 for label, t in tables.items()}
        table = pd.concat(columns, axis=1)
        table.index = [f"mean, {meta}" if task == "mean" else task for task, meta in table.index]
    else:
        table.loc["mean"] = table.mean(skipna=False)  # of all tasks, or of none
    lines = [
        [to_plain_text(task), *map(format_quality, row)]
        for task, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return format_table([MEASURES[measure], *map(to_plain_text, table.columns)], lines)


def format_measures(points: pd.DataFrame, suite: str) -> str:
    """Write every measure of every system at its largest size, mean over seeds."""
    rows = points[points.suite == suite]
    largest = rows.groupby("label").bytes_per_candidate.transform("max")
    means = rows[rows.bytes_per_candidate == largest].groupby("label", sort=False)
    seeds = rows.groupby("label").seed.nunique()
    lines = []
    for label, row in means[list(MEASURES)].mean().iterrows():
        note = "" if seeds.nunique() == 1 else f" ({format_seeds(seeds[label])})"
        lines.append([f"{to_plain_text(label)}{note}", *map(format_quality, row)])
    return format_table([f"`{to_plain_text(suite)}`", *MEASURES.values()], lines)
