"""Your own folder: its parts, groups and hard negatives, and what is wrong with it."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from metaembed_lite import RetrievalTask, build, load_task
from metaembed_lite.cli import app
from metaembed_lite.data.folder_report import inspect_folder
from metaembed_lite.data.image_folder import changed_split, split_folder
from metaembed_lite.data.parts import divide
from metaembed_lite.evaluation import EncodedTask, evaluate, find_misses
from metaembed_lite.false_negatives import item_keys, mask_false_negatives
from metaembed_lite.indexing import read_task


def write_folder(folder, rows, header="image,text", paint=True):
    """A folder of images. Each has a color that no other has, so its pixels say which it is."""
    names = {
        cell for row in rows for cell in row if cell.endswith(".png") and "missing" not in cell
    }
    for i, name in enumerate(sorted(names) if paint else []):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 255 - i, 7 * i % 256)).save(folder / name)
    text = "\n".join([header, *(",".join(row) for row in rows), ""])
    (folder / "captions.csv").write_text(text, encoding="utf-8")
    return folder


def colors(images):
    return [image.getpixel((0, 0)) for image in images]


def color_of(folder, name):
    return Image.open(folder / name).getpixel((0, 0))


@pytest.fixture
def album(tmp_path):
    """24 images in 8 albums of 1 to 5, two captions each, rows shuffled."""
    sizes = [1, 2, 3, 4, 5, 1, 3, 5]
    rows = [
        (f"{day}/{i}.png", f"caption {c} of {day} {i}", f"day {day}")
        for day, size in enumerate(sizes)
        for i in range(size)
        for c in "ab"
    ]
    order = np.random.default_rng(0).permutation(len(rows))
    return write_folder(tmp_path / "album", [rows[i] for i in order], "image,text,day")


# Parts


@pytest.mark.parametrize("seed", range(4))
def test_without_options_the_split_is_the_one_of_earlier_versions(album, seed):
    """The oracle is the code that split folders before there were groups and validation."""
    table = pd.read_csv(album / "captions.csv")
    files = table.image.drop_duplicates().to_list()
    order = np.random.default_rng([seed, 20]).permutation(len(files))
    held_out = [files[i] for i in sorted(order[:7])]
    rest = table[~table.image.isin(held_out)].sample(frac=1, random_state=seed)[:11]
    task = load_task("image_folder", path=album, n_queries=7, n_train=11, seed=seed)
    assert task.candidate_names == held_out
    assert task.queries == table[table.image.isin(held_out)].text.to_list()[:7]
    assert task.train["query"][:] == rest.text.to_list()
    assert colors(task.train["positive"]) == [color_of(album, name) for name in rest.image]


def test_the_three_parts_share_no_image_and_training_rows_do_not_depend_on_the_part(album):
    settings = {"path": album, "n_queries": 6, "n_validation": 4}
    parts = {
        split: load_task("image_folder", **settings, split=split)
        for split in ("train", "validation", "test")
    }
    assert [len(part.candidates) for part in parts.values()] == [6, 4, 6]
    assert len(parts["validation"].queries) == 4
    seen = {split: set(colors(part.candidates)) for split, part in parts.items()}
    trained = {split: colors(part.train["positive"]) for split, part in parts.items()}
    assert trained["train"] == trained["validation"] == trained["test"]
    assert len(set(trained["test"])) == 24 - 6 - 4
    assert not seen["validation"] & seen["test"]
    assert not (seen["validation"] | seen["test"]) & set(trained["test"])
    assert seen["train"] <= set(trained["train"])
    plain = load_task("image_folder", path=album, n_queries=6)
    assert plain.candidate_names == parts["test"].candidate_names, "validation takes no test image"


def test_no_training_rows_and_a_validation_part_still_divide_the_folder(album):
    settings = {"path": album, "n_queries": 6, "n_validation": 4, "n_train": 0}
    assert load_task("image_folder", **settings).train is None
    assert len(load_task("image_folder", **settings).candidates) == 6
    assert len(load_task("image_folder", **settings, split="validation").candidates) == 4


def test_an_empty_part_is_refused_with_the_remedy(album):
    with pytest.raises(ValueError, match=r"split='validation' of .* has no image: set n_valid"):
        load_task("image_folder", path=album, split="validation")
    with pytest.raises(ValueError, match=r"split='train' of .* has no image: leave out n_train=0"):
        load_task("image_folder", path=album, split="train", n_train=0)
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        load_task("image_folder", path=album, split="dev")
    with pytest.raises(ValueError, match="n_validation=-1"):
        load_task("image_folder", path=album, n_validation=-1)


# Groups


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_divided_between_parts(album, seed):
    table = split_folder(album, n_queries=8, n_validation=4, seed=seed, group="day")
    days = {part: set(rows.day) for part, rows in table.groupby("split")}
    images = table.groupby("split").image.nunique()
    assert sum(map(len, days.values())) == 8
    assert set.union(*days.values()) == {f"day {i}" for i in range(8)}
    assert 8 <= images["test"] <= 12, "as many as were asked for, and at most half"
    assert images["validation"] <= (24 - images["test"]) / 2


def test_a_smaller_test_is_a_subset_of_a_larger_one():
    groups = np.repeat(np.arange(9), [1, 2, 3, 4, 5, 1, 3, 5, 7])
    for seed in range(20):
        tests = [
            set(np.flatnonzero(divide(groups, n, 3, np.random.default_rng(seed)) == "test"))
            for n in range(1, 16)
        ]
        assert all(small <= large for small, large in pairwise(tests))


def test_an_image_in_two_groups_joins_them_and_one_without_a_group_is_alone(tmp_path):
    rows = [("a.png", "1", "x"), ("a.png", "2", "y"), ("b.png", "3", "x"), ("c.png", "4", "y")]
    rows += [(f"{i}.png", f"alone {i}", "") for i in range(9)]
    folder = write_folder(tmp_path / "f", rows, "image,text,group")
    n_parts_of_alone = set()
    for seed in range(8):
        table = split_folder(folder, n_queries=5, seed=seed, group="group")
        assert table[table.image.isin(["a.png", "b.png", "c.png"])]["split"].nunique() == 1
        n_parts_of_alone.add(table[table.group == ""]["split"].nunique())
    assert n_parts_of_alone == {2}


def test_groups_that_are_too_large_to_hold_out_are_refused(tmp_path):
    rows = [(f"{i}.png", f"text {i}", "one") for i in range(6)]
    folder = write_folder(tmp_path / "f", rows, "image,text,by")
    with pytest.raises(ValueError, match=r"no test: .* half of the 6 images .* largest has 6"):
        load_task("image_folder", path=folder, group="by")
    with pytest.raises(ValueError, match="no column album"):
        load_task("image_folder", path=folder, group="album")


# Hard negatives


@pytest.fixture
def with_negatives(tmp_path):
    """12 images whose hard negative is the next one, is not captioned, or is not named."""
    rows = []
    for i in range(12):
        negative = (f"{(i + 1) % 12}.png", f"only {i}.png", "")[i % 3]
        rows.append((f"{i}.png", f"text {i}", negative))
    return write_folder(tmp_path / "f", rows, "image,text,negative")


@pytest.mark.parametrize("seed", range(4))
def test_a_row_gets_its_hard_negative_and_no_image_of_another_part(with_negatives, seed):
    settings = {"path": with_negatives, "n_queries": 4, "n_validation": 3, "seed": seed}
    task = load_task("image_folder", **settings, negative="negative")
    table = pd.read_csv(with_negatives / "captions.csv", index_col="text", keep_default_na=False)
    name_of = {
        color_of(with_negatives, file.name): file.name for file in with_negatives.glob("*.png")
    }
    positives = {name_of[color] for color in colors(task.train["positive"])}
    n_named = 0
    for row in task.train:
        caption, negative = row["query"], name_of[row["negative"].getpixel((0, 0))]
        assert negative != table.image[caption]
        wanted = table.negative[caption]
        if wanted.startswith("only") or wanted in positives:
            assert negative == wanted
            n_named += 1
        else:
            assert negative in positives, "a random one is captioned, and in training"
    assert n_named
    shown = set(task.candidate_names)
    assert not shown & (positives | {name_of[c] for c in colors(task.train["negative"])})
    for name in shown:
        if name.startswith("only"):
            assert f"{name.split()[1]}" in shown, "it is a candidate where its row is"
    assert task.relevance.sum() == len(task.queries)


def test_several_columns_give_several_hard_negatives(tmp_path):
    rows = [(f"{i}.png", f"text {i}", f"{(i + 1) % 8}.png", f"n{i}.png") for i in range(8)]
    folder = write_folder(tmp_path / "f", rows, "image,text,near,far")
    task = load_task("image_folder", path=folder, n_queries=2, negative=["near", "far"])
    assert task.train.column_names == ["query", "positive", "negative", "negative_1"]
    assert load_task("image_folder", path=folder, n_queries=2).train.column_names == [
        "query", "positive"
    ]  # fmt: skip


def test_a_negative_that_fits_its_caption_is_never_used(tmp_path):
    """Rows 1 and 2 have one caption, and name each other's image as one that does not fit."""
    rows = [("0.png", "dog", "1.png"), ("1.png", "dog", "0.png")]
    rows += [(f"{i}.png", f"text {i}", "0.png") for i in range(2, 6)]
    folder = write_folder(tmp_path / "f", rows, "image,text,negative")
    dogs = {color_of(folder, "0.png"), color_of(folder, "1.png")}
    for seed in range(6):
        task = load_task("image_folder", path=folder, n_queries=1, seed=seed, negative="negative")
        for row in task.train:
            if row["query"] == "dog":
                assert row["negative"].getpixel((0, 0)) not in dogs


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a.png", "A", "a.png"), ("b.png", "B", "")], "line 2 names 'a.png' as an image that"),
        ([("a.png", "A", ""), ("b.png", "B", "")], "the column negative has no image"),
        ([("a.png", "A", "missing.png"), ("b.png", "B", "")], r"missing\.png is missing"),
        (
            [(f"{i}.png", "same", "x.png") for i in range(4)] + [("x.png", "same", "")],
            "every train",
        ),
    ],
)
def test_hard_negatives_that_cannot_be_used_are_refused(tmp_path, rows, message):
    folder = write_folder(tmp_path / "f", rows, "image,text,negative")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_task("image_folder", path=folder, negative="negative", n_queries=1)


