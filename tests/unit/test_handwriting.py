"""Boards of digits: any side, exact relevance, unseen writers, and small training rows."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from datasets import load_from_disk
from PIL import Image
from sklearn.datasets import load_digits

from metaembed_lite import load_task
from metaembed_lite.data.boards import place_names
from metaembed_lite.data.handwriting import load_handwriting, training_rows
from metaembed_lite.data.scans import (
    SCAN_RANGES,
    load_scans,
    render_digits,
    render_scans,
    store_board,
)
from metaembed_lite.items import open_picture

DIGITS = load_digits()


def paint(scan):
    """The oracle's place of a board: a scan of 24 x 24 pixels, 4 pixels of white around it."""
    ink = Image.fromarray(np.uint8(np.round(scan * 255 / 16))).resize((24, 24), Image.BILINEAR)
    place = Image.new("L", (32, 32), 255)
    place.paste(Image.eval(ink, lambda value: 255 - value), (4, 4))
    return np.asarray(place).tobytes()


SCAN_OF_PIXELS = {paint(scan): index for index, scan in enumerate(DIGITS.images)}


def read_scans(board):
    """Recognize the scan at each place of a board, row by row, from its pixels."""
    pixels = np.asarray(board)
    assert (pixels == pixels[..., :1]).all()
    rows = [pixels[y : y + 32, :, 0] for y in range(0, len(pixels), 32)]
    return [
        [SCAN_OF_PIXELS[row[:, x : x + 32].tobytes()] for x in range(0, len(pixels), 32)]
        for row in rows
    ]


def read_digits(board):
    return DIGITS.target[read_scans(board)]


def satisfies(board, query):
    """Whether a board holds what "4 C1, 7 A3" names: column C of row 1, column A of row 3."""
    parts = [part.split(" ") for part in query.split(", ")]
    return all(
        board[int(place[1:]) - 1, "ABCDEFGHIJ".index(place[0])] == int(digit)
        for digit, place in parts
    )


@pytest.mark.parametrize("side", [2, 3, 5, 10])
def test_relevance_equals_reading_the_query_against_the_pixels(side):
    n = 100
    task = load_task("handwriting", n_queries=n, n_train=0, side=side)
    boards = [read_digits(board) for board in task.candidates]
    assert {board.shape for board in boards} == {(side, side)}
    expected = [[satisfies(board, query) for board in boards] for query in task.queries]
    np.testing.assert_array_equal(task.relevance, np.array(expected, dtype=float))
    assert (np.diag(task.relevance) == 1).all()
    assert task.relevance.sum() > n  # some boards fit by chance, and count
    for query, board, negative in zip(task.queries, boards[:n], boards[n:], strict=True):
        assert len({part.split(" ")[1] for part in query.split(", ")}) == 3
        assert (board != negative).sum() == 1
        assert not satisfies(negative, query)


def test_a_board_has_four_by_four_places_unless_told_otherwise():
    task = load_task("handwriting", n_queries=2, n_train=3)
    assert {board.size for board in task.candidates} == {(128, 128)}
    row = task.train[0]
    assert list(row) == ["query", "positive", "negative"]
    assert isinstance(row["query"], str)
    assert row["positive"].size == row["negative"].size == (128, 128)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_board_shows_each_digit_at_its_place(split):
    digits = np.array([3, 1, 4, 1, 5, 9, 2, 6, 0])
    board = render_digits(digits, np.random.default_rng(0), split)
    np.testing.assert_array_equal(read_digits(board), digits.reshape(3, 3))


def test_the_order_of_the_places_does_not_reveal_which_one_the_negative_changes():
    n = 200
    task = load_task("handwriting", n_queries=n, n_train=0)
    boards = [read_digits(board) for board in task.candidates]
    first = sum(
        not satisfies(negative, query.split(", ")[0])
        for query, negative in zip(task.queries, boards[n:], strict=True)
    )
    assert 0.2 * n < first < 0.45 * n  # a third


def test_the_source_of_the_digits_is_named_as_their_license_requires():
    about = load_task("handwriting", n_queries=1, n_train=0).about
    for part in ("Alpaydin", "Kaynak", "UCI", "https://doi.org/10.24432/C50P49", "CC BY 4.0"):
        assert part in about


def test_no_test_scan_is_in_training():
    def scans(split):
        return {scan.tobytes() for digit in load_scans(split) for scan in digit}

    assert len(scans("test")) > 500
    assert not scans("train") & (scans("test") | scans("validation"))


def test_the_gap_between_train_and_test_is_as_wide_as_a_writer():
    assert SCAN_RANGES["test"][0] - SCAN_RANGES["train"][1] >= 1797 / 13


