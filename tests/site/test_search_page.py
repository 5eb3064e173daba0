"""The page of ``metaembed-lite serve`` in a browser, by mouse and keyboard."""

import json
import re
import socket
import threading
import urllib.request

import make_book
import numpy as np
import pytest
import torch
import uvicorn
from explorer_page_object import (
    SLIDERS,
    drag_slider,
    find_barriers,
    find_overflow,
    find_slider,
    heat_map_is_sharp,
    read_figure,
)
from page_errors import record_errors
from playwright.sync_api import expect

from metaembed_lite import load_task
from metaembed_lite.data.sticker_art import ATTRIBUTION
from metaembed_lite.indexing import build_index
from metaembed_lite.search_app.app import create_app
from metaembed_lite.search_app.guard import IMAGE_LIMIT
from metaembed_lite.search_app.searcher import Searcher

SCREENSHOTS = make_book.BUILD / "screenshots"
HOSTILE = "</script><img src=x onerror=window.injected=1>"


@pytest.fixture(scope="module")
def task():
    return load_task("stickers", n_queries=30, n_train=0)


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    path = tmp_path_factory.mktemp("search") / "stickers"
    build_index("tiny", "stickers", path, ["n_queries=30"], progress=False)
    searcher = Searcher.open(path)
    vectors = torch.nn.functional.normalize(torch.ones(1, 16, 128), dim=2)
    searcher.index.add(["a text"], vectors, {"text": [HOSTILE]})
    return searcher