def test_equal_captions_of_a_batch_are_not_negatives_of_each_other(tmp_path):
    rows = [(f"{i}.png", "dog" if i < 4 else f"text {i}") for i in range(10)]
    folder = write_folder(tmp_path / "f", rows)
    task = load_task("image_folder", path=folder, n_queries=2)
    model = build(r_q=1, r_c=1, lora_rank=2, dim=8, device="cpu")
    columns = [model.preprocess(task.train[name][:]) for name in ("query", "positive")]
    n = len(task.train)
    mask = mask_false_negatives(item_keys(columns), torch.arange(n))
    is_dog = np.array([text == "dog" for text in task.train["query"]])
    assert is_dog.sum() >= 2
    expected = is_dog[:, None] & is_dog & ~np.eye(n, dtype=bool)
    assert mask.tolist() == expected.tolist()


# Names of candidates


def test_candidates_are_found_by_the_path_of_their_file(album):
    task = load_task("image_folder", path=album, n_queries=6)
    expected = [color_of(album, name) for name in task.candidate_names]
    assert colors(task.candidates) == expected
    corpus = read_task(task)
    assert corpus.ids == task.candidate_names
    assert colors(corpus.items) == expected


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", 1], ("a", "b"), "ab"])
def test_names_that_do_not_tell_candidates_apart_are_refused(names):
    with pytest.raises(ValueError, match="candidate_names"):
        RetrievalTask("pets", ["meow"], ["cat", "dog"], [[1, 0]], candidate_names=names)


