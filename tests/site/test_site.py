"""The built site, page by page, in a real browser."""

from pathlib import Path

import make_book
import pytest
from page_errors import record_errors
from playwright.sync_api import Page

SCREENSHOTS = make_book.BUILD / "screenshots"

pytestmark = pytest.mark.timeout(0)  # the first test waits until the notebooks have run


def check_titles(page: Page) -> list[str]:
    headings = page.locator("article h1").count()
    problems = [] if page.title().strip() else ["no title"]
    return problems + ([] if headings == 1 else [f"{headings} first-level headings"])


def check_images(page: Page) -> list[str]:
    problems = []
    for image in page.locator("img").all():
        alt = (image.get_attribute("alt") or "").strip()
        if not alt or "_images/" in alt:  # Sphinx falls back to the file's path
            problems.append(f"image without alt text: {(image.get_attribute('src') or '')[:80]}")
    return problems


def check_text(page: Page) -> list[str]:
    text = page.locator("article").inner_text()
    signs = {
        "Traceback (most recent call last)": "shows a traceback",
        "(children=(": "shows a widget as plain text: give it a text/html form",
    }
    return [problem for sign, problem in signs.items() if sign in text]


def check_formulas(page: Page) -> list[str]:
    formulas = page.locator("article .math").count()
    if formulas:
        page.wait_for_function(
            "n => document.querySelectorAll('mjx-container').length >= n", arg=formulas
        )
    return [f"formula: {text}" for text in page.locator("mjx-merror").all_inner_texts()]


def check_links(page: Page, address: str, site: Path) -> list[str]:
    links = page.locator("a[href]").evaluate_all("links => links.map(link => link.href)")
    inside = {link.split("#")[0].split("?")[0] for link in links if link.startswith(address)}
    paths = {link.removeprefix(address).lstrip("/") for link in inside}
    return [f"broken link: {path}" for path in sorted(paths) if not (site / path).exists()]


def test_the_first_page_leads_to_the_book(page, address):
    page.goto(f"{address}/index.html")
    page.wait_for_url(f"**/{make_book.pages()[0]}.html")


@pytest.mark.parametrize("name", make_book.pages())
def test_page(name, page, address, site):
    """Opens without errors or other hosts, with titles, alt texts, formulas and links in order."""
    errors = record_errors(page, address)
    page.goto(f"{address}/{name}.html", wait_until="networkidle")
    problems = [
        *check_titles(page),
        *check_images(page),
        *check_text(page),
        *check_formulas(page),
        *check_links(page, address, site),
    ]
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name.replace('/', '-')}.png", full_page=True)
    assert errors + problems == []
