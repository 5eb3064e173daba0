"""All 14 tasks, and those on boards: only the symbols of text and image decide the answer."""

import itertools
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from metaembed_lite import load_task
from metaembed_lite.data import meta_tasks, questions, sticker_questions
from metaembed_lite.data.meta_tasks import HELD_OUT, META_TASKS, TASKS
from metaembed_lite.data.questions import sample_example
from metaembed_lite.data.task import SPLITS, training_rng
from metaembed_lite.evaluation import precision_at_1

BOARD_TASKS = [name for name in TASKS if name.startswith("handwriting/")]


class Symbols:
    """A board's digits in place of its image, so that tests can read a task exactly."""

    def __init__(self, board):
        self.words = [str(digit) for digit in board]


@pytest.fixture
def as_symbols(monkeypatch):
    monkeypatch.setattr(questions, "render_digits", lambda board, rng, split: Symbols(board))


def find_place(name):
    """The position of a place in reading order: "B3" is the second of the third row."""
    return "ABCD".index(name[0]) + 4 * (int(name[1:]) - 1)


def parse_places(text):
    """Parse "4 A1, 7 B2" as {place: content}."""
    parts = (part.rsplit(" ", 1) for part in text.split(", "))
    return {find_place(place): content for content, place in parts}


def satisfies(board, text):
    return all(board.words[place] == content for place, content in parse_places(text).items())


def is_answer(kind, query, candidate):
    """Whether a candidate answers, read from texts and symbols: the oracle."""
    if kind == "t2i":
        return satisfies(candidate, query.removeprefix("find: "))
    board, text = query["image"], query["text"]
    if kind == "i2t":
        return satisfies(board, candidate)
    if kind == "i2i":
        return candidate.words == board.words
    if kind == "composed":
        words = list(board.words)
        for place, content in parse_places(text.removeprefix("change to ")).items():
            words[place] = content
        return candidate.words == words
    if kind == "classify":
        assert text == "name the first three digits of row 2"
        return candidate == " ".join(board.words[4:7])
    places = text.partition(": ")[2].removesuffix("?").split(", ")
    return candidate == ", ".join(board.words[find_place(p)] for p in places)


@pytest.mark.parametrize("name", [t for t in BOARD_TASKS if not t.endswith("ground")])
def test_relevance_equals_the_oracle_that_reads_texts_and_symbols(name, as_symbols):
    task = meta_tasks.load_meta_task(name, n_queries=60)
    kind = name.partition("/")[2]
    expected = [[is_answer(kind, q, c) for c in task.candidates] for q in task.queries]
    np.testing.assert_array_equal(task.relevance, np.array(expected, dtype=np.float32))
    assert task.relevance.any(axis=1).all()


