"""What a person sees of a training: the progress bar, loggers, and no table of the trainer."""

import pytest
import transformers.trainer
from transformers import TrainerCallback
from transformers.integrations import INTEGRATION_TO_CALLBACK

from metaembed_lite import build, recipes, train
from metaembed_lite.data.handwriting import training_rows

SETTINGS = {"steps": 2, "batch_size": 4, "warmup_steps": 0, "log_steps": 1}


@pytest.fixture(scope="module")
def rows():
    return training_rows(8, seed=0)


def tiny():
    return build("tiny-vlm", r_q=2, r_c=4, lora_rank=2, dim=8, device="cpu", seed=0)


def test_the_progress_bar_shows_the_loss_and_the_validation_per_budget(rows, capsys):
    curve = train(tiny(), rows, validation=rows.select(range(2)), **SETTINGS)
    shown = capsys.readouterr()
    last = curve.iloc[-1]
    assert "2/2" in shown.err
    losses = f"(1x1 {last['(1, 1)']:.2f}, 2x4 {last['(2, 4)']:.2f})"
    assert f"loss {last.loss:.2f} {losses}, P@1 (1x1 {last['p_at_1 (1, 1)']:.3f}" in shown.err
    assert shown.out.count("\n") == 1, "only the line on the parameters that train"


def test_the_progress_bar_can_be_switched_off(rows, capsys):
    train(tiny(), rows, progress=False, **SETTINGS)
    assert "2/2" not in capsys.readouterr().err


def test_the_trainers_table_never_appears_in_a_notebook(rows, monkeypatch):
    """In a notebook, the trainer's default callback is a table in HTML."""

    class Table(TrainerCallback):
        def __init__(self):
            raise AssertionError("the table appears")

    monkeypatch.setattr(transformers.trainer, "DEFAULT_PROGRESS_CALLBACK", Table)
    train(tiny(), rows, **SETTINGS)


def test_a_logger_of_transformers_gets_the_loss_and_the_validation_per_budget(rows, monkeypatch):
    logged = []

    class Logger(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            logged.append({"step": state.global_step, **logs})

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "wandb", Logger)
    installed = "metaembed_lite.progress.get_available_reporting_integrations"
    monkeypatch.setattr(installed, lambda: ["wandb"])
    settings = {"validation": rows.select(range(2)), "report_to": "wandb", "progress": False}
    curve = train(tiny(), rows, **settings, **SETTINGS)
    losses = {row["step"]: row["loss_2x4"] for row in logged if "loss" in row}
    assert losses == {step: curve["(2, 4)"][curve.step == step].item() for step in (1, 2)}
    quality = {row["step"]: row["eval_p_at_1_1x1"] for row in logged if "eval_p_at_1_1x1" in row}
    assert list(quality) == [0, 2]


@pytest.mark.parametrize(
    ("report_to", "installed", "error", "message"),
    [
        ("wandb", [], ImportError, "the package wandb is not installed: pip install wandb"),
        (["comet_ml"], [], ImportError, "pip install comet-ml"),
        ("weights and biases", [], ValueError, "report_to='weights and biases'.*wandb"),
        ("tensorboard", ["tensorboard"], ValueError, "pass output"),
    ],
    ids=str,
)
def test_a_logger_that_cannot_log_is_named(rows, monkeypatch, report_to, installed, error, message):
    monkeypatch.setattr(
        "metaembed_lite.progress.get_available_reporting_integrations", lambda: installed
    )
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    with pytest.raises(error, match=message):
        train(tiny(), rows, report_to=report_to, **SETTINGS)


def test_a_recipe_names_its_loggers():
    recipe = recipes.read("tiny", ["train.report_to=[wandb, mlflow]"])
    assert recipe.train["report_to"] == ["wandb", "mlflow"]
    with pytest.raises(ValueError, match="has no 'progress'"):
        recipes.read("tiny", ["train.progress=false"])
