"""Seven tasks on sheets of stickers: only a query's text and drawings decide the answer."""

import itertools
import math
import os
import subprocess
import sys
from collections import Counter

import emoji
import numpy as np
import pytest

from metaembed_lite import load_task
from metaembed_lite.data.meta_tasks import HELD_OUT, TASKS, training_rows
from metaembed_lite.data.sheets import render_sheet
from metaembed_lite.data.sticker_art import ARTISTS, KINDS, THINGS, UNSEEN, draw_sticker
from metaembed_lite.data.sticker_questions import list_answers, sample_example
from metaembed_lite.data.task import training_rng
from metaembed_lite.evaluation import precision_at_1

NAMES = [name for name in TASKS if name.startswith("stickers/")]

# The oracle knows drawings by their pixels, and names by another function of the package emoji.
NAME = {thing: emoji.demojize(thing).strip(":").replace("_", " ").lower() for thing in THINGS}
KIND = {NAME[thing]: kind for kind, things in KINDS.items() for thing in things}
DRAWING_OF_PIXELS = {
    draw_sticker(index, artist).tobytes(): (artist, NAME[thing])
    for artist in ARTISTS
    for index, thing in enumerate(THINGS)
}
UNSEEN_DRAWINGS = {(artist, NAME[THINGS[i]]) for artist, things in UNSEEN.items() for i in things}


