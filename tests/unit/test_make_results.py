"""The pages show the numbers of the measured JSON, and none is typed by hand."""

import copy
import json
import math
import re
import shutil
from pathlib import Path

import make_results
import pandas as pd
import pytest
from make_book import notebooks
from make_results import fill, render_blocks, render_timings
from results_tables import format_measures, format_suite

from metaembed_lite import checkpoints

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of the pages, the results and the pretraining log, for the script to work on."""
    for path in (*PAGES, "book/results", *LOGS):
        source, target = ROOT / path, tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    monkeypatch.setattr(make_results, "ROOT", tmp_path)
    monkeypatch.setattr(make_results, "RESULTS", tmp_path / "book/results")
    monkeypatch.setattr(make_results, "save_figures", lambda findings, folder: None)
    return tmp_path


LOGS = [f"metaembed_lite/checkpoints/{name}/pretraining_log.json" for name in checkpoints.BACKBONES]
PAGES = ["README.md", "book/results.md", "book/your_own_data.md", "book/security.md"]


def change(project, function, name="findings"):
    path = project / f"book/results/{name}.json"
    result = json.loads(path.read_text())
    function(result)
    path.write_text(json.dumps(result))  # NaN as Python writes it


def run(project):
    """Run the script and return the texts of the pages."""
    make_results.main()
    return [(project / page).read_text() for page in PAGES]


def refusal(project):
    """Run the script, which must refuse and write nothing, and return its message."""
    before = [(project / page).read_bytes() for page in PAGES]
    with pytest.raises(SystemExit) as stop:
        make_results.main()
    assert [(project / page).read_bytes() for page in PAGES] == before
    assert isinstance(stop.value.code, str)  # exits with 1 and prints it
    return stop.value.code


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_what_the_json_holds(page):
    text = (ROOT / page).read_text()
    assert fill(text, render_blocks()) == text, "run: python book/make_results.py"


def test_a_range_is_over_seeds_and_not_over_tasks():
    system = {"suite": "s", "label": "one", "r_q": 1, "r_c": 1, "dim": 8}
    size = {"a": 32, "b": 48}  # the number of token vectors differs between tasks
    scores = {("a", 0): 0.1, ("b", 0): 0.3, ("a", 1): 0.5, ("b", 1): 0.9}
    points = [
        system
        | {"system": "MMR", "task": task, "seed": seed, "p_at_1": p}
        | {"bytes_per_candidate": size[task]}
        for (task, seed), p in scores.items()
    ]
    table = format_suite(pd.DataFrame(points), "s")
    assert "| one | 0.450 (0.200 to 0.700) | 2 |" in table
    assert "| a | 0.300 |\n| b | 0.600 |\n| mean | 0.450 |" in table
    assert table.startswith("`s`:\n\n| P@1 at index bytes | 40 | seeds |")


def test_a_suite_or_system_that_nobody_measured_is_not_listed(project):
    def add(result):
        result["suites"]["new-suite"] = "p_at_1"
        result["systems"]["new-system"] = "a new system"

    change(project, add)
    _, results, *_ = run(project)
    assert "`codesearch`:" in results
    assert not re.search("new-suite|new-system|a new system|not measured:", results, re.IGNORECASE)


def test_fill_replaces_only_the_text_between_markers():
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb"
    assert fill(text, {"x": "new"}) == "a\n<!-- x -->\nnew\n<!-- /x -->\nb"


def test_the_script_writes_the_pages_as_they_are_committed(project):
    assert run(project) == [(ROOT / page).read_text() for page in PAGES]


def keep_first_seed(result):
    result["cells"] = {key: cell for key, cell in result["cells"].items() if cell["seed"] == 0}


def copy_cell(result, name, seed):
    """Add a cell with another seed, and return its points."""
    cell = copy.deepcopy(result["cells"][f"{name}/0"]) | {"seed": seed}
    result["cells"][f"{name}/{seed}"] = cell
    return cell["points"]


def row_of(page, name, label):
    """The first row of a system in a block."""
    return re.search(rf"(?s)<!-- {name} -->.*?^(\| {label} \|[^\n]*)", page, re.MULTILINE)[1]


@pytest.mark.parametrize("system", ["MMR", "no-MMR"])
@pytest.mark.parametrize(
    ("qualities", "expected"),
    [([0.2, 0.6], "0.400 (0.200 to 0.600)"), ([0.2, 0.6, 0.1], "0.300 (0.100 to 0.600)")],
)
def test_a_row_over_more_seeds_names_their_number_and_range(project, system, qualities, expected):
    def add(result):
        keep_first_seed(result)
        for seed, p_at_1 in enumerate(qualities):
            for point in copy_cell(result, f"stickers/{system}", seed):
                point["p_at_1"] = p_at_1

    change(project, add)
    readme, results, *_ = run(project)
    labels = ["MetaEmbed with MMR", "MetaEmbed without MMR"]
    many, one = labels if system == "MMR" else reversed(labels)
    for page, name in ((readme, "results"), (results, "rivals"), (results, "systems")):
        assert f"| {expected} |" in row_of(page, name, many)
        assert row_of(page, name, many).endswith(f"| {len(qualities)} |")
        assert " to " not in row_of(page, name, one)
        assert row_of(page, name, one).endswith("| 1 |")
    seeds = f"{len(qualities)} seeds" if system == "MMR" else "1 seed"
    assert f'"MetaEmbed with MMR" ({seeds}) is one model for all sizes' in readme
    for page in (readme, results):
        assert "One run each" not in page
        assert page.count("Mean over the seeds, with the range in parentheses:") == 1


def test_measures_on_code_search_name_the_seeds_where_their_numbers_differ(project):
    code = "(?s)<!-- code -->(.*)<!-- /code -->"
    change(project, keep_first_seed)
    assert "seed" not in re.search(code, run(project)[1])[1]
    change(project, lambda result: copy_cell(result, "codesearch/MMR", 1))
    table = re.search(code, run(project)[1])[1]
    assert "| MetaEmbed with MMR (2 seeds) |" in table
    assert "| the backbone's own mean of tokens, untrained (1 seed) |" in table


def test_measures_over_different_numbers_of_seeds_name_them():
    point = {"suite": "s", "p_at_1": 0.1, "ndcg_at_5": 0.2, "mrr_at_10": 0.3, "task": "s"}
    rows = [("one", 0), ("one", 1), ("two", 0)]
    points = [point | {"label": s, "seed": n, "bytes_per_candidate": 8} for s, n in rows]
    table = format_measures(pd.DataFrame(points), "s")
    assert "| one (2 seeds) | 0.100 |" in table
    assert "| two (1 seed) | 0.100 |" in table


@pytest.mark.parametrize("measure", ["p_at_1", "ndcg_at_5"])
@pytest.mark.parametrize(
    "bad", [7.5, -0.1, 1.0001, float("nan"), float("inf"), -float("inf"), None, "0.5", True]
)
def test_a_quality_outside_of_0_to_1_is_refused_and_nothing_written(project, measure, bad):
    def spoil(result):
        result["cells"]["stickers/MMR/0"]["points"][2][measure] = bad

    change(project, spoil)
    message = refusal(project)
    if isinstance(bad, float) and not math.isfinite(bad):
        assert re.search("findings.json: .*(NaN|Infinity).*finite", message)
    else:
        place = re.escape("cell stickers/MMR/0 at (4, 8)")
        assert re.match(f"{place}: {measure} is {bad!r}, expected a number from 0 to 1", message)


def test_the_quality_of_the_bundled_models_is_checked_too(project):
    def spoil(result):
        next(iter(result["cells"].values()))["points"][0]["p_at_1"] = 14.2

    change(project, spoil, "tiny")
    assert "p_at_1 is 14.2" in refusal(project)


def test_a_missing_measure_or_point_is_refused(project):
    change(project, lambda r: r["cells"]["stickers/MMR/0"]["points"][1].pop("p_at_1"))
    assert re.match(r"cell stickers/MMR/0 at .*: p_at_1 is None", refusal(project))
    shutil.copy(ROOT / "book/results/findings.json", project / "book/results/findings.json")

    change(project, lambda result: copy_cell(result, "codesearch/MMR", 1).pop(1))
    assert re.match(r"MetaEmbed with MMR: .* has 3 points and .* has 4", refusal(project))


@pytest.mark.parametrize(
    "name", ["scoring", "search", "index_costs", "gradient_caching", "timings", "explorer"]
)
def test_a_number_that_is_not_finite_is_refused_with_its_file(project, name):
    change(project, lambda result: result.update(extra=float("nan")), name)
    assert re.match(rf"{name}.json: .*NaN.*finite", refusal(project))


def test_a_number_too_large_for_a_float_is_refused(project):
    path = project / "book/results/timings.json"
    path.write_text(path.read_text().replace("{", '{"extra": 1e999,', 1))
    assert re.match(r"timings.json: .*1e999.*finite", refusal(project))


HOSTILE = "<script>alert(1)</script> | a `b` <!-- /systems -->\n| c |"


def test_text_from_json_is_never_markup_and_never_a_cell(project):
    def spoil(result):
        for cell in result["cells"].values():
            cell["label"] += HOSTILE
            cell["environment"]["processor"] = HOSTILE
            for point in cell["points"]:
                point["task"] += HOSTILE
        result["cells"]["new/MMR/0"] = {**result["cells"]["stickers/MMR/0"], "suite": HOSTILE}
        result["suites"][HOSTILE] = "p_at_1"
        result["systems"][HOSTILE] = HOSTILE

    def spoil_scoring(result):
        for row in result["rows"]:
            row["methods"] = {
                name if name.startswith("maxsim") else name + HOSTILE: times
                for name, times in row["methods"].items()
            }
            if row["budget"] != "(16, 64)":  # the page has a sentence about this one
                row["budget"] += HOSTILE

    def spoil_search(result):
        for row in result["rows"][1:]:
            row["search"] += HOSTILE if "keeps" in row["search"] else ""

    change(project, spoil)
    change(project, spoil_scoring, "scoring")
    change(project, spoil_search, "search")
    change(project, lambda result: result.update(shape=HOSTILE), "efficiency_tiny")
    before = (ROOT / "book/results.md").read_text()
    readme, results, *_ = run(project)
    for page in (readme, results):
        assert "<script" not in page
        assert (
            page.count("<!-- ") == page.count("-->") == len(re.findall("<!-- /?[a-z]+ -->", page))
        )
    assert re.findall("<!-- .*? -->", results) == re.findall("<!-- .*? -->", before)
    tables = re.findall(r"(?:^\|.*\n?)+", results, re.MULTILINE)
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.strip().splitlines()}
        assert len(widths) == 1, table


def test_without_findings_the_script_stops_and_writes_nothing(project):
    (project / "book/results/findings.json").unlink()
    assert re.search(r"findings.json is missing.*python benchmarks/findings.py", refusal(project))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1, 2"])
def test_a_broken_file_is_named(project, content):
    (project / "book/results/scoring.json").write_bytes(content)
    assert refusal(project).startswith("scoring.json: ")


@pytest.mark.parametrize("name", ["findings", "scoring", "tiny"])
def test_a_file_with_a_missing_key_is_refused(project, name):
    change(project, lambda result: result.clear(), name)
    assert "measure it again" in refusal(project)


def test_times_of_other_chapters_are_marked_as_old():
    seconds = dict.fromkeys(notebooks(), 30)
    timings = {
        "import_seconds": 0.01, "make_test_seconds": 600, "notebooks_smoke_seconds": seconds,
        "environment": json.loads((ROOT / "book/results/timings.json").read_text())["environment"],
    }  # fmt: skip
    row = f"| `make test`, clean clone | 10.0 min | {len(seconds) / 2:.1f} min (`smoke`) |"
    assert row in render_timings(timings)
    assert "then" not in render_timings(timings)
    timings["notebooks_smoke_seconds"] = {"old_chapter": 30}
    assert "The book had 1 notebooks then. Now it has" in render_timings(timings)


def test_nested_dimensions_are_compared_with_mmr_at_equal_bytes():
    findings = json.loads((ROOT / "book/results/findings.json").read_text())

    def best(cell, size):
        fitting = [p["p_at_1"] for p in findings["cells"][cell]["points"] if p["split"] == "test"
                   and p["bytes_per_candidate"] == size]  # fmt: skip
        return max(fitting)

    def mean(system, size):
        cells = [name for name in findings["cells"] if name.startswith(f"stickers/{system}/")]
        return sum(best(cell, size) for cell in cells) / len(cells)

    text = (ROOT / "book/results.md").read_text()
    for size in (512, 8192):
        assert f"{100 * (mean('MRL', size) - mean('MMR', size)):.1f} at {size:,} bytes" in text
