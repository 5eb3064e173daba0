"""Write what the JSON files say into the results page and the README: no number is typed.

python benchmarks/results_page.py
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from report import RESULTS

from metaembed_lite.checkpoints import MODELS
from metaembed_lite.data.meta_tasks import TASKS, tabulate_meta_tasks

ROOT = Path(__file__).parents[1]
SYSTEMS = {"MMR": "with MMR", "no-MMR": "without MMR"}
MEASURES = {"p_at_1": "P@1", "ndcg_at_5": "NDCG@5", "mrr_at_10": "MRR@10"}


def read(name: str) -> dict[str, Any]:
    """One result file.

    Raises:
        ValueError: naming the file, if it is not JSON or holds a number that is not finite.
    """
    path = RESULTS / f"{name}.json"
    try:
        return json.loads(path.read_text("utf-8"), parse_constant=_finite, parse_float=_finite)
    except ValueError as error:  # also UnicodeDecodeError and JSONDecodeError
        raise ValueError(f"{path.name}: {error}") from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"holds {text}: every number must be finite; measure it again")
    return value


def plain(text: Any) -> str:
    """A text from a result file as Markdown shows it: without markup, table cells or code."""
    return escape(" ".join(str(text).split()), quote=False).replace("|", "\\|").replace("`", "'")


def check_quality(where: str, name: str, value: Any) -> None:
    """Check that a value is a quality, a number from 0 to 1.

    Raises:
        ValueError: naming where it stands, unless the value is a number from 0 to 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(
            f"{where}: {name} is {value!r}, expected a number from 0 to 1; measure it again"
        )


def check_cell(name: str, cell: Mapping[str, Any], measure: str = "p_at_1") -> None:
    """Check that every point of a cell has the measure, from 0 to 1.

    Raises:
        ValueError: naming the cell, the budget and the measure.
    """
    for point in cell["points"]:
        where = f"cell {name} at ({point.get('r_q')}, {point.get('r_c')})"
        for column in MEASURES:
            if column in point or column == measure:
                check_quality(where, column, point.get(column))


def measured_on(result: dict[str, Any]) -> str:
    """Hardware, versions and date of a result, as a line."""
    e = {name: plain(value) for name, value in result["environment"].items() if value is not None}
    where = e.get("accelerator") or f"{e['processor']}, {e['threads']} threads"
    versions = ", ".join(
        f"{name} {e[name]}" for name in ("torch", "transformers", "sentence-transformers", "peft")
    )
    return f"*{where}; Python {e['python']}, {versions}; {e['date']}.*"


def points_table(result: dict[str, Any]) -> pd.DataFrame:
    """One row per cell and point on a test: suite, system, says, seed, task, r_q, r_c, p_at_1, ...

    Raises:
        ValueError: if a point lacks its suite's measure, or a measure is not a number from 0 to 1.
    """
    named = ("suite", "system", "says", "seed", "train_seconds")
    for name, cell in result["cells"].items():
        check_cell(name, cell, result["suites"].get(cell["suite"], "p_at_1"))
    return pd.DataFrame(
        [
            {**{name: cell[name] for name in named}, **point}
            for cell in result["cells"].values()
            for point in cell["points"]
            if point["split"] == "test"
        ]
    )


def ablation(points: pd.DataFrame, suite: str) -> pd.DataFrame:
    """The points of one suite with and without MMR, the system by name."""
    rows = points[(points.suite == suite) & points.system.isin(SYSTEMS)]
    return rows.assign(system=rows.system.map(SYSTEMS)).astype({"r_q": int, "r_c": int})


def spread(p: Any) -> str:
    """A mean, and the range where there is more than one seed."""
    if not p["count"]:
        return ""
    return f"{p['mean']:.3f}" + (f" ({p['min']:.3f} to {p['max']:.3f})" if p["count"] > 1 else "")


def span(numbers: Iterable[float]) -> str:
    """What all of the numbers are: "3", or "2 to 3" if they differ."""
    least, most = min(numbers := list(numbers)), max(numbers)
    return f"{least:.0f}" if least == most else f"{least:.0f} to {most:.0f}"


def plural(seeds: Any) -> str:
    """Such as "1 seed" or "2 to 3 seeds"."""
    return f"{seeds} seed" + ("" if str(seeds) == "1" else "s")


def three(value: float) -> str:
    """Three decimals; empty where there is no value."""
    return "" if math.isnan(value) else f"{value:.3f}"


