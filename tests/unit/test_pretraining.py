"""The pretraining of the backbone that reads sheets: conversations, tower, labels, measures."""

import json
import re
from types import SimpleNamespace

import conversations
import numpy as np
import pretrain
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from metaembed_lite.data.boards import place_names
from metaembed_lite.data.scans import load_scans, render_digits
from metaembed_lite.data.sheets import Sheet, render_sheet
from metaembed_lite.data.sticker_art import ARTISTS, SEEN, UNSEEN, draw_sticker, load_names


@pytest.fixture(scope="module")
def untrained():
    return pretrain.build_untrained(layers=1, width=64)


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    return [conversations.sample_conversation(rng) for _ in range(300)]


def drawing_at(image, place):
    x, y = 32 * (ord(place[0]) - ord("A")), 32 * (int(place[1:]) - 1)
    return np.asarray(image)[y : y + 32, x : x + 32]


def test_places_are_named_as_in_a_spreadsheet():
    assert place_names(3) == ["A1", "B1", "C1", "A2", "B2", "C2", "A3", "B3", "C3"]
    assert place_names(26)[25] == "Z1"
    for side in (0, 27, 2.5):
        with pytest.raises(ValueError, match="side"):
            place_names(side)


def test_digits_are_scans_of_the_split_on_white_gutters():
    digits = np.arange(25) % 10
    image = render_digits(digits, np.random.default_rng(0), "test")
    for digit, place in zip(digits, place_names(5), strict=True):
        cell = drawing_at(image, place)
        inner = np.ones((32, 32), dtype=bool)
        inner[4:28, 4:28] = False
        assert (cell[inner] == 255).all()
        small = 255 - cell[4:28:3, 4:28:3, 0].astype(float)  # close to the scan's 8 x 8 pixels
        errors = [np.abs(scan.astype(float) - small).mean() for scan in load_scans("test")[digit]]
        assert min(errors) < 40
    with pytest.raises(ValueError, match="7 digits do not fill a square"):
        render_digits(np.arange(7), np.random.default_rng(0), "test")


def test_answers_say_what_the_image_shows(samples):
    names = load_names()
    drawings = {
        (draw_sticker(thing, artist).tobytes()): (names[thing], artist)
        for artist in ARTISTS
        for thing in range(len(names))
    }
    n_places = n_captions = 0
    for image, text, facts in samples:
        if image is None or any(fact[1] in conversations.DIGITS for fact in facts):
            continue
        side = image.size[0] // 32
        on_sheet = {p: drawings[drawing_at(image, p).tobytes()] for p in place_names(side)}
        for name, artist in on_sheet.values():
            assert names.index(name) in SEEN[artist]  # the held-out drawings are never shown
        for given, learned in facts:
            if not given:  # a caption names things without places
                assert learned in {name for name, _ in on_sheet.values()}
                n_captions += 1
                continue
            place, name = (learned, given) if text == conversations.WHERE else (given, learned)
            assert on_sheet[place][0] == name
            n_places += 1
    assert n_places > 300
    assert n_captions > 300


def test_answers_to_texts_repeat_what_the_text_says(samples):
    texts = [sample for sample in samples if sample.image is None]
    for _, text, facts in texts:
        if all(given == "" for given, _ in facts):
            assert sorted(learned for _, learned in facts) == sorted(text.split(", "))
            continue
        said = {tuple(part.rsplit(" ", 1)[::-1]) for part in text.split(", ")}
        assert said == set(facts)
    assert len({facts[0][0] == "" for _, _, facts in texts}) == 2  # captions, and places


def test_the_last_steps_have_no_captions():
    last = pretrain.Places(60, seed=0)
    assert all(given for i in range(len(last)) for given, _ in last[i].facts)
    assert {image.size[0] for image, _, _ in map(last.__getitem__, range(60)) if image} <= {
        32, 64, 96, 128, 160
    }  # fmt: skip


def test_a_caption_names_each_thing_once(samples):
    captions = [facts for _, _, facts in samples if facts[0][0] == ""]
    assert captions
    for facts in captions:
        assert len(set(facts)) == len(facts)


def test_words_of_names_and_places_are_single_tokens(untrained):
    tokenizer = untrained[1].tokenizer
    for text in (*load_names(), *place_names(5), *conversations.DIGITS):
        words = re.findall(r"[\w\-]+|[^\w\s]", text)
        assert len(tokenizer.tokenize(f" {text}")) == len(words), text


def test_stickers_of_the_classifier_have_the_image_tokens_of_the_processor(untrained):
    model, processor = untrained
    image = render_sheet(Sheet("twemoji", np.array([95])))
    features = processor(text=["<|image_pad|>"], images=[image], return_tensors="pt")
    grid = features["image_grid_thw"]
    expected = model.model.visual(features["pixel_values"], grid_thw=grid).pooler_output.mean(dim=0)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
    torch.testing.assert_close(pretrain.embed_stickers(model, processor, pixels)[0], expected)