def test_every_miss_is_listed_with_both_names_and_the_rank():
    rng = np.random.default_rng(0)
    relevance = np.eye(7)[[0, 1, 2, 3, 4, 5, 6, 0, 3]]
    relevance[2, 5] = 1  # a query with two right candidates
    names = [f"{i}.png" for i in range(7)]
    task = RetrievalTask(
        "noise", [f"q{i}" for i in range(9)], names, relevance, candidate_names=names
    )
    vectors = [torch.tensor(rng.normal(size=(n, 2, 4)), dtype=torch.float32) for n in (9, 7)]
    encoded = EncodedTask(task, *vectors)
    for budget in ("1x1", "2x2", None):
        misses = find_misses(encoded, budget)
        p_at_1 = evaluate(encoded, budget or "2x2").p_at_1.item()
        assert len(misses) == round((1 - p_at_1) * 9)
        r_q, r_c = (2, 2) if budget in ("2x2", None) else (1, 1)
        for row in misses.itertuples():
            score = [  # MaxSim in plain Python
                sum(
                    max(float(q @ c) for c in vectors[1][j, :r_c])
                    for q in vectors[0][row.query, :r_q]
                )
                for j in range(7)
            ]
            order = sorted(range(7), key=lambda j, score=score: -score[j])
            right = [j for j in order if relevance[row.query, j]]
            assert row.right == names[right[0]]
            assert row.found == names[order[0]]
            assert row.rank == order.index(right[0]) + 1
            assert row.behind == pytest.approx(score[order[0]] - score[right[0]], abs=1e-5)


