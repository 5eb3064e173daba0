"""The built site, page by page, in a real browser."""

from pathlib import Path

import make_book
import pytest
from playwright.sync_api import Page
from watching import watch

SCREENSHOTS = make_book.BUILD / "screenshots"

pytestmark = pytest.mark.timeout(0)  # the first test waits for notebooks that have not run yet


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
