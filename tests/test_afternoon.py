"""An afternoon of real use: a folder of awkward images, from the check of the data to the upload.

The tests run in this order and build on each other, as a user's commands do. What a command reads
is observed where it opens images, and compared with what the CSV and the files say.
"""

import csv
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from typer.testing import CliRunner

import metaembed_lite
from metaembed_lite import MetaIndex, explain, load, load_task, train
from metaembed_lite.cli import app

ROOT = Path(__file__).resolve().parents[1]
N_IMAGES, SIDE = 200, 48
STEPS, SAVE_EVERY = 8, 2
AWKWARD_NAMES = (
    "with space.png", "naïve — 写真.png", "it's \"quoted\".png", "a,comma.png", "-dash.png",
    "100%.png", "semi;colon.png", "deep/er/folder.png",
)  # fmt: skip
AWKWARD_CAPTIONS = (
    "a shape, a color, and a comma", 'the "best" one', "🎻 violin 🍎", "NA", "null", "-", "=1+1",
    "<script>alert('x')</script> & <b>bold</b>", "two\nlines", "  spaces around  ", "<|im_end|>",
    "C:\\path\\file.png", "https://example.org/a.png", "ß ǆ ﬁ é é", "Ω" * 300,
)  # fmt: skip
pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")


# The folder


def paint(seed: int) -> Image.Image:
    """An image that no other seed gives: a few rectangles in random colors."""
    rng = np.random.default_rng(seed)
    pixels = np.full((SIDE, SIDE, 3), rng.integers(0, 256, 3), dtype=np.uint8)
    for _ in range(4):
        (top, left), (height, width) = rng.integers(0, SIDE - 8, 2), rng.integers(6, 30, 2)
        pixels[top : top + height, left : left + width] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


