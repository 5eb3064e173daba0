"""Captions in a browser: hostile names, queries and captions on both pages. A text stays a text."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import uvicorn
from browser import find_chromium
from mend_pages import mend_page
from playwright.sync_api import Page, sync_playwright

from abuse.models import tiny
from abuse.tally import Effort, Row
from metaembed_lite import BudgetExplorer, MetaIndex, RetrievalTask
from metaembed_lite.search_app.app import create_app
from metaembed_lite.search_app.searcher import Searcher

RUN = "window.injected=1"
PAYLOADS = [
    f"<script>{RUN}</script>", f"</script><img src=x onerror={RUN}>", f"<img src=x onerror={RUN}>",
    f'"><svg onload={RUN}>', f"'-{RUN}-'", f"javascript:{RUN}", f"</style><script>{RUN}</script>",
    f"<!--<script>{RUN}//-->", f"${{{RUN}}}`", f"<iframe srcdoc='<script>parent.{RUN}</script>'>",
    f"\u2028{RUN}//\u2029", f"<a href=javascript:{RUN}>a</a>",
    f"]]></noscript><script>{RUN}</script>",
    "<link rel=stylesheet href=http://evil.test/a.css><base href=http://evil.test/>",
]  # fmt: skip
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


def abuse(effort: Effort, folder: Path) -> list[Row]:
    """14 payloads, as the name, the query and the caption at once."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        try:
            page = browser.new_page()
            return [explorer(effort, page), search_page(effort, folder, page)]
        finally:
            browser.close()


def watch(page: Page, address: str) -> list[str]:
    """A list of what goes wrong: requests to other hosts, script errors, dialogs."""
    problems: list[str] = []

    def check(url: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            problems.append(f"requests {url[:100]}")

    page.on("request", lambda request: check(request.url))
    page.on("pageerror", lambda error: problems.append(f"script error: {error}"))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("dialog", lambda dialog: (problems.append("a dialog"), dialog.dismiss()))
    return problems


class Pages(http.server.BaseHTTPRequestHandler):
    """Serves the pages in ``texts`` by their path."""

    texts: dict[str, str]

    def do_GET(self) -> None:
        """Answer with a page, or 404."""
        text = self.texts.get(self.path)
        self.send_response(200 if text else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write((text or "").encode("utf-8", "surrogatepass"))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def explorer(effort: Effort, page: Page) -> Row:
    """An explorer on a page of the site, with its Content-Security-Policy."""
    row = Row("the explorer's page: name, query and caption", len(PAYLOADS))
    texts = {}
    for i, payload in enumerate(PAYLOADS):
        queries, candidates = [payload, "violin"], [payload, "red apple", f"{payload} 2"]
        task = RetrievalTask(payload, queries, candidates, np.array([[1, 0, 0], [0, 1, 0]]))
        html = BudgetExplorer(tiny(), task).static_html()
        texts[f"/{i}"] = mend_page(
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>a</title></head>'
            f"<body>{html}</body></html>"
        )
    Pages.texts = texts | {"/favicon.ico": " "}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        problems = watch(page, address)
        for i in range(effort.count(len(PAYLOADS), len(PAYLOADS))):
            problems.clear()
            page.goto(f"{address}/{i}", wait_until="networkidle")
            shown = page.locator(".cards li").all_inner_texts()
            judge(row, page, PAYLOADS[i], shown, problems)
        server.shutdown()
    return row


def judge(row: Row, page: Page, payload: str, shown: list[str], problems: list[str]) -> None:
    """Count a page: nothing ran, nothing left, and the payload is shown as it is."""
    if page.evaluate("window.injected") is not None:
        problems.append("a script has run")
    wanted = " ".join(payload.split())
    if not any(wanted in " ".join(text.split()) for text in shown):
        problems.append(f"the text is not shown: {shown}")
    row.check(payload, not problems, "; ".join(problems))


@contextmanager
def running(app: Any) -> Iterator[str]:
    """The address of an app, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def search_page(effort: Effort, folder: Path, page: Page) -> Row:
    """The search page of an index whose texts, ids and names are payloads."""
    row = Row("the search page: query, caption, id and metadata", len(PAYLOADS))
    model = tiny()
    name = "a <img src=x onerror=window.injected=1>"
    index = MetaIndex.create(
        folder / name, 128, [(1, 1), (8, 16)], model=model, model_name=name, credit=PAYLOADS[1]
    )
    ids = ["".join(c for c in payload if c.isprintable()) for payload in PAYLOADS]
    metadata = pd.DataFrame({"text": PAYLOADS, "note": PAYLOADS})
    index.add_from(model, PAYLOADS, ids, metadata, progress=False)
    with running(create_app(Searcher(index, model))) as address:
        problems = watch(page, address)
        page.goto(f"{address}/", wait_until="networkidle")
        for payload in PAYLOADS[: effort.count(len(PAYLOADS), 5)]:
            problems.clear()
            page.get_by_label("Query", exact=True).fill(payload)
            with page.expect_response(f"{address}/search"):
                page.keyboard.press("Enter")
            page.locator(".search:not(.busy)").wait_for()
            page.wait_for_load_state("networkidle")
            shown = page.locator(".cards li").all_inner_texts()
            judge(row, page, payload, shown, problems)
    return row
