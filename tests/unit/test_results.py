"""Measured results are read and checked: numbers are finite, and qualities are from 0 to 1."""

import json
import shutil
from pathlib import Path

import pytest

from metaembed_lite import checkpoints
from metaembed_lite.results import (
    PRETRAINING_LOG,
    load_findings,
    load_pretraining_log,
    load_result,
    points_table,
)

RESULTS = Path(__file__).parents[2] / "book" / "results"


def write_cell(path, **measures):
    point = {"task": "t", "split": "test", "r_q": 2, "r_c": 4, **measures}
    cell = {"suite": "s", "system": "MMR", "label": "MetaEmbed", "seed": 0, "train_seconds": 9}
    cells = {"s/MMR/0": {**cell, "points": [point, {**point, "split": "train"}]}}
    path.write_text(json.dumps({"cells": cells, "suites": {"s": "ndcg_at_5"}}))
    return path


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_result_of_the_book_is_read(path):
    assert load_result(path) == json.loads(path.read_text())


@pytest.mark.parametrize("name", ["findings", "tiny"])
def test_the_table_has_every_point_of_every_cell(name):
    cells = json.loads((RESULTS / f"{name}.json").read_text())["cells"]
    table = points_table(load_findings(RESULTS / f"{name}.json"))
    for cell in cells.values():
        rows = table[(table.suite == cell["suite"]) & (table.system == cell["system"])]
        rows = rows[rows.seed == cell["seed"]]
        assert rows.p_at_1.tolist() == [point["p_at_1"] for point in cell["points"]]
        assert set(rows.label) == {cell["label"]}


def test_points_of_every_split_are_in_the_table(tmp_path):
    path = write_cell(tmp_path / "findings.json", p_at_1=0.5, ndcg_at_5=0.6)
    assert points_table(load_findings(path)).split.tolist() == ["test", "train"]


@pytest.mark.parametrize(
    ("measures", "message"),
    [
        ({"p_at_1": 0.5}, r"cell s/MMR/0 at \(2, 4\): ndcg_at_5 is None"),
        ({"p_at_1": 1.5, "ndcg_at_5": 0.5}, r"cell s/MMR/0 at \(2, 4\): p_at_1 is 1.5, expected"),
        ({"ndcg_at_5": True}, r"ndcg_at_5 is True, expected a number from 0 to 1"),
        ({"ndcg_at_5": float("nan")}, r"findings.json: holds NaN: every number must be finite"),
    ],
)
def test_a_wrong_measure_is_refused_with_its_place(tmp_path, measures, message):
    with pytest.raises(ValueError, match=message):
        load_findings(write_cell(tmp_path / "findings.json", **measures))


def test_the_pretraining_log_is_the_one_next_to_the_weights(tmp_path):
    folder = checkpoints.folder("tiny-vlm")
    assert load_pretraining_log(folder) == json.loads((folder / PRETRAINING_LOG).read_text())
    shutil.copy(folder / PRETRAINING_LOG, tmp_path)
    log = (tmp_path / PRETRAINING_LOG).read_text()
    (tmp_path / PRETRAINING_LOG).write_text(log.replace('"test_digits": 0', '"test_digits": 9'))
    with pytest.raises(ValueError, match=r"pretraining_log.json: test_digits is 9"):
        load_pretraining_log(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_pretraining_log(tmp_path / "missing")
