"""README and results page show the suite stickers as measured: rivals, curves and the surface."""

import json
import re
import shutil
from pathlib import Path
from statistics import mean

import findings as findings_script
import make_results
import pytest
from results_tables import NOT_MEASURED
from stickers_aims import render_aims
from stickers_cells import COMPARED, CURVES, IDEAS, SURFACES
from stickers_rivals import (
    MEANINGS,
    format_rivals,
    render_artist,
    render_costs,
    render_ideas,
    render_rivals,
)
from stickers_training import plot_mean_surface, plot_training, render_curve, render_surface

from metaembed_lite import checkpoints

ROOT = Path(__file__).parents[2]
REAL = json.loads((ROOT / "book/results/findings.json").read_text())
ENVIRONMENT = next(iter(REAL["cells"].values()))["environment"]
BUDGETS = [(1, 1), (2, 4), (4, 8), (8, 16)]
TOKENS = [(12.3, r_c) for r_c in (1.0, 4.0, 8.0, 16.0, 106.8)]
STEPS = [75, 150, 225, 300, 375, 450, 525, 600, 675, 750]


def make_point(budget, p_at_1, split="test", dim=128):
    r_q, r_c = budget
    return {
        "task": "stickers", "split": split, "r_q": r_q, "r_c": r_c, "dim": dim, "p_at_1": p_at_1,
        "ndcg_at_5": p_at_1, "mrr_at_10": p_at_1, "bytes_per_candidate": round(4 * dim * r_c),
    }  # fmt: skip


def make_cell(system, seed, budgets, qualities, label=None):
    """A cell whose P@1 on the unseen artist is half of that on the test."""
    points = [make_point(*point) for point in zip(budgets, qualities, strict=True)]
    unseen = [
        make_point(budget, quality / 2, "unseen artist")
        for budget, quality in zip(budgets, qualities, strict=True)
    ]
    r_q, r_c = budgets[-1]
    size = f"({r_q:.3g}, {r_c:.3g}) x 128"
    return {
        "suite": "stickers", "system": system, "label": label or f"label of {system}",
        "seed": seed, "train": {"steps": 750, "batch_size": 64, "precision": "bf16"},
        "rows": 48000, "train_seconds": 1800,
        "validation": [{"step": step, size: step / 1000} for step in STEPS],
        "points": [*points, *unseen], "environment": ENVIRONMENT,
    }  # fmt: skip


def make_findings(*cells):
    return {"cells": {f"stickers/{cell['system']}/{cell['seed']}": cell for cell in cells}}


QUALITIES = {
    ("mean", 0): [0.612],
    ("MMR", 0): [0.5, 0.7, 0.8, 0.9],
    ("MMR", 1): [0.56, 0.74, 0.83, 0.91],
    ("MMR", 2): [0.53, 0.75, 0.86, 0.95],
    ("tokens", 0): [0.1, 0.4, 0.74, 0.92, 0.99],
    ("tokens", 1): [0.2, 0.3, 0.70, 0.92, 0.97],
    ("constant", 0): [0.2, 0.3, 0.80, 0.91],
}
SIZES_OF = {"mean": [(1, 1)], "MMR": BUDGETS, "tokens": TOKENS, "constant": TOKENS[:4]}


@pytest.fixture
def findings():
    cells = [make_cell(s, seed, SIZES_OF[s], q) for (s, seed), q in QUALITIES.items()]
    return make_findings(*reversed(cells))  # the order of measuring does not matter


