"""Visual documents: the numbers are right, grades follow from symbols, no page leaks."""

import hashlib
import json
import os
import re
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from sklearn import datasets

from metaembed_lite import build, load_task, sweep
from metaembed_lite.data.pages import COLLECTIONS
from metaembed_lite.data.pages import task as pages
from metaembed_lite.data.pages.charts import THEMES
from metaembed_lite.data.pages.layout import LAYOUTS, Style
from metaembed_lite.data.pages.tables import STATISTICS, compute_numbers, load_tables

KINDS = list(COLLECTIONS)
NEAR = 0.5  # gray levels of 255, mean over pixels: a letter or two on a page of 96 x 96
# Words that a query may use although they are not on the page.
ASKING = {"show", "for", "of", "in", "its", "and", "table", "chart", "bar", "line", "pie"}


def words(text):
    return set(re.findall(r"[a-z0-9./]+", text.lower()))


@pytest.fixture(params=KINDS)
def symbols(request, monkeypatch):
    """A function that loads a collection's task with (fact, style) in place of a page's image."""
    kind = request.param
    monkeypatch.setattr(pages, "render_page", lambda kind, fact, style, pixels: (fact, style))
    return kind, lambda **sizes: pages.load_pages(kind, n_train=0, **sizes)


@cache
def read_wordings(kind, split="test"):
    """Map every wording of every fact to the fact, with the wordings written out by hand."""
    meaning = {}
    for fact in pages.list_facts(kind, split):
        captions = pages.write_captions(kind, fact)
        where = captions["section"][0].lower() + captions["section"][1:]
        for what in (captions["phrase"], f"{fact.column}, {captions['statistic']}"):
            for query in (
                f"{what}, {where}", f"{where}: {what}", f"{what} ({where})",
                f"{COLLECTIONS[kind]} of {what}, {where}", f"show {what} for {where}",
            ):  # fmt: skip
                assert meaning.setdefault(query, fact) == fact  # no wording means two facts
    return meaning


def test_grades_equal_those_that_a_reader_would_give(symbols):
    kind, make = symbols
    task = make(n_queries=60)
    meaning = read_wordings(kind)
    for query, grades in zip(task.queries, task.relevance, strict=True):
        requested = pages.write_captions(kind, meaning[query])
        for (fact, _), grade in zip(task.candidates, grades, strict=True):
            shown = pages.write_captions(kind, fact)
            same = [shown[key] == requested[key] for key in ("section", "column", "statistic")]
            assert grade == (2 if all(same) else 1 if all(same[:2]) else 0)


def test_a_query_has_several_graded_pages(symbols):
    _, make = symbols
    task = make(n_queries=500)
    assert len(task.candidates) == 1000
    assert (np.unique(task.relevance) == [0, 1, 2]).all()
    assert ((task.relevance == 2).sum(axis=1) == 2).all()
    assert ((task.relevance == 1).sum(axis=1) == 6).all()
    assert np.median((task.relevance > 0).sum(axis=1)) >= 2


def test_the_pages_of_a_fact_have_different_layouts(symbols):
    _, make = symbols
    pages_shown = make(n_queries=200).candidates
    assert len(set(pages_shown)) == len(pages_shown)
    for (fact, style), (again, other) in zip(pages_shown[::2], pages_shown[1::2], strict=True):
        assert fact == again
        assert style.layout != other.layout
    assert {style.layout for _, style in pages_shown} == set(LAYOUTS)
    assert {style.theme for _, style in pages_shown} == set(range(len(THEMES)))


def test_a_query_uses_only_words_of_its_pages(symbols):
    kind, make = symbols
    meaning = read_wordings(kind)
    queries = make(n_queries=300).queries
    assert len(set(queries)) == 300
    for query in queries:
        captions = pages.write_captions(kind, meaning[query])
        on_page = words(f"{captions['section']} {captions['column']} {captions['statistic']}")
        assert words(query) - on_page <= ASKING
        assert on_page - {"of", "in"} <= words(query) | {"in", "order"}


def test_no_fact_and_no_query_is_in_two_splits():
    pairs = {split: set(pages.list_pairs(split)) for split in pages.REMAINDERS}
    assert not pairs["train"] & pairs["test"]
    assert not pairs["validation"] & (pairs["train"] | pairs["test"])
    for kind in KINDS:
        queries = {split: set(read_wordings(kind, split)) for split in pages.REMAINDERS}
        assert not queries["train"] & queries["test"]
        assert not queries["validation"] & (queries["train"] | queries["test"])


def test_every_test_column_and_test_section_is_trained_on_in_another_pair():
    train, test = pages.list_pairs("train"), pages.list_pairs("test")
    assert {pair[:2] for pair in test} <= {pair[:2] for pair in train}
    assert {(t, s) for t, _, s in test} <= {(t, s) for t, _, s in train}


