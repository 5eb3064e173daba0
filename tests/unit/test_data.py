"""The suites: reproducible tasks, correct relevance, and no test items in training."""

import ast
import os
import subprocess
import sys

import numpy as np
import pytest

from metaembed_lite.data import RetrievalTask, codesearch, load_task
from metaembed_lite.data.mmeb import average_by_meta_task
from metaembed_lite.data.task import split_rng, training_rng


@pytest.fixture(scope="module")
def code():
    return load_task("codesearch", n_queries=300, n_train=1000)


def test_no_test_package_is_trained_on():
    train, test = set(codesearch.PACKAGES["train"]), set(codesearch.PACKAGES["test"])
    assert not train & test
    assert {f.package for f in codesearch.load_functions("test")} == test
    assert {f.package for f in codesearch.load_functions("train")} == train


def test_no_test_sentence_and_no_test_code_is_trained_on():
    test, train = codesearch.load_functions("test"), codesearch.load_functions("train")
    assert not {f.query.casefold() for f in test} & {f.query.casefold() for f in train}
    assert not {f.code for f in test} & {f.code for f in train}


def test_no_sentence_and_no_code_occurs_twice(code):
    functions = codesearch.load_functions("test")
    sentences, sources = {f.query.casefold() for f in functions}, {f.code for f in functions}
    assert len(sentences) == len(sources) == len(functions)
    assert len(set(code.candidates)) == len(code.candidates) >= 2 * len(code.queries)


def test_candidates_parse_and_hide_the_functions_name(code):
    for source in code.candidates:
        (function,) = ast.parse(source).body
        assert function.name == "f"
        assert ast.get_docstring(function) is None


def test_the_relevant_code_is_the_querys_function(code):
    code_of_query = {f.query: f.code for f in codesearch.load_functions("test")}
    for query, relevant in zip(code.queries, code.relevance, strict=True):
        assert [code.candidates[i] for i in np.flatnonzero(relevant)] == [code_of_query[query]]


def test_training_rows_are_a_sentence_and_code_of_the_training_packages(code):
    pairs = {(f.query, f.code) for f in codesearch.load_functions("train")}
    assert code.train.column_names == ["query", "positive"]
    assert len(code.train) == 1000
    assert {(row["query"], row["positive"]) for row in code.train} <= pairs


def test_about_names_the_packages_and_their_versions(code):
    import matplotlib
    import sklearn

    for part in ("installed versions", sklearn.__version__, matplotlib.__version__, "pandas"):
        assert part in code.about


def test_a_function_is_read_without_its_docstring_name_decorators_and_comments():
    source = '''
@documented("a secret")
def walk(tree, depth=0):
    """Visit every node of a tree. Then stop."""
    # a comment
    def visit(node):
        """Inner words."""
        return walk(node, depth + 1)

    if tree.children is None:
        return tree.walk()
    return [visit(child) for child in tree.children]
'''
    (function,) = codesearch.find_functions(source, "example")
    assert function.query == "Visit every node of a tree."
    for hidden in ("walk", "secret", "Visit", "comment", "Inner"):
        assert hidden not in function.code
    assert "return f(node, depth + 1)" in function.code
    assert "return tree.f()" in function.code


@pytest.mark.parametrize("docstring", [
    "Too short.", "Parameters\n----------\nx : an int that is explained at length",
    ">>> walk(tree, depth=1) == 3", "A word " * 40,
])  # fmt: skip
def test_a_docstring_without_a_usable_first_sentence_is_not_a_query(docstring):
    assert codesearch.extract_summary(docstring) is None


def test_a_missing_package_is_named():
    with pytest.raises(ValueError, match="'no_such_package' is not installed"):
        list(codesearch.list_python_files("no_such_package"))


def test_requesting_more_functions_than_exist_names_their_number():
    n_functions = f"{len(codesearch.load_functions('test')):,}"
    with pytest.raises(ValueError, match=f"200,000 functions requested.*{n_functions}"):
        load_task("codesearch", n_queries=100_000, n_train=0)


DIGEST = """
import hashlib
from metaembed_lite.data import load_task
task = load_task("codesearch", n_queries=20, n_train=0)
items = "|".join([*task.queries, *task.candidates]).encode()
digest = hashlib.sha256(items + task.relevance.tobytes()).hexdigest()
"""


