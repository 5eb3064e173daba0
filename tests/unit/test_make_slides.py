"""The deck is one file with the figures of executed notebooks. What is missing is named."""

import json

import make_book
import make_slides
import pytest
import yaml
from bs4 import BeautifulSoup
from make_slides import build_deck, find_cell, read_slides

PNG = "iVBORw0KGgo=\n"


def drawing(cell_id, alt, png=PNG):
    outputs = [{"output_type": "display_data", "data": {"image/png": png}}] if png else []
    metadata = {"mystnb": {"image": {"alt": alt}}}
    return {"cell_type": "code", "id": cell_id, "source": [], "metadata": metadata,
            "outputs": outputs}  # fmt: skip


@pytest.fixture
def executed(tmp_path):
    """A folder with one executed notebook of three figures, and one that drew nothing."""
    text = {"cell_type": "markdown", "id": "t", "source": ["# 1"], "metadata": {}}
    cells = [text, drawing("a", "A sheet\n of stickers"), drawing("b", "A curve"),
             drawing("c", "Another sheet")]  # fmt: skip
    (tmp_path / "01_one.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    empty = {"cells": [drawing("d", "A curve", png="")]}
    (tmp_path / "02_two.ipynb").write_text(json.dumps(empty), encoding="utf-8")
    return tmp_path


def deck(folder, *slides, title="A deck"):
    path = folder / "deck.yml"
    path.write_text(yaml.safe_dump({"title": title, "slides": list(slides)}), encoding="utf-8")
    return path


def figure(alt="curve", notebook="01_one", **more):
    return {"title": "T", "figure": {"notebook": notebook, "alt": alt, **more}}


def build(executed, *slides):
    return BeautifulSoup(build_deck(deck(executed, *slides), executed), "html.parser")


def test_a_slide_has_its_title_its_lines_and_its_figure(executed):
    first, second = {"title": "Start"}, figure("CURVE") | {"lines": ["`r_q` is **small** & _new_"]}
    page = build(executed, first, second)
    start, slide = page.select("section.slide")
    assert start.h1.get_text() == "Start"
    assert slide.h2.get_text() == "T"
    assert str(slide.li) == (
        "<li><code>r_q</code> is <strong>small</strong> &amp; <em>new</em></li>"
    )
    assert slide.img["alt"] == "A curve"
    assert slide.img["src"] == "data:image/png;base64,iVBORw0KGgo="


def test_a_slide_may_have_two_figures(executed):
    both = [{"notebook": "01_one", "cell": "a"}, {"notebook": "01_one", "cell": "c"}]
    page = build(executed, {"title": "T", "figures": both})
    assert [image["alt"] for image in page.select("img")] == [
        "A sheet\n of stickers", "Another sheet",
    ]  # fmt: skip


def test_the_nth_figure_with_these_words_is_taken(executed):
    notebook = json.loads((executed / "01_one.ipynb").read_text(encoding="utf-8"))
    for wanted, cell_id in [
        ({"alt": "sheet"}, "a"), ({"alt": "sheet", "n": 2}, "c"), ({"cell": "b"}, "b"),
        ({"alt": "sheet of stickers"}, "a"),
    ]:  # fmt: skip
        assert find_cell(notebook, {"notebook": "01_one", **wanted}, "here")["id"] == cell_id


@pytest.mark.parametrize(
    ("slide", "message"),
    [
        pytest.param(figure("map"), r"slide 1 \(T\).*no figure of 01_one has 'map'[\s\S]*"
                     r"a: A sheet[\s\S]*b: A curve", id="no such words: lists what there is"),
        pytest.param(figure("curve", n=2), r"'curve' in its alt text \(number 2\)", id="too few"),
        pytest.param({"title": "T", "figure": {"notebook": "01_one", "cell": "z"}},
                     r"no figure of 01_one has the id z[\s\S]*b: A curve", id="no such cell"),
        pytest.param(figure(notebook="03"), r"no executed notebook 03.*01_one, 02_two",
                     id="no such notebook"),
        pytest.param(figure(notebook="02_two"), r"cell d of 02_two drew no image", id="no image"),
    ],
)  # fmt: skip
def test_a_missing_figure_is_named(executed, slide, message):
    with pytest.raises(ValueError, match=message):
        build(executed, slide)


@pytest.mark.parametrize(
    ("slide", "message"),
    [
        pytest.param({"lines": []}, "needs a title", id="no title"),
        pytest.param({"title": "T", "text": 1}, r"\['text'\] is not one of", id="unknown key"),
        pytest.param({"title": "T", "lines": "a"}, "expected a list of texts", id="lines"),
        pytest.param({"title": "T", "lines": [{"a": "b"}]}, "list of texts", id="a colon"),
        pytest.param({"title": "T", "figure": "01"}, "expected a notebook", id="figure"),
        pytest.param(figure(cell="a"), "named by alt", id="alt and cell"),
        pytest.param({"title": "T", "figure": {"notebook": "01"}}, "named by alt", id="neither"),
        pytest.param(figure(m=1), r"\['m'\] is not one of", id="unknown key of a figure"),
        pytest.param(figure(n=0), "n is 0", id="n"),
    ],
)  # fmt: skip
def test_a_wrong_slide_is_named(tmp_path, slide, message):
    with pytest.raises(ValueError, match=rf"deck\.yml, slide 2.*{message}"):
        read_slides(deck(tmp_path, {"title": "first"}, slide))


def test_a_deck_needs_a_title_and_slides(tmp_path):
    with pytest.raises(ValueError, match=r"deck\.yml: expected the keys title and slides"):
        read_slides(deck(tmp_path))


def test_the_decks_own_source_is_right_and_names_figures_that_the_book_draws():
    source = read_slides(make_slides.SOURCE)
    assert 28 <= len(source["slides"]) <= 34
    for slide in source["slides"]:
        assert len(slide.get("lines", [])) <= 3, slide["title"]
        for wanted in make_slides.figures_of(slide):
            path = make_book.ROOT / "notebooks" / f"{wanted['notebook']}.ipynb"
            find_cell(json.loads(path.read_text(encoding="utf-8")), wanted, slide["title"])


def test_main_prints_an_error_and_no_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_slides, "SOURCE", deck(tmp_path))
    monkeypatch.setattr("sys.argv", ["make_slides.py", "--profile", "smoke"])
    assert make_slides.main() == 1
    assert "no slides: deck.yml" in capsys.readouterr().err
