"""Fixtures of the site's tests: the built site, a server for it, and a browser."""

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
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the site of this profile. Only what has changed is built again."""
    try:
        for name in make_book.notebooks():
            make_book.execute(name, PROFILE)
        return make_book.build_site(PROFILE)
    except RuntimeError as failure:
        reason = str(failure).splitlines()[0]  # test_notebooks.py prints nbmake's full report
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
