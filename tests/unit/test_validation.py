"""Training by epochs, with validation per budget, and with the best model kept at the end."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from sentence_transformers import MultiVectorEncoderTrainer
from transformers import EarlyStoppingCallback, TrainerCallback

from metaembed_lite import MatryoshkaMultiVectorLoss, build, load, load_task, sweep, train
from metaembed_lite.baselines import single_vector
from metaembed_lite.data.handwriting import training_rows
from metaembed_lite.data.held_out import task_from_rows
from metaembed_lite.schedule import count_steps, training_arguments
from metaembed_lite.training_run import find_checkpoints, read_run, step_of
from metaembed_lite.validation import BudgetEvaluator

SETTINGS = {
    "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 0, "log_steps": 1, "progress": False,
}  # fmt: skip
# The P@1 that the scripted evaluator gives to each step. Steps 3 and 5 are the best.
SCRIPT = [0.1, 0.3, 0.2, 0.9, 0.5, 0.9, 0.4]
BEST = 3


def tiny(**changes):
    settings = {"r_q": 2, "r_c": 4, "lora_rank": 2, "dim": 8, "device": "cpu", "seed": 0}
    return build(**settings | changes)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


@pytest.fixture(scope="module")
def rows():
    return training_rows(16, seed=0)


@pytest.fixture(scope="module")
def task():
    return load_task("handwriting", n_queries=6, n_train=0, split="validation", side=2)


# Epochs


@pytest.mark.parametrize("sizes", [[21], [21, 8]], ids=["one set", "two sets"])
@pytest.mark.parametrize("devices", [1, 2])
def test_an_epoch_has_the_steps_of_the_trainers_data_loader(sizes, devices, tmp_path):
    model, rows = tiny(), training_rows(max(sizes), seed=0)
    sets = {str(size): rows.select(range(size)) for size in sizes}
    arguments = training_arguments(tmp_path, batch_size=4, save_steps=None, use_cpu=True)
    trainer = MultiVectorEncoderTrainer(
        model, arguments, sets if len(sets) > 1 else rows, loss=MatryoshkaMultiVectorLoss(model)
    )
    loader = prepare_data_loader(
        trainer.get_train_dataloader(), num_processes=devices, process_index=0
    )
    assert count_steps(None, 1, sizes, 4, devices) == len(loader)
    assert count_steps(None, 2.5, sizes, 4, devices) == int(np.ceil(2.5 * len(loader)))


def test_epochs_train_as_the_same_number_of_steps_does(rows, tmp_path):
    by_steps, by_epochs = tiny(), tiny()
    train(by_steps, rows, steps=6, **SETTINGS)
    output = tmp_path / "run"
    train(by_epochs, rows, epochs=1.5, output=output, **SETTINGS)
    assert torch.equal(weights(by_steps), weights(by_epochs))
    curve = train(tiny(), rows, epochs=1.75, output=output, resume=True, **SETTINGS)
    assert curve.step.max() == read_run(output)["finished"] == 7


@pytest.mark.parametrize(
    ("length", "message"),
    [
        ({"steps": 10, "epochs": 2}, "steps=10 and epochs=2 both say how long to train"),
        ({"epochs": 0}, "epochs=0: use a number above 0"),
        ({"epochs": float("nan")}, "epochs=nan"),
        ({"epochs": "2"}, "epochs='2'"),
    ],
    ids=str,
)
def test_a_length_that_is_wrong_is_named(rows, length, message):
    with pytest.raises(ValueError, match=message):
        train(tiny(), rows, **length, **SETTINGS)


# Validation


def test_validation_measures_as_sweep_does_and_does_not_change_the_training(rows, task):
    plain, validated = (tiny(lora_dropout=0.3) for _ in range(2))
    alone = train(plain, rows, steps=3, **SETTINGS)
    before = sweep(validated, task)
    curve = train(validated, rows, steps=3, validation=task, validate_every=2, **SETTINGS)
    assert torch.equal(weights(plain), weights(validated))
    trained = curve.dropna(subset="loss").reset_index(drop=True)
    pd.testing.assert_frame_equal(trained[alone.columns], alone)
    assert curve.step.tolist() == [0, 1, 2, 3]
    assert curve["p_at_1 (1, 1)"].isna().tolist() == [False, True, False, False]
    for step, table in ((0, before), (3, sweep(validated, task))):
        row = curve[curve.step == step].iloc[0]
        for at_budget in table.itertuples():
            budget = f"({at_budget.r_q}, {at_budget.r_c})"
            assert row[f"p_at_1 {budget}"] == at_budget.p_at_1
            assert row[f"ndcg_at_5 {budget}"] == pytest.approx(at_budget.ndcg_at_5)


def test_rows_become_a_task_without_repetitions_and_several_sets_stay_apart():
    pets = {
        "query": ["a pet", "a pet", "a tool"],
        "positive": ["cat", "dog", "saw"],
        "negative": ["car", "saw", "cat"],
    }
    task = task_from_rows(pets)
    assert task.queries == ["a pet", "a tool"]
    assert task.candidates == ["cat", "car", "dog", "saw"]
    assert task.relevance.tolist() == [[1, 0, 1, 0], [0, 0, 0, 1]]
    assert task.pool is None
    both = task_from_rows({"pets": pd.DataFrame(pets), "more": [{"query": "3", "positive": "cat"}]})
    assert both.candidates == ["cat", "car", "dog", "saw", "cat"]
    assert both.pool.astype(int).tolist() == [[1, 1, 1, 1, 0]] * 2 + [[0, 0, 0, 0, 1]]


def test_images_of_rows_are_searched_as_those_of_a_task(rows):
    task = task_from_rows(rows.select(range(2)))
    assert [len(task.queries), len(task.candidates)] == [2, 4]
    assert set(BudgetEvaluator(tiny(), task, "1x1")(tiny())) == {
        "p_at_1_1x1", "ndcg_at_5_1x1", "p_at_1_mean", "ndcg_at_5_mean",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validate_every": 5}, "validate_every=5 needs validation"),
        ({"keep_best": True}, "keep_best=True needs validation"),
        ({"validation": "rows", "validate_every": 0}, "validate_every=0"),
        ({"validation": "rows", "keep_best": 3}, "keep_best=3"),
        ({"validation": "rows", "keep_best": "16x64"}, r"keep_best='16x64'.*'ndcg_at_5 2x4'"),
        ({"validation": "rows", "keep_best": "recall 2x4"}, "keep_best='recall 2x4'"),
        ({"validation": []}, "0 training rows"),
    ],
    ids=str,
)
def test_settings_of_the_validation_that_are_wrong_are_named(rows, settings, message):
    if settings.get("validation") == "rows":
        settings = settings | {"validation": rows.select(range(2))}
    with pytest.raises(ValueError, match=message):
        train(tiny(), rows, steps=2, **settings, **SETTINGS)


def test_a_model_without_meta_tokens_is_not_validated_per_budget(rows, task):
    model = single_vector("tiny-vlm", lora_rank=2, device="cpu")
    loss = torch.nn.CrossEntropyLoss()
    with pytest.raises(ValueError, match="no meta tokens and so no budget"):
        train(model, rows, steps=1, loss=loss, validation=task, **SETTINGS)


# The best model


class Record(TrainerCallback):
    """The weights of each step."""

    def __init__(self, model):
        self.model, self.steps = model, [weights(model).clone()]

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(weights(self.model).clone())


@pytest.fixture(scope="module")
def steps(rows):
    """The weights after each of six steps."""
    model = tiny()
    record = Record(model)
    train(model, rows, steps=6, callbacks=[record], **SETTINGS)
    return record.steps


@pytest.fixture
def scripted(steps, monkeypatch):
    """An evaluator that knows a step by its weights, and gives it a value of ``SCRIPT``."""

    def measure(self, model, *args, **kwargs):
        now = weights(model)
        known = zip(steps, SCRIPT, strict=True)
        value = next(
            (value for known_weights, value in known if torch.equal(now, known_weights)), 0
        )
        names = (f"{m}_{at}" for m in ("p_at_1", "ndcg_at_5") for at in ("1x1", "2x4", "mean"))
        return dict.fromkeys(names, float(value))

    monkeypatch.setattr(BudgetEvaluator, "__call__", measure)


def run(rows, task, output=None, model=None, steps=6, keep_best=True, **settings):
    model = model or tiny()
    curve = train(
        model, rows, steps=steps, validation=task, validate_every=1, keep_best=keep_best,
        output=output, save_steps=2, **SETTINGS | settings,
    )  # fmt: skip
    return model, curve


def checkpoints_of(output):
    return sorted(map(step_of, find_checkpoints(output)))


def test_the_best_model_is_kept_in_memory_and_saved(rows, task, steps, scripted, tmp_path, capsys):
    model, curve = run(rows, task, tmp_path / "run")
    assert torch.equal(weights(model), steps[BEST])
    assert torch.equal(weights(load(tmp_path / "run", device="cpu")), steps[BEST])
    assert curve["p_at_1 (2, 4)"].tolist() == SCRIPT
    assert curve.attrs["best_step"] == BEST
    assert "kept the model of step 3 of 6: p_at_1_mean 0.900" in capsys.readouterr().out
    assert read_run(tmp_path / "run")["best"] == BEST
    assert checkpoints_of(tmp_path / "run") == [BEST, 6]
    saved = pd.read_csv(tmp_path / "run" / "training_curve.csv")
    assert saved["ndcg_at_5 (1, 1)"].tolist() == SCRIPT


def test_the_best_model_is_kept_without_an_output(rows, task, steps, scripted):
    model, _ = run(rows, task, keep_best="ndcg_at_5 2x4")
    assert torch.equal(weights(model), steps[BEST])


class Killed(BaseException):
    pass


@pytest.fixture
def cut(rows, task, scripted, tmp_path):
    """A run that was cut off in its sixth step, after the best one."""

    class Kill(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise Killed

    with pytest.raises(Killed):
        run(rows, task, tmp_path / "run", callbacks=[Kill()])
    return tmp_path / "run"


def test_a_run_that_was_cut_off_resumes_bit_by_bit_and_still_knows_the_best(cut, rows, task, steps):
    assert checkpoints_of(cut) == [2, BEST, 4]
    record = Record(tiny())
    model, curve = run(rows, task, cut, record.model, resume=True, callbacks=[record])
    assert torch.equal(record.steps[-1], steps[6])
    assert torch.equal(weights(model), steps[BEST])
    assert torch.equal(weights(load(cut, device="cpu")), steps[BEST])
    assert curve["p_at_1 (1, 1)"].tolist() == SCRIPT


def test_a_lengthened_run_still_knows_the_best(rows, task, steps, scripted, tmp_path):
    run(rows, task, tmp_path / "run")
    model, curve = run(rows, task, tmp_path / "run", steps=7, resume=True)
    assert curve.step.max() == 7
    assert torch.equal(weights(model), steps[BEST])


def test_the_next_best_is_kept_if_the_checkpoint_of_the_best_is_lost(
    cut, rows, task, steps, caplog
):
    shutil.rmtree(cut / "checkpoints" / f"checkpoint-{BEST}")
    model, curve = run(rows, task, cut, resume=True)
    assert f"the best model, of step {BEST}, is lost" in caplog.text
    assert curve.attrs["best_step"] == 4
    assert torch.equal(weights(model), steps[4])


def test_the_best_so_far_is_not_compared_with_another_measure(cut, rows, task):
    with pytest.raises(ValueError, match=r"keep_best: .*p_at_1_mean.* now"):
        run(rows, task, cut, keep_best="ndcg_at_5 2x4", resume=True)


def test_a_callback_of_transformers_stops_early(rows, task, scripted, tmp_path):
    stop = EarlyStoppingCallback(early_stopping_patience=1)
    _, curve = run(rows, task, tmp_path / "run", callbacks=[stop])
    assert curve.step.max() == 2, "step 2 is worse than step 1"
    assert curve.attrs["best_step"] == 1
