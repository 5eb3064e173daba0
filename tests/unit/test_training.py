"""Training with sentence-transformers' trainer: it learns, logs, resumes, and names errors."""

import pytest
import torch
import yaml
from sentence_transformers import MultiVectorEncoderTrainer
from transformers import TrainerCallback

from metaembed_lite import (
    MatryoshkaMultiVectorLoss,
    build,
    load,
    load_task,
    recipes,
    train,
    training_arguments,
)
from metaembed_lite.callbacks import NestAfter
from metaembed_lite.data.handwriting import training_rows
from metaembed_lite.training import freeze_dropout


@pytest.fixture(scope="module")
def rows():
    return training_rows(32, seed=0)


def tiny():
    return build("tiny-vlm", r_q=2, r_c=4, lora_rank=4, dim=16, device="cpu", seed=0)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


SETTINGS = {"batch_size": 8, "learning_rate": 1e-3, "warmup_steps": 0, "log_steps": 1}


def test_the_loss_of_every_budget_falls_on_a_repeated_batch(rows):
    curve = train(tiny(), rows.select(range(8)), steps=12, temperature=0.2, **SETTINGS)
    assert list(curve.columns) == ["step", "loss", "grad_norm", "(1, 1)", "(2, 4)"]
    assert (
        curve.iloc[-1][["loss", "(1, 1)", "(2, 4)"]] < curve.iloc[0][["loss", "(1, 1)", "(2, 4)"]]
    ).all()
    groups = curve["(1, 1)"] + curve["(2, 4)"]
    torch.testing.assert_close(
        torch.tensor(groups.values), torch.tensor(curve.loss.values), atol=1e-2, rtol=1e-3
    )


def test_only_meta_tokens_lora_and_projection_change(rows):
    model = tiny()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    train(model, rows, steps=2, **SETTINGS)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all("lora" in n or "trainable_tokens" in n or n == "1.linear.weight" for n in moved)
    assert {"1.linear.weight"} < moved


def test_a_run_that_was_cut_off_resumes_to_the_same_weights(rows, tmp_path):
    whole = tiny()
    train(whole, rows, steps=4, **SETTINGS)

    class Killed(Exception):
        pass

    cut, saves = tiny(), {"output": tmp_path / "run", "save_steps": 2}

    def die_after_the_second_step(module, inputs, output):
        die_after_the_second_step.forwards += 1
        if die_after_the_second_step.forwards > 3 * 2:
            raise Killed

    die_after_the_second_step.forwards = 0
    hook = cut.register_forward_hook(die_after_the_second_step)
    with pytest.raises(Killed):
        train(cut, rows, steps=4, **SETTINGS, **saves)
    hook.remove()
    resumed = tiny()
    train(resumed, rows, steps=4, resume=True, **SETTINGS, **saves)
    assert torch.equal(weights(resumed), weights(whole))


def test_the_trained_model_is_written_to_output(rows, tmp_path):
    model = tiny()
    train(model, rows, steps=2, output=tmp_path / "run", **SETTINGS)
    again = load(tmp_path / "run", device="cpu")
    assert torch.equal(model.encode_query("7 B2"), again.encode_query("7 B2"))


def test_bad_input_is_named(rows):
    model = tiny()
    with pytest.raises(ValueError, match="32 training rows for batches of 64"):
        train(model, rows, batch_size=64)
    with pytest.raises(ValueError, match="0 training rows"):
        train(model, load_task("handwriting", n_queries=2, n_train=0).train)
    with pytest.raises(ValueError, match="expected query, positive"):
        train(model, rows.rename_column("positive", "image"), batch_size=8)
    with pytest.raises(ValueError, match="needs output"):
        train(model, rows, batch_size=8, resume=True)
    with pytest.raises(ValueError, match=r"budget \(4, 4\): there are 2 query vectors"):
        train(model, rows, batch_size=8, budgets=[(1, 1), (4, 4)])


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "mini_batch_size": 2},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_settings_that_save_memory_train_the_same_parameters(rows, settings):
    trained = []
    for extra in ({}, settings):
        model = tiny()
        train(model, rows, steps=2, batch_size=4, warmup_steps=0, **extra)
        trained.append(weights(model))
    close = 1e-5 if "precision" not in settings else 1e-3
    torch.testing.assert_close(trained[1], trained[0], atol=close, rtol=0)


def test_a_run_that_does_not_fit_into_memory_stops_before_it_starts(rows, monkeypatch):
    monkeypatch.setattr("metaembed_lite.memory.available", lambda device: 2**20)
    with pytest.raises(MemoryError, match=r"activations .* free on cpu: 1\.0 MiB.*mini_batch_size"):
        train(tiny(), rows, steps=1, batch_size=4)


def test_an_unknown_precision_is_named(rows):
    with pytest.raises(ValueError, match="precision 'int4'"):
        train(tiny(), rows, steps=1, batch_size=4, precision="int4")