def save_awkward(image: Image.Image, kind: int, folder: Path, stem: str) -> str:
    """Save an image in one of the forms that real folders have. Returns the name of the file."""
    name = f"{stem}.png"
    if kind == 0:  # transparent, over a hidden color
        alpha = np.zeros((SIDE, SIDE), dtype=np.uint8)
        alpha[8:40, 8:40] = 255
        image.putalpha(Image.fromarray(alpha))
    elif kind == 1:  # a phone's photo, stored lying on its side
        name, exif = f"{stem}.JPG", Image.Exif()
        exif[0x0112] = 6
        image.resize((SIDE, 2 * SIDE)).save(folder / name, "JPEG", exif=exif)
        return name
    elif kind == 2:  # a scan
        gray = np.asarray(image.convert("L"), dtype=np.uint16) * 257
        image = Image.fromarray(gray)
    elif kind == 3:
        image = image.convert("L")
    elif kind == 4:  # for print
        name = f"{stem}.jpeg"
        image = image.convert("CMYK")
    elif kind == 5:
        image = image.convert("P")
    elif kind == 6:
        name = f"{stem}.webp"
    elif kind == 7:
        image = image.resize((3 * SIDE, SIDE))
    image.save(folder / name)
    return name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """About 200 images in albums, their captions, and a hard negative for every third row."""
    folder = tmp_path_factory.mktemp("an album's folder") / "my images"
    rows, previous = [], ""
    for i in range(N_IMAGES):
        album = folder / f"album {i % 40:02}"
        album.mkdir(parents=True, exist_ok=True)
        if i < len(AWKWARD_NAMES):
            file = album / AWKWARD_NAMES[i]
            file.parent.mkdir(parents=True, exist_ok=True)
            paint(i).save(file)
            name = file.relative_to(folder).as_posix()
        else:
            name = f"{album.name}/{save_awkward(paint(i), i % 9, album, f'img_{i}')}"
        caption = AWKWARD_CAPTIONS[i] if i < len(AWKWARD_CAPTIONS) else f"picture number {i}"
        rows.append((name, caption, album.name, previous if i % 3 == 0 else ""))
        previous = name
    rows.append((rows[50][0], "a second caption of one picture", "album 10", ""))
    with open(folder / "captions.csv", "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("image", "text", "album", "unlike"), *rows])
    return folder


def look(image: Image.Image) -> str:
    """A hash of what an image shows."""
    assert image.mode == "RGB"
    return hashlib.sha256(image.tobytes() + str(image.size).encode()).hexdigest()


@pytest.fixture(scope="module")
def album_of(folder):
    """What an image shows -> its album, from the CSV and the files alone."""
    from metaembed_lite.items import open_picture

    with open(folder / "captions.csv", newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    return {look(open_picture(folder / row["image"])): row["album"] for row in rows}


# The commands


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums in another order would be other weights."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(folder):
    return [f"path={folder}", "group=album", "negative=unlike", "n_queries=40", "n_validation=20"]


def training_command(folder, output, *more):
    return [
        "train", "tiny", "--output", str(output), "data.name=image_folder",
        *(f"data.{setting}" for setting in settings(folder)),
        "model.r_q=4", "model.r_c=8", "model.lora_rank=2", "model.device=cpu",
        "train.budgets=[1x1, 4x8]", f"train.steps={STEPS}", "train.batch_size=8",
        f"train.save_steps={SAVE_EVERY}", "train.log_steps=1", "train.precision=fp32",
        "train.warmup_steps=0", "train.nest_after=0", *more,
    ]  # fmt: skip


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def succeed(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


class Watch:
    """Records what the images that a command trains on, or searches in, show."""

    def __init__(self, patch):
        self.trained, self.candidates = set(), set()
        patch.setattr(metaembed_lite, "load_task", self.load_task, raising=False)
        patch.setattr(metaembed_lite, "train", self.train, raising=False)

    def load_task(self, name, **arguments):
        task = load_task(name, **arguments)
        self.candidates = set(map(look, task.candidates))
        return task

    def train(self, model, rows, **arguments):
        for name in set(rows.column_names) - {"query"}:
            self.trained |= set(map(look, rows[name]))
        return train(model, rows, **arguments)


def kill_in_the_middle(command, output, log):
    """Run a command in a real process, and kill it once it has written a whole checkpoint."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with open(log, "w") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "metaembed_lite.cli", *command], stdout=file, stderr=file,
            cwd=ROOT, env=environment,
        )  # fmt: skip
    whole = output / "checkpoints" / f"checkpoint-{SAVE_EVERY}" / "whole.json"
    while child.poll() is None and not whole.is_file():
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, log.read_text()


@pytest.fixture(scope="module")
def afternoon(folder, tmp_path_factory):
    """The folder in which the commands of this afternoon write."""
    return tmp_path_factory.mktemp("afternoon")


@pytest.fixture(scope="module")
def trained(folder, afternoon):
    """The model of a training without a break, what it was trained on, and what was printed."""
    with pytest.MonkeyPatch.context() as patch:
        watch = Watch(patch)
        printed = succeed(*training_command(folder, afternoon / "whole"))
    return afternoon / "whole", watch.trained, printed


@pytest.fixture(scope="module")
def model(folder, afternoon, trained):
    """The model of the same training, killed and resumed."""
    kill_in_the_middle(
        training_command(folder, afternoon / "cut"), afternoon / "cut", afternoon / "log"
    )
    assert not (afternoon / "cut" / "modules.json").exists(), "it was killed before its end"
    again = invoke(*training_command(folder, afternoon / "cut"))
    assert again.exit_code == 2
    assert "--resume" in again.output
    succeed(*training_command(folder, afternoon / "cut"), "--resume")
    return afternoon / "cut"


@pytest.fixture(scope="module")
def index(folder, afternoon, model):
    output = afternoon / "index"
    printed = succeed("index", model, folder, "--output", output)
    assert f"{N_IMAGES:,} candidates" in printed
    return output


# The afternoon


def test_the_folder_is_checked_and_its_parts_are_shown(folder):
    printed = succeed("check-data", folder, *settings(folder)[1:])
    assert f"{N_IMAGES + 1:,} rows, {N_IMAGES:,} images" in printed
    assert "error" not in printed
    for part, most in (("test", 100), ("validation", 80)):
        (n,) = re.findall(rf"  {part} +(\d+) images", printed)
        assert 20 <= int(n) <= most


def test_a_killed_training_resumes_to_the_same_weights_bit_by_bit(trained, model):
    weights = sorted(file.relative_to(model) for file in model.glob("**/*.safetensors")
                     if "checkpoints" not in file.parts)  # fmt: skip
    assert weights
    for file in weights:
        resumed, expected = load_file(model / file), load_file(trained[0] / file)
        assert resumed.keys() == expected.keys()
        assert all(torch.equal(resumed[name], expected[name]) for name in expected), file
    encoded = [load(path, device="cpu").encode_query("🎻") for path in (model, trained[0])]
    assert torch.equal(*encoded)


def test_evaluation_uses_no_image_that_was_trained_on_and_no_album_of_one(
    folder, model, trained, album_of
):
    _, trained_on, printed = trained
    tables = []
    for part, n_queries in (("test", 40), ("validation", 20)):
        with pytest.MonkeyPatch.context() as patch:
            watch = Watch(patch)
            output = succeed("evaluate", model, f"path={folder}", f"split={part}", "--misses", 3)
        assert f"the {part} split of the model's training" in output
        assert f"{n_queries} queries" in output
        assert f"of {n_queries} queries are missed at (4, 8)" in output
        assert watch.candidates
        assert not watch.candidates & trained_on
        albums = {album_of[shown] for shown in watch.candidates}
        assert not albums & {album_of[shown] for shown in trained_on}
        tables.append([line.split()[:4] for line in output.splitlines() if line[:4] == "   1"])
    assert [line.split()[:4] for line in printed.splitlines() if line[:4] == "   1"] == tables[0]
    output = succeed("evaluate", model, f"path={folder}", "seed=1")
    assert "because of seed: it may hold images that the model was trained on" in output


def test_a_loaded_model_trains_on_from_where_it_was(folder, model):
    arguments = {key: int(value) if value.isdigit() else value
                 for key, value in (text.split("=", 1) for text in settings(folder))}  # fmt: skip
    rows = load_task("image_folder", **arguments).train
    loaded = load(model, device="cpu")
    before = {name: p.detach().clone() for name, p in loaded.named_parameters()}
    train(
        loaded,
        rows,
        steps=1,
        batch_size=8,
        learning_rate=1e-4,
        warmup_steps=0,
        budgets=["1x1", "4x8"],
    )
    free = {name: p for name, p in loaded.named_parameters() if p.requires_grad}
    moves = {name: (p.detach() - before[name]).abs().max().item() for name, p in free.items()}
    assert all(moves.values()), "LoRA and meta tokens train"
    assert max(moves.values()) < 1.1e-4, "Adam's first step is one learning rate: no new start"
    assert any(before[name].abs().max() > 1e-3 for name in free if "lora_B" in name)


def test_every_awkward_file_is_found_by_a_search(folder, index):
    printed = succeed("search", index, 'the "best" one, 🎻 <b>', "--k", N_IMAGES)
    for name in AWKWARD_NAMES:
        assert name in printed
    assert len(re.findall(r"img_\d+\.", printed)) == 2 * (N_IMAGES - len(AWKWARD_NAMES))
    photo = next(folder.glob("*/*.JPG"))
    assert ImageOps.exif_transpose(Image.open(photo)).size != Image.open(photo).size
    printed = succeed("search", index, "--image", photo, "--budget", "1x1", "--k", 3)
    assert "bytes read" in printed


def test_the_programs_of_the_page_on_your_own_data_run(
    folder, model, tmp_path, monkeypatch, capsys
):
    page = (ROOT / "book" / "your_own_data.md").read_text(encoding="utf-8")
    programs = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    assert len(programs) == 3
    (tmp_path / "my-images").symlink_to(folder)
    (tmp_path / "my-model").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    for program in programs:
        exec(compile(program, "your_own_data.md", "exec"), {})
    printed = capsys.readouterr().out
    (found,) = re.findall(r"from -?[\d.]+ on: ([\d.]+)% of the right pairs", printed)
    assert float(found) >= 90
    assert load("my-model-2", device="cpu")


def test_doctor_finds_nothing_in_the_model_and_names_an_image_that_is_broken(
    folder, model, tmp_path
):
    printed = succeed("doctor", model, folder, "--items", 8, "--round-trip")
    assert f"on 8 items of {N_IMAGES:,} in {folder}" in printed
    assert "0 failed" in printed
    (tmp_path / "cut.png").write_bytes(next(folder.rglob("*.png")).read_bytes()[:60])
    result = invoke("doctor", model, tmp_path)
    assert result.exit_code == 1
    assert "failed   items" in result.output
    assert "cut.png" in result.output


def test_the_parts_of_an_explanation_add_up_to_the_score_of_the_search(folder, model, index):
    loaded = load(model, device="cpu")
    query = loaded.encode_query("picture number 30")
    best = MetaIndex.open(index).search(query, k=1, budget="4x8").iloc[0]
    explanation = explain(loaded, "picture number 30", folder / best.id, budget="4x8")
    assert explanation.matches.adds.sum() == pytest.approx(explanation.score, abs=1e-5)
    assert explanation.score == pytest.approx(best.score, abs=5e-3)  # stored in float16
    assert explanation.attention is not None


def test_an_upload_without_a_hub_ends_with_one_clear_line(model):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_none"}
    run = subprocess.run(
        [sys.executable, "-m", "metaembed_lite.cli", "push", str(model), "you/my-model"],
        cwd=ROOT, env=os.environ | nowhere, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert "adapter_model.safetensors" in run.stdout
    assert "uploaded:" not in run.stdout
    assert run.stderr.startswith("error: you/my-model was not uploaded: ")
    assert "Check the connection and the login" in run.stderr
    assert "Traceback" not in run.stderr
