"""A site becomes one PDF. It is tested on a site of three small pages."""

import re

import make_pdf
import pytest
from bs4 import BeautifulSoup
from make_pdf import join_site, print_pdf

PAGES = ["book/intro", "notebooks/01_one", "notebooks/02_two"]
PAGE = """<!DOCTYPE html><html><head><title>{name}</title>
<link rel="stylesheet" href="../_static/site.css"><link rel="icon" href="../icon.svg">
<script src="../_static/search.js"></script><script>window.MathJax = {{}}</script>
<script src="../_static/mathjax/tex.js"></script></head>
<body><nav>Contents</nav><article class="bd-article"><section id="{name}"><h1>{name}</h1>
<a href="../notebooks/02_two.html#exercises">to the exercises of two</a>
<a href="#exercises">to the exercises here</a> <a href="../book/intro.html">to the start</a>
<a href="../_sources/a.ipynb">download</a> <a href="../book/answers.html">left out</a>
<a href="https://example.org/x.html">elsewhere</a>
<img src="../_images/dot.svg" alt="A dot" loading="lazy">
<h2 id="exercises">Exercises of {name}</h2><details><summary>Why?</summary>Because.</details>
<div class="cell_output"><div id="widget">-</div><script>
document.getElementById("widget").textContent = "alive";</script></div>
</section></article></body></html>"""
DOT = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="4"/></svg>'


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "html"
    for name in (*PAGES, "_static/site", "_images/dot"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        text = PAGE.format(name=page.partition("/")[2])
        (folder / f"{page}.html").write_text(text, encoding="utf-8")
    (folder / "_static/site.css").write_text("h1 { color: red; }", encoding="utf-8")
    (folder / "_images/dot.svg").write_text(DOT, encoding="utf-8")
    return folder


def joined(site):
    return BeautifulSoup(join_site(site, PAGES, "A book", "Somebody"), "html.parser")


def test_the_pages_stand_in_order_after_a_cover(site):
    page = joined(site)
    assert page.title.get_text() == "A book"
    cover = page.find(class_="title-page").get_text(" ")
    assert re.match(r"A book Somebody \d+\.\d+", cover)
    assert [h.get_text() for h in page.find_all("h1")] == ["intro", "01_one", "02_two"]
    assert "Contents" not in page.get_text()


def test_ids_are_unique_and_links_between_pages_lead_to_them(site):
    page = joined(site)
    ids = [element["id"] for element in page.find_all(id=True)]
    assert len(ids) == len(set(ids))
    chapter = page.find(id="notebooks-01_one")
    two, here, start, download, left_out, elsewhere = chapter.find_all("a")
    assert two["href"] == "#notebooks-02_two--exercises"
    assert page.find(id="notebooks-02_two--exercises").get_text() == "Exercises of 02_two"
    assert here["href"] == "#notebooks-01_one--exercises"
    assert start["href"] == "#book-intro"
    assert not download.has_attr("href")
    assert not left_out.has_attr("href")
    assert elsewhere["href"] == "https://example.org/x.html"


def test_styles_and_formulas_are_set_up_once_and_other_scripts_are_left_out(site):
    head = joined(site).head
    assert [link["href"] for link in head.find_all("link")] == ["/_static/site.css"]
    scripts = [script.get("src") or script.get_text() for script in head.find_all("script")]
    assert scripts == ["window.MathJax = {}", "/_static/mathjax/tex.js"]


def test_a_widget_still_finds_its_element(site, page):
    page.set_content(join_site(site, PAGES, "A book", "Somebody"))
    assert page.locator(".cell_output > div").all_inner_texts() == ["alive"] * 3


def test_images_load_at_once_and_what_unfolds_is_open(site):
    page = joined(site)
    assert {image["src"] for image in page.find_all("img")} == {"/_images/dot.svg"}
    assert not page.find_all("img", loading=True)
    assert all(details.has_attr("open") for details in page.find_all("details"))


def test_chromium_prints_a_sheet_per_page_with_bookmarks_and_links(site, tmp_path):
    (site / "_static/mathjax").mkdir()
    (site / "_static/mathjax/tex.js").write_text("", encoding="utf-8")
    target = tmp_path / "out" / "book.pdf"
    print_pdf(site, join_site(site, PAGES, "A book", "Somebody"), target)
    data = target.read_bytes()
    assert data.startswith(b"%PDF")
    assert data.count(b"/Type /Page\n") == 1 + len(PAGES)
    bookmarks = re.findall(rb"/Title \((.*?)\)", data)
    for name in (b"intro", b"01_one", b"02_two"):
        assert bookmarks.count(name) == bookmarks.count(b"Exercises of " + name) == 1
    assert b"notebooks-02_two--exercises" in data
    assert b"127.0.0.1" not in data, "no link leads to this machine"
    assert [path.name for path in target.parent.iterdir()] == ["book.pdf"]


def test_a_page_that_was_not_built_says_what_to_run(site):
    with pytest.raises(FileNotFoundError, match=r"03_three\.html does not exist: run make book"):
        join_site(site, [*PAGES, "notebooks/03_three"], "A book", "Somebody")


def test_a_page_without_text_is_an_error(site):
    (site / "notebooks/01_one.html").write_text("<html><head></head></html>", encoding="utf-8")
    with pytest.raises(ValueError, match=r"notebooks/01_one\.html has no <article>"):
        joined(site)


def test_the_command_needs_a_site_and_a_browser(site, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_pdf, "SITE", tmp_path / "nothing")
    monkeypatch.setattr(make_pdf, "PDF", tmp_path / "book.pdf")
    assert make_pdf.main() == 1
    assert "run make book first" in capsys.readouterr().err
    monkeypatch.setattr(make_pdf, "SITE", site)
    monkeypatch.setattr(make_pdf.make_book, "pages", lambda: PAGES)
    monkeypatch.setenv("CHROME", "no-such-browser")
    assert make_pdf.main() == 1
    error = capsys.readouterr().err
    assert "no PDF: CHROME=no-such-browser is not a program" in error
    assert "apt-get install" in error
    assert not (tmp_path / "book.pdf").exists()


def test_a_browser_that_fails_is_reported(site, tmp_path, monkeypatch):
    monkeypatch.setenv("CHROME", "false")
    with pytest.raises(RuntimeError, match="Chromium printed nothing"):
        print_pdf(site, "<p>", tmp_path / "book.pdf")


def test_the_book_is_printed_without_the_part_for_instructors(site, tmp_path, monkeypatch):
    printed = []
    monkeypatch.setattr(make_pdf, "PDF", tmp_path / "book.pdf")
    monkeypatch.setattr(make_pdf, "print_pdf", lambda *_: None)
    monkeypatch.setattr(make_pdf, "join_site", lambda site, pages, *_: printed.extend(pages))
    assert make_pdf.make_pdf() == tmp_path / "book.pdf"
    left_out = set(make_pdf.make_book.pages()) - set(printed)
    assert left_out == {"book/teaching"}