def test_every_place_is_named_as_often_as_the_others():
    rows = training_rows(3000, side=5)
    parts = [part.split(" ") for query in rows["query"] for part in query.split(", ")]
    for values, expected in ((place_names(5), 360), (list("0123456789"), 900)):
        counts = [sum(value in part for part in parts) for value in values]
        assert sum(counts) == len(parts)
        assert max(abs(count - expected) for count in counts) < 6 * expected**0.5


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_boards_show_the_writers_of_their_split_only(split):
    task = load_task("handwriting", n_queries=30, n_train=30, split=split)
    shown = {scan for board in task.candidates for row in read_scans(board) for scan in row}
    trained = {
        scan
        for row in task.train
        for name in ("positive", "negative")
        for line in read_scans(row[name])
        for scan in line
    }
    assert shown <= set(range(*SCAN_RANGES[split]))
    assert trained <= set(range(*SCAN_RANGES["train"]))
    assert len(trained) > 500


def test_a_training_row_has_a_board_that_fits_and_a_negative_that_does_not():
    for row in training_rows(50):
        board, negative = read_digits(row["positive"]), read_digits(row["negative"])
        assert satisfies(board, row["query"])
        assert not satisfies(negative, row["query"])
        assert (board != negative).sum() == 1
        same_scans = np.equal(read_scans(row["positive"]), read_scans(row["negative"])).sum()
        assert same_scans < 4  # the negative is written again


def test_a_stored_board_opens_as_the_same_pixels_every_time():
    scans = np.random.default_rng(0).integers(1797, size=25)
    stored = store_board(scans)
    for _ in range(2):
        np.testing.assert_array_equal(open_picture(stored), render_scans(scans))
    assert read_scans(open_picture(stored)) == scans.reshape(5, 5).tolist()


def test_rows_are_small_and_survive_saving_and_pickling(tmp_path):
    rows = training_rows(100)
    assert rows.data.nbytes / len(rows) < 500
    rows.save_to_disk(tmp_path / "rows")
    for again in (load_from_disk(tmp_path / "rows"), pickle.loads(pickle.dumps(rows))):
        assert again["query"][:] == rows["query"][:]
        for name in ("positive", "negative"):
            assert read_scans(again[7][name]) == read_scans(rows[7][name])


DIGEST = """
import hashlib
from metaembed_lite.data import load_task
digest = hashlib.sha256()
task = load_task("handwriting", n_queries=20, n_train=5)
for item in [*task.queries, *task.candidates, *(i for row in task.train for i in row.values())]:
    digest.update(item.encode() if isinstance(item, str) else item.tobytes())
digest.update(task.relevance.tobytes())
digest = digest.hexdigest()
"""


def test_another_process_with_other_hashes_and_threads_gives_the_same_task():
    here: dict = {}
    exec(DIGEST, here)
    elsewhere = subprocess.run(
        [sys.executable, "-c", DIGEST + "print(digest)"], capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    assert elsewhere.stdout.strip() == here["digest"], elsewhere.stderr


def test_the_splits_seeds_and_training_rows_differ():
    queries = [
        tuple(load_handwriting(n_queries=30, n_train=0, seed=seed, split=split).queries)
        for seed, split in ((0, "test"), (0, "validation"), (0, "train"), (1, "test"))
    ]
    queries.append(tuple(training_rows(30)["query"]))
    assert len(set(queries)) == len(queries)


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (11, "side=11: use a whole number from 2 to 10"),
        (1, "side=1: use a whole number from 2"),
        (2.5, r"side=2\.5: use a whole number"),
        (True, "side=True: use a whole number"),
    ],
)
def test_a_side_that_boards_do_not_have_is_refused(side, message):
    for call in (
        lambda: load_handwriting(n_queries=2, n_train=0, side=side),
        lambda: training_rows(2, side=side),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_digits_and_splits_that_do_not_exist_are_refused():
    rng = np.random.default_rng(0)
    for digit in (10, -1, 2.5):
        with pytest.raises(ValueError, match=f"digit={digit}: use"):
            render_digits(np.array([digit]), rng, "train")
    with pytest.raises(ValueError, match="unknown split 'exam'; choose from"):
        render_digits(np.arange(9), rng, "exam")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"0 1", "2 digits do not fill a square"),
        (b"1797", "scan=1797: use a position from 0 to 1796"),
        (b"-1", "scan=-1: use a whole number from 0 up"),
        (b"seven", "invalid literal|could not convert"),
        (b"", "invalid literal|could not convert"),
        (b" ".join([b"0"] * 121), "121 scans; at most 100 fit"),
    ],
)
def test_a_damaged_stored_board_is_refused_with_the_reason(content, message):
    header = store_board([0]).split(b"\n")[0]
    with pytest.raises(ValueError, match=f"cannot be opened as an image: .*({message})"):
        open_picture(header + b"\n" + content)