def test_every_row_is_in_exactly_one_section():
    for table in load_tables().values():
        rows = [table.select_rows(section) for section in range(len(table.sections))]
        assert (sum(part.astype(int) for part in rows) == 1).all()
        assert min(part.sum() for part in rows) >= 9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", [Style("top", 0, False), Style("side", 1, True)])
def test_no_test_page_looks_like_a_training_page(kind, style):
    def render(split, n):
        facts = pages.list_facts(kind, split)
        chosen = np.random.default_rng(0).permutation(len(facts))[:n]
        images = [pages.render_page(kind, facts[i], style, 96).convert("L") for i in chosen]
        return np.stack([np.asarray(image, dtype=np.float32).ravel() for image in images])

    trained = render("train", 400)
    nearest = [np.abs(trained - page).mean(axis=1).min() for page in render("test", 60)]
    assert min(nearest) > NEAR


def values_of(table, column, low, high, last=False):
    """Read a column within a section straight from scikit-learn's arrays."""
    bunch = {
        "iris": datasets.load_iris(), "wine": datasets.load_wine(),
        "breast_cancer": datasets.load_breast_cancer(),
        "diabetes": datasets.load_diabetes(scaled=False),
    }[table]  # fmt: skip
    stratum = bunch.data[:, {"breast_cancer": 1}.get(table, 0)]
    rows = (stratum >= low) & ((stratum <= high) if last else (stratum < high))
    index = list(bunch.feature_names).index(column)
    return bunch.data[rows, index], bunch.target[rows], np.flatnonzero(rows) + 1, stratum[rows]


def compute(kind, title, table, column, section):
    titles = [statistic.title for statistic in STATISTICS[kind]]
    return compute_numbers(table, column, section, STATISTICS[kind][titles.index(title)])


def test_tables_show_scikit_learns_values():
    values, target, rows, _ = values_of("wine", "malic_acid", 13, 13.3)
    fact = ("wine", "malic acid", 4)
    assert load_tables()["wine"].sections[4] == "Wine, alcohol 13 to 13.3"
    first = [(f"No. {row}", value) for row, value in zip(rows[:3], values[:3], strict=True)]
    assert compute("tables", "first values", *fact) == first
    means = [(f"class {c}", pytest.approx(values[target == c].mean())) for c in range(3)]
    assert compute("tables", "mean by {by}", *fact) == means
    assert dict(compute("tables", "mean and extremes", *fact)) == pytest.approx(
        {"mean": values.mean(), "lowest": values.min(), "highest": values.max()}
    )
    top = np.sort(values)[::-1][:3]
    assert [value for _, value in compute("tables", "highest values", *fact)] == top.tolist()


def test_bars_show_scikit_learns_values():
    values, target, _, _ = values_of("breast_cancer", "worst area", 26, 40, last=True)
    fact = ("breast_cancer", "worst area", 13)
    for title, how in (("mean by {by}", np.mean), ("lowest by {by}", np.min)):
        numbers = dict(compute("bars", title, *fact))
        assert numbers["malignant"] == pytest.approx(how(values[target == 0]))
        assert numbers["benign"] == pytest.approx(how(values[target == 1]))
    numbers = dict(compute("bars", "highest by {by}", *fact))
    assert numbers["benign"] == values[target == 1].max()
    quarter = (4 * (values - values.min()) / np.ptp(values)).astype(int).clip(max=3)
    counts = compute("bars", "quarters of range", *fact)
    assert [n for _, n in counts] == np.bincount(quarter, minlength=4).tolist()


def test_lines_show_scikit_learns_values():
    values, _, _, ages = values_of("diabetes", "s6", 40, 45)
    fact = ("diabetes", "blood sugar", 3)

    def line(title):
        return [value for _, value in compute("lines", title, *fact)]

    assert line("in order of {stratum}") == values[np.argsort(ages, kind="stable")].tolist()
    assert line("from low to high") == sorted(values)
    assert line("running highest") == np.maximum.accumulate(values).tolist()
    np.testing.assert_allclose(
        line("running mean"), np.cumsum(values) / np.arange(1, len(values) + 1)
    )


def test_pies_show_scikit_learns_values():
    values, target, _, _ = values_of("iris", "petal length (cm)", 5.8, 6.2)
    fact = ("iris", "petal length", 4)
    names = datasets.load_iris().target_names
    for title, side in (
        ("above mean, by {by}", values > values.mean()),
        ("below mean, by {by}", values < values.mean()),
    ):
        counts = {name: int((target[side] == i).sum()) for i, name in enumerate(names)}
        assert dict(compute("pies", title, *fact)) == {k: n for k, n in counts.items() if n}
    low, high = np.quantile(datasets.load_iris().data[:, 2], [1 / 3, 2 / 3])
    third = np.searchsorted([low, high], values, side="left")
    counts = [n for _, n in compute("pies", "low, middle, high", *fact)]
    assert counts == np.bincount(third, minlength=3).tolist()


