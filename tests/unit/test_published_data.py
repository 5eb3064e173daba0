"""Published data, on small local files of the same schema, and your own folder of images."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from metaembed_lite import build, load_task, sweep, train
from metaembed_lite.data import mmeb
from metaembed_lite.evaluation import EncodedTask, evaluate


def picture(folder, name, shade):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (48, 48), (shade, 255 - shade, 128)).save(folder / name)
    return name


def write(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(folder / "part-0.parquet")


@pytest.fixture
def evaluation(tmp_path):
    """Text to image, three candidates per query, the right one first, one candidate twice."""
    a, b, c, d = (
        picture(tmp_path, f"img/{n}.png", s) for n, s in zip("abcd", (0, 80, 160, 240), strict=True)
    )
    ask = "<|image_1|>\nRepresent the given image."
    write(
        tmp_path / "MSCOCO_t2i",
        [
            {
                "qry_text": "Find: a",
                "qry_img_path": "",
                "tgt_text": [ask] * 3,
                "tgt_img_path": [a, b, c],
            },
            {
                "qry_text": "Find: d",
                "qry_img_path": "",
                "tgt_text": [ask] * 3,
                "tgt_img_path": [d, b, b],
            },
        ],
    )
    return tmp_path


def test_mmeb_gives_each_query_its_own_pool_and_equal_candidates_are_one(evaluation):
    task = load_task("mmeb", task="MSCOCO_t2i", path=evaluation)
    assert task.queries == ["Find: a", "Find: d"]
    assert len(task.candidates) == 4
    assert task.pool.sum(axis=1).tolist() == [3, 2]
    assert task.relevance.sum(axis=1).tolist() == [1, 1]
    assert task.candidates[0]["text"] == "Represent the given image."
    assert task.candidates[0]["image"].getpixel((0, 0)) == (0, 255, 128)


def test_a_constant_scorer_gets_nothing_and_only_the_pool_competes(evaluation):
    """The published evaluator would give it 100 %, because the right answer is listed first."""
    task = load_task("mmeb", task="MSCOCO_t2i", path=evaluation)
    constant = EncodedTask(task, torch.ones(2, 1, 4), torch.ones(4, 1, 4))
    assert evaluate(constant, (1, 1)).p_at_1[0] == 0
    # Query 1's right answer, candidate 3, is beaten by candidate 0, which is not in its pool.
    candidates = torch.tensor([[9.0], [1.0], [2.0], [5.0]])[:, None]
    table = evaluate(EncodedTask(task, torch.ones(2, 1, 1), candidates), (1, 1))
    assert table.p_at_1[0] == 1
    assert table.ndcg_at_5[0] == pytest.approx(1)


def test_loading_and_evaluation_run_on_mmebs_schema(evaluation):
    task = load_task("mmeb", task="MSCOCO_t2i", path=evaluation, n_queries=1)
    model = build(r_q=2, r_c=4, lora_rank=2, dim=8, device="cpu")
    assert len(sweep(model, task)) == 2


def test_mmebs_training_rows_train(tmp_path):
    a, b = picture(tmp_path, "img/a.png", 0), picture(tmp_path, "img/b.png", 240)
    row = {
        "qry": "<|image_1|>\nWhat is it?", "qry_image_path": a, "pos_text": "red",
        "pos_image_path": "", "neg_text": "blue", "neg_image_path": "",
    }  # fmt: skip
    write(tmp_path / "OK-VQA", [row, {**row, "qry_image_path": b, "pos_text": "blue"}] * 2)
    rows = mmeb.load_mmeb_train("OK-VQA", tmp_path)
    assert rows.column_names == ["query", "positive", "negative"]
    assert rows[0]["query"]["text"] == "What is it?"
    assert rows[0]["query"]["image"].size == (48, 48)
    model = build(r_q=2, r_c=4, lora_rank=2, dim=8, device="cpu")
    curve = train(model, rows, steps=1, batch_size=2)
    assert np.isfinite(curve.loss).all()


def test_colpalis_rows_are_a_question_and_its_page(tmp_path):
    from datasets import Dataset

    pages = [Image.new("RGB", (48, 48), (n, n, n)) for n in (10, 200)]
    Dataset.from_dict(
        {
            "image": pages,
            "query": ["which?", "what?"],
            "answer": ["this", "that"],
            "source": ["x"] * 2,
        }
    ).to_parquet(tmp_path / "train-0.parquet")
    rows = mmeb.load_colpali_train(tmp_path)
    assert rows.column_names == ["query", "positive"]
    assert rows[1]["positive"].getpixel((0, 0)) == (200, 200, 200)


def test_mmebs_tasks_are_36_in_4_meta_tasks_20_of_them_in_distribution():
    assert [len(names) for names in mmeb.META_TASKS.values()] == [10, 10, 12, 4]
    assert len(set(mmeb.MMEB_TASKS)) == 36
    assert len(mmeb.OUT_OF_DISTRIBUTION) == 16
    assert set(mmeb.MMEB_TASKS) > mmeb.OUT_OF_DISTRIBUTION


def test_mmebs_table_averages_as_the_paper_does_and_says_over_how_many():
    table = mmeb.tabulate_mmeb({"MSCOCO_t2i": 0.8, "EDIS": 0.4, "OK-VQA": 0.3}).set_index(
        "meta_task"
    )
    means = table[table.task == "mean"]
    assert means.p_at_1["Retrieval"] == pytest.approx(0.6)
    assert means.tasks["Retrieval"] == "2 of 12"
    assert means.p_at_1["in-distribution"] == pytest.approx(0.55)
    assert means.p_at_1["out-of-distribution"] == pytest.approx(0.4)
    assert means.p_at_1["overall"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="Moon"):
        mmeb.tabulate_mmeb({"Moon": 1.0})


def test_errors_name_what_is_wrong_with_published_files(tmp_path, evaluation):
    with pytest.raises(ValueError, match="no task 'Moon'"):
        load_task("mmeb", task="Moon")
    with pytest.raises(ValueError, match="no training set 'GQA'"):
        mmeb.load_mmeb_train("GQA")
    with pytest.raises(FileNotFoundError, match="no folder 'CIRR'"):
        load_task("mmeb", task="CIRR", path=evaluation)
    write(tmp_path / "CIRR", [{"qry_text": "x"}])
    with pytest.raises(ValueError, match="no column qry_img_path"):
        load_task("mmeb", task="CIRR", path=tmp_path)
    (evaluation / "img/a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.png is missing"):
        load_task("mmeb", task="MSCOCO_t2i", path=evaluation)


@pytest.fixture
def album(tmp_path):
    rows = []
    for i in range(8):
        name = picture(tmp_path, f"pictures/{i}.png", 30 * i)
        rows += [{"image": name, "text": f"shade {i}"}, {"image": name, "text": f"tone {i}"}]
    pd.DataFrame(rows).to_csv(tmp_path / "captions.csv", index=False)
    return tmp_path


def test_your_own_folder_is_tested_on_images_that_are_not_trained_on(album):
    task = load_task("image_folder", path=album, n_queries=4)
    assert len(task.candidates) == 4
    assert len(task.queries) == 4
    assert len(task.train) == 8
    tested = {image.getpixel((0, 0)) for image in task.candidates}
    trained = {row["positive"].getpixel((0, 0)) for row in task.train}
    assert not tested & trained
    for i, query in enumerate(task.queries):
        (j,) = task.relevance[i].nonzero()[0]
        assert task.candidates[j].getpixel((0, 0))[0] == 30 * int(query.split()[1])
    model = build(r_q=1, r_c=1, lora_rank=2, dim=8, device="cpu")
    train(model, task.train, steps=1, batch_size=4)
    assert len(sweep(model, task)) == 1
    assert load_task("image_folder", path=album, n_train=0).train is None


def test_errors_name_what_is_wrong_with_your_folder(album):
    with pytest.raises(FileNotFoundError, match=r"other\.csv is missing"):
        load_task("image_folder", path=album, csv="other.csv")
    with pytest.raises(ValueError, match="no column label; it has image, text"):
        load_task("image_folder", path=album, text="label")
    (album / "pictures/3.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"3\.png is not an image"):
        load_task("image_folder", path=album, n_train=0)
    with open(album / "captions.csv", "a") as file:
        file.write("pictures/1.png,\n")
    with pytest.raises(ValueError, match="line 18 has an empty cell"):
        load_task("image_folder", path=album)


def test_only_one_split_of_a_copy_with_all_splits_is_read(tmp_path):
    a = picture(tmp_path, "img/a.png", 0)
    row = {"qry": "what?", "qry_image_path": a, "pos_text": "red", "pos_image_path": ""}
    folder = tmp_path / "GQA"
    for name, answer in (("original", "red"), ("diverse_instruction", "blue")):
        write(folder, [{**row, "pos_text": answer}])
        (folder / "part-0.parquet").rename(folder / f"{name}-00000-of-00001.parquet")
    folder.rename(tmp_path / "OK-VQA")
    assert mmeb.load_mmeb_train("OK-VQA", tmp_path)["positive"][:] == ["red"]


def test_a_missing_training_image_is_named_before_training(album):
    (album / "pictures/5.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"5\.png is missing"):
        load_task("image_folder", path=album, n_queries=1)


# A table's paths stay below its folder, and spellings of one path are one image


def captions(folder, *lines, header="image,text"):
    (folder / "captions.csv").write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    return folder


@pytest.fixture
def walled(tmp_path):
    """A folder with two images, and an image outside of it."""
    inside = tmp_path / "album"
    for name, shade in (("p0.png", 0), ("p1.png", 200), ("sub/p2.png", 90)):
        picture(inside, name, shade)
    picture(tmp_path, "secret.png", 50)
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    (inside / "friend.png").symlink_to("p0.png")
    return inside


@pytest.mark.parametrize(
    "name", ["../secret.png", "{}/secret.png", "link.png", "sub/../../secret.png"]
)
def test_a_path_that_leads_out_of_the_folder_is_refused_with_its_line(walled, name):
    name = name.format(walled.parent)
    captions(walled, "p0.png,a", "p1.png,b", f"{name},c")
    with pytest.raises(ValueError, match=rf"captions\.csv, line 4: '{name}' leads out of"):
        load_task("image_folder", path=walled)
    row = {"qry_text": "x", "qry_img_path": "", "tgt_text": [""], "tgt_img_path": [name]}
    write(walled / "CIRR", [row])
    with pytest.raises(ValueError, match=rf"CIRR, row 0, target 0: '{name}' leads out of"):
        load_task("mmeb", task="CIRR", path=walled)
    write(walled / "CIRR", [{**row, "tgt_img_path": ["p0.png"], "qry_img_path": name}])
    with pytest.raises(ValueError, match=rf"CIRR, row 0, query: '{name}' leads out of"):
        load_task("mmeb", task="CIRR", path=walled)
    row = {"qry": "x", "qry_image_path": "", "pos_text": "", "pos_image_path": name}
    write(walled / "OK-VQA", [row])
    with pytest.raises(ValueError, match=rf"OK-VQA, row 0, positive: '{name}' leads out of"):
        mmeb.load_mmeb_train("OK-VQA", walled)


def test_an_invalid_path_is_named(walled):
    captions(walled, "p0.png,a", "p\0.png,b")
    with pytest.raises(ValueError, match=r"line 3.*(is not a path|is not CSV)"):
        load_task("image_folder", path=walled)
    captions(walled, "p0.png,a", f"{'x' * 999}.png,b")
    with pytest.raises((ValueError, OSError), match="xxx"):
        load_task("image_folder", path=walled)


def test_several_spellings_of_one_path_are_one_image(walled):
    spellings = ["p0.png", "./p0.png", "sub/../p0.png", "friend.png"]
    captions(walled, *(f"{name},red {i}" for i, name in enumerate(spellings)), "p1.png,blue")
    for seed in range(4):
        task = load_task("image_folder", path=walled, n_queries=4, seed=seed)
        tested = {candidate.tobytes() for candidate in task.candidates}
        assert len(task.candidates) == 1
        assert not tested & {row["positive"].tobytes() for row in task.train}
    whole = load_task("image_folder", path=walled, n_train=0)
    assert len(whole.candidates) == 2
    assert whole.relevance.sum(axis=0).tolist() == [4, 1]


def test_words_such_as_na_and_null_are_captions(walled):
    words = ["NA", "None", "null", "nan", "N/A", "#N/A", "-"]
    captions(walled, *(f"p0.png,{word}" for word in words), "p1.png,b")
    task = load_task("image_folder", path=walled, n_train=0)
    assert task.queries == [*words, "b"]


def test_a_csv_is_read_exactly_as_written(walled):
    (walled / "captions.csv").write_bytes(
        '\ufeffid,image,text\r\n1,p0.png,"a, ""b"""\r\n\r\n2,p1.png,"two\nlines, ü"\r\n'.encode()
    )
    assert load_task("image_folder", path=walled, n_train=0).queries == ['a, "b"', "two\nlines, ü"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"image,text\np0.png,a\np1.png,\xff\xfe\n", "line 3 is not UTF-8"),
        (b'image,text\np0.png,a\np1.png,"open\nx\n', "the row of line 3 is not CSV"),
        (b"image,text\np0.png,a\np1.png,b,c\n", "line 3 has 3 cells, and the header 2"),
        (b'image,text\n"p0.png","two\nlines"\np1.png\n', "line 4 has an empty cell"),
        (b"image,text\np0.png,a\np1.png,  \n", "line 3 has an empty cell"),
        (b"", "no column image, text"),
        (b"image,text\np0.png,a\n", "names 1 image"),
        (b"image,text\n", "names 0 image"),
    ],
)
def test_a_file_that_is_not_a_csv_is_named_with_the_line(walled, data, message):
    (walled / "captions.csv").write_bytes(data)
    with pytest.raises(ValueError, match=rf"captions\.csv:? .*{message}"):
        load_task("image_folder", path=walled)