def test_the_same_seed_gives_the_same_task_in_another_process():
    here: dict = {}
    exec(DIGEST, here)
    elsewhere = subprocess.run(
        [sys.executable, "-c", DIGEST + "print(digest)"],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert elsewhere.stdout.strip() == here["digest"]


@pytest.mark.parametrize("name", ["handwriting", "codesearch"])
@pytest.mark.parametrize(("sizes", "message"), [
    ({"n_queries": 0}, "n_queries=0"), ({"n_train": -1}, "n_train=-1"),
    ({"split": "exam"}, "unknown split 'exam'; choose from"),
])  # fmt: skip
def test_invalid_sizes_and_splits_are_refused(name, sizes, message):
    with pytest.raises(ValueError, match=message):
        load_task(name, **sizes)


def test_the_random_streams_stay_as_they_were_when_results_were_measured():
    """Other numbers would sample other boards, and published results would not be comparable."""
    streams = {"test": 2, "train": 3, "validation": 4}
    for split, stream in streams.items():
        expected = np.random.default_rng([5, stream, 7]).random(3)
        np.testing.assert_array_equal(split_rng(5, split, 7).random(3), expected)
    expected = np.random.default_rng([5, 1, 7]).random(3)
    np.testing.assert_array_equal(training_rng(5, 7).random(3), expected)


def test_an_unknown_suite_is_refused_with_the_choices():
    with pytest.raises(
        ValueError, match=r"'mnist'\. Choose from stickers, handwriting, codesearch"
    ):
        load_task("mnist")


def test_an_unknown_suite_suggests_the_closest_name():
    with pytest.raises(ValueError, match=r"'folder'\. Did you mean 'image_folder'\?"):
        load_task("folder")


def test_a_task_needs_queries_and_candidates():
    with pytest.raises(ValueError, match="0 queries"):
        RetrievalTask("empty", [], ["c"], np.zeros((0, 1)))


def test_a_task_refuses_relevance_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"shape \(1, 2\), expected .* \(2, 1\)"):
        RetrievalTask("turned", ["a", "b"], ["c"], np.ones((1, 2)))


def test_a_task_refuses_a_query_without_a_relevant_candidate():
    with pytest.raises(ValueError, match="1 queries have no relevant candidate, first index 1"):
        RetrievalTask("orphan", ["a", "b"], ["c", "d"], np.array([[1, 0], [0, 0]]))


@pytest.mark.parametrize("kind", [np.uint8, np.int8, bool, np.float32, np.float64, list, tuple])
def test_grades_of_any_real_type_are_stored_as_float64(kind):
    grades = np.array([[1, 0], [0, 1]])
    given = grades.astype(kind) if isinstance(kind(), np.generic | bool) else kind(grades.tolist())
    task = RetrievalTask("kinds", ["a", "b"], ["c", "d"], given, pool=given)
    assert task.relevance.dtype == np.float64
    np.testing.assert_array_equal(task.relevance, grades)
    assert task.pool.dtype == bool
    np.testing.assert_array_equal(task.pool, grades > 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, -np.inf, 1e308])
def test_a_grade_that_is_not_finite_or_negative_is_refused_with_its_index(bad):
    with pytest.raises(
        ValueError, match=rf"task 'mine': relevance\[1, 0\] is {bad}".replace("+", ".")
    ):
        RetrievalTask("mine", ["a", "b"], ["c", "d"], np.array([[1, 0], [bad, 1]]))


@pytest.mark.parametrize(
    ("relevance", "message"),
    [
        (np.eye(2) + 0j, "relevance has type complex128"),
        ([["1", "0"], ["0", "1"]], "relevance has type <U1"),
        ([[1, None], [0, 1]], "relevance has type object"),
        (np.ma.masked_array(np.eye(2), mask=np.eye(2)), "relevance is a numpy masked array"),
        ([[1], [0, 1]], "relevance is not a"),
        (np.ones(2), r"relevance has shape \(2,\), expected .* \(2, 2\)"),
        (None, r"relevance has shape \(\)"),
    ],
)
def test_relevance_of_another_type_is_refused(relevance, message):
    with pytest.raises(ValueError, match=f"task 'mine': {message}"):
        RetrievalTask("mine", ["a", "b"], ["c", "d"], relevance)


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (np.array([[1.0, np.nan], [0, 1]]), "pool holds nan"),
        (np.array([[0.0, -np.inf], [0, 0]]), "pool holds -inf"),
        ([[2, 1], [0, 1]], "pool holds 2"),
        (np.ma.masked_array(np.eye(2), mask=np.eye(2)), "pool is a numpy masked array"),
        (np.ones((2, 3), dtype=bool), r"pool has shape \(2, 3\)"),
        ([[0, 1], [1, 1]], "a relevant candidate is not in its query's pool"),
    ],
)
def test_an_invalid_pool_is_refused(pool, message):
    with pytest.raises(ValueError, match=f"task 'mine': {message}"):
        RetrievalTask("mine", ["a", "b"], ["c", "d"], np.eye(2), pool=pool)


@pytest.mark.parametrize("queries", ["ab", None, 2])
def test_queries_that_are_not_a_list_are_refused(queries):
    with pytest.raises(ValueError, match="queries is not a list"):
        RetrievalTask("mine", queries, ["c", "d"], np.eye(2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_average_over_tasks_needs_finite_values(bad):
    with pytest.raises(ValueError, match=f"p_at_1 of b is {bad}"):
        average_by_meta_task({"a": 0.5, "b": bad}, {"all": ["a", "b"]}, [])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_queries": 2.5}, "n_queries is 2.5, a number; expected a whole number"),
        ({"n_queries": "ten"}, "n_queries is 'ten', a text; expected a whole number"),
        ({"n_train": True}, "n_train is True, a boolean"),
        ({"seed": None}, "seed is null"),
        ({"split": 3}, "split is 3"),
        ({"querys": 3}, "has no 'querys'"),
    ],
)
def test_a_size_of_another_type_is_named(sizes, message):
    with pytest.raises(ValueError, match=f"suite 'handwriting'.*{message}"):
        load_task("handwriting", **sizes)


def test_whole_numbers_of_every_kind_are_sizes():
    for two in (2, 2.0, np.int64(2)):
        assert len(load_task("handwriting", n_queries=two, n_train=0).queries) == 2
