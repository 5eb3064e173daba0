"""MetaEmbed against its rivals on the suite stickers: quality at equal vectors, and costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from results_tables import (
    NOT_MEASURED,
    fold,
    format_environment,
    format_environments,
    format_mean_and_range,
    format_span,
    format_table,
    join_words,
    quote_labels,
    to_plain_text,
)
from stickers_cells import (
    COMPARED,
    IDEAS,
    METAEMBED,
    SINGLE,
    SUITE,
    check_seeds,
    find_cells,
    name_command,
    read_field,
)

SIZES = (1, 4, 8, 16)  # vectors per candidate
ALL_TOKENS = "all tokens"
QUERIES = ("text", "image")  # kinds of queries whose costs are measured
SPLITS = {"test": "seen drawings", "unseen artist": "unseen drawings"}
MEANINGS = {  # systems of the ideas -> what sets their rows apart
    ("late-50", "late-75"): "**After 50 %, 75 %**: the full budget is trained alone for longer.",
    ("one-tau", "tau-0.03", "tau-0.3"): "**Temperature**: it is the same at every budget, as in "
    "the paper. Otherwise it grows with $r_q$.",
    ("w-large",): "**Weights 1 1 1 4**: the loss of the full budget counts four times.",
    ("orthogonal",): "**Orthogonal**: a penalty keeps the vectors of an item from pointing in the "
    "same direction.",
    ("random-budgets",): "**Random budgets**: two random pairs $(r_q, r_c)$ are trained in each "
    "step, too.",
    ("distilled",): "**Teaches**: the scores of the full budget are targets for the smaller "
    "budgets.",
    ("start-random", "start-rows", "start-offsets"): "**Start**: the meta tokens do not start at "
    "the embedding of a comma.",
    ("fixed-1x1", "fixed-2x4", "fixed-4x8"): "**Alone**: a model for one budget.",
}


def render_rivals(findings: dict[str, Any]) -> str:
    """Compare MetaEmbed with its rivals, with hardware and versions."""
    cells = find_cells(findings)
    if not cells:
        return NOT_MEASURED
    return f"{format_rivals(findings)}\n\n{format_environments(cells.values())}"


def render_ideas(findings: dict[str, Any]) -> str:
    """Compare MMR with trainings that differ from it in one setting."""
    cells = find_cells(findings, IDEAS)
    if not cells:
        return NOT_MEASURED
    table = tabulate_points(findings, "test", IDEAS)
    known = set(table.system)
    meanings = [f"- {text}" for systems, text in MEANINGS.items() if known & set(systems)]
    record = [format_sizes(table), "\n".join(meanings), format_environments(cells.values())]
    whole = fold("The table, and what its rows mean", "\n\n".join(filter(None, record)))
    return "\n\n".join(filter(None, [explain_ideas(table), whole]))


def render_artist(findings: dict[str, Any]) -> str:
    """Compare seen and unseen drawings, each system at its largest size."""
    if not find_cells(findings):
        return NOT_MEASURED
    lines: dict[str, list[str]] = {}
    for split in SPLITS:
        table = tabulate_points(findings, split)
        largest = table[table.r_c == table.groupby("system").r_c.transform("max")]
        for (system, size), summary in summarize(largest).iterrows():
            label = table[table.system == system].label.iloc[0]
            line = lines.setdefault(system, [to_plain_text(label), str(size)])
            line.append(format_mean_and_range(summary))
    best = summarize(largest)["mean"].max()  # of the last split
    table = format_table(["P@1", "vectors", *SPLITS.values()], lines.values())
    return (
        f"On unseen drawings, P@1 is at most {best:.3f}: no system finds them.\n\n"
        f"{fold('Seen and unseen drawings, per system', table)}"
    )


def render_costs(costs: dict[str, Any]) -> str:
    """Compare what an index costs to build, and a query to encode and to score."""
    header = ["", "vectors", "encode a sheet", "cluster it", *(f"{kind} query" for kind in QUERIES)]
    lines = [
        [
            to_plain_text(row["label"]),
            str(row["r_c"]),
            f"{row['encode_ms_per_candidate']:.1f} ms",
            f"{row['cluster_ms_per_candidate']:.1f} ms" if row["cluster_ms_per_candidate"] else "",
            *(describe_query(row[kind]) for kind in QUERIES),
        ]
        for row in costs["rows"]
    ]
    return (
        f"{costs['candidates']:,} sheets, encoded in batches. {costs['queries']:,} queries of each "
        "kind, one at a time: their vectors, the time to encode a query, and the time to score it "
        f"against all sheets (medians).\n\n{format_table(header, lines)}\n\n"
        f"{format_environment(costs)}"
    )


def describe_query(query: dict[str, float]) -> str:
    """Write the number of vectors of a query, and what it costs."""
    times = f"{query['encode_ms']:.1f} + {query['score_ms']:.2f} ms"
    vectors = "1 vector" if query["r_q"] == 1 else f"{query['r_q']:.0f} vectors"
    return f"{vectors}, {times}"


def tabulate_points(
    findings: dict[str, Any], split: str, systems: Sequence[str] = COMPARED
) -> pd.DataFrame:
    """Return the points of a split: system, label, seed, size, r_c, dim and p_at_1.

    ``size`` is the number of vectors per candidate, or "all tokens" above 16.

    Raises:
        ValueError: if a field or the split is missing, if a system has another number of vectors,
            or if systems differ in D, because equal vectors are then not equal bytes.
    """
    rows = []
    for name, cell in find_cells(findings, systems).items():
        points = [p for p in cell["points"] if read_field(name, p, "split") == split]
        if not points:
            raise ValueError(f"cell {name} has no split {split!r}; {name_command(name)}")
        for point in points:
            r_c = read_field(name, point, "r_c")
            if r_c not in SIZES and r_c <= SIZES[-1]:
                raise ValueError(
                    f"cell {name} has {r_c} vectors per candidate, expected one of {SIZES} or more "
                    f"than {SIZES[-1]}; {name_command(name)}"
                )
            row = {key: cell[key] for key in ("system", "label", "seed")}
            row |= {key: read_field(name, point, key) for key in ("r_c", "dim", "p_at_1")}
            rows.append(row | {"size": int(r_c) if r_c in SIZES else ALL_TOKENS})
    table = pd.DataFrame(rows)
    dims = sorted(set(table["dim"]))
    if len(dims) > 1:
        raise ValueError(
            f"the systems of {SUITE} differ in D, {dims}, and equal vectors are not equal bytes; "
            "measure all of them at one D"
        )
    check_seeds(table, ["size"])
    return table


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Summarize P@1 over the seeds: mean, min, max and count per system and size."""
    by_size = table.groupby(["system", "size"], sort=False).p_at_1
    return by_size.agg(["mean", "min", "max", "count"])


