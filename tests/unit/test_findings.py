"""The matrix of findings: every system trains, and its points have the bytes per candidate."""

import json
import multiprocessing
import threading
from dataclasses import replace
from functools import partial

import findings
import numpy as np
import pretrain
import pytest
import torch
import typer

from metaembed_lite import build, mmr_loss, recipes
from metaembed_lite.data.handwriting import training_rows
from metaembed_lite.data.meta_tasks import HELD_OUT

SHORT = ["train.steps=1", "train.batch_size=8", "data.n_train=16"]


@pytest.fixture
def small(monkeypatch):
    for name, suite in findings.SUITES.items():
        monkeypatch.setitem(findings.SUITES, name, replace(suite, n_queries=4))


@pytest.mark.parametrize("name", findings.SYSTEMS)
def test_every_system_trains_and_is_measured(name, small):
    record = findings.measure_cell(f"handwriting/{name}/0", SHORT, None)
    assert {"suite", "system", "seed", "train", "points", "environment"} <= set(record)
    for point in record["points"]:
        assert 0 <= point["p_at_1"] <= 1
        assert point["bytes_per_candidate"] == round(4 * point["r_c"] * point["dim"])


def test_the_results_name_every_suite_and_system_of_the_matrix():
    results = json.loads((findings.RESULTS / "findings.json").read_text())
    assert {name: results[name] for name in findings.MATRIX} == findings.MATRIX


def test_keeping_the_model_of_a_measured_cell_is_refused(tmp_path):
    with pytest.raises(typer.BadParameter, match="handwriting/MMR/0 is not run; add --again"):
        findings.main(["handwriting/MMR/0"], keep=tmp_path)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The folder of results, for this test only."""
    monkeypatch.setattr(findings, "RESULTS", tmp_path)
    monkeypatch.setitem(findings.write.__globals__, "RESULTS", tmp_path)
    return tmp_path


def add_cells(name):
    for seed in range(20):
        findings.add_cell("mine", f"{name}/{seed}", {"seed": seed})


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_two_processes_that_write_one_file_lose_no_cell(results, monkeypatch):
    monkeypatch.setitem(findings.write.__globals__, "environment", dict)
    fork = multiprocessing.get_context("fork")  # a new interpreter would import torch for seconds
    processes = [fork.Process(target=add_cells, args=[name]) for name in ("first", "second")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    cells = findings.read_cells(results / "mine.json")
    assert set(cells) == {f"{name}/{seed}" for name in ("first", "second") for seed in range(20)}
    assert list(results.iterdir()) == [results / "mine.json"]


def test_a_cell_that_another_run_measures_is_refused_and_other_cells_run(
    results, monkeypatch, capsys
):
    point = {"task": "t", "split": "test", "r_q": 1, "r_c": 1, "dim": 8, "p_at_1": 1}
    measured, codes = [], []

    def run(cell):
        try:
            findings.main([cell], name="mine")
        except typer.Exit as stop:
            codes.append(stop.exit_code)

    def measure_cell(cell, *_):
        measured.append(cell)
        if len(measured) == 1:  # a second run starts while the first one measures its cell
            for other in ("handwriting/MMR/0", "handwriting/MMR/1"):
                thread = threading.Thread(target=run, args=[other])
                thread.start()
                thread.join()
        return {"points": [point], "train_seconds": 1}

    monkeypatch.setattr(findings, "measure_cell", measure_cell)
    run("handwriting/MMR/0")
    assert codes == [1]
    assert "measuring handwriting/MMR/0 for mine.json" in capsys.readouterr().err
    assert measured == ["handwriting/MMR/0", "handwriting/MMR/1"]
    assert set(findings.read_cells(results / "mine.json")) == set(measured)
    assert list(results.iterdir()) == [results / "mine.json"]


def test_a_suite_of_several_tasks_does_not_train_on_held_out_tasks():
    rows = findings.SUITES["meta-tasks"].training_rows(40, seed=0)
    tasks = set(findings.SUITES["meta-tasks"].tasks)
    assert set(rows) == tasks - HELD_OUT
    assert {len(task_rows) for task_rows in rows.values()} == {40 // len(rows)}


def test_nested_dimensions_are_measured_at_the_bytes_of_nested_budgets(small):
    def sizes(name, where):
        points = findings.measure_cell(f"handwriting/{name}/0", SHORT, None)["points"]
        return sorted(p["bytes_per_candidate"] for p in points if where(p))

    full = findings.BUDGETS[-1][1]
    assert sizes("MMR", lambda p: True) == sizes("MRL", lambda p: p["r_c"] == full)


def test_the_loss_over_dimensions_is_the_sum_of_the_losses_of_cut_embeddings():
    torch.manual_seed(0)
    queries = findings.cut_dimensions(torch.randn(3, 2, 8), 8)
    candidates = findings.cut_dimensions(torch.randn(3, 2, 4, 8), 8)
    model = build("tiny-vlm", r_q=2, r_c=4, lora_rank=None, device="cpu")
    budgets = [(1, 2), (2, 4)]
    nested = findings.NestedDimensions(model, budgets, temperature=0.1, dims=[2, 8])
    cut = [e[..., :2] / e[..., :2].norm(dim=-1, keepdim=True) for e in (queries, candidates)]
    losses = [mmr_loss(*each, budgets, temperature=0.1)[0] for each in (cut, (queries, candidates))]
    torch.testing.assert_close(nested.embedding_loss(queries, candidates), sum(losses))


def test_shuffled_rows_are_the_same_rows_with_wrong_answers():
    rows = training_rows(20)
    wrong = findings.prepare_rows(rows, findings.SYSTEMS["shuffled"], 0)
    images = [np.asarray(image).tobytes() for image in rows["positive"]]
    shuffled = [np.asarray(image).tobytes() for image in wrong["positive"]]
    assert wrong["query"] == rows["query"]
    assert sorted(shuffled) == sorted(images)
    assert sum(a == b for a, b in zip(shuffled, images, strict=True)) < 5


def test_a_kept_model_has_the_recipe_that_trains_it_again(small, tmp_path):
    findings.measure_cell("handwriting/no-MMR/1", SHORT, tmp_path / "kept")
    again = recipes.read(tmp_path / "kept" / "recipe.yaml")
    assert again.train["budgets"] == ["8x16"]
    assert again.model["seed"] == again.data["seed"] == again.train["seed"] == 1
    assert (tmp_path / "kept" / "training_curve.csv").read_text().startswith("step,loss")


def test_a_wider_backbone_is_pretrained_once_and_its_log_kept(small, tmp_path, monkeypatch):
    monkeypatch.setattr(findings, "RESULTS", tmp_path / "book" / "results")
    short = partial(pretrain.pretrain, steps=1, tower_steps=1, batch_size=2)
    monkeypatch.setattr(pretrain, "pretrain", short)
    monkeypatch.setattr(pretrain, "measure_reading", lambda *args: {})
    first = findings.measure_cell("stickers-64/mean/0", SHORT, None)
    monkeypatch.setattr(pretrain, "pretrain", None)  # a second one would fail
    again = findings.measure_cell("stickers-64/mean/0", SHORT, None)
    assert first["backbone"] == again["backbone"]
    assert first["points"] == again["points"]
    shipped = pretrain.build_untrained()[0].num_parameters()
    assert 0 < first["backbone"]["parameters"] < shipped
