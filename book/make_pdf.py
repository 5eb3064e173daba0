"""Print the built site as one PDF: `python book/make_pdf.py` (`make pdf`).

The pages of `_build/html` are joined into one page in the order of `_toc.yml`, without the part
"For instructors". Chromium prints it into `_build/metaembed-lite.pdf`. Each page of the book starts
on a new sheet, links between them work, and the headings are the bookmarks. What unfolds on the
site (solutions, quizzes) is open.
"""

import functools
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urldefrag, urljoin, urlparse

import make_book
from address import read_config
from browser import find_chromium
from bs4 import BeautifulSoup, Tag
from make_student import instructor_pages

import metaembed_lite

SITE = make_book.BUILD / "html"
PDF = make_book.BUILD / "metaembed-lite.pdf"
JOINED = "joined-pages.html"  # its name on the local server. No such file is written
SECONDS = 600  # for Chromium
STYLE = """
@page { size: A4; margin: 16mm 14mm; }
html { font-size: 10.5pt; }
.title-page { padding-top: 35vh; text-align: center; }
.title-page p:first-child { font-size: 3em; }
.chapter { break-before: page; }
/* Ink that reaches into the previous page would put a heading twice into the bookmark. */
h1, h2, h3, h4 { padding-top: 0.2em; break-after: avoid; }
img, tr, details, .cell_input, .cell_output .output { break-inside: avoid; }
img { max-width: 100%; }
pre, .highlight pre { white-space: pre-wrap; overflow: visible; }
.headerlink, .copybtn, details.hide > summary { display: none !important; }
"""


def read_page(site: Path, page: str) -> BeautifulSoup:
    """Read a page of the site.

    Raises:
        FileNotFoundError: if it was not built.
    """
    path = site / f"{page}.html"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: run make book first")
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def anchor(page: str, name: str = "") -> str:
    """The id in the joined page of a page, or of a place on it."""
    return f"{page.replace('/', '-')}--{name}" if name else page.replace("/", "-")


def join_article(soup: BeautifulSoup, page: str, pages: list[str]) -> Tag:
    """A page's text, ready to stand next to the others: unique ids, and links that lead there.

    Raises:
        ValueError: if the page has no article.
    """
    article = soup.find("article")
    if article is None:
        raise ValueError(f"{page}.html has no <article>, so it is no page of the book")
    article.attrs = {"class": "bd-article chapter", "id": anchor(page)}
    scripts = [
        s for s in article.find_all("script") if s.string and "json" not in s.get("type", "")
    ]
    for element in article.find_all(id=True):
        old, element["id"] = element["id"], anchor(page, element["id"])
        for script in scripts:  # of a widget, which looks for its elements
            script.string = script.string.replace(json.dumps(old), json.dumps(element["id"]))
    for link in article.find_all("a", href=True):
        target, name = urldefrag(urljoin(f"/{page}.html", link["href"]))
        target = target.removeprefix("/").removesuffix(".html")
        if target in pages:
            link["href"] = f"#{anchor(target, name)}"
        elif not urlparse(target).scheme:  # a download, or a page that is left out
            del link["href"]
    for element in article.find_all(src=True):
        element["src"] = urljoin(f"/{page}.html", element["src"])
        element.attrs.pop("loading", None)  # a lazy image may be missing from the print
    for details in article.find_all("details"):
        details["open"] = ""
    return article


def join_site(site: Path, pages: list[str], title: str, author: str) -> str:
    """Join pages of the site into one HTML page.

    Args:
        site: the folder of the site.
        pages: without suffix, in order.
        title: of the book.
        author: of the book.

    Raises:
        FileNotFoundError: if a page was not built.
    """
    joined = BeautifulSoup(
        "<!DOCTYPE html><html lang='en' data-theme='light'><head><meta charset='utf-8'></head>"
        "<body><div class='bd-article-container bd-content'></div></body></html>",
        "html.parser",
    )
    body = joined.find(class_="bd-article-container")
    cover = joined.new_tag("div", attrs={"class": "title-page"})
    for name, text in (("p", title), ("p", author), ("p", metaembed_lite.__version__)):
        element = joined.new_tag(name)
        element.string = text
        cover.append(element)
    body.append(cover)
    heads: dict[str, Tag] = {}  # each style sheet, and what sets up the formulas, once
    for page in pages:
        soup = read_page(site, page)
        for element in soup.head.find_all(["link", "script", "style"]):
            is_style = element.name == "style" or element.get("rel") == ["stylesheet"]
            if not is_style and "mathjax" not in str(element).lower():
                continue
            for key in {"href", "src"} & element.attrs.keys():
                element[key] = urljoin(f"/{page}.html", element[key])
            heads.setdefault(str(element), element)
        body.append(join_article(soup, page, pages))
    for name, text in (("title", title), ("style", STYLE)):
        element = joined.new_tag(name)
        element.string = text
        heads[name] = element
    joined.head.extend(heads.values())
    return str(joined)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the files of the site, and the joined page."""

    def __init__(self, *args, text: str, **kwargs):
        self.text = text.encode()
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        if self.path != f"/{JOINED}":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(self.text)))
        self.end_headers()
        self.wfile.write(self.text)
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve(site: Path, text: str) -> Iterator[str]:
    """Serve the site and the joined page on this machine. Yields the address of the joined page."""
    handler = functools.partial(Handler, directory=str(site), text=text)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{JOINED}"
        server.shutdown()


def print_pdf(site: Path, text: str, target: Path) -> None:
    """Print the joined page into a file.

    Raises:
        FileNotFoundError: if there is no Chromium.
        RuntimeError: if Chromium fails, with what it said, or takes longer than `SECONDS`.
    """
    chromium = find_chromium()
    target.parent.mkdir(parents=True, exist_ok=True)
    with serve(site, text) as address, tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        partial = Path(scratch) / target.name
        command = [
            chromium, "--headless", "--disable-gpu", "--disable-background-networking",
            "--no-pdf-header-footer", "--generate-pdf-document-outline",
            "--virtual-time-budget=100000",  # until the formulas are typeset
            f"--user-data-dir={scratch}/profile", f"--print-to-pdf={partial}", address,
        ]  # fmt: skip
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # Chromium refuses to run as root with it
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"Chromium printed nothing in {SECONDS} seconds") from None
        if run.returncode or not partial.is_file() or not partial.stat().st_size:
            raise RuntimeError(f"Chromium printed nothing:\n{run.stderr.strip()}")
        os.replace(partial, target)


def make_pdf() -> Path:
    """Print the book in `_build/html`. Returns the path of the PDF.

    Raises:
        FileNotFoundError: if there is no built site or no Chromium.
        RuntimeError: if Chromium fails.
    """
    left_out = instructor_pages(make_book.ROOT)
    pages = [page for page in make_book.pages() if page not in left_out]
    config = read_config(make_book.ROOT)
    text = join_site(SITE, pages, config["title"], config["author"])
    print_pdf(SITE, text, PDF)
    return PDF


def main() -> int:
    try:
        path = make_pdf()
    except (FileNotFoundError, RuntimeError, ValueError) as error:
        print(f"== no PDF: {error}", file=sys.stderr)
        return 1
    print(f"== the PDF is ready: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