def test_groups_are_named_as_scikit_learn_names_them():
    cancer, club = datasets.load_breast_cancer(), datasets.load_linnerud()
    assert (cancer.target_names[cancer.target] == load_tables()["breast_cancer"].groups).all()
    slow = (club.target[:, 2] < 55).tolist()
    assert (load_tables()["linnerud"].groups == "below 55").tolist() == slow


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", [False, True])
def test_nothing_is_cut_off_at_the_edge_of_the_smallest_pages(kind, layout, variant):
    """The outermost pixels are paper or strip, so letters and charts stay inside."""
    for fact in pages.list_facts(kind, "test")[:: 1 + 2 * (not variant)]:
        image = np.asarray(pages.render_page(kind, fact, Style(layout, 0, variant), 96))
        allowed = {THEMES[0].paper, THEMES[0].strip}
        edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert {tuple(pixel) for pixel in edge.tolist()} <= allowed, fact


def test_a_larger_page_has_the_same_content(symbols):
    _, make = symbols
    small, large = make(n_queries=8), make(n_queries=8, pixels=448)
    assert small.queries == large.queries
    assert small.candidates == large.candidates


def test_pages_have_the_requested_size():
    task = pages.load_pages("pies", n_queries=2, n_train=1, pixels=448)
    assert {image.size for image in task.candidates} == {(448, 448)}
    assert task.train[0]["positive"].size == (448, 448)


@pytest.mark.parametrize("kind", KINDS)
def test_training_rows_are_of_training_pairs_and_negatives_are_hard(kind, monkeypatch):
    rendered = []
    render_page = pages.render_page

    def spy(kind, fact, style, pixels):
        rendered.append((fact, style))
        return render_page(kind, fact, style, pixels)

    monkeypatch.setattr(pages, "render_page", spy)
    rows = pages.training_rows(kind, 40)
    assert rows.column_names == ["query", "positive", "negative"]
    pairs, meaning = set(pages.list_pairs("train")), read_wordings(kind, "train")
    positives, negatives = rendered[::2], rendered[1::2]
    for row, (fact, style), (negative, same_style) in zip(rows, positives, negatives, strict=True):
        assert meaning[row["query"]] == fact
        assert fact[:3] in pairs
        assert negative[:3] in pairs
        assert style == same_style
        assert pages.grade(fact, negative) == 0
        assert negative.table == fact.table
        assert negative.statistic == fact.statistic
        assert (negative.column == fact.column) != (negative.section == fact.section)


def test_a_collection_can_be_loaded_by_its_name():
    by_name = load_task("pages/bars", n_queries=8, n_train=0)
    by_setting = load_task("pages", collection="bars", n_queries=8, n_train=0)
    assert by_name.queries == by_setting.queries
    assert by_name.name == "pages/bars"


def fingerprint():
    task = load_task("pages", collection="bars", n_queries=8, n_train=2)
    parts = [*task.queries, *(image.tobytes() for image in task.candidates)]
    parts += [task.relevance.tobytes()]
    parts += [v if isinstance(v, str) else v.tobytes() for r in task.train for v in r.values()]
    whole = b"|".join(p.encode() if isinstance(p, str) else p for p in parts)
    return hashlib.sha256(whole).hexdigest()


def test_the_same_seed_gives_the_same_task_in_another_process():
    script = "import json, test_pages; print(json.dumps(test_pages.fingerprint()))"
    elsewhere = subprocess.run(
        [sys.executable, "-c", script], cwd=os.path.dirname(__file__),
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert json.loads(elsewhere.stdout) == fingerprint()


def test_seeds_and_splits_and_collections_give_different_queries(symbols):
    kind, make = symbols
    tasks = [
        make(n_queries=40, seed=s, split=p) for s, p in ((0, "test"), (1, "test"), (0, "train"))
    ]
    tasks.append(pages.load_pages(KINDS[KINDS.index(kind) - 1], n_queries=40, n_train=0))
    assert len({tuple(task.queries) for task in tasks}) == len(tasks)


def test_sweep_reports_ndcg_over_graded_pages():
    model = build("tiny-vlm", r_q=2, r_c=4, dim=16, device="cpu").eval()
    task = load_task("pages", collection="tables", n_queries=8, n_train=0)
    table = sweep(model, task)
    assert table.ndcg_at_5.between(0, 1).all()
    assert len(table) == 2


@pytest.mark.parametrize(("settings", "message"), [
    ({"collection": "maps"}, "unknown collection 'maps'; choose from tables, bars, lines, pies"),
    ({"split": "exam"}, "unknown split 'exam'; choose from train, validation, test"),
    ({"pixels": 48}, "pixels=48: .*use 96 or more"),
    ({"n_queries": 0}, "n_queries=0"),
    ({"n_train": -1}, "n_train=-1"),
    ({"n_queries": 9000}, "n_queries=9,000: the test split has 700 facts"),
])  # fmt: skip
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        load_task("pages", **settings)