def test_a_half_precision_backbone_trains(rows):
    model = build(
        "tiny-vlm", r_q=2, r_c=4, lora_rank=4, dim=16, dtype="bfloat16", device="cpu", seed=0
    )
    before = weights(model).clone()
    curve = train(model, rows, steps=2, batch_size=4, warmup_steps=0, precision="bf16")
    assert curve.loss.notna().all()
    assert not torch.equal(before, weights(model))


@pytest.mark.parametrize("counts", [{"steps": 0}, {"batch_size": -1}, {"log_steps": 0}], ids=str)
def test_counts_below_one_are_named(rows, counts):
    with pytest.raises(ValueError, match=f"{next(iter(counts))}="):
        train(tiny(), rows, **counts)


def test_a_finished_run_is_not_resumed_into_a_new_one(rows, tmp_path):
    model = tiny()
    train(model, rows, steps=1, batch_size=4, output=tmp_path / "model")
    with pytest.raises(ValueError, match="nothing to resume"):
        train(tiny(), rows, steps=1, batch_size=4, output=tmp_path / "model", resume=True)


def test_several_tasks_train_together_and_each_batch_comes_from_one(rows, monkeypatch):
    from metaembed_lite import MatryoshkaMultiVectorLoss
    from metaembed_lite.data.meta_tasks import training_sets

    model = tiny()
    widths = []
    forward = MatryoshkaMultiVectorLoss.forward

    def watched(self, features, labels=None):
        columns = list(features)
        widths.append(["pixel_values" in column for column in columns])
        return forward(self, columns, labels)

    monkeypatch.setattr(MatryoshkaMultiVectorLoss, "forward", watched)
    sets = training_sets(8)
    train(model, sets, steps=len(sets), batch_size=8)
    kinds = {tuple(w) for w in widths}
    assert len(widths) == len(sets)
    assert kinds == {(False, True, True), (True, False, False), (True, True, True)}


def test_a_task_that_is_too_small_is_named(rows):
    with pytest.raises(ValueError, match=r"small: 8 training rows for batches of 16"):
        train(tiny(), {"large": rows, "small": rows.select(range(8))}, steps=1, batch_size=16)


def test_a_recipe_that_cannot_be_written_is_refused_before_training(rows, tmp_path):
    model, output = tiny(), tmp_path / "run"
    weights = [p.clone() for p in model.parameters()]
    with pytest.raises(yaml.representer.RepresenterError):
        train(model, rows, steps=1, output=output, recipe={"path": tmp_path}, **SETTINGS)
    assert all(map(torch.equal, model.parameters(), weights))
    assert not output.exists()


# Late nesting


def test_without_late_nesting_the_weights_are_those_of_mmr_bit_by_bit(rows):
    trained = []
    for settings in ({}, {"nest_after": 0.0}, {"nest_after": 0}):
        model = tiny()
        train(model, rows, steps=2, **SETTINGS, **settings)
        trained.append(weights(model))
    assert torch.equal(trained[0], trained[1])
    assert torch.equal(trained[0], trained[2])


@pytest.mark.parametrize("mini_batch_size", [None, 2])
@pytest.mark.parametrize("budget_weights", [None, [1.0, 3.0]])
def test_nesting_starts_exactly_after_the_fraction_of_the_steps(
    rows, mini_batch_size, budget_weights
):
    """Two of five steps train as training without MMR does. The loss of step 3 is of both."""
    settings = {"steps": 5, "mini_batch_size": mini_batch_size, "temperature": 0.2, **SETTINGS}
    curve = train(tiny(), rows, nest_after=0.4, weights=budget_weights, **settings)
    full = curve["(2, 4)"] * (budget_weights or [1])[-1]
    both = full + curve["(1, 1)"] * (budget_weights or [1])[0]
    assert curve.loss[:2].tolist() == pytest.approx(full[:2].tolist(), abs=2e-3)
    assert curve.loss[2:].tolist() == pytest.approx(both[2:].tolist(), abs=2e-3)
    assert curve["(1, 1)"].min() > 0.1, "the smaller budget's loss tells the two sums apart"
    alone = train(
        tiny(), rows, budgets=(2, 4), weights=budget_weights and budget_weights[-1:], **settings
    )
    assert curve.grad_norm[:2].tolist() == pytest.approx(alone.grad_norm[:2].tolist(), rel=1e-4)
    # The loss of a step is computed before its update, so step 3 still has the same weights.
    assert curve["(2, 4)"][:3].tolist() == pytest.approx(alone["(2, 4)"][:3].tolist(), abs=1e-5)
    assert curve["(2, 4)"][3] != pytest.approx(alone["(2, 4)"][3], abs=1e-5)


def test_late_nesting_with_gradient_caching_trains_the_same_model(rows):
    trained = []
    for mini_batch_size in (None, 2):
        model = tiny().double()  # Adam makes rounding of a gradient near 0 as large as a step
        train(
            model, rows, steps=4, nest_after=0.5, mini_batch_size=mini_batch_size, **SETTINGS
        )  # fmt: skip
        trained.append(weights(model))
    torch.testing.assert_close(trained[1], trained[0], atol=1e-8, rtol=0)