def test_a_broken_image_is_named_when_its_row_is_read(album):
    data = (album / "pictures/3.png").read_bytes()
    for i in range(8):
        (album / f"pictures/{i}.png").write_bytes(data)
    task = load_task("image_folder", path=album, n_queries=1)
    for i in range(8):
        (album / f"pictures/{i}.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"pictures/\d\.png cannot be read"):
        task.train[0]
    with pytest.raises(ValueError, match=r"pictures/\d\.png cannot be read"):
        load_task("image_folder", path=album)


def test_rows_of_mmeb_of_which_only_some_have_an_image_train(tmp_path):
    a = picture(tmp_path, "img/a.png", 0)
    row = {"qry": "what?", "qry_image_path": a, "pos_text": "red", "pos_image_path": ""}
    write(tmp_path / "OK-VQA", [row, {**row, "qry_image_path": ""}, {**row, "qry": ""}, row])
    rows = mmeb.load_mmeb_train("OK-VQA", tmp_path)
    assert rows[1]["query"] == {"text": "what?", "image": None}
    model = build(r_q=2, r_c=4, lora_rank=2, dim=8, device="cpu")
    for mini_batch_size in (None, 2):
        curve = train(model, rows, steps=1, batch_size=4, mini_batch_size=mini_batch_size)
        assert np.isfinite(curve.loss).all()


def test_rows_of_mmeb_without_text_or_target_are_named(tmp_path):
    row = {"qry": "what?", "qry_image_path": "", "pos_text": "red", "pos_image_path": ""}
    for bad, message in (
        ({"pos_text": None}, "row 1, positive: the text is None"),
        ({"qry": None}, "row 1, query: the text is None"),
        ({"qry": "<|image_1|>\n"}, "row 1, query: neither a text nor an image"),
    ):
        write(tmp_path / "OK-VQA", [row, {**row, **bad}])
        with pytest.raises(ValueError, match=rf"OK-VQA, {message}"):
            mmeb.load_mmeb_train("OK-VQA", tmp_path)
    row = {"qry_text": "x", "qry_img_path": "", "tgt_text": ["a"], "tgt_img_path": [""]}
    for bad, message in (
        ({"tgt_text": [], "tgt_img_path": []}, "row 1: 0 tgt_text and 0 tgt_img_path"),
        ({"tgt_text": ["a", "b"]}, "row 1: 2 tgt_text and 1 tgt_img_path"),
        ({"qry_text": None}, "row 1, query: the text is None"),
        ({"tgt_text": [None]}, "row 1, target 0: the text is None"),
    ):
        write(tmp_path / "CIRR", [row, {**row, **bad}])
        with pytest.raises(ValueError, match=rf"CIRR, {message}"):
            load_task("mmeb", task="CIRR", path=tmp_path)


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    (tmp_path / "CIRR").mkdir()
    (tmp_path / "CIRR" / "part-0.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match=r"CIRR: part-0\.parquet: not parquet"):
        load_task("mmeb", task="CIRR", path=tmp_path)


def test_a_page_that_is_only_a_path_is_not_opened(tmp_path):
    secret = tmp_path / picture(tmp_path, "secret.png", 3)
    pages = tmp_path / "pages"
    pages.mkdir()
    whole = {"bytes": secret.read_bytes(), "path": "x.png"}
    table = {"query": ["a", "b"], "image": [whole, {"bytes": None, "path": str(secret)}]}
    pd.DataFrame(table).to_parquet(pages / "train-0.parquet")
    with pytest.raises(ValueError, match="row 1 has no image, only a path"):
        mmeb.load_colpali_train(pages)
