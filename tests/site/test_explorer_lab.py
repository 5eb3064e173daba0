"""The explorer with a kernel: in a real JupyterLab, driven by hand and from Python."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import make_book
import nbformat
import pytest
from driving import SLIDERS, Expected, barriers, drag, heat_map_is_sharp, overflow, read, slider
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import expect
from watching import watch

SCREENSHOTS = make_book.BUILD / "screenshots"
HOSTILE = "</script><img src=x onerror=window.bitten=1>"
BUILD = f"""
from metaembed_lite import BudgetExplorer, build, load_task
from metaembed_lite.data import RetrievalTask

model = build("tiny-vlm", r_q=4, r_c=8, dim=16, device="cpu")
task = load_task("handwriting", n_queries=8, n_train=0)
items = [{{"text": {HOSTILE!r}, "image": task.candidates[0]}}, *task.candidates[1:]]
task = RetrievalTask({HOSTILE!r}, task.queries, items, task.relevance)
explorer = BudgetExplorer(model, task, queries=6, candidates=16)
explorer
"""
REACT = """
import json
from pathlib import Path

def write(change=None):
    ranking = explorer.ranking()
    told = {
        "budget": [explorer.budget.r_q, explorer.budget.r_c], "query": explorer.query,
        "selection": explorer.selection, "candidates": ranking.candidate.tolist(),
        "scores": ranking.score.tolist(), "page": explorer.page,
    }
    Path("told.partial").write_text(json.dumps(told))
    Path("told.partial").rename("told.json")

def answer(change):
    if change["new"] == 5:  # the page asked for query 5: Python answers with a budget
        explorer.budget = "3x2"

explorer.observe(write, ["budget", "query", "selection"])
explorer.observe(answer, "query")
write()
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a free port, its settings and notebook in a folder of the test's own."""
    folder = tmp_path_factory.mktemp("lab")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    cells = [new_code_cell(BUILD), new_code_cell(REACT)]
    nbformat.write(new_notebook(cells=cells, metadata=kernel), folder / "small.ipynb")
    settings = folder / ".lab_settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    no_news = json.dumps({"fetchNews": "false", "checkForUpdates": False})
    (settings / "notification.jupyterlab-settings").write_text(no_news)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    own = {
        f"JUPYTER{name}_DIR": str(folder / f".{name.lower()}")
        for name in ("_CONFIG", "_RUNTIME", "LAB_SETTINGS", "LAB_WORKSPACES")
    }
    command = [
        *(sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser"),
        *(
            f"--ServerApp.port={port}",
            f"--IdentityProvider.token={token}",
            "--ServerApp.ip=127.0.0.1",
        ),
        f"--ServerApp.root_dir={folder}",
    ]
    with (folder / "server.log").open("wb") as log:
        environment = os.environ | own | {"HF_HUB_OFFLINE": "1"}
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_up(f"{address}/api?token={token}", server, folder / "server.log")
        yield address, token, folder
    finally:
        server.terminate()
        server.wait(30)


def wait_until_up(url: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(120):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(1)
    pytest.fail(f"JupyterLab did not answer within two minutes:\n{log.read_text()}")


@pytest.fixture(scope="module")
def opened(lab, chromium):
    """The notebook, run from top to bottom; (page, folder, what went wrong meanwhile)."""
    address, token, folder = lab
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    heard = watch(page, address)
    page.goto(f"{address}/lab/tree/small.ipynb?token={token}")
    expect(page.get_by_text("| Idle")).to_be_visible(timeout=120_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    expect(page.locator(".cards li")).to_have_count(10, timeout=240_000)
    for _ in range(120):
        if (folder / "told.json").exists():
            break
        page.wait_for_timeout(500)
    yield page, folder, heard
    page.close()


def told(page, folder, **wanted):
    """What Python said last, once it has said what is wanted."""
    for _ in range(100):
        answer = json.loads((folder / "told.json").read_text())
        if all(answer[name] == value for name, value in wanted.items()):
            return answer
        page.wait_for_timeout(100)
    pytest.fail(f"the kernel was not told {wanted}; it has {answer['budget']}, {answer['query']}")


def agree(page, answer):
    """The page shows Python's list with Python's scores."""
    shown = read(page)
    assert list(shown.budget) == answer["budget"]
    assert shown.scores == pytest.approx(answer["scores"], abs=1e-3)
    Expected(answer["page"]).check(shown, answer["query"])


@pytest.mark.parametrize("side", SLIDERS)
def test_keys_and_mouse_move_the_sliders_and_python_follows(opened, side):
    page, folder, heard = opened
    slider(page, side).focus()
    seen = []
    for move in ("Home", "ArrowRight", "PageUp", "End", 0.0, 0.5):
        page.keyboard.press(move) if isinstance(move, str) else drag(page, side, move)
        answer = told(page, folder, budget=list(read(page).budget))
        agree(page, answer)
        seen.append(tuple(answer["scores"]))
    assert len(set(seen)) >= 4
    assert heard == []


def test_picks_reach_python_and_its_answers_reach_the_page(opened):
    page, folder, heard = opened
    page.get_by_label("Query", exact=True).select_option(index=2)
    agree(page, told(page, folder, query=2, selection=None))
    page.locator(".cards button").nth(4).click()
    told(page, folder, selection=read(page).candidates[4])
    page.get_by_label("Query", exact=True).select_option(index=5)  # Python answers with (3, 2)
    expect(slider(page, "r_q")).to_have_value("3")
    expect(slider(page, "r_c")).to_have_value("2")
    agree(page, told(page, folder, query=5, budget=[3, 2], selection=None))
    assert heard == []


def test_every_score_in_the_page_is_the_kernels(opened):
    """All queries at several budgets, read off the page."""
    page, folder, _ = opened
    for query in range(6):
        page.get_by_label("Query", exact=True).select_option(index=query)
        for budget in ("(1, 1)", "(2, 4)", "(4, 8)"):
            page.get_by_role("button", name=budget, exact=True).click()
            wanted = [int(number) for number in budget.strip("()").split(", ")]
            agree(page, told(page, folder, query=query, budget=wanted))


def test_a_hostile_caption_shows_as_text(opened):
    page, _, _ = opened
    number = 0  # the candidate with the caption, relevant to query 0
    page.get_by_label("Query", exact=True).select_option(index=0)
    for budget in ("(1, 1)", "(2, 4)", "(4, 8)"):
        page.get_by_role("button", name=budget, exact=True).click()
        card = page.locator(f".cards li[data-candidate='{number}'] .text")
        if card.count():
            expect(card).to_have_text(HOSTILE)
            break
    else:
        pytest.fail("the candidate is not among the ten best at any trained budget")
    assert page.locator("img[onerror]").count() == 0
    assert page.evaluate("window.bitten") is None


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_no_barriers_and_no_overflow(opened, theme):
    page, _, heard = opened
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    for label in ("Theme", f"JupyterLab {theme}"):
        page.locator(".lm-Menu-itemLabel").get_by_text(label, exact=True).click()
    expect(page.locator(".explorer")).to_have_attribute("data-theme", theme.lower())
    page.set_viewport_size({"width": 1400, "height": 2300})  # for a picture of all of it
    page.wait_for_timeout(500)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.locator(".explorer").screenshot(path=SCREENSHOTS / f"explorer-lab-{theme.lower()}.png")
    assert barriers(page) == []
    assert overflow(page) == []
    assert heat_map_is_sharp(page)
    assert heard == []