def test_late_nesting_by_hand_trains_the_same_model_as_train(rows, tmp_path):
    settings = {"steps": 4, **SETTINGS}
    by_train, by_hand = tiny(), tiny()
    train(by_train, rows, nest_after=0.5, **settings)
    loss = MatryoshkaMultiVectorLoss(by_hand)
    freeze_dropout(by_hand)
    arguments = training_arguments(tmp_path, use_cpu=True, save_steps=None, **settings)
    callbacks = [NestAfter(loss, 0.5)]
    MultiVectorEncoderTrainer(by_hand, arguments, rows, loss=loss, callbacks=callbacks).train()
    assert torch.equal(weights(by_hand), weights(by_train))


@pytest.mark.parametrize(
    ("fraction", "steps", "full_steps"),
    [(0, 10, 0), (0.5, 10, 5), (0.29, 100, 29), (0.25, 10, 2), (0.99, 10, 9), (0.9, 1, 0)],
)
def test_the_fraction_is_rounded_to_steps_and_the_last_step_nests(fraction, steps, full_steps):
    loss = MatryoshkaMultiVectorLoss(tiny())
    assert NestAfter(loss, fraction).count_full_steps(steps) == full_steps


def test_a_model_trained_without_mmr_can_be_nested_afterwards(rows, tmp_path):
    train(tiny(), rows, budgets=(2, 4), steps=2, output=tmp_path / "full", **SETTINGS)
    model = load(tmp_path / "full", device="cpu")
    before = weights(model).clone()
    settings = {"steps": 12, "temperature": 0.2, **SETTINGS}
    curve = train(model, rows.select(range(8)), budgets=[(1, 1), (2, 4)], **settings)
    assert curve["(1, 1)"].iloc[-1] < curve["(1, 1)"].iloc[0]
    assert not torch.equal(weights(model), before)


def test_a_model_trained_in_bf16_encodes_afterwards_as_the_saved_one_does(rows, tmp_path):
    model = tiny()
    train(model, rows, output=tmp_path / "model", steps=2, precision="bf16", **SETTINGS)
    saved = load(tmp_path / "model", device="cpu")
    query = rows["query"][0]
    torch.testing.assert_close(
        model.encode_query(query), saved.encode_query(query), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    "fraction", [1, 1.5, -0.1, float("nan"), float("inf"), "0.5", None, True, 0.5j], ids=str
)
def test_a_fraction_out_of_range_is_named(rows, fraction):
    model = tiny()
    before = weights(model).clone()
    with pytest.raises(ValueError, match=rf"nest_after={fraction!r}: .* from 0 to less than 1"):
        train(model, rows, steps=2, nest_after=fraction, **SETTINGS)
    assert torch.equal(weights(model), before)


def test_late_nesting_that_cannot_take_place_is_refused(rows):
    model = tiny()
    settings = {"steps": 2, "nest_after": 0.5, **SETTINGS}
    with pytest.raises(ValueError, match=r"only budget is \(2, 4\), so there is nothing to nest"):
        train(model, rows, budgets=(2, 4), **settings)
    with pytest.raises(ValueError, match=r"\[1\.0, 0\.0\] give the largest budget weight 0"):
        train(model, rows, weights=[1, 0], **settings)
    with pytest.raises(ValueError, match=r"nest_after=0\.5 .* your own loss"):
        train(model, rows, loss=MatryoshkaMultiVectorLoss(model), **settings)
    with pytest.raises(ValueError, match="CrossEntropyLoss has no nested budgets"):
        NestAfter(torch.nn.CrossEntropyLoss(), 0.5)


def test_a_recipe_sets_late_nesting():
    assert recipes.read("tiny", ["train.nest_after=0.5"]).train["nest_after"] == 0.5
    with pytest.raises(ValueError, match="nest_after is 'half', a text; expected a number"):
        recipes.read("tiny", ["train.nest_after=half"])


def test_a_loss_of_the_user_has_no_columns_per_budget(rows):
    model = tiny()
    loss = MatryoshkaMultiVectorLoss(model)
    curve = train(model, rows, steps=1, loss=loss, **SETTINGS)
    assert curve.columns.tolist() == ["step", "loss", "grad_norm"]


def test_callbacks_see_every_step_and_do_not_change_the_training(rows):
    """Late nesting of a loss of one's own is an example of such a callback."""
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append((state.global_step, loss.full_only))

    model = tiny()
    loss = MatryoshkaMultiVectorLoss(model)
    train(model, rows, loss=loss, callbacks=[NestAfter(loss, 0.5), Watch()], steps=4, **SETTINGS)
    assert seen == [(1, True), (2, True), (3, False), (4, False)]
    twin = tiny()
    train(twin, rows, nest_after=0.5, steps=4, **SETTINGS)
    torch.testing.assert_close(weights(model), weights(twin), rtol=0, atol=0)


def test_a_recipe_cannot_set_callbacks():
    with pytest.raises(ValueError, match="callbacks"):
        recipes.read("tiny", ["train.callbacks=[]"])
