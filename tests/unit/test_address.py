"""The address of the repository is set in one place. With it the site has buttons, else none."""

import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import address
import make_book
import nbformat
import pytest
import yaml
from address import Address, install_cell, read_address, site_config, with_install_cell
from bs4 import BeautifulSoup

GITHUB = Address("https://github.com/someone/some-book", "main")
TITLE = {"cell_type": "markdown", "id": "title", "source": ["# 1. One"], "metadata": {}}
LAST = {
    "cell_type": "code", "id": "last", "source": ["1 + 1"], "metadata": {}, "outputs": [],
    "execution_count": None,
}  # fmt: skip
NOTEBOOK = {
    "cells": [TITLE, LAST],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python", "language": "python"}},
    "nbformat": 4, "nbformat_minor": 5,
}  # fmt: skip


def config(url, **repository):
    return {"title": "A book", "repository": {"url": url, **repository}}


@pytest.mark.parametrize("empty", [{}, {"repository": None}, config(""), config(None)])
def test_no_address_is_none(empty):
    assert read_address(empty) is None


@pytest.mark.parametrize("end", ["", "/", ".git", " "])
def test_an_address_is_written_in_one_way(end):
    assert read_address(config(GITHUB.url + end)) == GITHUB


def test_the_branch_is_main_unless_another_one_is_named():
    assert read_address(config(GITHUB.url, branch="2026/spring")).branch == "2026/spring"
    assert read_address(config(GITHUB.url, branch=1.5)).branch == "1.5"


@pytest.mark.parametrize(
    "url",
    ["https://gitlab.com/a/b", "github.com/a/b", "https://github.com/a", "git@github.com:a/b", 7],
)
def test_an_address_that_colab_cannot_open_is_an_error(url):
    with pytest.raises(ValueError, match=r"repository\.url in _config\.yml is .*github\.com/owner"):
        read_address(config(url))


def test_a_branch_with_a_space_is_an_error():
    with pytest.raises(ValueError, match=r"repository\.branch in _config\.yml is 'a b'"):
        read_address(config(GITHUB.url, branch="a b"))


# the cell for Colab


def test_the_cell_follows_the_title_and_can_be_written_twice():
    once = with_install_cell(NOTEBOOK, GITHUB)
    assert [cell["id"] for cell in once["cells"]] == ["title", "colab", "last"]
    assert with_install_cell(once, GITHUB) == once
    assert with_install_cell(once, None) == NOTEBOOK
    nbformat.validate(nbformat.from_dict(once))


def test_a_new_address_replaces_the_old_one():
    old = with_install_cell(NOTEBOOK, Address("https://github.com/old/name", "main"))
    assert "old/name" not in json.dumps(with_install_cell(old, GITHUB))


