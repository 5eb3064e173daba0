"""The commands index, search and serve: what is stored, found and refused."""

import io
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from PIL import Image
from typer.testing import CliRunner

from metaembed_lite import MetaIndex, indexing, load, load_task, maxsim
from metaembed_lite.cli import app
from metaembed_lite.data.sticker_art import ATTRIBUTION
from metaembed_lite.indexing import build_index

COLORS = ("red", "green", "blue", "yellow", "white", "black")


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def tiny():
    return load("tiny", device="cpu")


@pytest.fixture
def images(tmp_path):
    """Six images in a folder and below it, a hidden one and a text."""
    folder = tmp_path / "images"
    for i, color in enumerate(COLORS):
        file = folder / ("warm" if i % 2 else "cold, too") / f"{color}.{('png', 'JPG')[i % 2]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (320, 200), color).save(file, "PNG" if i % 2 == 0 else "JPEG")
    (folder / ".thumbnails").mkdir()
    Image.new("RGB", (8, 8)).save(folder / ".thumbnails" / "hidden.png")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def stickers(tmp_path_factory):
    path = tmp_path_factory.mktemp("stickers") / "index"
    result = run("index", "tiny", "stickers", "n_queries=20", "--output", path)
    assert result.exit_code == 0, result.output
    return path


def test_a_suite_is_indexed_and_searched_as_in_memory(stickers, tiny):
    task = load_task("stickers", n_queries=20, n_train=0)
    index = MetaIndex.open(stickers, model=tiny)
    assert index.header.model == "tiny"
    assert [str(budget) for budget in index.header.columns.budgets] == [
        "(1, 1)", "(2, 4)", "(4, 8)", "(8, 16)"
    ]  # fmt: skip
    assert len(index) == len(task.candidates) == 40
    query = task.queries[0]
    scores = maxsim(
        tiny.encode_query([query]), tiny.encode_document(task.candidates), budget=(4, 8)
    )[0].sort(descending=True)
    result = run("search", stickers, query, "--budget", "4x8", "--k", 3)
    assert result.exit_code == 0, result.output
    printed = [float(text) for text in re.findall(r" (\d\.\d{4})$", result.stdout, re.MULTILINE)]
    assert printed == pytest.approx(scores.values[:3].tolist(), abs=2e-3)
    assert f"{40 * 8 * 128 * 2:,} bytes read" in result.stdout


def test_an_index_of_a_suite_has_thumbnails_that_scans_do_not_read(stickers, tiny):
    index = MetaIndex.open(stickers)
    row = index.head(1)
    picture = Image.open(io.BytesIO(row.thumbnail[0]))
    assert picture.format == "WEBP"
    assert picture.size == (128, 128)  # the suite's own size is below the limit
    results = index.search(tiny.encode_query("violin"), 3, (1, 1))
    assert results.attrs["stats"]["bytes_read"] == 40 * 128 * 2


def test_the_artists_are_stored_with_their_drawings_and_only_there(stickers, images, tmp_path):
    assert MetaIndex.open(stickers).header.credit == ATTRIBUTION
    folder, _ = build_index("tiny", images, tmp_path / "folder", progress=False)
    assert folder.header.credit is None


def test_texts_are_stored_as_metadata(tmp_path):
    path = tmp_path / "index"
    result = run("index", "tiny", "codesearch", "n_queries=5", "--output", path)
    assert result.exit_code == 0, result.output
    task = load_task("codesearch", n_queries=5, n_train=0)
    rows = MetaIndex.open(path).head(100)
    assert list(rows.columns) == ["id", "text"]
    assert list(rows.text) == list(dict.fromkeys(task.candidates))
    result = run("search", path, "read a file", "--where", "text LIKE '%def %'", "--k", 1)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout


def test_a_folder_is_indexed_by_relative_path(images, tmp_path, tiny):
    path = tmp_path / "index"
    result = run("index", "tiny", images, "--output", path, "--dtype", "int8",
                 "--rescore", "float16")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "has 6 candidates, 6 of them new" in result.stdout
    index = MetaIndex.open(path)
    assert index.header.columns.dtype == "int8"
    rows = index.head(10)
    assert set(rows.id) == {
        "cold, too/red.png", "warm/green.JPG", "cold, too/blue.png", "warm/yellow.JPG",
        "cold, too/white.png", "warm/black.JPG",
    }  # fmt: skip
    assert list(rows.path) == [str(images / name) for name in rows.id]
    assert Image.open(io.BytesIO(rows.thumbnail[0])).size == (160, 100)
    file = images / "warm" / "green.JPG"
    result = run("search", path, "--image", file, "--k", 2, "--prefetch", "1x1:5")
    assert result.exit_code == 0, result.output
    expected = tiny.encode_document([Image.open(images / name) for name in rows.id])
    scores = maxsim(tiny.encode_query([Image.open(file)]), expected)[0]
    best = index.search(tiny.encode_query(Image.open(file)), 1)
    assert best.score.item() == pytest.approx(scores.max().item(), abs=1e-2)
    assert best.id.item() in result.stdout


