"""The deck in a real browser: it works from a file, without a network, and nothing overflows."""

import os

import make_book
import make_slides
import pytest
from page_errors import record_errors

PROFILE = os.environ.get("METAEMBED_PROFILE", "smoke")
OVERFLOWS = """() => [...document.querySelectorAll(".slide.current, .slide.current *")]
  .filter((e) => {
    const box = e.getBoundingClientRect();
    return e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline"
      || e.scrollHeight > e.clientHeight + 1 && getComputedStyle(e).display !== "inline"
      || box.right > innerWidth + 1 || box.bottom > innerHeight + 1 || box.top < 0 || box.left < 0;
  }).map((e) => e.outerHTML.slice(0, 80))"""

pytestmark = pytest.mark.timeout(0)  # the first test waits for notebooks that have not run yet


@pytest.fixture(scope="module")
def deck(tmp_path_factory):
    """The deck of this profile's executed notebooks, as a file somewhere else."""
    path = tmp_path_factory.mktemp("slides") / "index.html"
    built = make_slides.make_slides(PROFILE, path)
    assert built == path
    return path.as_uri()


@pytest.fixture
def opened(page, deck):
    page.set_viewport_size({"width": 1280, "height": 720})
    errors = record_errors(page, deck)
    page.goto(deck)
    yield page
    assert errors == []


def current(page):
    assert page.locator(".slide:visible").count() == 1
    return int(page.locator(".slide:visible").get_attribute("id"))


def count(page):
    return page.locator(".slide").count()


def test_the_deck_has_about_thirty_slides_with_numbers(opened):
    assert 28 <= count(opened) <= 34
    opened.keyboard.press("ArrowRight")
    assert (
        opened.locator(".slide:visible footer")
        .inner_text()
        .split("\n")[-1]
        .strip()
        .endswith(f"2 / {count(opened)}")
    )


def test_no_slide_overflows_the_screen(opened):
    folder = make_book.BUILD / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count(opened) + 1):
        assert current(opened) == number
        opened.screenshot(path=folder / f"slide-{number:02}.png")
        assert opened.evaluate(OVERFLOWS) == [], f"slide {number}"
        broken = opened.locator(".slide:visible img").evaluate_all(
            "images => images.filter(i => !i.complete || !i.naturalWidth || i.height < 60).length"
        )
        assert broken == 0, f"slide {number}"
        opened.keyboard.press("ArrowRight")


def test_keys_and_buttons_turn_the_slides(opened):
    last = count(opened)
    for key, number in [
        ("ArrowRight", 2), ("ArrowDown", 3), ("PageDown", 4), ("Space", 5), ("ArrowLeft", 4),
        ("ArrowUp", 3), ("PageUp", 2), ("End", last), ("ArrowRight", last), ("Home", 1),
        ("ArrowLeft", 1),
    ]:  # fmt: skip
        opened.keyboard.press(key)
        assert current(opened) == number, key
    opened.get_by_role("button", name="Next slide").click()
    assert current(opened) == 2
    opened.keyboard.press("Space")  # the button has the focus
    assert current(opened) == 3
    opened.get_by_role("button", name="Previous slide").click()
    assert current(opened) == 2


def test_the_address_names_the_slide(opened, deck):
    opened.keyboard.press("ArrowRight")
    assert opened.url.endswith("#2")
    opened.reload()
    assert current(opened) == 2
    opened.goto(f"{deck}#5")
    assert current(opened) == 5


def test_without_a_script_all_slides_are_on_the_page(chromium, deck):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(deck)
    assert page.locator(".slide:visible").count() == count(page)
    assert not page.locator("nav").is_visible()
    context.close()


def test_printing_gives_one_sheet_per_slide(opened):
    data = opened.pdf(prefer_css_page_size=True, print_background=True)
    assert data.count(b"/Type /Page\n") == count(opened)