def test_the_cell_is_hidden_and_has_the_form_of_the_projects_code(tmp_path):
    cell = install_cell(Address("https://github.com/" + "long-name/" + 40 * "x", "main"))
    assert cell["metadata"]["tags"] == ["remove-cell"]
    path = make_book.ROOT / "notebooks" / "ruff.toml"
    for command in (["check"], ["format", "--check"]):
        notebook = tmp_path / "a.ipynb"
        notebook.write_text(json.dumps(with_install_cell(NOTEBOOK, GITHUB)), encoding="utf-8")
        long = NOTEBOOK | {"cells": [TITLE, cell, LAST]}
        (tmp_path / "b.ipynb").write_text(json.dumps(long), encoding="utf-8")
        ruff = [sys.executable, "-m", "ruff", *command, "--config", str(path), str(tmp_path)]
        run = subprocess.run(ruff, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout


def test_the_cell_does_nothing_outside_of_colab(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it ran a command"))
    exec("".join(install_cell(GITHUB)["source"]), {})


def test_in_colab_the_cell_fetches_this_address_and_installs_the_package(monkeypatch):
    commands, folders = [], []
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    monkeypatch.setattr("os.chdir", folders.append)
    exec("".join(install_cell(Address(GITHUB.url, "spring"))["source"]), {})
    clone, install = commands
    assert clone[:2] == ["git", "clone"]
    assert clone[-3:] == ["--branch=spring", GITHUB.url, "/content/some-book"]
    assert install[:4] == [sys.executable, "-m", "pip", "install"]
    assert "/content/some-book[index,plots]" in install  # what the chapters import
    assert folders == ["/content/some-book/notebooks"]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/01_one.ipynb").write_text(json.dumps(NOTEBOOK), encoding="utf-8")
    monkeypatch.setattr(address, "ROOT", tmp_path)

    def set_address(url):
        (tmp_path / "_config.yml").write_text(yaml.safe_dump(config(url)), encoding="utf-8")

    set_address("")
    return types.SimpleNamespace(root=tmp_path, set_address=set_address)


def test_the_command_writes_and_removes_the_cell(clone, capsys):
    stored = clone.root / "notebooks/01_one.ipynb"
    for url, changed in ((GITHUB.url, 1), (GITHUB.url, 0), ("", 1)):
        clone.set_address(url)
        assert address.main() == 0
        assert f"{changed} notebooks changed" in capsys.readouterr().out
        assert (GITHUB.url in stored.read_text(encoding="utf-8")) == bool(url)
        address.check_install_cells(clone.root)
    assert json.loads(stored.read_text(encoding="utf-8")) == NOTEBOOK


def test_a_build_with_another_address_says_what_to_run(clone):
    clone.set_address(GITHUB.url)
    with pytest.raises(ValueError, match=r"someone/some-book.*make address.*01_one\.ipynb"):
        address.check_install_cells(clone.root)
    address.main()
    clone.set_address("")
    with pytest.raises(ValueError, match=r"is not set.*make address.*01_one\.ipynb"):
        address.check_install_cells(clone.root)


def test_the_command_prints_an_error_and_no_traceback(clone, capsys):
    clone.set_address("https://example.com/a/b")
    assert address.main() == 1
    assert "repository.url" in capsys.readouterr().err


def test_the_stored_notebooks_have_the_address_of_the_configuration():
    address.check_install_cells(make_book.ROOT)


def test_only_the_configuration_has_the_address():
    own = read_address(address.read_config(make_book.ROOT))
    if own:
        for name in ("README.md", "book/intro.md", "book/teaching.md", "Makefile"):
            assert own.url not in (make_book.ROOT / name).read_text(encoding="utf-8"), name


# the buttons


def build_one_page(folder: Path, url: str) -> BeautifulSoup:
    """Build a book of one chapter with the project's configuration, as make_book stages it."""
    whole = address.read_config(make_book.ROOT)
    whole["repository"] = {"url": url, "branch": "main"}
    (folder / "notebooks").mkdir()
    unneeded = shutil.ignore_patterns("results", "*.py", "*.md")
    shutil.copytree(make_book.ROOT / "book", folder / "book", ignore=unneeded)
    (folder / "_config.yml").write_text(yaml.safe_dump(site_config(whole)), encoding="utf-8")
    (folder / "_toc.yml").write_text("format: jb-book\nroot: notebooks/01_one\n", encoding="utf-8")
    notebook = with_install_cell(NOTEBOOK, read_address(whole))
    (folder / "notebooks/01_one.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    run = subprocess.run(
        [jupyter_book, "build", folder, "--quiet", "--warningiserror"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    text = (folder / "_build/html/notebooks/01_one.html").read_text(encoding="utf-8")
    return BeautifulSoup(text, "html.parser")


def buttons(page: BeautifulSoup) -> dict[str, str]:
    links = page.select(".article-header-buttons a.dropdown-item[href]")
    return {link.get_text(strip=True): link["href"] for link in links}


def test_with_an_address_a_chapter_opens_in_colab_and_on_binder(tmp_path):
    page = build_one_page(tmp_path, GITHUB.url + "/")
    path = "someone/some-book"
    assert buttons(page) == {  # and print, which is no link
        "Colab": f"https://colab.research.google.com/github/{path}/blob/main/notebooks/01_one.ipynb",
        "Binder": f"https://mybinder.org/v2/gh/{path}/main?urlpath=lab/tree/notebooks/01_one.ipynb",
        ".ipynb": "../_sources/notebooks/01_one.ipynb",
    }
    assert "google.colab" not in page.find("article").get_text(), "the cell is not on the page"
    download = tmp_path / "_build/html/_sources/notebooks/01_one.ipynb"
    assert "google.colab" in download.read_text(encoding="utf-8")


def test_without_an_address_a_chapter_can_only_be_downloaded(tmp_path):
    page = build_one_page(tmp_path, "")
    assert buttons(page) == {".ipynb": "../_sources/notebooks/01_one.ipynb"}
    assert not page.select("a[href*='github.com/someone'], a[href*='colab'], a[href*='binder']")