def rows_of(block):
    """The cells of each row of a block's tables, without the lines below the headers."""
    rows = [line for line in block.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


# Rivals


def test_the_rivals_table_has_mean_and_range_per_system_and_size(findings):
    header, *rows = rows_of(render_rivals(findings))
    assert header == ["P@1 at vectors per candidate", "1", "4", "8", "16", "all tokens", "seeds"]
    order = ["mean", "MMR", "tokens", "constant"]
    assert [row[0] for row in rows] == [f"label of {system}" for system in order]
    for system, row in zip(order, rows, strict=True):
        runs = [q for (name, _), q in QUALITIES.items() if name == system]
        expected = [
            f"{mean(of_size):.3f} ({min(of_size):.3f} to {max(of_size):.3f})"
            if len(runs) > 1
            else f"{of_size[0]:.3f}"
            for of_size in zip(*runs, strict=True)
        ]
        assert row[1:] == [*expected, *[""] * (5 - len(expected)), str(len(runs))]


def test_the_text_above_the_table_is_from_the_cells(findings):
    text = render_rivals(findings)
    assert "the same rows, and 750 steps. A vector has 128 numbers (512 bytes)," in text
    assert "All tokens are 107 vectors." in text
    findings["cells"]["stickers/mean/0"]["train"]["steps"] = 1500
    for point in findings["cells"]["stickers/tokens/1"]["points"]:
        point["r_c"] = 100.0 if point["r_c"] > 16 else point["r_c"]
    text = render_rivals(findings)
    assert "and 750 to 1,500 steps." in text
    assert "All tokens are 100 to 107 vectors." in text
    assert "AMD" in text.splitlines()[-1]


def test_a_sentence_names_the_winner_at_each_size_also_when_metaembed_loses(findings):
    # means of MMR: 0.530, 0.730, 0.830, 0.920; of tokens: 0.150, 0.350, 0.720, 0.920, 0.980
    assert format_rivals(findings).splitlines()[-1] == (
        '"label of MMR" (3 seeds) is one model for all sizes: P@1 goes from 0.530 with 1 vector to '
        "0.920 with 16. The best single vector has 0.612, and it cannot grow. "
        'At 1 vector, P@1 is highest for "label of mean" (1 seed). At 4 and 8 vectors, it is '
        'highest for "label of MMR" (3 seeds). At 16 vectors, it is highest for "label of MMR" '
        '(3 seeds) and "label of tokens" (2 seeds). With all tokens, it is highest for "label of '
        'tokens" (2 seeds). Compared with the best system without meta tokens, MMR is ahead by '
        "38.0 points at 4 vectors and 3.0 points at 8 vectors. It is behind by 8.2 points at 1 "
        "vector. It is level at 16 vectors."
    )


def test_one_model_with_mmr_is_compared_with_the_best_rival_of_each_size():
    cells = [
        make_cell("MMR", 0, BUDGETS, [0.1, 0.2, 0.3, 0.4]),
        make_cell("no-MMR", 0, BUDGETS, [0.0, 0.1, 0.35, 0.5]),
        make_cell("last", 0, [(1, 1)], [0.05]),
        make_cell("patches", 0, TOKENS[:4], [0.0, 0.25, 0.3, 0.41]),
    ]
    text = format_rivals(make_findings(*cells))
    assert text.endswith(
        "MMR is ahead by 5.0 points at 1 vector. It is behind by 5.0 points at 4 vectors and 1.0 "
        "points at 16 vectors. It is level at 8 vectors."
    )
    assert 'At 8 and 16 vectors, it is highest for "label of no-MMR" (1 seed).' in text
    alone = format_rivals(make_findings(cells[0]))
    assert alone.endswith('At 1, 4, 8, and 16 vectors, P@1 is highest for "label of MMR" (1 seed).')


def test_ideas_are_compared_with_mmr_and_rivals_are_not_among_them(findings):
    cell = make_cell("fixed-2x4", 0, BUDGETS[:2], [0.4, 0.76])
    findings["cells"]["stickers/fixed-2x4/0"] = cell
    header, *rows = rows_of(render_ideas(findings))
    assert header == ["P@1 at vectors per candidate", "1", "4", "8", "16", "seeds"]
    assert [row[0] for row in rows] == ["label of MMR", "label of fixed-2x4"]
    assert rows[1][1:] == ["0.400", "0.760", "", "", "1"]
    winner = 'At 1, 4, 8, and 16 vectors, P@1 is highest for "label of MMR" (3 seeds). This leaves'
    assert winner in render_ideas(findings)
    assert render_ideas(make_findings()) == NOT_MEASURED


def test_only_ideas_that_were_measured_are_explained(findings):
    for system in ("random-budgets", "one-tau"):
        name = {"random-budgets": "**Random budgets**", "one-tau": "**Temperature**"}[system]
        assert name not in render_ideas(findings)
        cell = make_cell(system, 0, BUDGETS, [0.4, 0.5, 0.6, 0.7])
        findings["cells"][f"stickers/{system}/0"] = cell
        assert name in render_ideas(findings)
    explained = {system for systems in MEANINGS for system in systems}
    assert set(IDEAS) - explained == {"MMR", "late-0"}  # explained below the table of rivals


def test_every_system_of_the_pages_can_be_measured():
    assert {*COMPARED, *IDEAS, *CURVES, *SURFACES} <= set(findings_script.SYSTEMS)


def test_the_unseen_artist_is_shown_at_each_systems_largest_size(findings):
    header, *rows = rows_of(render_artist(findings))
    assert header == ["P@1", "vectors", "seen drawings", "unseen drawings"]
    assert rows[0] == ["label of mean", "1", "0.612", "0.306"]
    assert rows[1] == ["label of MMR", "16", "0.920 (0.900 to 0.950)", "0.460 (0.450 to 0.475)"]
    assert rows[2][:2] == ["label of tokens", "all tokens"]
    assert rows[3][:2] == ["label of constant", "16"]
    assert "On unseen drawings, P@1 is at most 0.490:" in render_artist(findings)


# Curves


def set_curve(cell, size, values):
    steps = zip(STEPS, values, strict=True)
    cell["validation"] = [{"step": step, "(1, 1) x 128": 0.01, size: p} for step, p in steps]


def test_the_change_over_the_last_fifth_of_the_steps_is_the_mean_over_the_seeds():
    cells = [make_cell("MMR", seed, BUDGETS, [0.1] * 4) for seed in (0, 1)]
    set_curve(cells[0], "(8, 16) x 128", [0.1] * 7 + [0.80, 0.0, 0.85])
    set_curve(cells[1], "(8, 16) x 128", [0.1] * 7 + [0.82, 0.0, 0.83])
    last = make_cell("tokens", 0, TOKENS, [0.1] * 5)
    set_curve(last, "(12.3, 107) x 128", [0.1] * 7 + [0.9, 0.9, 0.895])
    assert render_curve(make_findings(*cells, last)).endswith(
        'Over the last fifth of the steps, P@1 rose by 3.0 points for "label of MMR" (2 seeds). '
        "The other curves changed by at most 0.5 points."
    )


def test_a_curve_that_falls_when_the_nested_budgets_start_is_explained():
    cell = make_cell("MMR", 0, BUDGETS, [0.1] * 4)
    cell["train"] = {"steps": 750, "nest_after": 0.25}  # the nested budgets start at 187.5
    set_curve(cell, "(8, 16) x 128", [0.5, 0.9, 0.7] + [0.95] * 7)
    text = render_curve(make_findings(cell))
    assert 'The curve of "label of MMR" (1 seed) falls from 0.900 to 0.700 after step 188.' in text
    assert text.endswith(
        "Over the last fifth of the steps, all curves changed by at most 0.0 points."
    )
    figure = plot_training(make_findings(cell))
    assert "the nested budgets start" in [line.get_label() for line in figure.axes[0].lines]
    set_curve(cell, "(8, 16) x 128", [0.5, 0.6, 0.7] + [0.95] * 7)
    assert "falls" not in render_curve(make_findings(cell))


def test_a_curve_is_at_16_vectors_where_the_validation_has_them():
    pooled = make_cell("pooled", 0, TOKENS, [0.1] * 5)
    pooled["validation"] = [
        {"step": step, "(12.3, 16) x 128": step / 1000, "(12.3, 107) x 128": 0.5} for step in STEPS
    ]
    figure = plot_training(make_findings(pooled, make_cell("mean", 0, [(1, 1)], [0.3])))
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["label of pooled"].get_xdata().tolist() == STEPS
    assert lines["label of pooled"].get_ydata().tolist() == [step / 1000 for step in STEPS]
    assert set(lines) == {"label of pooled", "label of mean"}


# The surface


def make_surfaces(system, *grids):
    """Cells with one seed per grid, whose rows are r_q = 1, 2, 4 and columns r_c = 1, 2."""
    cells = []
    for seed, grid in enumerate(grids):
        cell = make_cell(system, seed, BUDGETS, [0.1] * 4)
        cell["surface"] = [
            [2.0**i, 2.0**j, p] for i, row in enumerate(grid) for j, p in enumerate(row)
        ]
        cells.append(cell)
    return cells


def test_the_surface_is_the_mean_over_the_seeds_and_its_losses_are_counted():
    grids = [[0.2, 0.4], [0.3, 0.35], [0.1, 0.25]], [[0.4, 0.6], [0.5, 0.55], [0.1, 0.25]]
    # mean: 0.3 0.5 / 0.4 0.45 / 0.1 0.25. Down: + - / - -. Right: + + +. Loss: 0.40 to 0.10.
    text = render_surface(make_findings(*make_surfaces("MMR", *grids)))
    assert "| P@1 | r_c = 1 | r_c = 2 |" in text
    assert "| r_q = 1 | 0.300 | 0.500 |\n| r_q = 2 | 0.400 | 0.450 |" in text
    assert (
        "**label of MMR, mean over 2 seeds.** "
        "From row to row, more query vectors lowered P@1 in 3 of 4 steps. From column to column, "
        "more candidate vectors lowered it in 0 of 3 steps. The largest loss is 30.0 points, from "
        "(2, 1) to (4, 1)."
    ) in text
    assert ":alt: heat map of P at 1 by query and candidate vectors, label of MMR" in text
    figure = plot_mean_surface(make_findings(*make_surfaces("MMR", *grids)))
    values = [text.get_text() for text in figure.axes[0].texts]
    assert values == ["0.30", "0.50", "0.40", "0.45", "0.10", "0.25"]


def test_a_loss_over_two_steps_is_the_largest():
    grid = [[0.9, 0.9], [0.8, 0.9], [0.7, 0.9]]
    text = render_surface(make_findings(*make_surfaces("late-0", grid)))
    assert "The largest loss is 20.0 points, from (1, 1) to (4, 1)." in text


def test_a_surface_without_a_loss_says_so():
    grid = [[0.1, 0.2], [0.1, 0.3], [0.2, 0.4]]
    text = render_surface(make_findings(*make_surfaces("MMR", grid)))
    assert "0 of 3 steps. More vectors on one side never lost anything." in text


# What is missing


def drop(field):
    return lambda cell: cell.pop(field)


def drop_of_point(field):
    return lambda cell: cell["points"][1].pop(field)


def keep_test_only(cell):
    cell["points"] = [point for point in cell["points"] if point["split"] == "test"]


def change_point(**fields):
    return lambda cell: cell["points"][1].update(fields)


@pytest.mark.parametrize(
    ("spoil", "render", "message"),
    [
        (drop("train"), render_rivals,
         "cell stickers/MMR/1 has no 'train'; run python benchmarks/findings.py 'stickers/MMR/1'"),
        (lambda cell: cell["train"].pop("steps"), render_rivals, "MMR/1 has no 'steps'; run"),
        (drop_of_point("dim"), render_rivals, "MMR/1 has no 'dim'; run python"),
        (drop_of_point("r_c"), render_rivals, "MMR/1 has no 'r_c'; run python"),
        (drop_of_point("p_at_1"), render_rivals, "MMR/1 has no 'p_at_1'; run python"),
        (drop_of_point("split"), render_artist, "MMR/1 has no 'split'; run python"),
        (keep_test_only, render_artist, "MMR/1 has no split 'unseen artist'; run python"),
        (change_point(r_c=3.7), render_rivals, "MMR/1 has 3.7 vectors per candidate, expected one"),
        (change_point(dim=64), render_rivals,
         r"systems of stickers differ in D, \[64, 128\], and equal vectors are not equal bytes"),
        (change_point(r_c=16), render_rivals,
         r"stickers/MMR: not every seed has one value at size = 4; run .*'stickers/MMR/\*'"),
        (drop("validation"), render_curve, "MMR/1 has no 'validation'; run python"),
        (lambda cell: cell.update(validation=[]), render_curve, "MMR/1 has no 'validation'"),
        (lambda cell: cell["validation"].pop(), render_curve, "MMR: .* one value at step = 750;"),
        (lambda cell: cell["validation"][3].pop("step"), render_curve, "MMR/1 has no 'step'"),
        (lambda cell: cell["validation"][0].pop("(8, 16) x 128"), render_curve,
         r"MMR/1: validation has the columns \['step'\], expected step and sizes"),
        (lambda cell: cell["validation"][2].pop("(8, 16) x 128"), render_curve,
         r"MMR/1: validation at step 225: \(8, 16\) x 128 is None, expected a number from 0 to 1"),
        (drop("surface"), render_surface, "MMR/1 has no 'surface'; run python"),
        (lambda cell: cell["surface"][1].pop(), render_surface, "MMR/1: surface has the row"),
        (lambda cell: cell["surface"].pop(), render_surface, "MMR: .* at r_q = 4, r_c = 2; run"),
        (lambda cell: cell["surface"][1].__setitem__(2, 7), render_surface,
         "MMR/1: surface at .*: p_at_1 is 7, expected a number from 0 to 1"),
    ],
)  # fmt: skip
def test_a_field_that_is_missing_or_wrong_is_refused_with_its_cell(spoil, render, message):
    cells = make_surfaces("MMR", *[[[0.1, 0.2], [0.1, 0.3], [0.2, 0.4]]] * 2)
    spoil(cells[1])
    with pytest.raises(ValueError, match=message):
        render(make_findings(*cells))


def test_a_curve_of_one_step_and_a_surface_with_a_gap_are_refused():
    cell = make_surfaces("MMR", [[0.1, 0.2], [0.1, 0.3], [0.2, 0.4]])[0]
    cell["validation"] = cell["validation"][:1]
    with pytest.raises(ValueError, match="stickers/MMR: validation has step 75 only"):
        render_curve(make_findings(cell))
    del cell["surface"][2]
    with pytest.raises(ValueError, match="stickers/MMR/0: surface has no P@1 at some of r_q"):
        render_surface(make_findings(cell))


# Aims


def test_each_aim_is_judged_by_the_means_that_were_measured(findings):
    # means of MMR: 0.530, 0.730, 0.830, 0.920; of the single vector: 0.612
    assert [row[1:] for row in rows_of(render_aims(findings))[1:]] == [
        ["at least 0.40", "0.530", "reached"],
        ["at least 0.90", "0.920", "reached"],
        ["at most 3 points behind", "8.2 points behind", "not reached"],
        ["at least 15 points ahead", "30.8 points ahead", "reached"],
    ]
    others = [
        make_cell("no-MMR", 0, BUDGETS, [0.30, 0.4, 0.5, 0.95]),
        make_cell("fixed-2x4", 0, BUDGETS[1:2], [0.74]),
    ]
    added = {"cells": {**findings["cells"], **make_findings(*others)["cells"]}}
    assert [row[1:] for row in rows_of(render_aims(added))[5:]] == [
        ["at most 2 points behind", "3.0 points behind", "not reached"],
        ["less than a third", "0.316", "reached"],
        ["at most 2 points behind", "1.0 points behind", "reached"],
    ]
    text = {
        f"codesearch/{system}/0": make_cell(system, 0, [budget], [quality])
        | {"suite": "codesearch"}
        for system, budget, quality in (("untrained", (1, 1), 0.3), ("MMR", (8, 16), 0.4))
    }
    digits = make_cell("MMR", 0, BUDGETS, [0.1, 0.4, 0.7, 0.91]) | {"suite": "handwriting"}
    more = {"cells": {**added["cells"], **text, "handwriting/MMR/0": digits}}
    assert [row[1:] for row in rows_of(render_aims(more))[8:]] == [
        ["at least 0.90", "0.910", "reached"],
        ["at least 15 points ahead", "10.0 points ahead", "not reached"],
    ]
    del findings["cells"]["stickers/MMR/0"], findings["cells"]["stickers/MMR/1"]
    del findings["cells"]["stickers/MMR/2"]
    assert render_aims(findings) == NOT_MEASURED


# What an index costs


def test_costs_show_a_second_pass_only_where_there_is_one():
    query = {"r_q": 14, "encode_ms": 16.44, "score_ms": 0.331}
    row = {
        "label": "tokens", "r_c": 107, "encode_ms_per_candidate": 19.56,
        "cluster_ms_per_candidate": 0.0, "text": query, "image": query | {"r_q": 120},
    }  # fmt: skip
    clustered = row | {"label": "clustered", "r_c": 16, "cluster_ms_per_candidate": 1.66}
    costs = {
        "candidates": 1000,
        "queries": 50,
        "rows": [row, clustered],
        "environment": ENVIRONMENT,
    }
    queries = "14 vectors, 16.4 + 0.33 ms | 120 vectors, 16.4 + 0.33 ms |"
    assert render_costs(costs).splitlines()[4:6] == [
        f"| tokens | 107 | 19.6 ms |  | {queries}",
        f"| clustered | 16 | 19.6 ms | 1.7 ms | {queries}",
    ]


# The pages


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of pages and results without cells of stickers, for the script to work on."""
    folders = [f"metaembed_lite/checkpoints/{name}" for name in checkpoints.BACKBONES]
    logs = [f"{folder}/pretraining_log.json" for folder in folders]
    for path in (*make_results.PAGES, "book/results", *logs):
        source, target = ROOT / path, tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    for figure in make_results.FIGURES:
        (tmp_path / "book/results" / figure).unlink(missing_ok=True)
    monkeypatch.setattr(make_results, "ROOT", tmp_path)
    monkeypatch.setattr(make_results, "RESULTS", tmp_path / "book/results")
    write_cells(tmp_path, {})
    return tmp_path


def write_cells(project, stickers):
    """Replace the cells of stickers in a project's findings."""
    others = {k: cell for k, cell in REAL["cells"].items() if not k.startswith("stickers/")}
    suites = {**REAL["suites"], "stickers": "p_at_1"}
    content = {**REAL, "suites": suites, "cells": {**others, **stickers}}
    (project / "book/results/findings.json").write_text(json.dumps(content))


def run(project):
    """Run the script and return the text of both pages."""
    make_results.main()
    return [(project / page).read_text() for page in ("README.md", "book/results.md")]


def block(page, name):
    return re.search(f"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", page, re.DOTALL)[1]


def test_without_cells_both_pages_say_not_measured(project):
    readme, results = run(project)
    for name in ("bytes", "rivals", "aims", "artist", "curve", "surface"):
        assert block(results, name) == NOT_MEASURED
    assert block(readme, "results") == block(readme, "picture") == NOT_MEASURED
    assert not list((project / "book/results").glob("*.png"))
    assert "`stickers`:" not in results
    assert "`codesearch`:" in block(results, "systems")


def test_a_cell_without_a_curve_or_a_surface_of_the_page_leaves_these_out(project):
    write_cells(project, make_findings(make_cell("attention", 0, TOKENS[:4], [0.1] * 4))["cells"])
    readme, results = run(project)
    assert block(results, "curve") == block(results, "surface") == NOT_MEASURED
    assert block(readme, "picture") == NOT_MEASURED
    assert "| label of attention | 0.100 | 0.100 | 0.100 | 0.100 | 1 |" in readme
    assert "`stickers`:" in block(results, "systems")


def test_the_readme_leads_with_all_rivals_and_keeps_to_its_length(project):
    cells = [make_cell(system, 0, TOKENS, [0.1] * 5) for system in COMPARED]
    for cell in cells:
        cell["surface"] = [[r_q, r_c, 0.5] for r_q in (1.0, 2.0) for r_c in (1.0, 2.0)]
    write_cells(project, make_findings(*cells)["cells"])
    readme, results = run(project)
    assert len(readme.splitlines()) <= 120
    before_install = readme.partition("\n## ")[0]
    assert len(re.findall(r"^\| label of ", before_install, re.MULTILINE)) == len(COMPARED)
    assert block(readme, "results") in block(results, "rivals")
    assert "(book/results/curve.png)" in block(readme, "picture")
    assert (project / "book/results/curve.png").stat().st_size > 0
    assert NOT_MEASURED not in readme + results


def test_text_of_a_cell_is_never_markup(project):
    label = "<script> | `b` <!-- /rivals -->\n| c |"
    cells = make_surfaces("MMR", [[0.1, 0.2], [0.1, 0.3], [0.2, 0.4]])
    write_cells(project, make_findings({**cells[0], "label": label})["cells"])
    readme, results = run(project)
    for page in (readme, results):
        assert "<script" not in page
        assert len(re.findall("<!-- .*? -->", page)) == 2 * len(
            re.findall("<!-- /[a-z]+ -->", page)
        )
    assert r"&lt;script&gt; \| 'b' &lt;!-- /rivals --&gt; \| c \|" in results