def test_the_answer_of_grounding_is_the_crop_at_the_named_place():
    task = meta_tasks.load_meta_task("handwriting/ground", n_queries=40)
    for i, query in enumerate(task.queries):
        row, column = divmod(find_place(query["text"].removeprefix("crop ")), 4)
        pixels = np.asarray(query["image"])
        crop = pixels[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        np.testing.assert_array_equal(np.asarray(task.candidates[i]), crop)
        same = [np.array_equal(np.asarray(c), crop) for c in task.candidates]
        np.testing.assert_array_equal(task.relevance[i] > 0, same)


@pytest.mark.parametrize("name", [t for t in BOARD_TASKS if not t.endswith("ground")])
def test_a_hard_negative_is_wrong_and_differs_in_one_detail(name, as_symbols):
    kind = name.partition("/")[2]
    rng = np.random.default_rng(0)
    for _ in range(30):
        example = sample_example(kind, rng, "train")
        assert is_answer(kind, example.query, example.positive)
        assert not is_answer(kind, example.query, example.negative)
        if isinstance(example.positive, Symbols):
            right, wrong = example.positive.words, example.negative.words
            assert sum(a != b for a, b in zip(right, wrong, strict=True)) == 1


@pytest.mark.parametrize("name", TASKS)
def test_a_full_task_has_a_thousand_candidates_and_rows_of_one_kind(name):
    task = load_task(name, n_queries=500, n_train=3)
    assert len(task.candidates) >= (300 if name == "stickers/vqa" else 1000)
    assert task.train.column_names == ["query", "positive", "negative"]
    for row in task.train:
        assert type(row["query"]) is type(task.queries[0])
        assert isinstance(row["positive"], str) == isinstance(task.candidates[0], str)
        assert type(row["positive"]) is type(row["negative"])


@pytest.mark.parametrize("kind", ["classify", "vqa"])
@pytest.mark.parametrize("source", [questions, sticker_questions])
def test_all_answers_differ(source, kind):
    answers = source.list_answers(kind)
    assert len(set(answers)) == len(answers) >= 300


def test_all_four_meta_tasks_exist_and_held_out_tasks_are_trained_in_another_suite():
    assert set(META_TASKS) == {"Retrieval", "Classification", "VQA", "Visual grounding"}
    assert len(TASKS) == 14
    trained = meta_tasks.training_sets(2)
    assert set(trained) == set(TASKS) - HELD_OUT
    assert {name.partition("/")[2] for name in HELD_OUT} <= {n.partition("/")[2] for n in trained}


def test_no_near_duplicate_of_a_test_board_is_in_training(as_symbols):
    """Two boards of different splits share at most 9 of 16 places. A hard negative shares 15."""
    training_boards = [
        sample_example("t2i", rng, "train").positive.words
        for rng in [training_rng(0, TASKS.index("handwriting/t2i"))]
        for _ in range(3000)
    ]
    task = meta_tasks.load_meta_task("handwriting/t2i", n_queries=100)
    test_boards = [candidate.words for candidate in task.candidates]
    equal = np.array(test_boards)[:, None] == np.array(training_boards)[None]
    assert 2 <= equal.sum(axis=2).max() <= 9


def test_the_splits_ask_different_questions():
    queries = [
        tuple(meta_tasks.load_meta_task("handwriting/t2i", n_queries=50, split=split).queries)
        for split in SPLITS
    ]
    assert len(set(queries)) == len(SPLITS)


def test_tasks_keep_the_random_streams_that_they_had_when_results_were_measured():
    """A task's stream is its position. Another order would sample other questions."""
    kinds = [kind for kinds in META_TASKS.values() for kind in kinds]
    assert kinds == ["t2i", "i2t", "i2i", "composed", "classify", "vqa", "ground"]
    suites = [name.partition("/")[0] for name in TASKS[::7]]
    assert suites == ["handwriting", "stickers"]


def test_equal_seeds_give_equal_tasks_and_different_seeds_different_tasks():
    first, second, other = (
        meta_tasks.load_meta_task("handwriting/vqa", n_queries=5, seed=s) for s in (0, 0, 1)
    )
    assert [q["text"] for q in first.queries] == [q["text"] for q in second.queries]
    assert all(
        np.array_equal(a["image"], b["image"])
        for a, b in zip(first.queries, second.queries, strict=True)
    )
    assert [q["text"] for q in first.queries] != [q["text"] for q in other.queries]


def without_picture(kind, query, task):
    """Score as well as the text alone allows, given all symbols. None if it says nothing."""
    if kind != "composed":
        return None
    ((place, content),) = parse_places(query["text"].removeprefix("change to ")).items()
    return [float(c.words[place] == content) for c in task.candidates]


def without_words(kind, query, task):
    """Score as well as the image alone allows: the most similar board, or the likeliest answer."""
    words = query["image"].words
    if kind == "composed":
        return [float(sum(a == b for a, b in zip(c.words, words, strict=True)))
                for c in task.candidates]  # fmt: skip
    n_named = query["text"].count(",") + 1
    answers = Counter(", ".join(w) for w in itertools.permutations(words, n_named))
    return [float(answers[c]) for c in task.candidates]


@pytest.mark.parametrize(
    ("blind", "kind"),
    [
        (without_picture, "composed"), (without_picture, "vqa"), (without_picture, "classify"),
        (without_picture, "ground"), (without_words, "composed"), (without_words, "vqa"),
    ],
)  # fmt: skip
def test_half_of_a_query_is_not_enough_to_answer_it(blind, kind, request):
    if kind != "ground":  # crops need pixels
        request.getfixturevalue("as_symbols")
    task = meta_tasks.load_meta_task(f"handwriting/{kind}", n_queries=300)
    scores = [blind(kind, query, task) for query in task.queries]
    if scores[0] is None:
        assert task.relevance.mean(axis=0).max() < 0.05  # of the most frequent answer
    else:
        noise = np.random.default_rng(0).random((len(scores), len(task.candidates))) / 1e3
        assert precision_at_1(np.array(scores) + noise, task.relevance) < 0.05


def test_grounding_without_words_is_seldom_right():
    """Boards share scans, so most crops of a query's board are candidates, as answers of others."""
    task = meta_tasks.load_meta_task("handwriting/ground", n_queries=300)
    boards = [np.asarray(query["image"]) for query in task.queries]
    corners = list(itertools.product((0, 32, 64, 96), repeat=2))
    board_crops = [
        {board[y : y + 32, x : x + 32].tobytes() for y, x in corners} for board in boards
    ]
    candidates = [np.asarray(c).tobytes() for c in task.candidates]
    is_inside = np.array([[float(c in crops) for c in candidates] for crops in board_crops])
    assert ((is_inside > 0) >= (task.relevance > 0)).all()
    assert is_inside.sum(axis=1).min() > 4
    noise = np.random.default_rng(0).random(is_inside.shape) / 1e3
    assert precision_at_1(is_inside + noise, task.relevance) < 0.2


def test_the_table_has_every_average(as_symbols):
    scores = {name: i / len(TASKS) for i, name in enumerate(TASKS)}
    table = meta_tasks.tabulate_meta_tasks(scores).set_index(["task", "meta_task"])
    means = table.loc["mean"].p_at_1
    assert means["overall"] == pytest.approx(np.mean(list(scores.values())))
    assert means["out-of-distribution"] == pytest.approx(np.mean([scores[n] for n in HELD_OUT]))
    vqa = [scores[f"{suite}/vqa"] for suite in ("handwriting", "stickers")]
    assert means["VQA"] == pytest.approx(np.mean(vqa))
    assert table.loc[("mean", "Retrieval")].tasks == "8 of 8"
    with pytest.raises(ValueError, match=r"handwriting/ocr.*handwriting/t2i"):
        meta_tasks.tabulate_meta_tasks({"handwriting/ocr": 1.0})


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("handwriting/ocr", {}, r"handwriting/ocr.*handwriting/t2i"),
        ("handwriting/vqa", {"split": "exam"}, r"exam.*test"),
        ("handwriting/vqa", {"n_queries": 0}, r"n_queries=0"),
        ("handwriting/vqa", {"colour": "red"}, r"colour.*n_queries"),
    ],
)
def test_errors_name_what_was_wrong_and_the_choices(name, settings, message):
    with pytest.raises(ValueError, match=message):
        load_task(name, **settings)


def test_images_are_whole_boards_or_single_places():
    for name in BOARD_TASKS:
        for item in meta_tasks.load_meta_task(name, n_queries=2).candidates[:2]:
            if isinstance(item, Image.Image):
                assert item.size == ((32, 32) if name.endswith("ground") else (128, 128))
