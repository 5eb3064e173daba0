"""Only files that this project wrote are ever replaced, completely or not at all."""

import os
import socket
import stat
from pathlib import Path

import pytest
import torch

from metaembed_lite import build, load, save
from metaembed_lite.cli import app
from metaembed_lite.model_folder import MARKER, check_output, recover, staging


@pytest.fixture(scope="module")
def model():
    return build(r_q=1, r_c=2, lora_rank=1, dim=4, device="cpu").eval()


@pytest.fixture(scope="module")
def other():
    return build(r_q=1, r_c=2, lora_rank=1, dim=4, device="cpu", seed=1).eval()


def snapshot(folder):
    """Every path below a folder, with its kind and content."""
    return {
        path.relative_to(folder).as_posix(): (
            stat.S_IFMT(path.lstat().st_mode),
            path.read_bytes() if path.is_file() and not path.is_symlink() else None,
        )
        for path in sorted(folder.rglob("*"))
    }


def a_project(at):
    (at / ".git").mkdir(parents=True)
    (at / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (at / "thesis.tex").write_text("years of work")


def a_project_with_checkpoints(at):
    a_project(at)
    (at / "checkpoints").mkdir()
    (at / "checkpoints" / "their_best.pt").write_text("weeks of work")


def somebody_elses_checkpoints(at):
    (at / "checkpoints" / "checkpoint-5").mkdir(parents=True)
    (at / "checkpoints" / "checkpoint-5" / "model.safetensors").write_text("weeks of work")


def somebody_elses_model(at):
    at.mkdir()
    (at / "modules.json").write_text("[]")


def a_model_with_one_more_file(at):
    save(build(r_q=1, r_c=1, lora_rank=1, device="cpu"), at)
    (at / "notes.txt").write_text("what I learned")


def a_model_with_one_more_folder(at):
    save(build(r_q=1, r_c=1, lora_rank=1, device="cpu"), at)
    (at / "plots").mkdir()


def a_model_with_a_file_deep_inside(at):
    save(build(r_q=1, r_c=1, lora_rank=1, dim=2, device="cpu"), at)
    (at / "1_Dense" / "notes.txt").write_text("what I learned")


def a_model_with_a_link(at):
    save(build(r_q=1, r_c=1, lora_rank=1, device="cpu"), at)
    (at.parent / "big.csv").write_text("data")
    (at / "README.md").unlink()
    (at / "README.md").symlink_to(at.parent / "big.csv")


def a_file(at):
    at.write_text("years of work")


def a_link_to_a_folder(at):
    (at.parent / "big disk").mkdir()
    at.symlink_to(at.parent / "big disk")


def a_link_to_nothing(at):
    at.symlink_to(at.parent / "unplugged disk")


def a_pipe(at):
    os.mkfifo(at)


def a_socket(at):
    os.chdir(at.parent)  # socket paths are short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(at.name)


@pytest.mark.parametrize(
    "make",
    [
        a_project, a_project_with_checkpoints, somebody_elses_checkpoints, somebody_elses_model,
        a_model_with_one_more_file, a_model_with_one_more_folder, a_model_with_a_file_deep_inside,
        a_model_with_a_link, a_file, a_link_to_a_folder, a_link_to_nothing, a_pipe, a_socket,
    ],
    ids=lambda make: make.__name__,
)  # fmt: skip
def test_folders_with_other_files_are_refused_and_do_not_change(make, model, tmp_path):
    output = tmp_path / "output"
    here = os.getcwd()
    try:
        make(output)
    finally:
        os.chdir(here)
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match="output"):
        save(model, output, overwrite=True)
    assert snapshot(tmp_path) == before


def test_a_device_a_mount_point_and_the_current_folder_are_refused(model, tmp_path, monkeypatch):
    for path in ("/dev/null", "/dev/shm", "/proc"):
        if os.path.exists(path):
            with pytest.raises(ValueError, match="output"):
                check_output(
                    Path(path)
                )  # not save, because a check that fails must not destroy a device
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    for path in (".", "..", tmp_path):
        with pytest.raises(ValueError, match="current folder"):
            save(model, path, overwrite=True)


def test_the_command_line_does_not_change_a_project(tmp_path):
    from typer.testing import CliRunner

    a_project_with_checkpoints(tmp_path / "project")
    before = snapshot(tmp_path)
    for flags in ([], ["--overwrite"], ["--restart"], ["--resume"]):
        small = ["data.n_queries=4", "data.n_train=8", "train.steps=1", "train.batch_size=8"]
        run = CliRunner().invoke(
            app, ["train", "tiny", *small, "--output", str(tmp_path / "project"), *flags]
        )
        assert run.exit_code == 2, run.output
        assert "metaembed_lite did not write" in run.output
        assert snapshot(tmp_path) == before


