"""Write the measured numbers into the pages in ``PAGES``, so that none is typed by hand.

    python book/make_results.py

The pages have blocks between ``<!-- name -->`` and ``<!-- /name -->``. Each block is rendered
from one file of ``book/results/``. ``BLOCKS`` lists them. Each ``render_...`` takes the content of
its file and returns Markdown.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from abuse_tables import render_abuse
from make_book import notebooks
from results_tables import (
    NOT_MEASURED,
    fold,
    format_environment,
    format_environments,
    format_measures,
    format_suite,
    format_table,
    held_out_points,
    join_words,
    to_plain_text,
)
from search_tables import render_kills, render_scoring, render_search
from stickers_aims import render_aims
from stickers_bytes import PICTURE, plot_bytes, render_bytes, summarize_dimensions
from stickers_cells import find_cells, read_field
from stickers_rivals import (
    format_comparison,
    render_artist,
    render_costs,
    render_ideas,
    render_rivals,
    summarize_rivals,
)
from stickers_training import (
    CURVE_SIZE,
    plot_mean_surface,
    plot_training,
    render_curve,
    render_surface,
)

from metaembed_lite import checkpoints
from metaembed_lite.results import load_findings, load_pretraining_log, load_result

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "book" / "results"
PAGES = ("README.md", "book/results.md", "book/your_own_data.md", "book/security.md")
CELL_FILES = ("findings", "tiny")
SHIPPED = {  # the bundled model of each cell in tiny.json
    ("stickers", "MMR"): "tiny",
    ("stickers", "no-MMR"): "tiny-no-mmr",
    ("stickers", "mean"): "tiny-single",
    ("handwriting", "MMR"): "tiny-handwriting",
}


READS = {  # what a pretraining log measures
    "test_digits": "of the digits of unseen writers",
    "unseen_sheets": "of the stickers on unseen sheets",
    "unseen_artist": "of the drawings that are not in its training data",
}


def render_backbones(logs: dict[str, dict[str, Any]]) -> str:
    """Describe the backbones of the results, by name."""
    lines = []
    for name, log in logs.items():
        steps = log["steps"] + log.get("places", {"steps": 0})["steps"]
        reads = [f"{log['reads'][key]:.1%} {text}" for key, text in READS.items()]
        lines.append(
            f"- `{name}` has {log['parameters']:,} parameters and was pretrained for "
            f"{steps:,} steps ({log['seconds'] / 60:.0f} minutes on a CPU). It reads "
            f"{join_words(reads)}. The image tokens of things have an effective rank of "
            f"{log['tower']['effective_rank']:.0f}."
        )
    return "\n".join(lines)


def render_picture(findings: dict[str, Any]) -> str:
    """Refer to the README's figure, with a caption. ``save_figures`` draws it."""
    if plot_training(findings) is None:
        return NOT_MEASURED
    return (
        "![Validation P@1 on stickers against training steps](book/results/curve.png)\n"
        "*P@1 during training. It is the share of queries whose best-scored sheet is right, with "
        f'{CURVE_SIZE} vectors per sheet or, without this size, with the largest. "MetaEmbed with '
        'MMR" first trains its largest budget alone. Where its line falls, it starts to train all '
        "budgets together. From then on, one model serves every size.*"
    )


def render_summary(findings: dict[str, Any]) -> str:
    """Say in a few sentences how MetaEmbed compares with its rivals on stickers."""
    if not find_cells(findings):
        return NOT_MEASURED
    sentences = summarize_rivals(findings), summarize_dimensions(findings)
    return " ".join(filter(None, sentences)) or NOT_MEASURED


def render_results(findings: dict[str, Any]) -> str:
    """Write the README's table: MetaEmbed and its rivals on stickers."""
    return format_comparison(findings) if find_cells(findings) else NOT_MEASURED


def render_own_data(findings: dict[str, Any]) -> str:
    """Say how long the recipe ``tiny`` takes."""
    cells = find_cells(findings, ["MMR"])
    if not cells:
        return NOT_MEASURED
    seconds = [read_field(name, cell, "train_seconds") for name, cell in cells.items()]
    training = read_field(*next(iter(cells.items())), "train")
    low, high = (f"{value / 60:.0f}" for value in (min(seconds), max(seconds)))
    minutes = low if low == high else f"{low} to {high}"
    return (
        f"The recipe `tiny` trained in {minutes} minutes on one CPU core: {training['steps']:,} "
        f"steps of {training['batch_size']} rows in {training['precision']}, {len(seconds)} runs. "
        "The time grows with the steps and the batch, not with the size of your folder.\n\n"
        f"{format_environment(findings)}"
    )