def test_the_effective_rank_counts_equal_directions():
    axes = torch.cat([torch.eye(8), -torch.eye(8)])
    assert pretrain.effective_rank(axes) == 8
    assert pretrain.effective_rank(axes[:, :3] @ torch.ones(3, 5) + 7) == 1
    assert pretrain.effective_rank(axes * torch.tensor([1.0] * 4 + [0.0] * 4)) == 4


def test_the_image_tokens_of_a_sticker_do_not_depend_on_its_neighbors(untrained):
    model, processor = untrained

    def tokens_of_first(things):
        image = render_sheet(Sheet("twemoji", np.array(things)))
        features = processor(text=["<|image_pad|>"], images=[image], return_tensors="pt")
        grid = features["image_grid_thw"]
        tokens = model.model.visual(features["pixel_values"], grid_thw=grid).pooler_output
        return tokens.view(4, 4, -1)[:2, :2]

    first, other = tokens_of_first([95, 1, 2, 3]), tokens_of_first([95, 7, 8, 9])
    torch.testing.assert_close(first, other)


def test_only_the_second_half_of_a_fact_is_learned(untrained):
    processor = untrained[1]
    rng = np.random.default_rng(1)
    examples = [conversations.sample_conversation(rng) for _ in range(20)]
    batch = pretrain.collate(examples, processor)
    for example, labels, ids in zip(examples, batch["labels"], batch["input_ids"], strict=True):
        learned = processor.tokenizer.decode(labels[labels != -100])
        assert learned.split() == " ".join(fact[1] for fact in example.facts).split()
        torch.testing.assert_close(labels[labels != -100], ids[labels != -100])


class Reader:
    """A model that answers every fact of a batch, with chosen facts wrong."""

    def __init__(self, wrong):
        self.wrong, self.labels = wrong, None

    def __call__(self, input_ids, **features):
        answers = input_ids.roll(-1, dims=1)
        spaced = torch.nn.functional.one_hot(answers, 2000).float()
        for row, position in self.wrong:
            spaced[row, position] = 0
        return SimpleNamespace(logits=spaced)


def test_a_name_is_read_only_if_all_its_tokens_are(untrained):
    processor = untrained[1]
    names = [name for name in load_names() if name.count(" ") == 1][:25]
    images = [render_sheet(Sheet("twemoji", np.arange(25)))] * 2
    assert pretrain.share_read(Reader([]), processor, images, [names] * 2) == 1
    order = np.random.default_rng(14).permutation(25)[:12]
    facts = [(place_names(5)[p], names[p]) for p in order]
    example = pretrain.Conversation(images[0], "", facts)
    labels = pretrain.collate([example], processor)["labels"][0]
    second_word = int((labels != -100).nonzero()[1]) - 1
    share = pretrain.share_read(Reader([(0, second_word)]), processor, images, [names] * 2)
    assert share == pytest.approx(23 / 24, abs=1e-4)


def test_pretraining_continues_and_saves_an_ordinary_checkpoint(tmp_path, monkeypatch):
    measured = {"unseen_sheets": 0.5}
    monkeypatch.setattr(pretrain, "measure_reading", lambda *args: measured)
    settings = {"steps": 2, "place_steps": 2, "tower_steps": 2, "batch_size": 4, "layers": 1}
    settings["width"] = 64
    monkeypatch.setattr(pretrain.FactsTrainer, "train", _stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(tmp_path / "vlm", **settings)
    monkeypatch.undo()
    monkeypatch.setattr(pretrain, "measure_reading", lambda *args: measured)
    monkeypatch.setattr(pretrain, "train_tower", _stop)  # the tower is not trained again
    log = pretrain.pretrain(tmp_path / "vlm", **settings)
    assert log["reads"] == measured
    assert json.loads((tmp_path / "vlm" / "pretraining_log.json").read_text()) == log
    assert not (tmp_path / "vlm" / "unfinished").exists()
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "vlm")
    processor = AutoProcessor.from_pretrained(tmp_path / "vlm")
    image = render_sheet(Sheet("openmoji", np.arange(25)))
    features = processor(text=["<|image_pad|>"], images=[image], return_tensors="pt")
    assert (features["input_ids"] == model.config.image_token_id).sum() == 100


def _stop(*args, **kwargs):
    raise KeyboardInterrupt


def test_reading_is_measured_on_drawings_that_training_never_shows(monkeypatch, untrained):
    shown = {}
    monkeypatch.setattr(
        pretrain,
        "share_read",
        lambda model, processor, images, contents: (
            shown.setdefault(len(shown), (images, contents)) and 0.5
        ),
    )
    assert set(pretrain.measure_reading(*untrained, n=4)) == {
        "test_digits",
        "unseen_sheets",
        "unseen_artist",
    }
    names = load_names()
    unseen = {names[thing] for things in UNSEEN.values() for thing in things}
    assert all(set(content) <= unseen for content in shown[2][1])
