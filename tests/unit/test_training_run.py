"""A run on disk resumes from complete checkpoints with the same settings, and loses no files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from datasets import Dataset
from sentence_transformers.multi_vector_encoder.losses import (
    MultiVectorMultipleNegativesRankingLoss,
)
from torch.optim.optimizer import register_optimizer_step_post_hook
from typer.testing import CliRunner

from metaembed_lite import MatryoshkaMultiVectorLoss, build, load, save, train
from metaembed_lite.baselines import token_vectors
from metaembed_lite.cli import app
from metaembed_lite.data.handwriting import training_rows
from metaembed_lite.model_folder import WHOLE
from metaembed_lite.training_run import find_newest_whole, read_run

SETTINGS = {"batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 0, "log_steps": 1}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rows():
    return training_rows(16, seed=0)


def tiny(**changes):
    settings = {"r_q": 2, "r_c": 4, "lora_rank": 2, "dim": 8, "device": "cpu", "seed": 0}
    return build(**settings | changes)


def trained_weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


@pytest.fixture(scope="module")
def whole(rows):
    """Weights and curve of six steps without a break."""
    model = tiny()
    curve = train(model, rows, steps=6, **SETTINGS)
    return trained_weights(model), curve


class Killed(BaseException):
    pass


def cut_off(rows, output, after, steps=6, model=None, **settings):
    """A run that dies in the step after ``after``. It writes a checkpoint at each step."""
    forward = MatryoshkaMultiVectorLoss.forward
    done = []

    def count(self, features, labels=None):
        done.append(1)
        if len(done) > after:
            raise Killed
        return forward(self, features, labels)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MatryoshkaMultiVectorLoss, "forward", count)
        with pytest.raises(Killed):
            train(
                model or tiny(), rows, steps=steps, output=output, save_steps=1,
                **SETTINGS | settings,
            )  # fmt: skip


@pytest.fixture(scope="module")
def cut(rows, tmp_path_factory):
    """A run of six steps that was cut off in the fourth."""
    output = tmp_path_factory.mktemp("cut") / "run"
    cut_off(rows, output, after=3)
    return output


@pytest.fixture
def run(cut, tmp_path):
    shutil.copytree(cut, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def done(rows, tmp_path_factory):
    output = tmp_path_factory.mktemp("done") / "run"
    train(tiny(), rows, steps=2, output=output, save_steps=1, **SETTINGS)
    return output


@pytest.fixture
def finished(done, tmp_path):
    shutil.copytree(done, tmp_path / "run")
    return tmp_path / "run"


def resume(rows, output, steps=6, model=None, **settings):
    model = model or tiny()
    curve = train(
        model, rows, steps=steps, output=output, save_steps=1, resume=True, **SETTINGS | settings
    )
    return model, curve


# Resuming


def test_a_run_that_was_cut_off_ends_with_the_same_weights_and_the_same_curve(run, rows, whole):
    model, curve = resume(rows, run)
    assert torch.equal(trained_weights(model), whole[0])
    pd.testing.assert_frame_equal(curve, whole[1])
    assert curve.notna().all().all(), "the losses by budget from before the cut are kept"
    saved = pd.read_csv(run / "training_curve.csv")
    pd.testing.assert_frame_equal(saved, curve.round(4), check_dtype=False)


def test_a_run_on_a_half_precision_backbone_resumes_to_the_same_weights(rows, tmp_path):
    uninterrupted = tiny(dtype="bfloat16")
    train(uninterrupted, rows, steps=4, **SETTINGS)
    cut_off(rows, tmp_path / "run", after=2, steps=4, model=tiny(dtype="bfloat16"))
    resumed, _ = resume(rows, tmp_path / "run", steps=4, model=tiny(dtype="bfloat16"))
    assert torch.equal(trained_weights(resumed), trained_weights(uninterrupted))


@pytest.fixture(scope="module")
def late(rows):
    """Weights and curve of six steps without a break, of which the last three are nested."""
    model = tiny()
    curve = train(model, rows, steps=6, nest_after=0.5, **SETTINGS)
    return trained_weights(model), curve


@pytest.mark.parametrize("after", [2, 3, 4])
def test_late_nesting_that_was_cut_off_in_any_phase_ends_with_the_same_weights(
    after, rows, late, whole, tmp_path
):
    cut_off(rows, tmp_path / "run", after=after, nest_after=0.5)
    model, curve = resume(rows, tmp_path / "run", nest_after=0.5)
    assert torch.equal(trained_weights(model), late[0])
    assert not torch.equal(trained_weights(model), whole[0])
    pd.testing.assert_frame_equal(curve, late[1])


def test_late_nesting_is_resumed_only_with_nesting_after_the_same_step(rows, tmp_path):
    output = tmp_path / "run"
    train(tiny(), rows, steps=4, output=output, save_steps=1, nest_after=0.5, **SETTINGS)
    for changes, now in (
        ({"steps": 8}, "null"),
        ({"steps": 8, "nest_after": 0.5}, '"4 steps"'),
    ):
        with pytest.raises(ValueError, match=f'nest_after: "2 steps" before, {now} now'):
            resume(rows, output, **changes)
    _, curve = resume(rows, output, steps=8, nest_after=0.25)
    assert curve.step.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    both = curve["(1, 1)"] + curve["(2, 4)"]
    torch.testing.assert_close(
        torch.tensor(curve.loss[2:].values), torch.tensor(both[2:].values), atol=1e-2, rtol=1e-3
    )


def damage_trainer_state(at):
    (at / "trainer_state.json").write_bytes((at / "trainer_state.json").read_bytes()[:100])


def remove_optimizer(at):
    (at / "optimizer.pt").unlink()


def remove_scheduler(at):
    (at / "scheduler.pt").unlink()


def empty_weights(at):
    (at / "adapter_model.safetensors").write_bytes(b"")


def cut_before_the_end(at):
    (at / WHOLE).unlink()


@pytest.mark.parametrize(
    "damage",
    [damage_trainer_state, remove_optimizer, remove_scheduler, empty_weights, cut_before_the_end],
    ids=lambda damage: damage.__name__,
)
def test_a_broken_checkpoint_is_skipped_with_a_warning(damage, run, rows, whole, caplog):
    assert find_newest_whole(run).name == "checkpoint-3"
    damage(run / "checkpoints" / "checkpoint-3")
    model, _ = resume(rows, run)
    assert "checkpoint-3 is skipped" in caplog.text
    assert torch.equal(trained_weights(model), whole[0])


def test_without_a_complete_checkpoint_a_run_starts_again(run, rows, whole):
    for checkpoint in (run / "checkpoints").glob("checkpoint-*"):
        (checkpoint / WHOLE).unlink(missing_ok=True)
    model, _ = resume(rows, run)
    assert torch.equal(trained_weights(model), whole[0])


def test_a_run_killed_after_its_last_step_is_finished_without_another_step(
    rows, tmp_path, whole, monkeypatch
):
    with monkeypatch.context() as patched:

        def die(*arguments):
            raise Killed

        patched.setattr("metaembed_lite.training.write_model", die)
        with pytest.raises(Killed):
            train(tiny(), rows, steps=6, output=tmp_path / "run", save_steps=1, **SETTINGS)
    assert find_newest_whole(tmp_path / "run").name == "checkpoint-6"
    model, curve = resume(rows, tmp_path / "run")
    assert torch.equal(trained_weights(model), whole[0])
    assert len(curve) == 6
    again = load(tmp_path / "run", device="cpu")
    assert torch.equal(trained_weights(again), whole[0])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 0.5}, r"learning_rate: 0\.001 before, 0\.5 now"),
        ({"batch_size": 8}, "batch_size: 4 before, 8 now"),
        ({"seed": 1}, "seed: 0 before, 1 now"),
        ({"warmup_steps": 3}, "warmup_steps: 0 before, 3 now"),
        ({"fresh_learning_rate": 0.1}, "fresh_learning_rate: null before"),
        ({"mini_batch_size": 2}, "mini_batch_size: null before, 2 now"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing: false before, true now"),
        ({"precision": "bf16"}, 'precision: "fp32" before'),
        ({"budgets": [(1, 1), (2, 2), (2, 4)]}, r"loss: .*\(2, 2\)"),
        ({"weights": [1, 2]}, "loss: .*weights"),
        ({"temperature": 0.1}, "loss: .*temperature"),
        ({"scale_temperature": True}, "loss: .*temperatures"),
        ({"nest_after": 0.5}, 'nest_after: null before, "3 steps" now'),
    ],
    ids=str,
)  # fmt: skip
def test_a_run_is_not_resumed_with_other_settings(change, named, run, rows):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=named):
        resume(rows, run, **change)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    "change",
    [{"r_q": 3}, {"layout": "separate"}, {"lora_alpha": 7}, {"lora_rank": 4}, {"dim": 4}],
    ids=str,
)
def test_a_run_is_not_resumed_with_another_model(change, run, rows):
    with pytest.raises(ValueError, match=r"cannot be resumed with other settings.*model: "):
        resume(rows, run, model=tiny(**change), budgets=[(1, 1), (2, 4)])


def test_a_run_is_not_resumed_with_other_rows(run, rows):
    for other in (training_rows(16, seed=1), training_rows(20, seed=0)):
        with pytest.raises(ValueError, match=r"cannot be resumed with other settings.*rows: "):
            resume(other, run)


def test_the_card_states_the_settings_that_were_used(run, rows):
    resume(rows, run)
    card = (run / "README.md").read_text()
    assert "`learning_rate`: 0.001" in card
    assert read_run(run)["settings"]["learning_rate"] == 1e-3


def test_fewer_steps_than_are_done_are_refused(run, rows):
    with pytest.raises(ValueError, match=r"steps=2: the run in .* is at step 3 already"):
        resume(rows, run, steps=2)


# Nothing is deleted without a flag


def test_checkpoints_are_deleted_only_by_restart(run, rows, whole):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    for flags in ({}, {"overwrite": True}):
        with pytest.raises(ValueError, match=r"cut off after step 3: resume=True.*restart=True"):
            train(tiny(), rows, steps=6, output=run, **SETTINGS, **flags)
        assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    model = tiny()
    train(model, rows, steps=6, output=run, restart=True, **SETTINGS)
    assert torch.equal(trained_weights(model), whole[0])


def test_a_finished_model_is_replaced_only_by_overwrite(finished, rows):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    for flags in ({}, {"restart": True}):
        with pytest.raises(ValueError, match=r"finished model: overwrite=True.*resume=True"):
            train(tiny(seed=1), rows, steps=1, output=finished, **SETTINGS, **flags)
        assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before
    model = tiny(seed=1)
    train(model, rows, steps=1, output=finished, overwrite=True, **SETTINGS)
    assert torch.equal(trained_weights(load(finished, device="cpu")), trained_weights(model))


def test_a_finished_run_can_be_lengthened(finished, rows):
    with pytest.raises(ValueError, match=r"finished at step 2.*more steps.*steps=2"):
        resume(rows, finished, steps=2)
    model, curve = resume(rows, finished, steps=4)
    assert curve.step.tolist() == [1, 2, 3, 4]
    assert torch.equal(trained_weights(load(finished, device="cpu")), trained_weights(model))
    assert read_run(finished)["finished"] == 4


def test_a_finished_model_without_checkpoints_says_how_to_train_it_further(finished, rows):
    shutil.rmtree(finished / "checkpoints")
    with pytest.raises(ValueError, match=r"nothing to resume.*train\(load"):
        resume(rows, finished, steps=4)


def test_a_retraining_that_was_killed_leaves_the_model_and_can_be_resumed(finished, rows, whole):
    good = trained_weights(load(finished, device="cpu"))
    cut_off(rows, finished, after=3, overwrite=True)
    assert torch.equal(trained_weights(load(finished, device="cpu")), good)
    model, _ = resume(rows, finished)
    assert torch.equal(trained_weights(model), whole[0])
    assert torch.equal(trained_weights(load(finished, device="cpu")), whole[0])


@pytest.mark.parametrize("step", [1, 3])
def test_a_run_that_ends_in_nan_does_not_replace_a_good_model(step, finished, rows):
    good = trained_weights(load(finished, device="cpu"))
    model = tiny()
    with pytest.raises(ValueError, match=r"NaN|must be finite"):
        train(
            model, rows, steps=step, output=finished, overwrite=True,
            **SETTINGS | {"learning_rate": 1e38, "fresh_learning_rate": 1e38},
        )  # fmt: skip
    assert torch.equal(trained_weights(load(finished, device="cpu")), good)


def test_a_checkpoint_of_weights_that_are_not_finite_is_not_complete(rows, tmp_path):
    with pytest.raises(ValueError, match=r"NaN|must be finite"):
        train(
            tiny(), rows, steps=1, output=tmp_path / "run", save_steps=1,
            **SETTINGS | {"learning_rate": 1e38, "fresh_learning_rate": 1e38},
        )  # fmt: skip
    assert find_newest_whole(tmp_path / "run") is None


def test_a_run_that_turns_nan_keeps_its_last_good_checkpoint(rows, tmp_path):
    """If the loss does not check its inputs, the weights are checked at the next checkpoint."""
    model = token_vectors(dim=8, lora_rank=2, device="cpu")
    loss = MultiVectorMultipleNegativesRankingLoss(model)
    done = []

    def spoil(optimizer, args, kwargs):
        done.append(1)
        if len(done) == 4:
            with torch.no_grad():
                model[1].linear.weight[0, 0] = float("nan")

    hook = register_optimizer_step_post_hook(spoil)
    with pytest.raises(ValueError, match="NaN or infinity at step 4"):
        train(
            model, rows, loss=loss, steps=8, output=tmp_path / "run", save_steps=1, **SETTINGS
        )  # fmt: skip
    hook.remove()
    assert find_newest_whole(tmp_path / "run").name == "checkpoint-3"


def test_a_crash_while_old_checkpoints_are_removed_does_no_harm(finished, rows, whole, monkeypatch):
    with monkeypatch.context() as patched:

        def die(*arguments, **settings):
            raise Killed

        patched.setattr("metaembed_lite.training_run.write_run", die)
        with pytest.raises(Killed):
            train(tiny(), rows, steps=6, output=finished, overwrite=True, **SETTINGS)
    model = tiny()
    train(model, rows, steps=6, output=finished, overwrite=True, **SETTINGS)
    assert torch.equal(trained_weights(model), whole[0])


@pytest.mark.parametrize("content", ["", "[", "null", "{}", '{"finished": null, "settings": []}'])
def test_a_damaged_record_of_a_run_is_named_and_restart_replaces_it(content, run, rows, whole):
    (run / "checkpoints" / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json.*damaged.*restart=True"):
        resume(rows, run)
    model = tiny()
    train(model, rows, steps=6, output=run, restart=True, **SETTINGS)
    assert torch.equal(trained_weights(model), whole[0])


def test_a_users_file_in_a_checkpoint_is_kept(run, rows):
    note = run / "checkpoints" / "checkpoint-3" / "my_eval.txt"
    note.write_text("0.9")
    for flags in ({"restart": True}, {"resume": True}):
        with pytest.raises(ValueError, match=r"my_eval\.txt, which metaembed_lite did not write"):
            train(tiny(), rows, steps=6, output=run, **SETTINGS, **flags)
    assert note.read_text() == "0.9"


def test_a_loss_of_another_model_is_refused(rows):
    model, another = (token_vectors(dim=8, lora_rank=2, device="cpu") for _ in range(2))
    loss = MultiVectorMultipleNegativesRankingLoss(another)
    with pytest.raises(ValueError, match="loss was made for another model"):
        train(model, rows, loss=loss, steps=1, **SETTINGS)


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 2.0}, {"steps": "4"}, {"batch_size": "x"}, {"save_steps": 0},
        {"warmup_steps": -1}, {"seed": "a"}, {"learning_rate": "1e-4"}, {"learning_rate": 0},
        {"fresh_learning_rate": float("nan")},
    ],
    ids=str,
)  # fmt: skip
def test_settings_of_another_type_are_named_before_anything_is_trained(settings, rows):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name}="):
        train(tiny(), rows, **{"steps": 1, **SETTINGS, **settings})


@pytest.mark.parametrize("flag", ["resume", "restart", "overwrite"])
def test_resume_restart_and_overwrite_need_a_folder(flag, rows):
    with pytest.raises(ValueError, match=f"{flag}=True needs output"):
        train(tiny(), rows, steps=1, **SETTINGS, **{flag: True})


def test_of_two_trainings_into_one_folder_the_second_is_refused(rows, tmp_path):
    """A real second process, started from within a step of the first."""
    program = f"""