def render_systems(findings: dict[str, Any]) -> str:
    """Compare the measured systems of every measured suite at equal index bytes."""
    points, suites = held_out_points(findings), findings["suites"].items()
    measured = set(points.suite)
    tables = (
        format_suite(points, suite, measure) for suite, measure in suites if suite in measured
    )
    return fold("Every system and suite", "\n\n".join(tables))


def render_code(findings: dict[str, Any]) -> str:
    """Write every measure on code search."""
    return format_measures(held_out_points(findings), "codesearch")


def render_shipped(tiny: dict[str, Any]) -> str:
    """Describe the bundled models, with the length of training and the quality per budget."""
    lines = []
    for cell in tiny["cells"].values():
        qualities = ", ".join(
            f"{point['p_at_1']:.3f} at ({point['r_q']:.0f}, {point['r_c']:.0f})"
            for point in cell["points"]
            if point["split"] == "test"
        )
        lines.append(
            f"- `{SHIPPED[cell['suite'], cell['system']]}`, {to_plain_text(cell['label'])}: "
            f"{cell['train']['steps']:,} steps over "
            f"{cell['rows']:,} rows of `{to_plain_text(cell['suite'])}` (seed {cell['seed']:d}, "
            f"{cell['train_seconds'] / 60:.0f} minutes). P@1 is {qualities}."
        )
    return "\n".join(lines) + "\n\n" + format_environments(tiny["cells"].values())


def render_caching(caching: dict[str, Any]) -> str:
    """Compare memory and time of a training step with and without gradient caching."""
    table = pd.DataFrame(caching["rows"])
    rows = []
    for batch_size, runs in table.groupby("batch_size"):
        at_once, in_parts = runs[runs.mini_batch_size.isna()], runs[runs.mini_batch_size.notna()]
        cells = [f"{r.mib.iloc[0]:,.0f} ({r.seconds.iloc[0]:.1f})" for r in (at_once, in_parts)]
        rows.append([str(batch_size), *cells])
    parts = f"in parts of {table.mini_batch_size.max():.0f}, MiB (s)"
    header = ["batch", "all at once, MiB (s)", parts]
    return f"{format_table(header, rows)}\n\n{format_environment(caching)}"


def render_efficiency(efficiency: list[dict[str, Any]]) -> str:
    """Compare the costs of encoding and scoring, one part per shape of the backbone."""
    return "\n\n".join(map(format_efficiency, efficiency))


def format_efficiency(result: dict[str, Any]) -> str:
    """Compare the costs of encoding and scoring for one shape of the backbone."""
    header = ["budget", "scoring, ms", "GFLOP", "index, GiB (bfloat16)", "encoding / scoring"]
    rows = [
        [
            to_plain_text(row["budget"]),
            f"{row['score_ms']:,.1f}",
            f"{row['score_gflop']:.2f}",
            f"{row['index_gib_bf16']:.3f}",
            f"{row['encode_over_score']:.2f}",
        ]
        for row in result["rows"]
    ]
    return (
        f"`{to_plain_text(result['shape'])}`, D = {result['dim']:d}. Encoding one query with an "
        f"image of {result['image_tokens']:,} tokens takes {result['encode_query_ms']:,.1f} ms "
        f"and {1000 * result['encode_query_tflop']:,.2f} GFLOP. Scoring it against "
        f"{result['candidates']:,} candidates:\n\n{format_table(header, rows)}\n\n"
        f"A training step of LoRA (rank 32, {result['lora_batch']} inputs, forward and backward) "
        f"takes {result['lora_step_ms']:,.0f} ms. That is {result['lora_utilization']:.0%} of the "
        f"speed of one large matrix product.\n\n{format_environment(result)}"
    )


def render_explorer(explorer: dict[str, Any]) -> str:
    """Describe how fast the explorer repaints."""
    size, painted = explorer["size"], explorer["painted_ms"]
    return (
        f"{size['candidates']} candidates of {size['r_c']} vectors, queries of {size['r_q']} "
        f"vectors, {size['dim']} dimensions. The time from the slider's event to the painted frame "
        f"is {painted['median']:.0f} ms (median of {explorer['moves']} moves in Chromium; 95% take "
        f"at most {painted['p95']:.0f} ms). The page itself has changed after "
        f"{explorer['changed_ms']['median']:.0f} ms. An explorer of boards of handwriting "
        f"adds {explorer['handwriting_page_bytes'] / 1000:.0f} KB to its page. This was measured "
        f"on {to_plain_text(explorer['environment']['date'])}, and the explorer may have changed "
        "since.\n\n"
        f"{format_environment(explorer)}"
    )