class Reading:
    """What the oracle recognizes on an image: the artist, and the names in reading order."""

    def __init__(self, image):
        pixels = np.asarray(image)
        side = len(pixels) // 32
        assert pixels.shape == (32 * side, 32 * side, 3)
        cells = pixels.reshape(side, 32, side, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
        self.drawings = [DRAWING_OF_PIXELS[cell.tobytes()] for cell in cells]
        (self.artist,) = {artist for artist, _ in self.drawings}
        self.names = [name for _, name in self.drawings]


def read(item):
    """An item with its image recognized: a text, a Reading, or both."""
    if isinstance(item, str):
        return item
    if isinstance(item, dict):
        return {"text": item["text"], "image": Reading(item["image"])}
    return Reading(item)


def neighbor(names, direction, name):
    """Look up the neighbor in a table of rows. None outside of it."""
    row, column = divmod(names.index(name), 4)
    row += {"above": -1, "below": 1}.get(direction, 0)
    column += {"left of": -1, "right of": 1}.get(direction, 0)
    inside = row in range(4) and column in range(4)
    return [names[i : i + 4] for i in range(0, 16, 4)][row][column] if inside else None


def is_answer(kind, query, candidate):
    """Whether a candidate answers a query, from what both say and show: the oracle."""
    if kind == "t2i":
        return set(query.removeprefix("find: ").split(", ")) <= set(candidate.names)
    text, sheet = query["text"], query["image"]
    if kind == "i2t":
        return set(candidate.split(", ")) <= set(sheet.names)
    if kind == "i2i":
        return sorted(candidate.names) == sorted(sheet.names)
    if kind == "composed":
        old, new = text.removeprefix("replace ").split(" by ")
        assert old in sheet.names
        return sorted(candidate.names) == sorted({*sheet.names, new} - {old})
    if kind == "classify":
        counts = Counter(KIND[name] for name in sheet.names)
        return candidate == ", ".join(kind for kind in KINDS if counts[kind] == 3)
    if kind == "vqa":
        direction, name = text.removeprefix("what is ").removesuffix("?").split(" the ")
        return candidate == neighbor(sheet.names, direction, name)
    direction, name = text.removeprefix("crop what is ").split(" the ")
    return candidate.drawings == [(sheet.artist, neighbor(sheet.names, direction, name))]


@pytest.fixture(scope="module")
def tasks():
    return {name: load_task(name, n_queries=100, n_train=60) for name in NAMES}


@pytest.fixture(scope="module")
def readings(tasks):
    """Task -> its queries and candidates as the oracle reads them."""
    return {
        name: (list(map(read, task.queries)), list(map(read, task.candidates)))
        for name, task in tasks.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_relevance_equals_the_oracle_that_reads_texts_and_pixels(name, tasks, readings):
    queries, candidates = readings[name]
    kind = name.partition("/")[2]
    expected = [[is_answer(kind, q, c) for c in candidates] for q in queries]
    np.testing.assert_array_equal(tasks[name].relevance, np.array(expected, dtype=float))
    assert tasks[name].relevance.any(axis=1).all()


@pytest.mark.parametrize("kind", ["t2i", "i2t", "ground"])
def test_candidates_that_fit_by_chance_are_relevant(kind):
    task = load_task(f"stickers/{kind}", n_queries=500)
    assert (np.diag(task.relevance) == 1).all()
    assert task.relevance.sum() > 520


@pytest.mark.parametrize("name", NAMES)
def test_a_hard_negative_is_wrong_and_differs_in_one_detail(name, tasks):
    kind = name.partition("/")[2]
    for row in tasks[name].train:
        query, right, wrong = (read(row[part]) for part in ("query", "positive", "negative"))
        assert is_answer(kind, query, right)
        assert not is_answer(kind, query, wrong)
        if kind in ("t2i", "i2i", "composed"):
            ((old, new),) = (
                pair for pair in zip(right.drawings, wrong.drawings, strict=True)
                if pair[0] != pair[1]
            )  # fmt: skip
            assert old[0] == new[0]
            assert KIND[old[1]] == KIND[new[1]]
            assert new[1] not in right.names
        if kind in ("i2t", "classify"):
            assert len(set(right.split(", ")) & set(wrong.split(", "))) == right.count(", ")
        if kind == "classify":
            assert set(wrong.split(", ")) <= {KIND[name] for name in query["image"].names}
        if kind in ("vqa", "ground"):
            assert (wrong if kind == "vqa" else wrong.names[0]) in query["image"].names


@pytest.mark.parametrize("kind", ["vqa", "ground"])
def test_the_negative_is_next_to_the_thing_in_question(kind, tasks):
    for row in tasks[f"stickers/{kind}"].train:
        query = read(row["query"])
        name = query["text"].removesuffix("?").split(" the ")[1]
        directions = ("left of", "right of", "above", "below")
        around = {neighbor(query["image"].names, d, name) for d in directions}
        answers = [read(row[part]) for part in ("positive", "negative")]
        assert {a if kind == "vqa" else a.names[0] for a in answers} <= around


@pytest.mark.parametrize("name", NAMES)
def test_a_sheet_shows_16_different_things_by_one_artist(name, tasks, readings):
    queries, candidates = readings[name]
    items = [*queries, *(candidates if name != "stickers/ground" else [])]
    sheets = [item["image"] if isinstance(item, dict) else item for item in items]
    sheets = [sheet for sheet in sheets if isinstance(sheet, Reading)]
    assert sheets
    assert all(len(set(sheet.names)) == 16 for sheet in sheets)
    assert {sheet.artist for sheet in sheets} == set(ARTISTS)


def test_i2i_asks_for_the_other_artist_and_another_order(tasks):
    for row in tasks["stickers/i2i"].train:
        query, right = read(row["query"])["image"], read(row["positive"])
        assert query.artist != right.artist
        assert np.mean([a == b for a, b in zip(query.names, right.names, strict=True)]) < 0.4


def test_composed_keeps_the_artist_and_the_other_places(tasks):
    for row in tasks["stickers/composed"].train:
        query = read(row["query"])["image"]
        for answer in (read(row["positive"]), read(row["negative"])):
            assert answer.artist == query.artist
            assert sum(a != b for a, b in zip(query.names, answer.names, strict=True)) == 1


def test_three_kinds_of_a_classified_sheet_occur_three_times_and_the_others_once(readings):
    for query in readings["stickers/classify"][0]:
        counts = Counter(KIND[name] for name in query["image"].names)
        assert Counter(counts.values()) == {3: 3, 1: 7}


def test_all_answers_are_candidates_and_differ(tasks):
    assert tasks["stickers/vqa"].candidates == [NAME[thing] for thing in THINGS]
    assert set(tasks["stickers/classify"].candidates) == {
        ", ".join(kinds) for kinds in itertools.combinations(KINDS, 3)
    }
    assert len(set(list_answers("classify"))) == len(list_answers("classify")) == 4060


@pytest.mark.parametrize("name", NAMES)
def test_no_drawing_of_the_unseen_artist_test_is_shown(name, tasks, readings):
    rows = [read(item) for row in tasks[name].train for item in row.values()]
    items = [*rows, *itertools.chain(*readings[name])]
    images = [item["image"] if isinstance(item, dict) else item for item in items]
    shown = {d for image in images if isinstance(image, Reading) for d in image.drawings}
    rng = training_rng(0, TASKS.index(name))
    for _ in range(300):

        def show(sheet):
            shown.update((sheet.artist, NAME[THINGS[thing]]) for thing in sheet.things)

        sample_example(name.partition("/")[2], rng, show)
    assert len(shown) >= 480
    assert not shown & UNSEEN_DRAWINGS


def test_no_training_sheet_is_close_to_a_test_sheet(readings):
    """A hard negative shares 15 of 16 things. Sheets of different splits share far fewer."""
    training = []
    rng = training_rng(0, TASKS.index("stickers/t2i"))
    for _ in range(1500):
        sample_example("t2i", rng, lambda s: training.append({NAME[THINGS[t]] for t in s.things}))
    test = [set(sheet.names) for sheet in readings["stickers/t2i"][1]]
    assert 5 < max(len(a & b) for a in training for b in test[:60]) < 15


def score(task, points):
    noise = np.random.default_rng(0).random(task.relevance.shape) / 1e3
    return precision_at_1(np.array(points, dtype=float) + noise, task.relevance)


@pytest.fixture(scope="module")
def large():
    """Tasks with 300 queries, as the oracle reads them."""
    kinds = ("composed", "classify", "vqa", "ground", "i2t")
    tasks = {kind: load_task(f"stickers/{kind}", n_queries=300) for kind in kinds}
    return {
        kind: (task, list(map(read, task.queries)), list(map(read, task.candidates)))
        for kind, task in tasks.items()
    }


@pytest.mark.parametrize("kind", ["i2t", "classify", "vqa"])
def test_the_text_alone_leaves_a_guess_among_all_answers(kind, large):
    task, queries, _ = large[kind]
    assert len({q["text"] for q in queries}) == 1 or kind == "vqa"
    assert task.relevance.mean(axis=0).max() < 0.05


def test_composed_cannot_be_answered_from_its_text(large):
    task, queries, candidates = large["composed"]
    changes = [q["text"].removeprefix("replace ").split(" by ") for q in queries]
    points = [[(new in c.names) - (old in c.names) for c in candidates] for old, new in changes]
    assert score(task, points) < 0.1


def test_composed_is_right_half_of_the_time_from_its_sheet(large):
    """Two candidates change one thing of the sheet, and only the text tells which one is right."""
    task, queries, candidates = large["composed"]
    shown = [set(c.names) for c in candidates]
    points = [[len(s & set(q["image"].names)) for s in shown] for q in queries]
    assert score(task, points) == pytest.approx(0.5, abs=0.1)


def test_vqa_cannot_be_answered_from_its_sheet(large):
    """Of the 48 pairs of neighbors on a sheet, a place in the middle is the answer to four."""
    task, queries, candidates = large["vqa"]
    ways = Counter(
        (i, n) for i, q in enumerate(queries) for name in q["image"].names
        for d in ("left of", "right of", "above", "below")
        if (n := neighbor(q["image"].names, d, name))
    )  # fmt: skip
    points = [[ways[i, c] for c in candidates] for i in range(len(queries))]
    deviation = (1 / 12 * 11 / 12 / len(queries)) ** 0.5
    assert score(task, points) == pytest.approx(4 / 48, abs=4 * deviation)


def chance_to_find_the_kinds(n_seen, trials=20_000):
    """P@1 of whoever sees n of 16 stickers, counts their kinds, and names the three most frequent.

    Three kinds are on a sheet three times and seven once. Ties are broken at random.
    """
    rng = np.random.default_rng(0)
    sheet = np.repeat(np.arange(10), [3] * 3 + [1] * 7)
    chances = []
    for _ in range(trials):
        counts = np.bincount(rng.permutation(sheet)[:n_seen], minlength=30)
        third = np.sort(counts)[-3]
        above, tied = counts > third, counts == third
        possible = counts[:3].min() >= third and not above[3:].any()
        chances.append(possible / math.comb(tied.sum(), 3 - above.sum()))
    return np.mean(chances)


@pytest.mark.parametrize("n_rows", [1, 2, 3, 4])
def test_some_rows_of_a_sheet_tell_no_more_of_its_kinds_than_counting_does(n_rows, large):
    task, queries, candidates = large["classify"]
    parts = [Counter(KIND[name] for name in q["image"].names[: 4 * n_rows]) for q in queries]
    points = [[sum(part[kind] for kind in c.split(", ")) for c in candidates] for part in parts]
    chance = chance_to_find_the_kinds(4 * n_rows)
    deviation = (chance * (1 - chance) / len(queries)) ** 0.5
    assert score(task, points) == pytest.approx(chance, abs=4 * deviation)


def test_grounding_cannot_be_answered_from_its_text(large):
    """The text names a thing that is next to the answer, and so is not the answer."""
    task, queries, candidates = large["ground"]
    names = [q["text"].split(" the ")[1] for q in queries]
    points = [[c.names != [name] for c in candidates] for name in names]
    assert score(task, points) < 0.05


def test_grounding_needs_the_text_to_tell_the_thing(large):
    task, queries, candidates = large["ground"]
    points = [[c.drawings[0] in q["image"].drawings for c in candidates] for q in queries]
    assert score(task, points) < 0.15


def test_rows_are_small_and_show_what_the_task_shows(tasks):
    for name in NAMES:
        assert tasks[name].train.data.nbytes / 60 < 600
        row = tasks[name].train[0]
        example = sample_example(
            name.partition("/")[2], training_rng(0, TASKS.index(name)), render_sheet
        )
        for part in ("query", "positive", "negative"):
            stored, rendered = row[part], getattr(example, part)
            if isinstance(rendered, dict):
                assert stored["text"] == rendered["text"]
                stored, rendered = stored["image"], rendered["image"]
            np.testing.assert_array_equal(np.asarray(stored), np.asarray(rendered))


DIGEST = """
import hashlib
from metaembed_lite.data import load_task
from metaembed_lite.data.meta_tasks import TASKS
digest = hashlib.sha256()

def add(item):
    if isinstance(item, dict):
        add(item["text"]), add(item["image"])
    else:
        digest.update(item.encode() if isinstance(item, str) else item.tobytes())

for name in TASKS[14:]:
    task = load_task(name, n_queries=5, n_train=3)
    for item in [*task.queries, *task.candidates, *(i for r in task.train for i in r.values())]:
        add(item)
    digest.update(task.relevance.tobytes())
digest = digest.hexdigest()
"""


def test_another_process_with_other_hashes_and_threads_gives_the_same_tasks():
    here: dict = {}
    exec(DIGEST, here)
    elsewhere = subprocess.run(
        [sys.executable, "-c", DIGEST + "print(digest)"], capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    assert elsewhere.stdout.strip() == here["digest"], elsewhere.stderr


def test_the_splits_seeds_and_training_rows_ask_different_questions():
    queries = [
        tuple(load_task("stickers/t2i", n_queries=20, seed=seed, split=split).queries)
        for seed, split in ((0, "test"), (0, "validation"), (0, "train"), (1, "test"))
    ]
    queries.append(tuple(training_rows("stickers/t2i", 20)["query"]))
    assert len(set(queries)) == len(queries)


def test_image_to_text_and_grounding_are_held_out():
    assert {name for name in HELD_OUT if name in NAMES} == {"stickers/i2t", "stickers/ground"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_task("stickers/ocr"), r"stickers/ocr.*stickers/t2i"),
        (lambda: load_task("stickers/vqa", split="exam"), "unknown split 'exam'; choose from"),
        (lambda: load_task("stickers/vqa", n_queries=0), "n_queries=0"),
        (lambda: load_task("stickers/vqa", n_train=-1), "n_train=-1"),
        (lambda: training_rows("stickers/ocr", 2), r"stickers/ocr.*stickers/t2i"),
        (
            lambda: sample_example("ocr", np.random.default_rng(0)),
            "unknown kind 'ocr'; choose from t2i, i2t",
        ),
    ],
)
def test_errors_name_what_was_wrong_and_the_choices(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_artists_are_named_as_their_licenses_require(tasks):
    for part in ("OpenMoji", "CC BY-SA 4.0", "Twemoji", "Twitter, Inc. and other contributors"):
        assert part in tasks["stickers/t2i"].about
