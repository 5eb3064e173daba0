"""The built site, page by page, in a real browser."""

import functools
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import make_book
import pytest
from browser import find_chromium
from playwright.sync_api import Browser, Page, sync_playwright

PROFILE = os.environ.get("METAEMBED_PROFILE", "smoke")
SCREENSHOTS = make_book.BUILD / "screenshots"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]

pytestmark = pytest.mark.timeout(0)  # the first test waits for notebooks that have not run yet


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def site() -> Path:
    """The site of this profile, brought up to date: what has not changed is not built again."""
    try:
        for name in make_book.notebooks():
            make_book.execute(name, PROFILE)
        return make_book.build_site(PROFILE)
    except RuntimeError as failure:
        reason = str(failure).splitlines()[0]  # nbmake's report stands once, in test_notebooks.py
    pytest.fail(reason, pytrace=False)


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    yield page
    page.close()


def watch(page: Page, address: str) -> list[str]:
    """A list that fills with what goes wrong while the page loads."""
    heard: list[str] = []

    def on_request(url: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            heard.append(f"asks elsewhere for {url}: the published page must stand on its own")

    page.on("console", lambda m: heard.append(f"console: {m.text}") if m.type == "error" else None)
    page.on(
        "response", lambda r: heard.append(f"{r.status} for {r.url}") if r.status >= 400 else None
    )
    page.on("pageerror", lambda error: heard.append(f"script error: {error}"))
    page.on("requestfailed", lambda request: heard.append(f"could not load {request.url}"))
    page.on("request", lambda request: on_request(request.url))
    return heard


def in_titles(page: Page) -> list[str]:
    headings = page.locator("article h1").count()
    untitled = [] if page.title().strip() else ["no title"]
    return untitled + ([] if headings == 1 else [f"{headings} first-level headings"])


def in_images(page: Page) -> list[str]:
    problems = []
    for image in page.locator("img").all():
        alt = (image.get_attribute("alt") or "").strip()
        if not alt or "_images/" in alt:  # Sphinx falls back to the file's path
            problems.append(f"image without alt text: {(image.get_attribute('src') or '')[:80]}")
    return problems


def in_text(page: Page) -> list[str]:
    text = page.locator("article").inner_text()
    signs = {
        "Traceback (most recent call last)": "shows a traceback",
        "(children=(": "shows a widget as plain text: give it a text/html form",
    }
    return [problem for sign, problem in signs.items() if sign in text]


def in_formulas(page: Page) -> list[str]:
    formulas = page.locator("article .math").count()
    if formulas:
        page.wait_for_function(
            "n => document.querySelectorAll('mjx-container').length >= n", arg=formulas
        )
    return [f"formula: {text}" for text in page.locator("mjx-merror").all_inner_texts()]


def in_links(page: Page, address: str, site: Path) -> list[str]:
    links = page.locator("a[href]").evaluate_all("links => links.map(link => link.href)")
    inside = {link.split("#")[0].split("?")[0] for link in links if link.startswith(address)}
    paths = {link.removeprefix(address).lstrip("/") for link in inside}
    return [f"leads nowhere: {path}" for path in sorted(paths) if not (site / path).exists()]


def test_the_first_page_leads_to_the_book(page, address):
    page.goto(f"{address}/index.html")
    page.wait_for_url(f"**/{make_book.pages()[0]}.html")


@pytest.mark.parametrize("name", make_book.pages())
def test_page(name, page, address, site):
    """Opens without errors, needs no other host, is titled, described, set, and linked."""
    heard = watch(page, address)
    page.goto(f"{address}/{name}.html", wait_until="networkidle")
    seen = [
        *in_titles(page),
        *in_images(page),
        *in_text(page),
        *in_formulas(page),
        *in_links(page, address, site),
    ]
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name.replace('/', '-')}.png", full_page=True)
    assert heard + seen == []