def seeds_of(table: pd.DataFrame) -> pd.DataFrame:
    """How many seeds each system (a column) has at each budget (a row); 0 where it has none."""
    counts = table.groupby(["r_q", "r_c", "system"]).seed.nunique().unstack("system", fill_value=0)
    return counts.reindex(columns=list(SYSTEMS.values()), fill_value=0)


def systems_markdown(
    points: pd.DataFrame, suite: str, systems: Iterable[str], measure: str = "p_at_1"
) -> str:
    """Quality of every system at equal index bytes, mean and range over its seeds, as Markdown.

    ``systems`` are the names of all in the matrix; those not measured stand below the table. A
    suite of several tasks is averaged over them, and a second table tells them apart.
    """
    rows = points[points.suite == suite]
    title = f"`{plain(suite)}`:"
    if rows.empty:
        return f"{title} not measured."
    missing = ", ".join(f"`{plain(name)}`" for name in systems if name not in set(rows.system))
    systems_at = {
        says: over_seeds(part, measure) for says, part in rows.groupby("says", sort=False)
    }
    sizes = sorted({size for at in systems_at.values() for size in at.bytes})
    lines = [
        f"| {MEASURES[measure]} at index bytes | "
        + " | ".join(f"{size:,.0f}" for size in sizes)
        + " | seeds |",
        "|---" * (len(sizes) + 2) + "|",
    ]
    for says, at in systems_at.items():
        best = {size: of_size.iloc[-1] for size, of_size in at.sort_values("mean").groupby("bytes")}
        shown = [spread(best[size]) if size in best else "" for size in sizes]
        lines.append(f"| {plain(says)} | {' | '.join(shown)} | {span(at['count'])} |")
    tables = ["\n".join(lines)]
    if rows.task.nunique() > 1:
        tables.append(tasks_markdown(rows, measure))
    return "\n\n".join([title, *tables, f"Not measured: {missing or 'none'}."])


