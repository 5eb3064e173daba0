"""Recipes and the command line that runs them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from typer.testing import CliRunner

from metaembed_lite import Budget, __version__, build, checkpoints, load, recipes, sweep
from metaembed_lite.budget import BudgetLike, Budgets, check_nested
from metaembed_lite.cli import app
from metaembed_lite.data import codesearch
from metaembed_lite.settings import check

SMALL = [
    "model.r_q=2", "model.r_c=4", "model.lora_rank=2", "model.dim=8", "data.n_queries=10",
    "data.n_train=16", "train.budgets=[1x1, 2x4]", "train.steps=2", "train.batch_size=4",
    "train.log_steps=1",
]  # fmt: skip


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.parametrize("name", recipes.list_names())
def test_every_recipe_matches_the_functions_that_take_its_values(name):
    recipe = recipes.read(name)
    full = Budget(recipe.model["r_q"], recipe.model["r_c"])
    if "budgets" in recipe.train:
        assert check_nested(recipe.train["budgets"])[-1] == full
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


def test_where_the_papers_settings_come_from_is_written_once_and_listed():
    listing = run("recipes").output
    assert recipes.PAPER_NOTE in listing
    assert "scripts/7b_mrl.yaml" in recipes.PAPER_NOTE
    for name in recipes.list_names():
        assert name in listing
        assert "7b_mrl" not in (recipes.FOLDER / f"{name}.yaml").read_text()


def test_overrides_are_read_as_yaml_and_may_add_a_line():
    recipe = recipes.read("tiny", ["train.steps=3", "model.dim=null", "train.budgets=[1x1, 8x16]"])
    assert recipe.train["steps"] == 3
    assert recipe.model["dim"] is None
    assert recipe.train["budgets"] == ["1x1", "8x16"]
    assert recipes.read("tiny", ["train.learning_rate=1e-4"]).train["learning_rate"] == 1e-4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.stepz=3"], "train has no 'stepz'. Did you mean 'steps'.* It has .*steps"),
        (["data.nqueries=3"], "data has no 'nqueries'. Did you mean 'n_queries'"),
        (["data.name=moon"], "recipe tiny: data: unknown suite 'moon'"),
        (["data.name=[stickers]"], r"data needs the name of a suite.*\['stickers'\]"),
        (["data.name=image_folder"], "data: missing a required argument: 'path'"),
        (["steps=3"], "section.key=value"),
        (["train.steps"], "section.key=value"),
        (["optimizer.lr=1"], "model, data, train"),
        (["train.budgets=[1x1"], "is not YAML"),
    ],
)
def test_a_mistake_in_an_override_is_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        recipes.read("tiny", overrides)


def test_an_unknown_recipe_lists_the_bundled_ones():
    with pytest.raises(ValueError, match=r"no recipe 'huge'.*tiny"):
        recipes.read("huge")


def test_your_own_file_is_a_recipe(tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {}\ndata: {name: stickers}\ntrain: {steps: 1}\n")
    assert recipes.read(tmp_path / "mine.yaml").data == {"name": "stickers"}
    (tmp_path / "half.yaml").write_text("model: {}\n")
    with pytest.raises(ValueError, match=r"half.yaml.*sections model, data, train.*it has model"):
        recipes.read(tmp_path / "half.yaml")


@pytest.fixture
def written(tmp_path):
    """A function that reads a recipe file with the given lines in its section ``train``."""

    def read(lines, data="{name: stickers}"):
        text = f"model:\ndata: {data}\ntrain:\n" + "".join(f"  {x}\n" for x in lines)
        (tmp_path / "mine.yaml").write_text(text)
        return recipes.read(tmp_path / "mine.yaml")

    return read


def test_a_number_may_have_an_exponent_in_a_file_as_in_an_override(written):
    for text in ("1e-3", "1E-3", "1.0e-3", ".1e-2", "+1e-3", "1e-03", "1.e-3"):
        assert written([f"learning_rate: {text}"]).train == {"learning_rate": 0.001}
        override = recipes.read("tiny", [f"train.learning_rate={text}"])
        assert override.train["learning_rate"] == 0.001
    steps = written(["steps: 1E3"]).train["steps"]
    assert (steps, type(steps)) == (1000, int)
    rate = written(["learning_rate: 1"]).train["learning_rate"]
    assert (rate, type(rate)) == (1, float)
    assert written(["budgets: [1x1, 8x16]"]).train == {"budgets": ["1x1", "8x16"]}


def test_an_empty_section_means_the_defaults(written):
    assert written([]).model == written([]).train == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('steps: "3"', "steps is '3', a text; expected null or a whole number: remove the quotes"),
        ("steps: four", "steps is 'four', a text; expected null or a whole number"),
        ("steps: 2.5", "steps is 2.5, a number; expected null or a whole number"),
        ("steps: 1e999", "steps is inf, which is not finite; expected null or a whole number"),
        ("steps: true", "steps is True, a boolean; expected null or a whole number"),
        ("batch_size:", "batch_size is null; expected a whole number"),
        ("steps: [3]", r"steps is \[3\], a list; expected null or a whole number"),
        ("steps: 2020-12-12", "steps is .*, a date; expected null or a whole number"),
        ("learning_rate: fast", "learning_rate is 'fast', a text; expected a number"),
        ("learning_rate: .nan", "learning_rate is nan, which is not finite; expected a number"),
        ("learning_rate: -.inf", "learning_rate is -inf, which is not finite"),
        ("learning_rate: " + "9" * 400, "learning_rate is 9+..., a whole number"),
        ("temperature: off", "temperature is False, a boolean; expected null or a number"),
        ("gradient_checkpointing: 1", "gradient_checkpointing is 1, .*; expected true or false"),
        ("precision: fp8", "precision is 'fp8', a text; expected 'fp32' or 'bf16' or 'fp16'"),
        (
            "budgets: [4y8]",
            "budgets is .*; expected null or a list of budgets or a budget such as 4x8",
        ),
        (
            "budgets: [[0, 1]]",
            "budgets is .*; expected null or a list of budgets or a budget such as",
        ),
        ("weights: [1, x]", "weights is .*; expected null or a list, each item a number"),
        ("weights: 1", r"weights is 1, .*: write it as a list, \[1\]"),
        ("loss: mine", "loss is 'mine', a text; expected null"),
        ("stepz: 3", "train has no 'stepz'. Did you mean 'steps'"),
        ("output: model", "train has no 'output'"),
        ("1: 2", "train has no 1"),
    ],
)
def test_a_value_of_another_type_is_named_before_anything_is_loaded(written, line, message):
    with pytest.raises(ValueError, match=message) as error:
        written([line])
    assert "mine.yaml: train" in str(error.value)


def test_a_number_is_not_converted_to_text(written):
    with pytest.raises(ValueError, match=r"backbone is 2024, a whole number; .* put it in quotes"):
        recipes.read("tiny", ["model.backbone=2024"])
    assert recipes.read("tiny", ['model.backbone="2024"']).model["backbone"] == "2024"
    with pytest.raises(ValueError, match="split is False, a boolean; expected a text"):
        written([], data="{name: stickers, split: no}")


@pytest.mark.parametrize("data", ["[stickers]", "stickers", "3"])
def test_a_section_that_is_not_a_mapping_is_named(written, data):
    with pytest.raises(ValueError, match=r"mine.yaml: data is .*; expected lines of 'key: value'"):
        written([], data=data)


def test_a_key_that_appears_twice_is_an_error(written):
    with pytest.raises(
        ValueError, match=r"mine.yaml is not YAML: .*'steps' appears twice\n.*line 5"
    ):
        written(["steps: 3", "steps: 4"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model: \xff\xfe", "mine.yaml is not text in UTF-8"),
        (b"model: \x00", "mine.yaml is not YAML"),
        (b"model: [", "mine.yaml is not YAML"),
        (b"[" * 5000, "mine.yaml is not YAML"),
        (b"model: 2020-13-45", "mine.yaml is not YAML: month"),
        (b"", "mine.yaml: a recipe has the sections"),
        (b"- model", "mine.yaml: a recipe has the sections"),
    ],
)
def test_a_file_that_is_not_a_recipe_is_named(tmp_path, content, message):
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        recipes.read(tmp_path / "mine.yaml")
    with pytest.raises(ValueError, match="is a folder: name the recipe's file in it"):
        recipes.read(tmp_path)


def test_types_come_from_the_signature_and_unknown_types_accept_anything():
    def later(
        model: "NotImported",  # noqa: F821
        targets: "str | Sequence[str] | None" = None,
        sizes: "Mapping[str, int] | None" = None,
        pair: tuple[int, int] = (1, 2),
        untyped=3,
        **others: int,
    ) -> "NotImported": ...  # noqa: F821

    later.__globals__.update(Sequence=Sequence, Mapping=Mapping)
    given = {"targets": ["q", "k"], "sizes": {"a": 1}, "pair": [1, 2.0], "untyped": "x"}
    assert check(later, {"model": 1, **given}, "it") == {"model": 1, **given, "pair": [1, 2]}
    assert check(partial(later, 1), given, "it") == {**given, "pair": [1, 2]}
    assert check(later, {"targets": "q"}, "it", leave_out=["model"]) == {"targets": "q"}
    for wrong in ({"targets": 1}, {"targets": [1]}, {"pair": [1]}, {"sizes": []}, {"others": 1}):
        with pytest.raises(ValueError, match="it"):
            check(later, wrong, "it", leave_out=["model"])


def test_a_budget_and_budgets_are_recognized_by_their_types():
    def score(
        budget: BudgetLike = "1x1",
        budgets: Budgets | None = None,
        each: "Iterable[Budget | Sequence[int] | str] | None" = None,
    ) -> None: ...

    score.__globals__.update(Iterable=Iterable, Sequence=Sequence)
    for name, values in {
        "budget": ("4x8", [4, 8]),
        "budgets": ("4x8", [4, 8], ["1x1", [4, 8]], None),
        "each": (["1x1", [4, 8]], None),
    }.items():
        for value in values:
            assert check(score, {name: value}, "it") == {name: value}
    a_budget = "a budget such as 4x8"
    for name, value, expected in (
        ("budget", ["1x1", "4x8"], f"expected {a_budget}"),
        ("budget", None, f"budget is null; expected {a_budget}"),
        ("budget", 4, f"expected {a_budget}"),
        ("budgets", "4y8", f"expected null or a list of budgets or {a_budget}"),
        ("budgets", [], f"expected null or a list of budgets or {a_budget}"),
        ("budgets", ["1x1", 4], f"expected null or a list of budgets or {a_budget}"),
        ("each", "4x8", rf"expected null or a list, each item {a_budget}: write it as a list, "),
    ):
        with pytest.raises(ValueError, match=expected):
            check(score, {name: value}, "it")


@pytest.mark.parametrize("name", recipes.list_names())
def test_a_recipe_is_printed_with_its_comments_to_copy_and_change(name, tmp_path):
    done = run("recipes", name)
    assert done.exit_code == 0
    assert done.stdout == (recipes.FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(done.stdout, encoding="utf-8")
    mine, theirs = recipes.read(tmp_path / "mine.yaml"), recipes.read(name)
    assert (mine.model, mine.data, mine.train) == (theirs.model, theirs.data, theirs.train)


def test_an_unknown_recipe_is_not_printed_and_a_list_says_which_there_are():
    done = run("recipes", "../recipes/tiny")
    assert done.exit_code == 2
    assert "no recipe '../recipes/tiny'" in done.stderr
    assert "smolvlm-256m" in done.stderr


def test_the_command_line_says_its_version():
    done = run("--version")
    assert (done.exit_code, done.stdout) == (0, f"metaembed-lite {__version__}\n")


FAST = """
import sys, time
from typer.testing import CliRunner
from metaembed_lite.cli import app
names = [c.name or c.callback.__name__ for c in app.registered_commands]
calls = [["--help"], ["--version"], ["recipes"], ["recipes", "tiny"]]
calls += [[name, "--help"] for name in names]
for call in calls:
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0 and done.stdout, (call, done.output)
slow = {"torch", "transformers", "pandas", "datasets", "lancedb"} & set(sys.modules)
print(len(names), sorted(slow), time.process_time())
"""


def test_help_the_version_and_the_recipes_come_in_less_than_a_second():
    """All of them together, in one process, in processor time. None imports a slow package."""
    done = subprocess.run([sys.executable, "-c", FAST], capture_output=True, text=True, check=True)
    commands, rest = done.stdout.split(maxsplit=1)
    assert int(commands) >= 7
    slow, seconds = rest.rsplit(maxsplit=1)
    assert slow == "[]"
    assert float(seconds) < 1


def test_the_command_line_trains_saves_and_evaluates(tmp_path):
    done = run("train", "tiny", *SMALL, "data.side=2", "--output", tmp_path / "model")
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


def test_a_model_is_evaluated_with_as_many_inputs_at_a_time_as_it_was_trained(
    tmp_path, monkeypatch
):
    batch_sizes = []

    def record(model, task, **options):
        batch_sizes.append(options["batch_size"])
        return sweep(model, task, **options)

    monkeypatch.setattr("metaembed_lite.sweep", record)
    for caching in ([], ["train.mini_batch_size=2"]):
        output = tmp_path / str(len(batch_sizes))
        done = run("train", "tiny", *SMALL, "data.side=2", *caching, "--output", output)
        assert done.exit_code == 0, done.output
    assert batch_sizes == [64, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "huge"], "no recipe 'huge'"),
        (["train", "tiny", "data.name=moon"], "unknown suite 'moon'"),
        (
            ["train", "tiny", "model.backbone=nowhere/nothing", "data.n_train=1"],
            "'nowhere/nothing'",
        ),
        (["train", "tiny", "data.pth=x"], "pth"),
        (["evaluate", "tiny", "--suite", "image_folder", "path=nowhere"], "nowhere"),
        (["evaluate", "tiny", "--suite", "image_folder"], "missing a required argument: 'path'"),
        (["evaluate", "tiny", "seed"], "'seed' has no '='"),
        (["evaluate", "nowhere/nothing"], "'nowhere/nothing'"),
        (["evaluate", "tiny", "--budget", "9x9"], "r_q <= 8"),
        (["push", "nowhere", "me/model"], "not a saved model"),
        (["train", "tiny", "train.steps=four"], "steps is 'four'"),
        (["train", "tiny", "train.steps=2.5"], "steps is 2.5"),
        (["train", "tiny", "model.layout=[joint]"], "expected 'joint' or 'separate'"),
        (["train", "."], "is a folder"),
        (["train", "tiny", "data.name=image_folder", "data.path=3"], "path is 3"),
        (["evaluate", "tiny", "n_queries=many"], "n_queries is 'many'"),
        (["evaluate", "tiny", "n_queries=2.5"], "n_queries is 2.5"),
        (["evaluate", "tiny", "nqueries=3"], "Did you mean 'n_queries'"),
        (["evaluate", "tiny", "seed=-1", "--queries", "3"], "seed=-1: use a whole number from 0"),
        (["evaluate", "tiny", "--suite", "moon"], "unknown suite 'moon'"),
        (["evaluate", "tiny", "--queries", "0"], "n_queries=0"),
        (["evaluate", "tiny", "--budget", "many"], "budget 'many'"),
        (["evaluate", "tiny", "--budget", "0x1"], "r_q=0"),
        (["evaluate", "tiny", "--benchmark", "of the moon"], "'of the moon'"),
    ],
)
def test_expected_errors_are_one_line_without_a_traceback(
    arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert "\nerror: " in f"\n{done.output}"
    assert not list(tmp_path.iterdir()), "no half-written file stays"


def test_an_error_that_another_library_raises_keeps_its_traceback(monkeypatch):
    def read_broken_json():
        return json.loads("{")

    monkeypatch.setattr(recipes, "list_names", read_broken_json)
    done = run("recipes")
    assert done.exit_code == 1
    assert isinstance(done.exception, json.JSONDecodeError)
    assert "error:" not in done.output


def test_whole_numbers_of_a_suite_may_be_written_as_1e1():
    done = run("evaluate", "tiny", "n_queries=1e1", "side=2", "--budget", "1x1")
    assert done.exit_code == 0, done.output


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    done = run("train", "tiny", *SMALL, "--output", tmp_path / "file" / "model")
    assert done.exit_code == 2
    assert str(tmp_path / "file") in done.output
    assert (tmp_path / "file").read_text() == "mine"


def test_a_missing_mteb_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    done = run("evaluate", "tiny", "--benchmark", "ViDoRe(v2)")
    assert done.exit_code == 2
    assert "pip install 'metaembed-lite[benchmarks]'" in done.output


def test_a_truncated_weights_file_is_an_error_without_a_traceback(tmp_path):
    shutil.copytree(checkpoints.HERE / "tiny-handwriting", tmp_path / "model")
    weights = next((tmp_path / "model").rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    done = run("evaluate", tmp_path / "model", "--queries", "3")
    assert done.exit_code == 2
    assert "\nerror: " in f"\n{done.output}"


def test_an_image_too_large_to_open_is_an_error_without_a_traceback(tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        Image.new("L", (90, 90)).save(tmp_path / name)
    (tmp_path / "captions.csv").write_text("image,text\na.png,a\nb.png,b\n")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    done = run("evaluate", "tiny", "--suite", "image_folder", f"path={tmp_path}")
    assert done.exit_code == 2
    assert "\nerror: " in f"\n{done.output}"


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (BlockingIOError("it is in use"), "error: it is in use\n"),
        (MemoryError(), "error: MemoryError\n"),
        (SafetensorError("header too large"), "error: header too large\n"),
        (TypeError("a slip in our code"), None),
        (KeyError("a slip in our code"), None),
    ],
)
def test_only_a_bug_shows_a_traceback(monkeypatch, error, shown):
    def fail():
        raise error

    monkeypatch.setattr(recipes, "list_names", fail)
    done = run("recipes")
    if shown is None:
        assert done.exception is error
    else:
        assert (done.exit_code, done.output) == (2, shown)


@pytest.mark.parametrize("caching", [[], ["train.mini_batch_size=3"]], ids=["whole", "cached"])
def test_two_processes_train_as_one_on_the_joint_batch(tmp_path, caching):
    """Each has half of the batch and gathers negatives. The weights equal those of one process."""
    states, curves = {}, {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        batch = f"train.batch_size={8 // processes}"
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launch += [f"--nproc_per_node={processes}", "-m", "metaembed_lite.cli"]
        done = subprocess.run(
            [*launch, "train", "tiny-handwriting", *SMALL, batch, *caching, "--output", str(out),
             "train.precision=fp32", "train.validate_every=1", "train.keep_best=true"],
            capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        states[processes] = load(out, device="cpu").state_dict()
        curves[processes] = pd.read_csv(out / "training_curve.csv")
    start = build("tiny-vlm", r_q=2, r_c=4, lora_rank=2, dim=8, device="cpu").state_dict()
    moved = 0
    for name, weight in states[1].items():
        torch.testing.assert_close(states[2][name], weight, atol=1e-5, rtol=0)
        moved += name in start and not torch.equal(start[name], weight)
    assert moved > 10
    pd.testing.assert_frame_equal(curves[2], curves[1], rtol=1e-3)


def test_the_installed_packages_have_the_rows_that_the_recipe_requests():
    data = recipes.read("minilm-codesearch").data
    assert data["n_train"] <= len(codesearch.load_functions("train"))
    assert data["n_queries"] <= len(codesearch.load_functions("test"))
