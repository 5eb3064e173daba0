"""The Python side of BudgetExplorer: what it shows, how it ranks, and what it refuses."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import playwright
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter

from metaembed_lite import Budget, BudgetExplorer, build, load_task, maxsim
from metaembed_lite.data import RetrievalTask
from metaembed_lite.evaluation import EncodedTask, encode, evaluate
from metaembed_lite.explorer.cells import cells_to_json
from metaembed_lite.explorer.display import explain_gaps
from metaembed_lite.explorer.page import (
    JS,
    MODULES,
    PAGE_LIMIT,
    bundle_js,
    check_size,
    join_modules,
    script_json,
)
from metaembed_lite.explorer.quantization import Int8Vectors
from metaembed_lite.explorer.selection import choose_candidates

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028<!--"


@pytest.fixture(scope="module")
def model():
    return build("tiny-vlm", r_q=3, r_c=5, dim=16, device="cpu").eval()


@pytest.fixture(scope="module")
def task():
    return load_task("handwriting", n_queries=8, n_train=0)


@pytest.fixture(scope="module")
def encoded(model, task):
    return encode(model, task)


@pytest.fixture(scope="module")
def built(model, task, encoded):
    return BudgetExplorer(model, task, encoded, queries=4, candidates=12)


@pytest.fixture
def explorer(built):
    built.query, built.selection, built.budget = 0, None, (1, 1)
    return built


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
def test_int8_differs_by_at_most_half_a_step(seed, size):
    exact = torch.tensor(np.random.default_rng(seed).normal(size=(3, 2, 8)) * size).float()
    exact[0, 0] = 0
    vectors = Int8Vectors.quantize(exact)
    error = (vectors.dequantize().double() - exact.double()).abs().numpy()
    assert (error <= vectors.scales[:, :, None] * (0.5 + 1e-4)).all()
    assert np.abs(vectors.values).max() == 127
    assert (vectors.dequantize()[0, 0] == 0).all()


def test_json_cannot_end_a_script_element_and_is_read_back_unchanged():
    text = script_json({"caption": HOSTILE})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"caption": HOSTILE}


def test_a_hostile_text_never_becomes_markup(model, task, encoded):
    items = [HOSTILE if i == 0 else item for i, item in enumerate(task.candidates)]
    hostile = RetrievalTask(HOSTILE, [HOSTILE, *task.queries[1:]], items, task.relevance)
    html = BudgetExplorer(
        model, hostile, replace(encoded, task=hostile), queries=2, candidates=4
    ).static_html()
    assert "<img" not in html
    assert html.lower().count("</script") == 2  # those of the state and of the module
    assert html.count("<!--") == 0


def test_quality_equals_that_of_evaluate_at_every_trained_budget(explorer, encoded):
    table = evaluate(encoded, explorer.page["trained"])
    assert len(table) == 3
    for row in table.itertuples():
        for name in ("p_at_1", "ndcg_at_5"):
            on_page = explorer.page["quality"][name][row.r_q - 1][row.r_c - 1]
            assert on_page == pytest.approx(getattr(row, name), abs=5e-5)


def test_ranking_agrees_with_a_loop_in_float64(explorer):
    state = explorer._state
    queries = state.query_vectors.double().numpy()
    candidates = state.candidate_vectors.double().numpy()
    for budget in ((1, 1), (2, 4), (3, 5), (2, 3)):
        explorer.budget = budget
        for query in range(4):
            explorer.query = query
            scores = [
                sum(
                    max(float(q @ c) for c in candidate[: budget[1]])
                    for q in queries[query][: budget[0]]
                )
                for candidate in candidates
            ]
            ranking = explorer.ranking(12)
            positions = [state.candidates.index(i) for i in ranking.candidate]
            np.testing.assert_allclose(ranking.score, np.array(scores)[positions], atol=1e-5)
            assert (np.diff(ranking.score) <= 0).all()


def test_scores_are_close_to_those_of_the_float32_vectors(explorer, encoded):
    explorer.budget = (3, 5)
    ranking = explorer.ranking(12)
    exact = maxsim(encoded.queries[:1], encoded.candidates[ranking.candidate.to_list()])[0]
    norms = encoded.queries[0].norm(dim=1).max() * encoded.candidates.norm(dim=2).max()
    assert abs(ranking.score.to_numpy() - exact.numpy()).max() < 0.03 * 3 * norms


def test_the_candidates_include_the_best_of_the_whole_task(task, encoded):
    budgets = [Budget(1, 1), Budget(3, 5)]
    chosen, depth = choose_candidates(encoded, [0, 1], budgets, 12)
    assert len(chosen) == 12
    assert depth >= 1
    assert set(np.flatnonzero(task.relevance[:2].any(axis=0))) <= set(chosen)
    for budget in budgets:
        order = maxsim(encoded.queries[:2], encoded.candidates, budget).argsort(descending=True)
        assert set(order[:, :depth].flatten().tolist()) <= set(chosen)


def test_candidates_outside_a_pool_are_not_ranked(model, task, encoded):
    pool = task.relevance > 0
    pool[:, :3] = True
    pooled = RetrievalTask("pools", task.queries, task.candidates, task.relevance, pool=pool)
    explorer = BudgetExplorer(
        model, pooled, replace(encoded, task=pooled), queries=3, candidates=10
    )
    for query in range(3):
        explorer.query = query
        assert set(explorer.ranking(99).candidate) <= set(np.flatnonzero(pool[query]))
        candidates = explorer._state.candidates
        excluded = {candidates[i] for i in explorer.page["excluded"][query]}
        assert excluded == set(candidates) - set(np.flatnonzero(pool[query]))


@pytest.fixture(scope="module")
def gaps(model, task, encoded):
    """Query 0 has two candidates in its pool, none relevant. 1 has none, and 2 has all."""
    pool = np.ones(task.relevance.shape, dtype=bool)
    wrong = np.flatnonzero((task.relevance[:3] == 0).all(axis=0))[:3]
    pool[0, wrong[2]] = False
    pool[1, wrong] = False
    pooled = RetrievalTask("gaps", task.queries, task.candidates, task.relevance, pool=pool)
    return BudgetExplorer(model, pooled, replace(encoded, task=pooled), queries=3, candidates=wrong)


@pytest.mark.parametrize(
    ("query", "ranked", "note"),
    [
        (0, 2, "None of the 2 candidates ranked here is relevant to this query."),
        (1, 0, "Nothing to rank: this query has a candidate pool, and none of the 3 .* is in it"),
        (2, 3, "None of the 3 candidates ranked here is relevant"),
    ],
)
def test_a_query_without_a_relevant_candidate_or_without_any_has_a_note(gaps, query, ranked, note):
    gaps.query = query
    assert re.match(note, gaps.note)
    ranking = gaps.ranking()
    assert len(ranking) == ranked
    assert list(ranking.columns) == ["candidate", "score", "relevant"]
    assert not ranking.relevant.any()
    assert json.dumps(gaps.note)[1:-1] in gaps.static_html()


def test_the_note_on_a_page_with_one_candidate_is_in_the_singular():
    notes = explain_gaps(np.array([[0.0], [0.0], [1.0]]), np.array([[True], [False], [True]]))
    assert notes == [
        "The only candidate ranked here is not relevant to this query.",
        "Nothing to rank: this query has a candidate pool, and the only candidate on this page is "
        "not in it.",
        "",
    ]


def test_it_opens_at_the_smallest_trained_budget(model, task, encoded):
    assert BudgetExplorer(model, task, encoded, queries=1).budget == Budget(1, 1)
    later = BudgetExplorer(model, task, encoded, queries=1, budgets=["2x4", "3x5"])
    assert later.budget == Budget(2, 4)


def test_an_ordinary_ranking_has_no_note(explorer):
    assert explorer.note == ""
    assert set(explorer.page["notes"]) == {""}


@pytest.mark.parametrize("k", [0, -1, 2.0, "3", None])
def test_a_number_of_places_that_is_not_a_count_is_refused(explorer, k):
    with pytest.raises(ValueError, match=f"^k={k!r}"):
        explorer.ranking(k)


def test_numbers_and_lists_from_numpy_are_accepted(model, task, encoded):
    explorer = BudgetExplorer(
        model, task, encoded, queries=np.int64(2), candidates=np.array([3, 1]), budgets="2x4"
    )
    assert [query["id"] for query in explorer.page["queries"]] == [0, 1]
    assert [candidate["id"] for candidate in explorer.page["candidates"]] == [3, 1]
    assert explorer.page["trained"] == [[2, 4]]
    explorer.query, explorer.selection = np.int64(1), np.int64(3)
    assert type(explorer.query) is type(explorer.selection) is int


def test_embeddings_of_another_task_or_not_finite_are_refused(model, task, encoded):
    other = load_task("handwriting", n_queries=8, n_train=0, seed=1)
    with pytest.raises(ValueError, match="not the task that was passed"):
        BudgetExplorer(model, other, encoded)
    with pytest.raises(ValueError, match=r"queries\[0, 0, 0\] is nan"):
        BudgetExplorer(
            model, task, EncodedTask(task, encoded.queries * torch.nan, encoded.candidates)
        )


def test_a_budget_is_assigned_as_a_pair_or_a_text(explorer):
    budgets = []
    explorer.observe(lambda change: budgets.append(change["new"]), "budget")
    explorer.budget = (2, 4)
    explorer.budget = "3x5"
    assert budgets == [Budget(2, 4), Budget(3, 5)]
    assert explorer.get_state("budget") == {"budget": [3, 5]}
    explorer.set_state({"budget": [1, 2]})  # what the page sends
    assert explorer.budget == Budget(1, 2)


def test_a_new_query_selects_its_best_candidate(explorer):
    explorer.selection = explorer._state.candidates[2]
    explorer.query = 1
    assert explorer.selection is None


@pytest.mark.parametrize(
    ("trait", "value", "message"),
    [
        ("budget", (4, 1), r"budget \(4, 1\): there are 3 query vectors; use r_q <= 3"),
        ("budget", (1, 9), r"there are 5 candidate vectors; use r_c <= 5"),
        ("budget", "big", "budget 'big': write it as r_q x r_c"),
        (
            "query",
            7,
            r"query 7: .* queries 0, 1, 2, 3; assign one of them, or .*queries=\[\.\.\.\]",
        ),
        ("query", "0", "query '0'"),
        ("query", None, "query None"),
        ("query", 1.0, "query 1.0"),
        ("query", np.array([0, 1]), "query array"),
        ("budget", None, "budget None"),
        ("budget", {2, 4}, "expected a pair"),
        ("selection", 1.0, "selection 1.0"),
        ("selection", -1, "selection -1: .* candidates"),
        ("selection", True, "selection True"),
    ],
)
def test_an_error_names_the_bad_value_and_the_remedy_and_nothing_changes(
    explorer, trait, value, message
):
    before = explorer.budget, explorer.query, explorer.selection
    with pytest.raises(ValueError, match=message):
        setattr(explorer, trait, value)
    assert (explorer.budget, explorer.query, explorer.selection) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 0}, "queries=0: use a whole number from 1 up, or a list"),
        ({"queries": [3, 99]}, "queries: there is no index 99; give different indices from 0 to 7"),
        ({"queries": True}, "queries=True: "),
        ({"queries": 2.0}, "queries=2.0: give different indices from 0 to 7, or how many"),
        ({"queries": "01"}, "queries='01'"),
        ({"queries": [0, 1.7]}, "queries: 1.7 is not an index"),
        ({"candidates": [True, 2]}, "candidates: True is not an index"),
        ({"candidates": np.array([0.0, 1.0])}, "is not an index"),
        ({"candidates": {1, 2}}, "candidates="),
        ({"budgets": {(1, 1)}}, "budgets .*give a list"),
        ({"budgets": 4}, "budgets 4"),
        ({"candidates": [1, 1]}, "candidates: index 1 is listed twice"),
        ({"queries": []}, "queries: the list is empty"),
        ({"budgets": []}, "no budgets: give at least one"),
        ({"budgets": [(1, 6)]}, "there are 5 candidate vectors"),
    ],
)
def test_errors_name_bad_settings(model, task, encoded, settings, message):
    with pytest.raises(ValueError, match=message):
        BudgetExplorer(model, task, encoded, **settings)


def test_chosen_queries_and_candidates_keep_their_indices(model, task, encoded):
    explorer = BudgetExplorer(model, task, encoded, queries=[5, 2], candidates=[9, 5, 2])
    assert explorer.query == 5
    assert set(explorer.ranking().candidate) == {9, 5, 2}
    assert [query["id"] for query in explorer.page["queries"]] == [5, 2]


def test_long_texts_are_cut_and_images_become_thumbnails(model, task, encoded):
    both = {"text": "word " * 200, "image": task.candidates[0].resize((400, 300))}
    mixed = RetrievalTask("both", task.queries, [both, *task.candidates[1:]], task.relevance)
    page = BudgetExplorer(
        model, mixed, replace(encoded, task=mixed), queries=[0], candidates=[0, 1]
    ).page
    text, picture = page["candidates"]
    assert len(text["text"]) <= 302
    assert len(text["image"]) < 10_000
    assert picture["text"] == ""
    assert page["attention"]["grids"][0] is None  # only items that are just an image have a map
    assert page["attention"]["grids"][1] == [0, 8, 8]  # a token for 16 x 16 pixels


def test_the_error_on_a_large_page_says_how_many_candidates_fit(model, task):
    wide = EncodedTask(task, torch.randn(8, 3, 4096), torch.randn(16, 5, 4096))
    explorer = BudgetExplorer(model, task, wide, queries=1, candidates=16)
    assert len(explorer.static_html()) < PAGE_LIMIT
    vectors = explorer.page["vectors"] | {"candidates": explorer.page["vectors"]["candidates"] * 6}
    large = {**explorer.page, "vectors": vectors, "candidates": explorer.page["candidates"] * 6}
    message = r"of a page, above the limit of 2,000,000: .*candidates=\d+ instead of 96"
    with pytest.raises(ValueError, match=message):
        check_size(large)


def test_costs_cover_every_budget_and_name_the_hardware(explorer):
    cost = explorer.page["cost"]
    assert np.array(cost["score_ms"]).shape == (3, 5)
    assert (np.array(cost["score_ms"]) > 0).all()
    assert cost["encode_query_ms"] > 0
    assert cost["measured_candidates"] == 1008  # the task's 16, repeated 63 times
    assert "on the CPU" in cost["where"]


def test_the_pages_cells_are_those_of_the_task(explorer, task):
    assert explorer.page["cells"] == cells_to_json(
        task, explorer._state.queries, explorer._state.candidates
    )


def test_without_javascript_there_is_a_table_of_the_trained_budgets(explorer):
    html = re.search(r"<noscript>(.*?)</noscript>", explorer.static_html(), re.DOTALL)[1]
    rows = re.findall(r'<th scope="row">\((\d+), (\d+)\)</th>(.*?)</tr>', html)
    assert [(int(q), int(c)) for q, c, _ in rows] == [(1, 1), (2, 4), (3, 5)]
    for r_q, r_c, cells in rows:
        ndcg, p_at_1, size, _ = re.findall("<td>(.*?)</td>", cells)
        row = explorer.quality.query(f"r_q == {r_q} and r_c == {r_c}").iloc[0]
        assert math.isclose(float(ndcg), row.ndcg_at_5, abs_tol=5e-4)
        assert math.isclose(float(p_at_1), row.p_at_1, abs_tol=5e-4)
        assert size == f"{int(r_c) * 16 * 4:,}"


def test_a_cell_shows_a_widget_and_html_that_run_the_same_module(explorer):
    data, _ = DisplayFormatter().format(explorer)
    assert "application/vnd.jupyter.widget-view+json" in data
    assert explorer._esm == bundle_js()
    assert bundle_js() in data["text/html"]


def test_the_bundles_contain_every_file():
    modules = {f"{name}.js" for names in MODULES.values() for name in names}
    sheets = {f"{name}.css" for name in ("instrument", *MODULES)}
    assert modules | sheets == {path.name for path in JS.iterdir()}


@pytest.mark.parametrize("instrument", MODULES)
def test_a_bundle_has_its_styles_and_names_no_other_host(instrument):
    source = bundle_js(instrument)
    for name in ("instrument", instrument):
        assert (JS / f"{name}.css").read_text("utf-8").splitlines()[-2] in source
    assert not re.search(r"^\s*(import|export (const|function))\b", source, re.MULTILINE)
    assert "</script" not in source.lower()
    assert set(re.findall(r"https?://[^\"']+", source)) == {"http://www.w3.org/2000/svg"}
    for unsafe in ("innerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert unsafe not in source


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("function name() {}\n", "b.js declares 'name', which a.js declares too: rename one"),
        ("export const name = 2;\n", "b.js declares 'name', which a.js declares too: rename one"),
        ("class name {}\n", "b.js declares 'name', which a.js declares too: rename one"),
        ('import { name as other } from "./a.js";\n', "b.js renames an import"),
        ("const { name } = {};\n", "b.js declares '{' at the top level: declare one name"),
    ],
)
def test_the_bundler_refuses_modules_that_cannot_share_a_scope(second, message):
    first = "export const name = 1;\n"
    assert join_modules({"a": first, "b": "const other = 2;\n"}).count("const") == 2
    with pytest.raises(ValueError, match=re.escape(message)):
        join_modules({"a": first, "b": second})


def test_front_end_lines_are_short():
    files = [*JS.iterdir(), Path(__file__).with_name("explorer.test.mjs")]
    long = [
        f"{file.name}:{number}"
        for file in files
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1)
        if len(line) > 100
    ]
    assert not long


def test_the_es_modules_pass_their_own_tests():
    """Runs ``explorer.test.mjs`` in node, which playwright includes."""
    driver = Path(playwright.__file__).parent / "driver"
    node = next((str(path) for path in driver.glob("node*")), None) or shutil.which("node")
    tests = Path(__file__).with_name("explorer.test.mjs")
    run = subprocess.run([node, "--test", tests], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