def test_a_tie_with_a_wrong_candidate_is_a_miss_as_in_p_at_1():
    task = RetrievalTask("tie", ["q"], ["a", "b"], [[0, 1]], candidate_names=["a", "b"])
    encoded = EncodedTask(task, torch.ones(1, 1, 4), torch.ones(2, 1, 4))
    misses = find_misses(encoded)
    assert evaluate(encoded).p_at_1.item() == 0
    assert misses.to_dict("records") == [
        {"query": 0, "rank": 2, "right": "b", "found": "a", "behind": 0.0}
    ]


# Which splits hold out what training held out


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ({}, []),
        ({"n_queries": 50}, []),
        ({"n_queries": 200}, ["n_queries"]),
        ({"seed": 1, "csv": "b.csv"}, ["csv", "seed"]),
        ({"n_train": 0}, ["n_train"]),
        ({"n_validation": 9}, []),
        ({"split": "validation", "n_validation": 9}, ["n_validation"]),
        ({"group": "day"}, ["group"]),
    ],
)
def test_settings_that_change_what_is_held_out_are_named(used, expected):
    trained = {"n_queries": 100, "n_train": None}
    assert changed_split(trained, {**trained, "n_train": 1, **used}) == expected


# What is wrong with a folder


def noise(size, seed):
    values = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def messy(tmp_path):
    """Each kind of problem, once."""
    folder = tmp_path / "messy"
    folder.mkdir()
    for i in range(6):
        noise((96, 64), i).save(folder / f"{i}.png")
    noise((96, 64), 0).save(folder / "copy.png")
    noise((192, 128), 1).save(folder / "large.jpg", quality=80)
    (folder / "broken.png").write_bytes((folder / "2.png").read_bytes()[:99])
    noise((96, 64), 9).save(folder / "Großes Bild.PNG")
    noise((96, 64), 10).save(folder / "unnamed.png")
    lines = [
        "image,text", "0.png,first", "copy.png,the same", "1.png,second", "large.jpg,larger",
        "2.png,A  dog", "3.png,a dog ", "broken.png,broken", "later.png,later",
        "großes bild.png,other case", "../secret.png,outside", "4.png, ", "4.png,two,cells",
        f"4.png,{'word ' * 101}", "5.png,fine",
    ]  # fmt: skip
    (folder / "captions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_each_problem_of_a_folder_is_found_with_its_lines(messy):
    report = inspect_folder(messy)
    found = [(f.kind, f.lines) for f in report.findings]
    assert found == [
        ("bad row", (11,)),
        ("bad row", (12,)),
        ("bad row", (13,)),
        ("missing image", (9,)),
        ("missing image", (10,)),
        ("unreadable image", (8,)),
        ("identical images", (2, 3)),
        ("near duplicates", (4, 5)),
        ("one caption, several images", (6, 7)),
        ("long caption", (14,)),
        ("image without a row", ()),
        ("image without a row", ()),
    ]
    details = [f.detail for f in report.findings]
    assert "leads out of" in details[0]
    assert "empty cell" in details[1]
    assert "3 cells, and the header 2" in details[2]
    assert details[4] == "is it 'Großes Bild.PNG'?"
    assert [f.images for f in report.findings[-2:]] == [("Großes Bild.PNG",), ("unnamed.png",)]
    assert report.has_errors
    assert report.parts.empty
    assert (report.rows, report.images) == (8, 8)


def test_an_error_is_reported_exactly_where_loading_fails(messy):
    """A folder without errors loads. With each error put back in, it does not."""
    table = (messy / "captions.csv").read_text(encoding="utf-8").splitlines()
    bad = {line for f in inspect_folder(messy).findings if f.is_error for line in f.lines}
    good = [row for line, row in enumerate(table, 1) if line not in bad]
    for line in [None, *sorted(bad)]:
        rows = good if line is None else [*good, table[line - 1]]
        (messy / "captions.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        assert inspect_folder(messy, n_queries=2).has_errors == (line is not None)
        if line is None:
            assert load_task("image_folder", path=messy, n_train=0).candidates
        else:
            with pytest.raises((ValueError, OSError)):
                load_task("image_folder", path=messy, n_train=0)


def test_different_images_are_no_near_duplicates(tmp_path):
    """Sheets in which two stickers changed places, flat colors, and one image in two shapes."""
    sheets = load_task("stickers", n_queries=12, n_train=0, side=3).candidates
    plain = [Image.new("RGB", (64, 64), color) for color in ("red", "green", "blue", "black")]
    turned = [noise((96, 64), 3), noise((64, 96), 3)]
    for i, image in enumerate([*sheets, *plain, *turned]):
        image.save(tmp_path / f"{i}.png")
    lines = "\n".join(f"{i}.png,text {i}" for i in range(len(sheets) + 6))
    (tmp_path / "captions.csv").write_text(f"image,text\n{lines}\n")
    assert inspect_folder(tmp_path).findings == []


def test_the_command_line_prints_the_parts_and_what_to_do(album, messy):
    done = CliRunner().invoke(
        app, ["check-data", str(album), "group=day", "n_queries=6", "n_validation=4"]
    )
    assert done.exit_code == 0, done.output
    table = split_folder(album, n_queries=6, n_validation=4, group="day")
    for part, images in table.groupby("split").image.nunique().items():
        assert f"{part:10} {images:7,} images" in done.output
    done = CliRunner().invoke(app, ["check-data", str(messy)])
    assert done.exit_code == 1, done.output
    assert "error: missing image: 2 (correct the path, or remove the row)" in done.output
    assert "lines 2, 3: '0.png', 'copy.png'" in done.output
    done = CliRunner().invoke(app, ["check-data", str(messy), "groups=day"])
    assert done.exit_code == 2
    assert "Did you mean 'group'?" in done.output
