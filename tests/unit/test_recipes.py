"""Recipes and the command line that runs them."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from metaembed_lite import Budget, build, load, recipes
from metaembed_lite.budget import nested
from metaembed_lite.cli import app

SMALL = [
    "model.r_q=2", "model.r_c=4", "model.lora_rank=2", "model.dim=8", "data.n_queries=10",
    "data.n_train=16", "train.budgets=[1x1, 2x4]", "train.steps=2", "train.batch_size=4",
    "train.log_steps=1",
]  # fmt: skip


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_fits_the_functions_it_is_for(name):
    recipe = recipes.read(name)
    full = Budget(recipe.model["r_q"], recipe.model["r_c"])
    if "budgets" in recipe.train:
        assert nested(recipe.train["budgets"])[-1] == full
    text = (recipes.FOLDER / f"{name}.yaml").read_text()
    assert text.startswith("#"), "a recipe says where its numbers come from"


def test_the_papers_settings_are_those_of_its_published_configuration():
    for name in ("qwen2.5-vl-3b", "qwen2.5-vl-7b", "qwen2.5-vl-32b", "paligemma-3b"):
        recipe = recipes.read(name)
        model, train = recipe.model, recipe.train
        assert (model["r_q"], model["r_c"], model["dim"]) == (16, 64, None)
        assert (model["lora_rank"], model["lora_alpha"], model["lora_dropout"]) == (32, 32, 0.1)
        assert (train["temperature"], train["learning_rate"]) == (0.03, 1e-4)
        assert (train["warmup_steps"], train["steps"], train["batch_size"]) == (500, 4000, 48)


def test_overrides_are_read_as_yaml_and_may_add_a_line():
    recipe = recipes.read("tiny", ["train.steps=3", "model.dim=null", "train.budgets=[1x1, 8x16]"])
    assert recipe.train["steps"] == 3
    assert recipe.model["dim"] is None
    assert recipe.train["budgets"] == ["1x1", "8x16"]
    assert recipes.read("tiny", ["train.learning_rate=1e-4"]).train["learning_rate"] == 1e-4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.stepz=3"], "train has no 'stepz'; it has .*steps"),
        (["steps=3"], "section.key=value"),
        (["train.steps"], "section.key=value"),
        (["optimizer.lr=1"], "model, data, train"),
        (["train.budgets=[1x1"], "is not YAML"),
    ],
)
def test_a_slip_in_an_override_is_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        recipes.read("tiny", overrides)


def test_an_unknown_recipe_lists_those_that_ship():
    with pytest.raises(ValueError, match=r"no recipe 'huge'.*tiny"):
        recipes.read("huge")


def test_your_own_file_is_a_recipe(tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {}\ndata: {name: scenes}\ntrain: {steps: 1}\n")
    assert recipes.read(tmp_path / "mine.yaml").data == {"name": "scenes"}
    (tmp_path / "half.yaml").write_text("model: {}\n")
    with pytest.raises(ValueError, match="sections model, data, train"):
        recipes.read(tmp_path / "half.yaml")


def test_the_command_line_trains_saves_and_evaluates(tmp_path):
    done = run("train", "tiny", *SMALL, "--output", tmp_path / "model")
    assert done.exit_code == 0, done.output
    assert "p_at_1" in done.output
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| (1, 1) |" in card
    assert "| (2, 4) |" in card
    assert card.count("## Architecture") == 1
    assert (tmp_path / "model" / "training_curve.csv").read_text().count("\n") == 3
    done = run("evaluate", tmp_path / "model", "--queries", 10, "--budget", "2x3")
    assert done.exit_code == 0, done.output
    assert done.output.rstrip().splitlines()[-1].split()[:2] == ["2", "3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "huge"], "no recipe 'huge'"),
        (["train", "tiny", "data.name=moon"], "unknown suite 'moon'"),
        (["train", "tiny", "model.backbone=nowhere/nothing"], "'nowhere/nothing'"),
        (["train", "tiny", "data.pth=x"], "pth"),
        (["evaluate", "tiny", "--suite", "folder", "path=nowhere"], "nowhere"),
        (["evaluate", "tiny", "--suite", "folder"], "missing a required argument: 'path'"),
        (["evaluate", "tiny", "seed"], "'seed' has no '='"),
        (["evaluate", "nowhere/nothing"], "'nowhere/nothing'"),
        (["evaluate", "tiny", "--budget", "9x9"], "r_q <= 8"),
        (["push", "nowhere", "me/model"], "not a saved model"),
    ],
)
def test_what_goes_wrong_is_said_without_a_traceback(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output
    assert not list(tmp_path.iterdir()), "nothing half-written stays behind"


@pytest.mark.parametrize("caching", [[], ["train.mini_batch_size=3"]], ids=["whole", "cached"])
def test_two_processes_train_as_one_on_the_joint_batch(tmp_path, caching):
    """Half the batch each, negatives gathered: the weights and losses are those of one process."""
    found, curves = {}, {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        batch = f"train.batch_size={8 // processes}"
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launch += [f"--nproc_per_node={processes}", "-m", "metaembed_lite.cli"]
        done = subprocess.run(
            [*launch, "train", "tiny", *SMALL, batch, *caching, "--output", str(out)],
            capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        found[processes] = load(out, device="cpu").state_dict()
        curves[processes] = pd.read_csv(out / "training_curve.csv")
    start = build("tiny-vlm", r_q=2, r_c=4, lora_rank=2, dim=8, device="cpu").state_dict()
    moved = 0
    for name, weight in found[1].items():
        torch.testing.assert_close(found[2][name], weight, atol=1e-5, rtol=0)
        moved += name in start and not torch.equal(start[name], weight)
    assert moved > 10
    pd.testing.assert_frame_equal(curves[2], curves[1], rtol=1e-3)


def test_push_uploads_the_folder(tmp_path, monkeypatch):
    calls = []

    class Hub:
        def create_repo(self, name, **kwargs):
            calls.append(("create", name, kwargs["private"]))

        def upload_folder(self, **kwargs):
            calls.append(("upload", kwargs["repo_id"], kwargs["folder_path"]))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    (tmp_path / "modules.json").write_text(json.dumps([]))
    done = run("push", tmp_path, "me/model")
    assert done.exit_code == 0, done.output
    assert calls == [("create", "me/model", True), ("upload", "me/model", tmp_path)]
    assert "owner/name" in run("push", tmp_path, "model").output


def test_the_offline_recipes_have_the_rows_they_ask_for():
    from metaembed_lite.data import codesearch

    data = recipes.read("minilm-codesearch").data
    assert data["n_train"] <= len(codesearch.pool("train"))
    assert data["n_queries"] <= len(codesearch.pool("test"))