def list_sizes(table: pd.DataFrame) -> list[int | str]:
    """List the sizes that any system was measured at, in the order of the columns."""
    return [size for size in (*SIZES, ALL_TOKENS) if size in set(table["size"])]


def format_rivals(findings: dict[str, Any]) -> str:
    """Compare MetaEmbed with its rivals: what was measured, a table, and what it shows."""
    table = tabulate_points(findings, "test")
    return f"{format_comparison(findings)}\n\n{explain_rivals(table)}"


def format_comparison(findings: dict[str, Any]) -> str:
    """Say what was measured, and write P@1 of MetaEmbed and its rivals as a table."""
    table = tabulate_points(findings, "test")
    cells = find_cells(findings).items()
    settings = {name: read_field(name, cell, "train") for name, cell in cells}
    steps = format_span(read_field(name, train, "steps") for name, train in settings.items())
    dim = table["dim"].iloc[0]
    tokens = table[table["size"] == ALL_TOKENS].r_c.round()
    all_tokens = "" if tokens.empty else f" All tokens are {format_span(tokens)} vectors."
    return (
        "Unseen sheets of stickers, half of them hard negatives. All systems have the same "
        f"backbone, the same rows, and {steps} steps. A vector has {dim} numbers ({4 * dim} "
        f"bytes), so equal vectors are equal bytes.{all_tokens} {describe_seeds(table)}:\n\n"
        f"{format_sizes(table)}"
    )


def summarize_rivals(findings: dict[str, Any]) -> str:
    """Say how far one model with MMR grows, and how far it is from the best rival."""
    table = tabulate_points(findings, "test")
    p_at_1 = round_means(table)
    growth = describe_growth(p_at_1, quote_labels(table))
    return " ".join(filter(None, (growth, compare_mmr(p_at_1))))


def format_sizes(table: pd.DataFrame) -> str:
    """Write P@1 of each system at each size, with the number of seeds."""
    summary, sizes = summarize(table), list_sizes(table)
    lines = []
    for system, rows in table.groupby("system", sort=False):
        by_size = summary.loc[system]
        cells = [
            format_mean_and_range(by_size.loc[size]) if size in by_size.index else ""
            for size in sizes
        ]
        lines.append([to_plain_text(rows.label.iloc[0]), *cells, str(rows.seed.nunique())])
    header = ["P@1 at vectors per candidate", *map(str, sizes), "seeds"]
    return format_table(header, lines)