def test_a_saved_model_is_replaced_only_with_overwrite(model, other, tmp_path):
    save(model, tmp_path / "model")
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match="holds a saved model: pass overwrite=True"):
        save(other, tmp_path / "model")
    assert snapshot(tmp_path) == before
    save(other, tmp_path / "model", overwrite=True)
    assert torch.equal(
        load(tmp_path / "model", device="cpu").encode_query("a"), other.encode_query("a")
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "nothing is left behind"


def test_after_a_failed_save_only_the_old_model_exists(model, other, tmp_path, monkeypatch):
    save(model, tmp_path / "model")
    before = snapshot(tmp_path)

    def full_disk(folder):
        (type(tmp_path)(folder) / "modules.json").write_text("[")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(other, "save_pretrained", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(other, tmp_path / "model", overwrite=True)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("renames", "with_checkpoints"), [(0, False), (1, False), (0, True), (1, True), (2, True)]
)
def test_a_save_killed_between_its_renames_is_repaired(
    renames, with_checkpoints, model, other, tmp_path, monkeypatch
):
    """The process dies after a given number of renames. The old or the new model is restored."""
    folder = tmp_path / "model"
    save(model, folder)
    if with_checkpoints:
        (folder / "checkpoints" / "checkpoint-3").mkdir(parents=True)
        (folder / "checkpoints" / "checkpoint-3" / "optimizer.pt").write_text("steps 1 to 3")
        (folder / "checkpoints" / "run.json").write_text("{}")

    class Killed(BaseException):
        pass

    done = []
    rename = os.replace

    def rename_until_killed(source, target):
        if len(done) == renames:
            raise Killed
        done.append(source)
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("metaembed_lite.model_folder.os.replace", rename_until_killed)
        patched.setattr("metaembed_lite.model_folder.shutil.rmtree", lambda path: None)
        with pytest.raises(Killed):
            save(other, folder, overwrite=True)
    if renames == 1:
        assert not folder.exists()
        with pytest.raises(FileNotFoundError, match=r"save there again, or.*resume"):
            load(folder)
    recover(folder)
    loaded = load(folder, device="cpu")
    expected = model if renames == 0 else other
    assert torch.equal(loaded.encode_query("a"), expected.encode_query("a"))
    assert (folder / "checkpoints" / "checkpoint-3" / "optimizer.pt").is_file() == with_checkpoints
    assert not staging(folder).exists()


@pytest.mark.parametrize("name", [MARKER, "1_Dense/config.json"])
def test_a_save_killed_while_it_removes_the_old_model_does_not_prevent_the_next(
    name, model, other, tmp_path, monkeypatch
):
    """What is left of the old model is not taken for files of the user."""
    folder = tmp_path / "model"
    save(model, folder)

    class Killed(BaseException):
        pass

    def remove_one_file(path):
        (file,) = path.rglob(name)
        file.unlink()
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("metaembed_lite.model_folder.shutil.rmtree", remove_one_file)
        with pytest.raises(Killed):
            save(other, folder, overwrite=True)
    assert torch.equal(load(folder).encode_query("a").cpu(), other.encode_query("a").cpu())
    save(model, folder, overwrite=True)
    assert not staging(folder).exists()


def test_a_file_that_appears_while_a_model_is_saved_is_not_lost(
    model, other, tmp_path, monkeypatch
):
    folder = tmp_path / "model"
    save(model, folder)
    write = type(other).save_pretrained

    def slow(self, path, *args, **kwargs):
        write(self, path, *args, **kwargs)
        (folder / "notes.txt").write_text("what I learned")

    monkeypatch.setattr(type(other), "save_pretrained", slow)
    with pytest.raises(ValueError, match=r"notes\.txt.*appeared while the model was saved"):
        save(other, folder, overwrite=True)
    assert [path.read_text() for path in tmp_path.rglob("notes.txt")] == ["what I learned"]


def test_weights_that_are_not_finite_never_replace_a_good_model(model, tmp_path):
    save(model, tmp_path / "model")
    before = snapshot(tmp_path)
    diverged = build(r_q=1, r_c=2, lora_rank=1, dim=4, device="cpu")
    with torch.no_grad():
        diverged[1].linear.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"1\.linear\.weight hold NaN.*has not changed"):
        save(diverged, tmp_path / "model", overwrite=True)
    assert snapshot(tmp_path) == before


def test_a_second_process_cannot_save_at_the_same_time(model, tmp_path):
    import threading

    from metaembed_lite.locking import lock

    started, end = threading.Event(), threading.Event()

    def hold():
        with lock(tmp_path / "model", "training a model"):
            started.set()
            end.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    started.wait(20)
    try:
        with pytest.raises(BlockingIOError, match="training a model"):
            save(model, tmp_path / "model")
    finally:
        end.set()
        holder.join()
    save(model, tmp_path / "model")


def test_a_new_or_empty_folder_and_that_of_a_saved_model_may_be_written(model, tmp_path):
    check_output(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty")
    save(model, tmp_path / "empty")
    for name in ("training_curve.csv", "recipe.yaml", "README.md"):  # train and users change these
        (tmp_path / "empty" / name).write_text("changed")
    check_output(tmp_path / "empty")
    assert (tmp_path / "empty" / MARKER).is_file()
    assert load(tmp_path / "empty", device="cpu")


def test_a_model_does_not_replace_its_own_backbone(tmp_path):
    save(build(r_q=1, r_c=2, lora_rank=None, device="cpu"), tmp_path / "full")
    model = build(str(tmp_path / "full"), r_q=1, r_c=2, lora_rank=1, device="cpu")
    before = snapshot(tmp_path)
    for output in (tmp_path / "full", tmp_path / "full" / "lora", tmp_path):
        with pytest.raises(
            ValueError, match=r"backbone of this model|metaembed_lite did not write"
        ):
            save(model, output, overwrite=True)
        assert snapshot(tmp_path) == before
    save(model, tmp_path / "lora")
    assert load(tmp_path / "lora", device="cpu")


def test_a_user_file_in_the_staging_folder_stays(model, tmp_path):
    staging(tmp_path / "model").mkdir()
    (staging(tmp_path / "model") / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"thesis\.tex, which metaembed_lite did not write"):
        save(model, tmp_path / "model")
    assert (staging(tmp_path / "model") / "thesis.tex").read_text() == "years of work"


def test_a_path_with_dots_is_the_same_folder(model, other, tmp_path):
    save(model, tmp_path / "model")
    save(other, tmp_path / "model" / ".." / "model", overwrite=True)
    loaded = load(tmp_path / "model", device="cpu")
    assert torch.equal(loaded.encode_query("a"), other.encode_query("a"))
