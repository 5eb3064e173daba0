"""The build of the book runs only what has changed, and only one build runs at a time."""

import json
import re
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import make_book
import pytest
from mend_pages import add_policy, hash_source, mend_page, mend_pages

CELL = {"cell_type": "code", "id": "a", "source": "1", "metadata": {}, "outputs": []}
NOTEBOOK = {"cells": [CELL], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
BUILD = """
import sys
from metaembed_lite.locking import lock
with lock(sys.argv[1], "building the book, profile smoke"):
    print("taken", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """A clone with one chapter. The list records each start of nbmake and of Jupyter Book."""
    clone, started = tmp_path / "clone", []
    for folder in ("notebooks", "book", "metaembed_lite"):
        (clone / folder).mkdir(parents=True)
    (clone / "_toc.yml").write_text("root: book/intro\nchapters:\n  - file: notebooks/01_one\n")
    for name in ("_config.yml", "requirements.lock", "book/intro.md"):
        (clone / name).write_text("")
    (clone / "notebooks/01_one.ipynb").write_text(json.dumps(NOTEBOOK))
    monkeypatch.setattr(make_book, "ROOT", clone)
    monkeypatch.setattr(make_book, "BUILD", clone / "_build")
    monkeypatch.setattr(make_book, "EXECUTED", clone / ".executed")

    def run(command, **_):
        if "pytest" in command:
            started.append("notebook")
            with open(command[-1], "w") as file:
                json.dump(NOTEBOOK | {"metadata": {"executed": True}}, file)
        else:
            started.append("site")
            html = clone / ".executed/smoke/_build/html"
            html.mkdir(parents=True)
            (html / "index.html").write_text("whole")
        return SimpleNamespace(returncode=0, stdout="")

    monkeypatch.setattr(make_book.subprocess, "run", run)
    return started


@contextmanager
def another_build():
    folder = str(make_book.EXECUTED / "smoke")
    with subprocess.Popen(
        [sys.executable, "-c", BUILD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"taken\n"
        yield process
        process.stdin.close()


def main(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["make_book.py", "--profile", "smoke"])
    return make_book.main()


def test_unchanged_parts_are_not_built_again(executed, monkeypatch, capsys):
    assert main(monkeypatch) == 0
    assert main(monkeypatch) == 0
    assert executed == ["notebook", "site"]
    assert "unchanged" in capsys.readouterr().out
    assert (make_book.BUILD / "html/index.html").read_text().endswith("whole")


@pytest.mark.parametrize("damage", [b"", b"0" * 30, b"\xff\xfe\x00", b"a b c d", b"{}"])
@pytest.mark.parametrize("name", ["01_one", "site"])
def test_a_damaged_stamp_prints_one_line_and_is_built_again(
    executed, monkeypatch, capsys, name, damage
):
    main(monkeypatch)
    capsys.readouterr()
    (make_book.EXECUTED / "smoke/stamps" / name).write_bytes(damage)
    assert main(monkeypatch) == 0
    assert executed.count("site" if name == "site" else "notebook") == 2
    output = capsys.readouterr()
    assert len(re.findall(rf"{name}: .*damaged", output.out)) == 1
    assert output.err == ""
    main(monkeypatch)
    assert executed.count("notebook") + executed.count("site") == 3, "rebuilt once"


@pytest.mark.parametrize("damage", [b"", b'{"cells": [', b"{}", b"\xff\xfe\x00"])
def test_a_damaged_executed_notebook_is_executed_again(executed, damage):
    make_book.execute("01_one", "smoke")
    target = make_book.EXECUTED / "smoke/notebooks/01_one.ipynb"
    whole = target.read_bytes()
    target.write_bytes(damage)
    make_book.execute("01_one", "smoke")
    assert executed == ["notebook", "notebook"]
    assert target.read_bytes() == whole


def test_a_second_build_of_a_profile_is_refused(executed, monkeypatch, capsys):
    with another_build() as other:
        assert main(monkeypatch) == 1
        assert f"process {other.pid} (building the book" in capsys.readouterr().err
        with pytest.raises(BlockingIOError, match="building the book"):
            make_book.execute("01_one", "smoke")
        with pytest.raises(BlockingIOError, match="building the book"):
            make_book.build_site("smoke")
        assert not executed
        make_book.execute("01_one", "cpu")  # another profile has another folder
    assert main(monkeypatch) == 0


def test_a_failed_notebook_keeps_no_stamp_and_frees_the_lock(executed, monkeypatch, capsys):
    working_run = make_book.subprocess.run
    failed = SimpleNamespace(returncode=1, stdout="a cell failed")
    monkeypatch.setattr(make_book.subprocess, "run", lambda *_, **__: failed)
    assert main(monkeypatch) == 1
    assert "a cell failed" in capsys.readouterr().err
    monkeypatch.setattr(make_book.subprocess, "run", working_run)
    assert main(monkeypatch) == 0
    assert executed == ["notebook", "site"]


def test_the_landing_page_gets_the_explorer_of_a_chapter(executed, monkeypatch):
    output = {"output_type": "display_data", "metadata": {}, "data": {"text/html": ["<div>", "x"]}}
    cell = CELL | {"metadata": {"tags": ["explorer"]}, "outputs": [output]}
    (make_book.ROOT / "notebooks/01_one.ipynb").write_text(json.dumps(NOTEBOOK | {"cells": [cell]}))
    make_book.stage("smoke")
    target = make_book.EXECUTED / "smoke/notebooks/01_one.ipynb"
    target.write_text(json.dumps(NOTEBOOK | {"cells": [cell]}))
    make_book.copy_explorer(make_book.EXECUTED / "smoke")
    assert (make_book.EXECUTED / "smoke/book/explorer.html").read_text() == "<div>x"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<th></th>", "<td></td>"),
        ("<div>\n<style scoped>", '<div tabindex="0">\n<style scoped>'),
        ('<th class="head"><p></p></th>', '<td class="head"></td>'),
        ('<th scope="row">1</th>', '<th scope="row">1</th>'),
        ("<th>(8, 16)</th>", "<th>(8,\N{NO-BREAK SPACE}16)</th>"),
        ("<td><p>(1, 1)</p></td>", "<td><p>(1,\N{NO-BREAK SPACE}1)</p></td>"),
        ("<td>(see 1, 2)</td>", "<td>(see 1, 2)</td>"),
        ("<thead><tr></tr></thead>", "<thead><tr></tr></thead>"),
        ('<div id="a" role="doc-biblioentry">', '<div id="a" role="listitem">'),
        (
            '(</span>\n<dl>\n<dd><em class="sig-param">x</em>,</dd>\n'
            '</dl>\n<span class="sig-paren">)',
            '(</span>\n<span class="sig-params">\n<span><em class="sig-param">x</em>,</span>\n'
            '</span>\n<span class="sig-paren">)',
        ),
        ('<dl class="py">\n<dd><p>x</p></dd>\n</dl>', '<dl class="py">\n<dd><p>x</p></dd>\n</dl>'),
        (
            '<dd><p><ul class="simple">\n<li>x</li>\n</ul>\n</p>\n</dd>',
            '<dd><ul class="simple">\n<li>x</li>\n</ul>\n</dd>',
        ),
        (
            '<div class="sidebar-primary-items__start x">',
            '<div class="sidebar-primary-items__start x" role="region" aria-label="Side bar">',
        ),
    ],
)
def test_barriers_in_pages_are_mended_once(before, after):
    assert mend_page(before) == after
    assert mend_page(after) == after


def test_every_page_of_a_site_is_mended(tmp_path):
    (tmp_path / "book").mkdir()
    for name in ("index.html", "book/intro.html"):
        (tmp_path / name).write_text("<th></th>")
    mend_pages(tmp_path)
    page = (tmp_path / "book/intro.html").read_text()
    assert page.endswith("<td></td>")
    assert page.startswith('<meta http-equiv="Content-Security-Policy" content="default-src ')


def test_a_policy_allows_the_inline_scripts_of_its_page_and_no_others():
    """The hashes are those of openssl: openssl dgst -sha256 -binary | base64."""
    html = (
        '<head><meta charset="utf-8"></head><script>a()</script><script src="b.js"></script>'
        '<script type="application/json">{}</script><script type="module">\nb()\n</script>'
        '<button onclick="c(&quot;d&quot;)">'
    )
    policy = re.search(r"script-src ([^;]*);", add_policy(html))[1]
    assert policy.split() == [
        "'self'", "'unsafe-hashes'",
        *sorted(f"'{hash_source(text)}'" for text in ("a()", "\nb()\n", 'c("d")')),
    ]  # fmt: skip
    assert hash_source("a()") == "sha256-qVpDBgj7bpq5hMAcGp3AOc79J3Y1Z4HvySTwKrWDoy4="
    assert "unsafe-inline" not in policy
    assert "eval" not in add_policy(html)
    assert "'unsafe-hashes'" not in add_policy("<script>a()</script>")