@pytest.fixture(scope="module")
def server(searcher):
    """The address of the running app."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = uvicorn.Server(uvicorn.Config(create_app(searcher), log_level="warning"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        running.should_exit = True
        thread.join()


@pytest.fixture
def errors(page, server):
    return record_errors(page, server)


@pytest.fixture
def search(page, server, errors):
    """The open page. Nothing may go wrong while a test operates it."""
    page.emulate_media(reduced_motion="reduce")
    page.goto(f"{server}/", wait_until="networkidle")
    expect(page.locator(".sample li")).to_have_count(12)
    yield page
    assert errors == []


def ask(page, text):
    page.get_by_label("Query", exact=True).fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".cards li").first).to_be_visible()
    wait(page)


def wait(page):
    """Until the newest search and its match are painted."""
    page.wait_for_load_state("networkidle")
    expect(page.locator(".search:not(.busy)")).to_be_visible()


def read_ids(page):
    return page.locator(".cards li").evaluate_all("rows => rows.map((li) => li.dataset.candidate)")


def check(page, searcher, text, budget, k=10):
    """Check the ranking, its cost and the picks against Python."""
    wait(page)
    assert tuple(int(find_slider(page, side).input_value()) for side in SLIDERS) == budget
    vectors = searcher.encode(text).vectors
    expected = searcher.index.search(vectors, k, budget)
    assert read_ids(page) == list(expected.id)
    shown = [float(score) for score in page.locator(".cards .score").all_inner_texts()]
    np.testing.assert_allclose(shown, expected.score, atol=1e-3)
    n_bytes = searcher.index.header.columns.bytes_per_candidate(budget[1])
    assert read_figure(page, "per candidate") == f"{n_bytes:,} B"
    assert read_figure(page, "bytes read").endswith("iB")
    chosen = page.locator(".cards button[aria-pressed=true]")
    name = chosen.locator("xpath=..").get_attribute("data-candidate")
    similarities = vectors @ searcher.index.vectors([name])[0].T
    best = similarities[: budget[0], : budget[1]].max(dim=1)
    picks = [f"q{i + 1} → c{j + 1}" for i, j in enumerate(best.indices.tolist())]
    texts = [re.sub(r"\n.*", "", text) for text in page.locator(".picks li").all_inner_texts()]
    assert texts == picks
    expect(page.locator(".pair")).to_contain_text(f"{best.values.sum().item():.3f}")


def test_type_a_query_move_the_sliders_and_see_why_a_result_matched(search, searcher, task):
    text = task.queries[0]
    ask(search, text)
    check(search, searcher, text, (8, 16))
    at_full = read_ids(search)
    find_slider(search, "r_q").focus()
    search.keyboard.press("Home")
    check(search, searcher, text, (1, 16))
    search.keyboard.press("PageUp")
    check(search, searcher, text, (2, 16))
    drag_slider(search, "r_c", 0)
    check(search, searcher, text, (2, 1))
    assert read_ids(search) != at_full
    expect(search.locator(".note", has_text="places moved since (2, 16)")).to_be_visible()
    search.get_by_role("button", name="(4, 8)").click()
    check(search, searcher, text, (4, 8))
    third = search.locator(".cards button").nth(2)
    third.click()
    expect(third).to_have_attribute("aria-pressed", "true")
    check(search, searcher, text, (4, 8))
    expect(search.locator(".pair")).to_contain_text("Place 3.")
    expect(search.locator(".picks .look img")).to_have_count(4)
    assert heat_map_is_sharp(search)
    tints = search.locator(".picks .tint").first.locator("span")
    expect(tints).to_have_count(64)  # 8 x 8 image tokens


def test_the_artists_are_named_on_the_page(search):
    expect(search.get_by_text(ATTRIBUTION)).to_be_visible()


def test_the_number_of_results_and_a_filter(search, searcher, task):
    text = task.queries[1]
    search.get_by_role("spinbutton", name="Results").fill("25")
    ask(search, text)
    check(search, searcher, text, (8, 16), k=25)
    search.get_by_label("Filter").fill("id = 'a text'")
    search.keyboard.press("Enter")
    expect(search.locator(".cards li")).to_have_count(1)
    expect(search.locator(".cards .text")).to_have_text(HOSTILE)
    expect(search.locator(".picks li")).to_have_count(8)
    search.get_by_label("Filter").fill("id = 'nothing'")
    search.keyboard.press("Enter")
    expect(search.locator(".cards li")).to_have_count(0)
    expect(search.get_by_text("No candidate passes the filter.")).to_be_visible()
    expect(search.get_by_text("Why it matched")).to_be_hidden()
    assert search.evaluate("window.injected") is None


def test_an_image_searches_and_can_be_removed(search, searcher, task, tmp_path):
    task.candidates[5].save(tmp_path / "sheet.png")
    with search.expect_file_chooser() as chooser:
        search.get_by_role("button", name="Image").click()
    chooser.value.set_files(tmp_path / "sheet.png")
    expect(search.locator(".chip")).to_contain_text("sheet.png")
    expect(search.locator(".cards li")).to_have_count(10)
    check(search, searcher, task.candidates[5], (8, 16))
    search.get_by_role("button", name="(1, 1)").click()  # sends the token, not the image again
    check(search, searcher, task.candidates[5], (1, 1))
    search.get_by_role("button", name="Remove the image").click()
    expect(search.locator(".chip")).to_be_hidden()
    expect(search.get_by_label("Query", exact=True)).to_be_focused()
    large = tmp_path / "large.png"
    large.write_bytes(bytes(IMAGE_LIMIT + 1))
    search.locator("input[type=file]").set_input_files(large)
    expect(search.get_by_role("alert").filter(has_text="large.png has")).to_be_visible()
    search.get_by_role("button", name="Search").click()
    expect(search.get_by_role("alert").filter(has_text="Write what you look for")).to_be_visible()


def test_a_forgotten_query_is_sent_again(page, server, searcher, task):
    page.goto(f"{server}/", wait_until="networkidle")
    ask(page, task.queries[2])
    for i in range(70):  # more than the server remembers
        searcher.encode(f"violin {i}")
    replies = []
    page.on("response", lambda response: replies.append(response.status))
    page.get_by_role("button", name="(2, 4)").click()
    expect(page.locator(".note", has_text="at (2, 4)")).to_be_visible()
    check(page, searcher, task.queries[2], (2, 4))
    assert 404 in replies


def test_the_keyboard_alone_is_enough(search, searcher, task):
    expect(search.get_by_label("Query", exact=True)).to_be_focused()
    search.keyboard.type(task.queries[3])
    search.keyboard.press("Enter")
    expect(search.locator(".cards li")).to_have_count(10)
    names = []
    for _ in range(13):
        search.keyboard.press("Tab")
        names.append(
            search.evaluate(
                """() => {
                const node = document.querySelector("#search").shadowRoot.activeElement;
                return node.id || node.getAttribute("aria-label") || node.textContent;
                }"""
            )
        )
    assert names[:10] == [
        "Image", "Search", "k", "where", "rq", "rc", "(1, 1)", "(2, 4)", "(4, 8)", "(8, 16)"
    ]  # fmt: skip
    assert all(name.startswith("Place") for name in names[10:])
    search.keyboard.press("Enter")
    expect(search.locator(".pair")).to_contain_text("Place 3.")
    expect(search.locator(".spoken[aria-live]")).to_contain_text("10 results at (8, 16). Best:")


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (1280, "dark"), (390, "light"),
                                              (390, "dark")])  # fmt: skip
def test_no_accessibility_violations_and_nothing_is_clipped(search, task, theme, width):
    search.set_viewport_size({"width": width, "height": 900})
    search.emulate_media(color_scheme=theme, reduced_motion="reduce")
    expect(search.locator(".search")).to_have_attribute("data-theme", theme)

    def look(name):
        assert find_barriers(search, ".search") == []
        assert find_overflow(search, ".search") == []
        assert search.evaluate("document.documentElement.scrollWidth") <= width
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"search-{name}-{theme}-{width}.png"
        search.screenshot(path=path, full_page=True)

    look("empty")
    ask(search, task.queries[0])
    search.get_by_role("button", name="(4, 8)").click()
    wait(search)
    expect(search.locator(".picks .look img")).to_have_count(4)
    look("results")


def test_an_error_of_the_server_is_shown(page, server, task):
    page.goto(f"{server}/", wait_until="networkidle")
    page.get_by_label("Filter").fill("color =")
    page.get_by_label("Query", exact=True).fill("violin")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="where='color ='")).to_be_visible()
    page.get_by_label("Filter").fill("")
    page.get_by_role("spinbutton", name="Results").fill("0")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("spinbutton", name="Results").fill("3")
    ask(page, "violin")
    expect(page.locator(".cards li")).to_have_count(3)
    expect(page.get_by_role("alert").filter(has_text="where")).to_have_count(0)
    page.route("**/search", lambda route: route.abort())
    page.get_by_role("button", name="(1, 1)").click()
    expect(page.get_by_role("alert").filter(has_text="still running")).to_be_visible()


def test_another_site_can_neither_search_nor_read(page, server):
    """A page of another origin, in the same browser."""
    page.route(
        "http://evil.test/", lambda route: route.fulfill(body="<p>", content_type="text/html")
    )
    page.goto("http://evil.test/")
    outcome = page.evaluate(
        """async (server) => {
        const body = JSON.stringify({ text: "violin" });
        const send = (options) => fetch(`${server}/search`, { method: "POST", body, ...options })
          .then((answer) => answer.type + answer.status, () => "refused");
        return [await send({ headers: { "Content-Type": "application/json" } }),
          await send({ mode: "cors" }), await send({ mode: "no-cors" })];
        }""",
        server,
    )
    assert outcome[:2] == ["refused", "refused"]
    assert outcome[2] in ("opaque0", "refused")
    request = urllib.request.Request(f"{server}/", headers={"Host": "evil.test"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert "evil.test" in json.load(refused.value)["error"]