def render_timings(timings: dict[str, Any]) -> str:
    """Describe how long a newcomer waits."""
    rows = [["`import metaembed_lite`", f"{timings['import_seconds']:.3f} s", ""]]
    chapters = set(notebooks())
    notes = ""
    for target, profile in (("test", "smoke"), ("book", "cpu")):
        if f"make_{target}_seconds" in timings:
            minutes = timings[f"make_{target}_seconds"] / 60
            seconds = timings[f"notebooks_{profile}_seconds"]
            within = f"{sum(seconds.values()) / 60:.1f} min (`{profile}`)"
            rows.append([f"`make {target}`, clean clone", f"{minutes:.1f} min", within])
            if set(seconds) != chapters:
                notes = (
                    f"This was measured on {timings['environment']['date']}. The book had "
                    f"{len(seconds)} notebooks then. Now it has {len(chapters)}, so expect other "
                    "times.\n\n"
                )
    header = ["", "measured", "of which notebooks"]
    return f"{format_table(header, rows)}\n\n{notes}{format_environment(timings)}"


# name of the block -> (name of the result, function of its content)
BLOCKS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "bytes": ("findings", render_bytes),
    "rivals": ("findings", render_rivals),
    "artist": ("findings", render_artist),
    "aims": ("findings", render_aims),
    "costs": ("index_costs", render_costs),
    "ideas": ("findings", render_ideas),
    "curve": ("findings", render_curve),
    "surface": ("findings", render_surface),
    "backbones": ("backbones", render_backbones),
    "picture": ("findings", render_picture),
    "summary": ("findings", render_summary),
    "results": ("findings", render_results),
    "own-data": ("findings", render_own_data),
    "systems": ("findings", render_systems),
    "code": ("findings", render_code),
    "shipped": ("tiny", render_shipped),
    "scoring": ("scoring", render_scoring),
    "search": ("search", render_search),
    "kills": ("kill_index", render_kills),
    "caching": ("gradient_caching", render_caching),
    "efficiency": ("efficiency", render_efficiency),
    "explorer": ("explorer", render_explorer),
    "timings": ("timings", render_timings),
    "abuse": ("abuse", render_abuse),
}


FIGURES = {PICTURE: plot_bytes, "curve.png": plot_training, "surface.png": plot_mean_surface}


def read_results() -> dict[str, Any]:
    """Read and check every result file, by name.

    ``backbones`` are the pretraining logs by name. ``efficiency`` is a list: one result per shape.
    """
    folder = ROOT / "metaembed_lite" / "checkpoints"
    logs = {name: load_pretraining_log(folder / name) for name in checkpoints.BACKBONES}
    results: dict[str, Any] = {"backbones": logs}
    for path in sorted(RESULTS.glob("*.json")):
        read = load_findings if path.stem in CELL_FILES else load_result
        if path.stem.startswith("efficiency_"):
            results.setdefault("efficiency", []).append(read(path))
        else:
            results[path.stem] = read(path)
    return results


def render_blocks() -> dict[str, str]:
    """Render every block, by name. A block without a result file says so."""
    results = read_results()
    return {
        name: render(results[source]) if source in results else NOT_MEASURED
        for name, (source, render) in BLOCKS.items()
    }


def fill(page: str, blocks: dict[str, str]) -> str:
    """Replace only the text between ``<!-- name -->`` and ``<!-- /name -->``."""
    for name, block in blocks.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        pattern = re.escape(start) + ".*?" + re.escape(end)
        whole = f"{start}\n{block}\n{end}"
        page = re.sub(pattern, lambda _, whole=whole: whole, page, flags=re.DOTALL)
    return page


def save_figures(findings: dict[str, Any], folder: Path) -> None:
    """Draw the measured figures of the pages as PNG files on white, for light and dark pages."""
    for name, plot in FIGURES.items():
        figure = plot(findings)
        if figure is not None:
            look = {"dpi": 110, "facecolor": "white", "bbox_inches": "tight"}
            figure.savefig(folder / name, **look, metadata={"Software": None})


def main() -> None:
    """Write the pages and the figure. On an error, write nothing and exit with 1 and a message."""
    path = RESULTS / "findings.json"
    if not path.is_file():
        sys.exit(
            f"{path} is missing, and the pages would lose their tables: run python "
            "benchmarks/findings.py, or restore the file. Nothing was written"
        )
    try:
        blocks = render_blocks()
    except ValueError as error:
        sys.exit(f"{error}. Nothing was written")
    except KeyError as error:
        sys.exit(f"a result file has no {error}: measure it again. Nothing was written")
    save_figures(load_findings(path), RESULTS)
    for name in PAGES:
        page = ROOT / name
        page.write_text(fill(page.read_text("utf-8"), blocks), encoding="utf-8")
        print("written:", name)


if __name__ == "__main__":
    main()