from metaembed_lite import build, train
from metaembed_lite.data.handwriting import training_rows
model = build(r_q=2, r_c=4, lora_rank=2, dim=8, device="cpu")
try:
    train(model, training_rows(16), steps=1, batch_size=4, output={str(tmp_path / "run")!r},
    restart=True)
except BlockingIOError as error:
    print("refused:", error)
"""
    answers = []

    model = tiny()

    def ask(module, inputs, result):
        if not answers:
            answers.append("")
            run = subprocess.run(
                [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT,
                env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}, check=True,
            )  # fmt: skip
            answers[0] = run.stdout

    hook = model.register_forward_hook(ask)
    train(model, rows, steps=2, output=tmp_path / "run", **SETTINGS)
    hook.remove()
    assert "refused:" in answers[0]
    assert f"process {os.getpid()}" in answers[0]
    assert load(tmp_path / "run", device="cpu")


# Which weights train


def test_a_loaded_model_trains_lora_meta_tokens_and_projection_further(finished, rows, capsys):
    built, loaded = tiny(), load(finished, device="cpu")
    free = {name for name, p in built.named_parameters() if p.requires_grad}
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == free
    before = {name: p.detach().clone() for name, p in loaded.named_parameters()}
    train(loaded, rows, steps=2, **SETTINGS)
    moved = {name for name, p in loaded.named_parameters() if not torch.equal(p, before[name])}
    assert moved == free
    total = sum(p.numel() for p in loaded.parameters())
    count = sum(p.numel() for n, p in loaded.named_parameters() if n in free)
    printed = capsys.readouterr().out
    assert f"training {count:,} of {total:,} parameters: LoRA " in printed
    assert "meta tokens" in printed
    assert "projection" in printed


def test_a_model_without_a_projection_trains_further_too(rows, tmp_path):
    save(build(r_q=2, r_c=4, lora_rank=2, device="cpu"), tmp_path / "paper")
    model = load(tmp_path / "paper", device="cpu")
    before = trained_weights(model).clone()
    train(model, rows, steps=1, **SETTINGS)
    assert not torch.equal(trained_weights(model), before)


def test_a_frozen_adapter_and_a_frozen_model_are_refused(rows):
    model = tiny()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(False)
    with pytest.raises(ValueError, match=r"adapter is frozen.*metaembed_lite\.load"):
        train(model, rows, steps=1, **SETTINGS)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        train(model, rows, steps=1, **SETTINGS)


# What a saved model holds


def private_rows():
    from PIL import Image

    pictures = [Image.new("RGB", (48, 48), (20 * i, 0, 0)) for i in range(8)]
    captions = [f"patient {i}, born on the {i}th" for i in range(8)]
    return Dataset.from_dict({"query": captions, "positive": pictures})


@pytest.mark.parametrize("card_examples", [False, True])
def test_a_saved_model_holds_training_data_only_on_request(card_examples, tmp_path):
    train(
        tiny(), private_rows(), steps=1, output=tmp_path / "run", card_examples=card_examples,
        **SETTINGS,
    )  # fmt: skip
    files = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    pictures = [p for p in files if p.suffix in (".jpg", ".png")]
    naming = [p.name for p in files if b"patient" in p.read_bytes()]
    assert bool(pictures) == card_examples
    assert bool(naming) == card_examples, naming
    if card_examples:
        assert load(tmp_path / "run", device="cpu")


def test_the_bundled_models_hold_no_images_and_no_captions():
    from metaembed_lite import checkpoints

    for name in checkpoints.MODELS:
        folder = checkpoints.HERE / name
        assert not list(folder.rglob("*.jpg")) + list(folder.rglob("*.png"))
        assert "widget" not in (folder / "README.md").read_text()


# The command line


def small(*more):
    return [
        "model.r_q=2", "model.r_c=4", "model.lora_rank=2", "model.dim=8", "train.budgets=[1x1, "
        "2x4]",
        "train.steps=1", "train.batch_size=4", "train.log_steps=1", *more,
    ]  # fmt: skip


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_line_deletes_and_replaces_only_with_a_flag(tmp_path):
    data = ("data.n_queries=4", "data.n_train=8", "data.side=2")
    command = ["train", "tiny", *small(*data), "--output"]
    first = invoke(*command, tmp_path / "model")
    assert first.exit_code == 0, first.output
    assert "parameters: LoRA" in first.output
    again = invoke(*command, tmp_path / "model")
    assert again.exit_code == 2
    assert "--overwrite" in again.output
    longer = invoke(*command, tmp_path / "model", "--resume", "train.steps=2")
    assert longer.exit_code == 0, longer.output
    over = invoke(*command, tmp_path / "model", "--overwrite")
    assert over.exit_code == 0, over.output


def pictures_with_captions(at, n=12):
    from PIL import Image

    at.mkdir()
    lines = ["image,text"]
    for i in range(n):
        Image.effect_noise((48, 48), 20 + 9 * i).convert("RGB").save(at / f"p{i}.png")
        lines.append(f"p{i}.png,picture number {i}")
    (at / "captions.csv").write_text("\n".join(lines))
    return at


def test_evaluate_uses_the_images_that_training_held_out(tmp_path):
    data = pictures_with_captions(tmp_path / "pictures")
    run = invoke(
        "train", "tiny", *small("data.name=image_folder", f"data.path={data}", "data.n_queries=4"),
        "data.n_train=8", "--output", tmp_path / "model",
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    table = run.output.split("r_q", 1)[1].split("saved:")[0]
    refused = invoke("evaluate", tmp_path / "model")
    assert refused.exit_code == 2
    assert f"path={data}" in refused.output, "a recipe does not choose what is read"
    for more in ([f"path={data}"], ["--suite", "image_folder", f"path={data}"]):
        evaluated = invoke("evaluate", tmp_path / "model", *more)
        assert evaluated.exit_code == 0, evaluated.output
        assert "4 queries, 4 candidates" in evaluated.output
        assert "the test split of the model's training" in evaluated.output

        def quality(text):
            return [line.split()[:4] for line in text.strip().splitlines()[1:]]

        assert quality(evaluated.output.split("r_q", 1)[1]) == quality(table)
    other = pictures_with_captions(tmp_path / "others", n=6)
    evaluated = invoke("evaluate", tmp_path / "model", "--suite", "image_folder", f"path={other}")
    assert "6 candidates" in evaluated.output
    assert "other data" in evaluated.output


def test_push_uploads_the_models_own_files_and_names_them(finished, tmp_path, monkeypatch):
    uploaded = {}

    class Hub:
        def create_repo(self, name, private, exist_ok):
            assert private

        def upload_folder(self, repo_id, folder_path):
            for file in Path(folder_path).rglob("*"):
                if file.is_file():
                    uploaded[file.relative_to(folder_path).as_posix()] = file.read_bytes()

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    (finished / "passwords.txt").write_text("secret")
    run = invoke("push", finished, "you/model")
    assert run.exit_code == 0, run.output
    assert "passwords.txt" not in uploaded
    assert not any(name.startswith("checkpoints") for name in uploaded)
    assert {"modules.json", "adapter_model.safetensors", "README.md"} <= uploaded.keys()
    for name in uploaded:
        assert f"  {name}\n" in run.output
    assert "owner/name" in invoke("push", finished, "model").output
    (finished / "modules.json").write_text("[]")
    assert "modules.json is not the file" in invoke("push", finished, "you/model").output
    assert "not a saved model" in invoke("push", tmp_path / "none", "you/model").output


def test_push_names_a_local_backbone_that_is_not_on_the_hub(tmp_path, monkeypatch):
    from metaembed_lite import checkpoints

    uploaded = {}

    class Hub:
        def create_repo(self, *args, **kwargs):
            pass

        def upload_folder(self, repo_id, folder_path):
            shutil.copytree(folder_path, tmp_path / "hub")
            uploaded["at"] = tmp_path / "hub"

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    shutil.copytree(checkpoints.HERE / "tiny-vlm", tmp_path / "private base")
    model = build(str(tmp_path / "private base"), r_q=2, r_c=4, lora_rank=2, device="cpu")
    save(model, tmp_path / "model")
    run = invoke("push", tmp_path / "model", "you/model")
    assert run.exit_code == 2
    assert "--backbone owner/name" in run.output
    assert not uploaded
    run = invoke("push", tmp_path / "model", "you/model", "--backbone", "them/base")
    assert run.exit_code == 0, run.output
    config = json.loads((uploaded["at"] / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "them/base"
    assert not any(
        str(tmp_path).encode() in f.read_bytes() for f in uploaded["at"].rglob("*") if f.is_file()
    )
    checkpoints_folder = str(checkpoints.HERE / "tiny-vlm")
    again = load(uploaded["at"], device="cpu", backbone=checkpoints_folder)
    assert torch.equal(again.encode_query("a"), model.eval().encode_query("a"))