def describe_seeds(table: pd.DataFrame) -> str:
    """Say what a cell of the table is."""
    if table.seed.nunique() == 1:
        return "One run each"
    return "Mean over the seeds, with the range in parentheses"


def explain_rivals(table: pd.DataFrame) -> str:
    """Say which system is best at each size, and how far MMR is from the best rival."""
    p_at_1 = round_means(table)
    names = quote_labels(table)
    parts = describe_growth(p_at_1, names), describe_winners(p_at_1, names), compare_mmr(p_at_1)
    return " ".join(filter(None, parts))


def explain_ideas(table: pd.DataFrame) -> str:
    """Say which of the models for all sizes is best at each size."""
    n_sizes = table.groupby("system")["size"].transform("nunique")
    for_all_sizes = table[n_sizes == len(SIZES)]
    if for_all_sizes.empty:
        return ""
    winners = describe_winners(round_means(for_all_sizes), quote_labels(for_all_sizes))
    return f"{winners} This leaves out the models for one budget."


def round_means(table: pd.DataFrame) -> pd.Series:
    """Average P@1 over the seeds, rounded as in the table so that text and table agree."""
    return summarize(table)["mean"].round(3)


def describe_winners(p_at_1: pd.Series, names: dict[str, str]) -> str:
    """Say which system has the highest P@1 at each size, with one sentence per winner."""
    sizes = [size for size in (*SIZES, ALL_TOKENS) if size in p_at_1.index.unique("size")]
    wins: dict[tuple[str, ...], list[int | str]] = {}
    for size in sizes:
        of_size = p_at_1.xs(size, level="size")
        wins.setdefault(tuple(of_size.index[of_size == of_size.max()]), []).append(size)
    sentences = []
    for systems, won in wins.items():
        where = describe_sizes(won)
        what = "it is" if sentences else "P@1 is"
        winners = join_words([names[system] for system in systems])
        sentences.append(f"{where[0].upper()}{where[1:]}, {what} highest for {winners}.")
    return " ".join(sentences)


def compare_mmr(p_at_1: pd.Series) -> str:
    """Say how far MMR is ahead of and behind the best system without meta tokens."""
    gaps: dict[str, list[str]] = {"ahead": [], "behind": [], "level": []}
    for size, mmr in p_at_1.get("MMR", pd.Series()).items():
        of_size = p_at_1.xs(size, level="size")
        rivals = of_size[~of_size.index.isin(METAEMBED)]
        if not rivals.empty:
            points, _, side = describe_gap(100 * (mmr - rivals.max())).rpartition(" ")
            gaps[side].append(" ".join(filter(None, [points, describe_sizes([size])])))
    sides = [f"{side} by {join_words(gaps[side])}" for side in ("ahead", "behind") if gaps[side]]
    sides += [f"level {join_words(gaps['level'])}"] if gaps["level"] else []
    if not sides:
        return ""
    first, *rest = sides
    sentences = [f"Compared with the best system without meta tokens, MMR is {first}."]
    return " ".join(sentences + [f"It is {side}." for side in rest])


def describe_growth(p_at_1: pd.Series, names: dict[str, str]) -> str:
    """Say what one model with MMR gives at both ends, next to the best single vector."""
    single = [p_at_1[system, 1] for system in SINGLE if (system, 1) in p_at_1.index]
    if not single or ("MMR", 1) not in p_at_1.index or ("MMR", SIZES[-1]) not in p_at_1.index:
        return ""
    return (
        f"{names['MMR']} is one model for all sizes: P@1 goes from {p_at_1['MMR', 1]:.3f} with 1 "
        f"vector to {p_at_1['MMR', SIZES[-1]]:.3f} with {SIZES[-1]}. The best single vector has "
        f"{max(single):.3f}, and it cannot grow."
    )


def describe_gap(points: float) -> str:
    """Write a difference in points of P@1 in words."""
    if abs(points) < 0.05:
        return "level"
    return f"{abs(points):.1f} points {'ahead' if points > 0 else 'behind'}"


def describe_sizes(sizes: Sequence[int | str]) -> str:
    """Write sizes for a sentence: "at 1 vector", or "at 4 and 8 vectors and with all tokens"."""
    numbers = [str(size) for size in sizes if size != ALL_TOKENS]
    words = []
    if numbers:
        noun = "vector" if numbers == ["1"] else "vectors"
        words.append(f"at {join_words(numbers)} {noun}")
    if ALL_TOKENS in sizes:
        words.append(f"with {ALL_TOKENS}")
    return " and ".join(words)
