"""What a saved model says of its training: recipe.yaml, also without a recipe, and start_from."""

import shutil

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from metaembed_lite import build, checkpoints, load, recipes, save, train
from metaembed_lite.cli import app
from metaembed_lite.recipes.start import load_validation

SETTINGS = {"steps": 1, "batch_size": 2, "warmup_steps": 0, "progress": False}
ROWS = [{"query": f"secret {i}", "positive": f"private {i}"} for i in range(4)]
SMALL = [
    "data.n_queries=4", "data.n_train=8", "data.side=2", "train.budgets=[1x1, 2x4]",
    "train.batch_size=4", "train.log_steps=1", "train.epochs=1", "train.warmup_steps=0",
    "--no-progress",
]  # fmt: skip


def tiny(**changes):
    settings = {"r_q": 2, "r_c": 4, "lora_rank": 2, "dim": 8, "device": "cpu", "seed": 0}
    return build(**settings | changes)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """A model that was trained in Python, on a backbone in a folder, with numbers of numpy."""
    parent = tmp_path_factory.mktemp("private folder")
    shutil.copytree(checkpoints.HERE / "tiny-vlm", parent / "base")
    model = tiny(backbone=str(parent / "base"))
    numbers = {"temperature": np.float64(0.1), "weights": np.ones(2), "seed": 3}
    settings = SETTINGS | numbers | {"validation": ROWS[:1]}
    train(model, ROWS, output=parent / "model", **settings)
    save(model, parent / "copy")
    return parent / "model"


def test_a_training_in_python_describes_itself_without_captions_and_paths(by_hand):
    text = (by_hand / "recipe.yaml").read_text()
    assert not any(word in text for word in ("secret", "private", str(by_hand.parent)))
    sections = yaml.safe_load(text)
    assert sections["model"] == {
        "backbone": "base", "r_q": 2, "r_c": 4, "layout": "joint", "dim": 8, "lora_rank": 2,
        "lora_alpha": 2, "lora_dropout": 0.0,
    }  # fmt: skip
    assert sections["data"] == {
        "rows": 4, "columns": ["query", "positive"],
        "validation": {"queries": 1, "candidates": 1},
    }  # fmt: skip
    settings = {"steps": 1, "batch_size": 2, "temperature": 0.1, "weights": [1.0, 1.0], "seed": 3}
    assert settings.items() <= sections["train"].items()
    assert sections["train"]["budgets"] == ["1x1", "2x4"]


def test_save_writes_what_train_described(by_hand):
    copy = by_hand.parent / "copy" / "recipe.yaml"
    assert copy.read_text() == (by_hand / "recipe.yaml").read_text()


def test_a_model_that_was_trained_in_python_is_evaluated_without_a_promise(by_hand):
    settings, part = recipes.choose_held_out(by_hand, "stickers", ["n_queries=4"])
    assert settings["n_queries"] == 4
    assert part == "the model was trained in Python, so it may have been trained on these items"
    with pytest.raises(ValueError, match="data needs the name of a suite"):
        recipes.read(by_hand / "recipe.yaml")


def test_a_loaded_model_keeps_its_recipe_and_a_training_replaces_it(tmp_path):
    model = load("tiny-handwriting", device="cpu")
    save(model, tmp_path / "same")
    original = (checkpoints.HERE / "tiny-handwriting" / "recipe.yaml").read_text()
    assert (tmp_path / "same" / "recipe.yaml").read_text() == original
    train(model, ROWS, **SETTINGS)
    save(model, tmp_path / "further")
    sections = yaml.safe_load((tmp_path / "further" / "recipe.yaml").read_text())
    assert sections["model"] == {"start_from": "tiny-handwriting"}
    again = load(tmp_path / "further", device="cpu")
    assert again.loaded_from == "further", "a folder is named without its path"


# start_from


def test_a_recipe_continues_from_a_trained_model(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    small = ("model.r_q=2", "model.r_c=4", "model.lora_rank=2", "model.dim=8", *SMALL)
    done = invoke("train", "tiny", *small, "--output", first)
    assert done.exit_code == 0, done.output
    assert yaml.safe_load((first / "recipe.yaml").read_text())["train"]["epochs"] == 1
    kept = ("train.validate_every=1", "train.keep_best=1x1")
    done = invoke("train", "tiny", *SMALL, *kept, "--start-from", first, "--output", second)
    assert done.exit_code == 0, done.output
    assert "kept the model of step " in done.output
    recipe = recipes.read(second / "recipe.yaml")
    assert recipe.model == {"start_from": str(first)}
    before, after = load(first, device="cpu"), load(second, device="cpu")
    assert (after[0].r_q, after[0].r_c) == (2, 4)
    weight = before[1].linear.weight
    assert not np.array_equal(weight.detach(), after[1].linear.weight.detach())
    assert (weight - after[1].linear.weight).abs().max() < 0.1, "it starts at these weights"
    _, part = recipes.choose_held_out(second, "handwriting", [])
    assert f"It started from {first}" in part


def test_a_recipe_that_starts_from_a_model_cannot_build_one(tmp_path):
    with pytest.raises(
        ValueError, match=r"starts from 'tiny'.* leave out backbone, .*--start-from"
    ):
        recipes.read("tiny", ["model.start_from=tiny"])
    file = tmp_path / "recipe.yaml"
    file.write_text("model: {start_from: tiny, device: cpu}\ndata: {name: stickers}\ntrain:\n")
    assert recipes.read(file).model == {"start_from": "tiny", "device": "cpu"}


def test_steps_and_epochs_replace_each_other_in_overrides():
    assert "steps" not in recipes.read("tiny", ["train.epochs=2"]).train
    both = recipes.read("tiny", ["train.epochs=2", "train.steps=9"]).train
    assert both["steps"] == 9
    assert "epochs" not in both


# The command line


def test_the_output_is_checked_before_data_and_model_are_loaded(by_hand, monkeypatch):
    def too_early(*args, **kwargs):
        raise AssertionError("loaded before the output was checked")

    monkeypatch.setattr("metaembed_lite.load_task", too_early)
    done = invoke("train", "tiny", "--output", by_hand)
    assert done.exit_code == 2, done.output
    assert "--overwrite" in done.output


def test_a_suite_without_a_validation_split_is_named():
    recipe = recipes.Recipe("mine", {}, {"name": "mmeb"}, {"validate_every": 1})
    with pytest.raises(ValueError, match="suite 'mmeb' has no validation split"):
        load_validation(recipe)


def test_evaluate_encodes_as_many_items_at_a_time_as_requested(monkeypatch):
    seen = []

    def record(model, task, **options):
        seen.append(options)
        raise ValueError("stop here")

    monkeypatch.setattr("metaembed_lite.evaluation.encode", record)
    for option in ([], ["--batch-size", 3]):
        invoke("evaluate", "tiny", "--queries", 2, *option)
    assert seen == [{}, {"batch_size": 3}]


def test_evaluate_on_another_csv_takes_all_of_it_and_does_not_call_it_held_out(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"model:\ndata: {{name: image_folder, path: {tmp_path}, n_queries: 4}}\ntrain:\n"
    )
    path = f"path={tmp_path}"
    settings, part = recipes.choose_held_out(tmp_path, None, [path, "csv=test.csv"])
    assert settings["n_train"] == 0
    assert part.startswith("all items of test.csv. The model was trained on captions.csv")
    for same in ([path], [path, "csv=captions.csv"]):
        settings, part = recipes.choose_held_out(tmp_path, None, same)
        assert part == "the test split of the model's training"