def test_unreadable_images_end_the_command_before_it_writes_or_are_skipped(images, tmp_path):
    (images / "broken.png").write_text("not an image")
    (images / "empty.webp").write_bytes(b"")
    path = tmp_path / "index"
    result = run("index", "tiny", images, "--output", path)
    assert result.exit_code == 2
    assert "error: 2 of 8 images cannot be read" in result.stderr
    assert "'broken.png': it is not an image that PIL can read" in result.stderr
    assert "'empty.webp'" in result.stderr
    assert "--skip-unreadable" in result.stderr
    assert not path.exists()
    result = run("index", "tiny", images, "--output", path, "--skip-unreadable")
    assert result.exit_code == 0, result.output
    assert "skipped 'broken.png': it is not an image" in result.stdout
    assert len(MetaIndex.open(path)) == 6


def test_an_existing_index_is_kept_and_only_new_ids_are_encoded(images, tmp_path, tiny):
    path = tmp_path / "index"
    assert run("index", "tiny", images, "--output", path).exit_code == 0
    result = run("index", "tiny", images, "--output", path)
    assert result.exit_code == 2
    assert "add to it with --add, or delete the folder first" in result.stderr
    first = MetaIndex.open(path).head(10)
    Image.new("RGB", (32, 32), "orange").save(images / "orange.png")
    (images / "warm" / "green.JPG").write_text("broken by now, but it has been indexed")
    result = run("index", "tiny", images, "--output", path, "--add")
    assert result.exit_code == 0, result.output
    assert "has 7 candidates, 1 of them new" in result.stdout
    assert MetaIndex.open(path).head(6).equals(first)
    assert (
        "7 candidates, 0 of them new"
        in run("index", "tiny", images, "--output", path, "--add").stdout
    )
    result = run("index", "tiny", images, "--output", path, "--add", "--dtype", "int8")
    assert result.exit_code == 2
    assert "has 'float16', so leave it out" in result.stderr
    result = run("index", "tiny-no-mmr", images, "--output", path, "--add")
    assert result.exit_code == 2
    assert "holds vectors of model" in result.stderr


def test_an_interrupted_run_keeps_what_it_committed(images, tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "COMMIT_EVERY", 2)
    path = tmp_path / "index"
    encode = indexing.encode_thumbnail
    n_calls = 0

    def encode_four(*arguments):
        nonlocal n_calls
        n_calls += 1
        if n_calls > 4:
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(indexing, "encode_thumbnail", encode_four)
    with pytest.raises(KeyboardInterrupt):
        build_index("tiny", str(images), path, progress=False)
    assert len(MetaIndex.open(path)) == 4
    monkeypatch.setattr(indexing, "encode_thumbnail", encode)
    index, added = build_index("tiny", str(images), path, add=True, progress=False)
    assert (len(index), len(added.ids)) == (6, 2)
    index.check()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny", "nowhere"], "'nowhere' is neither a folder nor a suite: the suites are stickers"),
        (["tiny", "stickers", "n_querys=3"], "n_querys"),
        (["tiny", "stickers", "--dtype", "int4"], "dtype 'int4': choose from float32"),
        (["tiny", "stickers", "--batch-size", "0"], "batch_size=0"),
        (["tiny", "EMPTY"], "no image in"),
        (["tiny", "EMPTY", "side=3"], "'side=3': a folder has no settings"),
        (["tiny-single", "stickers", "n_queries=2"], "has no meta tokens"),
        (["no-such-model", "stickers", "n_queries=2"], "no-such-model"),
    ],
)
def test_a_wrong_argument_of_index_is_named_and_nothing_is_written(arguments, message, tmp_path):
    (tmp_path / "empty").mkdir()
    arguments = [str(tmp_path / "empty") if text == "EMPTY" else text for text in arguments]
    result = run("index", *arguments, "--output", tmp_path / "index")
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["violin", "--budget", "9x1"], "budget (9, 1): there are 8 query vectors"),
        (["violin", "--budget", "four"], "budget 'four'"),
        (["violin", "--k", "0"], "k=0"),
        (["violin", "--where", "year >"], "where='year >'"),
        (["violin", "--prefetch", "1x1"], "prefetch: ['1x1'] is no stage"),
        (["violin", "--prefetch", "1x1:5"], "let each stage keep fewer"),
        (["violin", "--model", "tiny-no-mmr"], "load that model"),
        (["  "], "the query is empty"),
        (["violin", "--image", "nowhere.png"], "nowhere.png"),
        (["--image", __file__], "is not an image that PIL can read"),
    ],
)
def test_a_wrong_argument_of_search_is_named(arguments, message, stickers):
    result = run("search", stickers, *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_search_and_serve_need_an_index(tmp_path):
    for command in (["search", tmp_path, "violin"], ["serve", tmp_path]):
        result = run(*command)
        assert result.exit_code == 2
        assert f"there is no index at {tmp_path}" in result.stderr


def test_serve_answers_until_it_is_interrupted(stickers):
    command = [sys.executable, "-m", "metaembed_lite.cli", "serve", stickers, "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        address = re.search(r"http://127\.0\.0\.1:\d+", run.stdout.readline())[0]
        with urllib.request.urlopen(f"{address}/") as answer:
            assert "<title>index · metaembed-lite</title>" in answer.read().decode()
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 0
    assert "Traceback" not in errors


def test_serve_says_that_a_port_is_taken(stickers):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", stickers, "--port", port)
    assert result.exit_code == 2, result.output
    assert f"port {port} is taken" in result.stderr


def test_a_filter_that_nothing_passes_gives_an_empty_table(stickers):
    result = run("search", stickers, "violin", "--where", "id = 'none'")
    assert result.exit_code == 0, result.output
    assert "no candidate passes the filter" in result.stdout