def over_seeds(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """A system's points, one row each: bytes, and mean, min, max, count over seeds.

    A point of several tasks is their mean, and so are its bytes: token vectors differ in number.

    Raises:
        ValueError: if a seed or a task has more points than another: they could not be matched.
    """
    sizes = rows.groupby(["seed", "task"]).size()
    if sizes.nunique() > 1:
        raise ValueError(
            f"{rows.says.iloc[0]}: {sizes.idxmin()} (seed, task) has {sizes.min()} points and "
            f"{sizes.idxmax()} has {sizes.max()}; measure this system again"
        )
    nth = rows.groupby(["seed", "task"]).cumcount()  # the same order in every cell
    points = rows.groupby([nth, "seed"])[[measure, "bytes_per_candidate"]].mean()
    over = points.groupby(level=0)
    at = over[measure].agg(["mean", "min", "max", "count"])
    return at.assign(bytes=over.bytes_per_candidate.mean().round())


def measures_markdown(points: pd.DataFrame, suite: str) -> str:
    """Every measure of every system at its most bytes, mean over its seeds, as Markdown."""
    rows = points[points.suite == suite]
    most = rows.groupby("says").bytes_per_candidate.transform("max")
    table = rows[rows.bytes_per_candidate == most].groupby("says", sort=False)[list(MEASURES)]
    lines = [f"| `{plain(suite)}` | " + " | ".join(MEASURES.values()) + " |"]
    lines.append("|---" * (len(MEASURES) + 1) + "|")
    seeds = rows.groupby("says").seed.nunique()
    for says, row in table.mean().iterrows():
        label = plain(says) if seeds.nunique() == 1 else f"{plain(says)} ({plural(seeds[says])})"
        lines.append(f"| {label} | " + " | ".join(map(three, row)) + " |")
    return "\n".join(lines)


def tasks_markdown(rows: pd.DataFrame, measure: str) -> str:
    """Quality by task, a column a system at its most bytes, mean over its seeds, as Markdown."""
    most = rows.groupby(["says", "task"]).bytes_per_candidate.transform("max")
    table = rows[rows.bytes_per_candidate == most]
    table = table.pivot_table(index="task", columns="says", values=measure, sort=False)
    if set(table.index) == set(TASKS):
        tables = {says: tabulate_meta_tasks(column.to_dict()) for says, column in table.items()}
        named = {says: t.set_index(["task", "meta_task"]) for says, t in tables.items()}
        table = pd.concat({says: t.p_at_1 for says, t in named.items()}, axis=1)
        table.index = [f"mean, {meta}" if task == "mean" else task for task, meta in table.index]
    else:
        table.loc["mean"] = table.mean(skipna=False)  # of all tasks, or of none
    head = f"| {MEASURES[measure]} | " + " | ".join(map(plain, table.columns)) + " |"
    lines = [head, "|---" * (len(table.columns) + 1) + "|"]
    lines += [
        f"| {plain(task)} | " + " | ".join(map(three, row)) + " |"
        for task, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return "\n".join(lines)


def mmr_markdown(table: pd.DataFrame) -> str:
    """P@1 by system and budget, mean and range over seeds, as a Markdown table."""
    budgets = list(dict.fromkeys(zip(table.r_q, table.r_c, strict=True)))
    head = "| P@1 | " + " | ".join(f"({q}, {c})" for q, c in budgets) + " |"
    lines = [head, "|---" * (len(budgets) + 1) + "|"]
    seeds = seeds_of(table)
    alike = span(seeds.to_numpy().ravel()).isdigit()
    for system in SYSTEMS.values():
        cells = []
        for q, c in budgets:
            p = table[(table.system == system) & (table.r_q == q) & (table.r_c == c)].p_at_1
            cells.append(spread(p.agg(["mean", "min", "max", "count"])))
        label = system if alike else f"{system} ({plural(span(seeds[system]))})"
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    sizes = table.drop_duplicates("r_c").bytes_per_candidate
    lines.append("| bytes a board (float32) | " + " | ".join(f"{b:,.0f}" for b in sizes) + " |")
    return "\n".join(lines)


def mmr_verdicts(table: pd.DataFrame) -> str:
    """The three figures that were aimed at, and what came out, over the mean of the seeds."""
    p = table.groupby(["system", "r_c"]).p_at_1.mean()
    small, large = table.r_c.min(), table.r_c.max()
    growth = p["with MMR", large] / p["with MMR", small]
    kept = p["without MMR", small] / p["without MMR", large]
    lost = 100 * (p["without MMR", large] - p["with MMR", large])
    rows = [
        ("with MMR, the largest budget's P@1 over that at (1, 1)",
         "at least 1.5 times", f"{growth:.2f} times", growth >= 1.5),
        ("without MMR, (1, 1) as a share of its own full budget",
         "below 0.1", f"{kept:.3f}", kept < 0.1),
        ("what MMR loses at the full budget, in points of P@1",
         "at most 5", f"{lost:.1f}", lost <= 5),
    ]  # fmt: skip
    lines = ["| claim | aimed at | measured | |", "|---|---|---|---|"]
    lines += [f"| {c} | {a} | {m} | {'holds' if ok else 'does not hold'} |" for c, a, m, ok in rows]
    return "\n".join(lines)


def scoring_markdown(result: dict[str, Any]) -> str:
    """Milliseconds by budget and method, as a Markdown table."""
    table = pd.DataFrame(result["rows"])
    budgets, methods = table.budget.unique(), table.method.unique()
    lines = [
        "| budget | " + " | ".join(f"`{plain(m.rpartition('.')[2])}`" for m in methods) + " |",
        "|---" * (len(methods) + 1) + "|",
    ]
    for budget in budgets:
        rows = table[table.budget == budget].set_index("method")
        cells = [f"{rows.ms[m]:.1f} ({rows.largest_tensor_mib[m]:,.1f})" for m in methods]
        lines.append(f"| {plain(budget)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def caching_markdown(result: dict[str, Any]) -> str:
    """Memory and time of a step by batch size, with and without gradient caching, as Markdown."""
    table = pd.DataFrame(result["rows"])
    part = int(table.mini_batch_size.max())
    lines = [f"| batch | whole, MiB (s) | in parts of {part}, MiB (s) |", "|---|---|---|"]
    for size, rows in table.groupby("batch_size"):
        whole, parts = rows[rows.mini_batch_size.isna()], rows[rows.mini_batch_size.notna()]
        cells = [f"{r.mib.iloc[0]:,.0f} ({r.seconds.iloc[0]:.1f})" for r in (whole, parts)]
        lines.append(f"| {size} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def efficiency_markdown(result: dict[str, Any]) -> str:
    """Encoding against scoring by budget, as a Markdown table."""
    lines = [
        "| budget | scoring, ms | GFLOP | index, GiB (bfloat16) | encoding over scoring |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {plain(row['budget'])} | {row['score_ms']:,.1f} | {row['score_gflop']:.2f} "
            f"| {row['index_gib_bf16']:.3f} | {row['encode_over_score']:.2f} |"
        )
    return "\n".join(lines)


def timings_markdown(result: dict[str, Any]) -> str:
    """What a newcomer waits, as a Markdown table."""
    rows = [("`import metaembed_lite`", f"{result['import_seconds']:.3f} s")]
    for target, profile in (("test", "smoke"), ("book", "cpu")):
        if f"make_{target}_seconds" in result:
            whole = result[f"make_{target}_seconds"] / 60
            books = sum(result[f"notebooks_{profile}_seconds"].values()) / 60
            rows.append(
                (
                    f"`make {target}`, clean clone",
                    f"{whole:.1f} min, of which notebooks (`{profile}`) {books:.1f}",
                )
            )
    return "\n".join(["| | measured |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])


def picture(table: pd.DataFrame, path: Path) -> None:
    """THE figure, over the mean of the seeds, as a PNG with a white ground."""
    from metaembed_lite.plots import budget_curve

    columns = ["p_at_1", "bytes_per_candidate"]
    mean = table.groupby(["system", "r_q", "r_c"], as_index=False)[columns].mean()
    figure = budget_curve(mean)
    figure.savefig(path, dpi=110, facecolor="white", metadata={"Software": None})


def sentences() -> dict[str, str]:
    """Every generated block, by the name of its marker; what has no JSON yet says so."""
    names = "mmr verdicts picture results systems code shipped scoring caching efficiency timings"
    blocks = dict.fromkeys(names.split(), "*Not measured yet.*")
    log = ROOT / "metaembed_lite/checkpoints/tiny-vlm/pretraining_log.json"
    pretraining = json.loads(log.read_text("utf-8"))
    check_quality(log.name, "test_digits_read", pretraining["test_digits_read"])
    blocks["backbone"] = (
        f"`tiny-vlm` has {pretraining['parameters']:,} parameters, was pretrained for "
        f"{pretraining['steps']:,} steps ({pretraining['seconds'] / 60:.0f} minutes on a CPU) and "
        f"reads {pretraining['test_digits_read']:.1%} of the digits of writers it has never seen."
    )
    if (RESULTS / "findings.json").is_file():
        findings = read("findings")
        points = points_table(findings)
        table = ablation(points, "handwriting")
        seeds = plural(span(seeds_of(table).to_numpy().ravel()))
        minutes = table.train_seconds.mean() / 60
        runs = [
            cell
            for cell in findings["cells"].values()
            if cell["suite"] == "handwriting" and cell["system"] in SYSTEMS
        ]
        if not runs:
            raise ValueError(
                "findings.json has no cell of handwriting/MMR or handwriting/no-MMR; run python "
                "benchmarks/findings.py 'handwriting/*MMR/*'"
            )
        steps = span(run["train"]["steps"] for run in runs)
        blocks["mmr"] = (
            f"{seeds}, {steps} steps each, {minutes:.1f} minutes per run; mean, and range over "
            f"the seeds.\n\n{mmr_markdown(table)}\n\n"
            "```{image} results/mmr.png\n:alt: P at 1 against index bytes per board, with and "
            f"without MMR, mean of the seeds\n```\n\n{measured_on(runs[0])}"
        )
        blocks["verdicts"] = mmr_verdicts(table)
        blocks["picture"] = (
            "![P@1 against index bytes per board, with and without MMR](book/results/mmr.png)"
        )
        blocks["results"] = (
            "Real handwriting by unseen writers, 1,000 boards, half of them hard negatives; "
            f"mean and range over {seeds}:\n\n{mmr_markdown(table)}"
        )
        blocks["systems"] = "\n\n".join(
            systems_markdown(points, suite, findings["systems"], measure)
            for suite, measure in findings["suites"].items()
        )
        blocks["code"] = measures_markdown(points, "codesearch")
    if (RESULTS / "tiny.json").is_file():
        shipped = read("tiny")
        parts, conditions = [], []
        for cell in shipped["cells"].values():
            (name,) = (name for name, at in MODELS.items() if at == f"tiny-{cell['suite']}")
            check_cell(name, cell)
            found = ", ".join(
                f"{p['p_at_1']:.3f} at ({p['r_q']:d}, {p['r_c']:d})" for p in cell["points"]
            )
            parts.append(
                f"- `{name}`, as it ships: {cell['train']['steps']:,} steps over {cell['rows']:,} "
                f"rows of `{plain(cell['suite'])}` (seed {cell['seed']:d}, "
                f"{cell['train_seconds'] / 60:.0f} minutes): P@1 {found}."
            )
            conditions.append(measured_on(cell))
        blocks["shipped"] = "\n\n".join(["\n".join(parts), *dict.fromkeys(conditions)])
    if (RESULTS / "scoring.json").is_file():
        scoring = read("scoring")
        blocks["scoring"] = (
            f"{scoring['queries']:d} queries against {scoring['candidates']:,} candidates of "
            f"{scoring['dim']:d} dimensions: milliseconds, median of {scoring['repeats']:d} runs, "
            "and in brackets the MiB of the largest tensor made. `maxsim` is ours, "
            "`colbert_scores` sentence-transformers', and `one einsum` the definition.\n\n"
            f"{scoring_markdown(scoring)}\n\n{measured_on(scoring)}"
        )
    if (RESULTS / "gradient_caching.json").is_file():
        caching = read("gradient_caching")
        blocks["caching"] = f"{caching_markdown(caching)}\n\n{measured_on(caching)}"
    measured = sorted(RESULTS.glob("efficiency_*.json"))
    if measured:
        parts = []
        for result in map(read, (file.stem for file in measured)):
            parts.append(
                f"`{plain(result['shape'])}`, D = {result['dim']:d}: one query with an image of "
                f"{result['image_tokens']:,} tokens takes {result['encode_query_ms']:,.1f} ms and "
                f"{1000 * result['encode_query_tflop']:,.2f} GFLOP to encode; scoring it "
                f"against {result['candidates']:,} candidates:\n\n"
                f"{efficiency_markdown(result)}\n\nForward and backward of LoRA (rank 32, "
                f"{result['lora_batch']} inputs) take {result['lora_step_ms']:,.0f} ms, at "
                f"{result['lora_utilization']:.0%} of the speed of one large matrix product.\n\n"
                f"{measured_on(result)}"
            )
        blocks["efficiency"] = "\n\n".join(parts)
    if (RESULTS / "explorer.json").is_file():
        explorer = read("explorer")
        size, painted = explorer["size"], explorer["painted_ms"]
        blocks["explorer"] = (
            f"With {size['candidates']} candidates of {size['r_c']} vectors, queries of "
            f"{size['r_q']}, {size['dim']} dimensions: {painted['median']:.0f} ms (median of "
            f"{explorer['moves']} moves in Chromium; 95 % within {painted['p95']:.0f} ms) from the "
            "slider's event to the painted frame; the page itself has changed after "
            f"{explorer['changed_ms']['median']:.0f} ms. The explorer of chapter 7 adds "
            f"{explorer['handwriting_page_bytes'] / 1000:.0f} KB to its page.\n\n"
            f"{measured_on(explorer)}"
        )
    if (RESULTS / "timings.json").is_file():
        timings = read("timings")
        blocks["timings"] = f"{timings_markdown(timings)}\n\n{measured_on(timings)}"
    return blocks


def fill(text: str, blocks: dict[str, str]) -> str:
    """The text with what stands between ``<!-- name -->`` and ``<!-- /name -->`` made anew."""
    for name, block in blocks.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        pattern = re.escape(start) + ".*?" + re.escape(end)
        whole = f"{start}\n{block}\n{end}"
        text = re.sub(pattern, lambda _, w=whole: w, text, flags=re.DOTALL)
    return text


def main() -> None:
    """Write both pages and the picture, or nothing; exits with 1 and a message if it cannot."""
    path = RESULTS / "findings.json"
    if not path.is_file():
        sys.exit(
            f"{path} is missing, and without it the pages would lose their tables: run python "
            "benchmarks/findings.py, or restore the file; nothing was written"
        )
    try:
        blocks = sentences()
    except ValueError as error:
        sys.exit(f"{error}; nothing was written")
    except KeyError as error:
        sys.exit(f"a result file has no {error}: measure it again; nothing was written")
    picture(ablation(points_table(read("findings")), "handwriting"), RESULTS / "mmr.png")
    for page in (ROOT / "README.md", ROOT / "book" / "results.md"):
        page.write_text(fill(page.read_text("utf-8"), blocks), encoding="utf-8")
        print("written:", page.relative_to(ROOT))


if __name__ == "__main__":
    main()
