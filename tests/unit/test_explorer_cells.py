"""The cells that the explorer outlines: what a query names, and what a candidate shows."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from metaembed_lite import load_task
from metaembed_lite.data import RetrievalTask
from metaembed_lite.explorer.cells import cells_to_json


@pytest.mark.parametrize(
    ("suite", "side"), [("stickers", 4), ("stickers", 2), ("handwriting", 4), ("handwriting", 3)]
)
def test_the_cells_explain_the_relevance(suite, side):
    task = load_task(suite, n_queries=20, n_train=0, side=side)
    cells = cells_to_json(task, range(20), range(40))
    for query, named in enumerate(cells["named"]):
        assert ", ".join(fact["name"] for fact in named) == task.queries[query]
        for candidate, shown in enumerate(cells["contents"]):
            assert len(shown) == side * side
            has = [
                fact["content"] in shown
                if fact["place"] is None
                else shown[fact["place"]] == fact["content"]
                for fact in named
            ]
            assert all(has) == (task.relevance[query, candidate] > 0)


def test_only_the_asked_queries_and_candidates_are_read():
    task = load_task("stickers", n_queries=5, n_train=0)
    all_cells = cells_to_json(task, range(5), range(10))
    some = cells_to_json(task, [3, 1], [9, 0])
    assert some["named"] == [all_cells["named"][3], all_cells["named"][1]]
    assert some["contents"] == [all_cells["contents"][9], all_cells["contents"][0]]


def test_a_candidate_that_is_no_sheet_has_no_cells():
    task = load_task("stickers", n_queries=3, n_train=0)
    noise = np.random.default_rng(0).integers(256, size=(128, 128, 3), dtype=np.uint8)
    others = [Image.fromarray(noise), Image.new("RGB", (100, 128)), "a text"]
    task = replace(task, candidates=[*task.candidates[:3], *others])
    contents = cells_to_json(task, [0], range(6))["contents"]
    assert [cells is None for cells in contents] == [False] * 3 + [True] * 3


@pytest.mark.parametrize("query", ["violin, unicycle of glass", "ein satz", {"text": "violin"}])
def test_a_query_that_names_anything_else_means_no_cells(query):
    task = load_task("stickers", n_queries=3, n_train=0)
    assert cells_to_json(replace(task, queries=[query, *task.queries[1:]]), [0], [0]) is None


@pytest.mark.parametrize("query", ["4 Z9", "x C1", "4C1", "44"])
def test_a_query_that_is_no_place_on_the_board_means_no_cells(query):
    task = load_task("handwriting", n_queries=3, n_train=0)
    assert cells_to_json(replace(task, queries=[query, *task.queries[1:]]), [0], [0]) is None


def test_other_tasks_have_no_cells():
    pets = RetrievalTask("pets", ["meow", "woof"], ["cat", "dog"], np.eye(2))
    assert cells_to_json(pets, [0], [0, 1]) is None
