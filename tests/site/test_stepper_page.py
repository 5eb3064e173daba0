"""The MaxSim stepper without a kernel: in a browser, by mouse and keyboard."""

import re

import make_book
import numpy as np
import pytest
from explorer_page_object import find_barriers, find_overflow
from page_errors import record_errors
from playwright.sync_api import expect

from metaembed_lite import load_task
from metaembed_lite.data.boards import place_names
from metaembed_lite.explorer import MaxSimStepper

SCREENSHOTS = make_book.BUILD / "screenshots"
ADDRESS = "http://stepper.test"  # the test answers it, so there is no server
PLACES = place_names(3)


@pytest.fixture(scope="module")
def similarities():
    """Three named facts by nine places."""
    values = np.random.default_rng(3).normal(scale=0.2, size=(3, 9))
    values[range(3), [4, 0, 8]] += 0.9
    return values


@pytest.fixture(scope="module")
def html(similarities):
    task = load_task("handwriting", n_queries=2, n_train=0, side=3)
    names = task.queries[0].split(", ")
    return MaxSimStepper(similarities, names, PLACES, task.candidates[0], columns=3).static_html()


@pytest.fixture
def stepper(page, html):
    """The open page, without animation. Nothing may go wrong while a test operates it."""
    errors = record_errors(page, ADDRESS)
    page.emulate_media(reduced_motion="reduce")
    head = "<!doctype html><html lang=en><meta charset=utf-8><title>.</title>"
    body = f"{head}<link rel=icon href=data:,>{html}"
    page.route(f"{ADDRESS}/", lambda route: route.fulfill(body=body, content_type="text/html"))
    page.goto(f"{ADDRESS}/", wait_until="networkidle")
    expect(page.locator(".stepper")).to_be_visible()
    yield page
    assert errors == []


def press(page, name):
    page.get_by_role("button", name=name).click()


def check_step(page, similarities, step):
    """Check the sum, the maxima and the lit places after a number of steps."""
    picks = similarities[:step].argmax(axis=1)
    maxima = similarities[:step].max(axis=1)
    expect(page.locator(".total strong")).to_have_text(f"{maxima.sum():.2f}")
    shown = page.locator("td.most").all_inner_texts()
    assert shown == [f"{value:.2f}" for value in maxima] + [""] * (len(similarities) - step)
    won = page.locator("tbody tr").evaluate_all(
        "rows => rows.map((row) => Array.from(row.cells).findIndex("
        "(cell) => cell.className === 'won') - 1)"
    )
    assert won[:step] == picks.tolist()
    assert set(won[step:]) <= {-2}
    frames = page.locator(".frames span").evaluate_all(
        "frames => frames.map(({ style }) => [style.left, style.top].map(parseFloat))"
    )
    assert [round(x * 3 / 100) + 3 * round(y * 3 / 100) for x, y in frames] == picks.tolist()


def test_buttons_step_to_the_score_and_back(stepper, similarities):
    check_step(stepper, similarities, 0)
    for step in (1, 2, 3):
        press(stepper, "Step")
        check_step(stepper, similarities, step)
    expect(stepper.locator(".total")).to_contain_text("MaxSim score")
    forward = stepper.get_by_role("button", name="Step")
    expect(forward).to_have_attribute("aria-disabled", "true")
    forward.click(force=True)  # a disabled button stays in reach, and does nothing
    check_step(stepper, similarities, 3)
    press(stepper, "Back")
    check_step(stepper, similarities, 2)
    expect(stepper.locator(".total")).not_to_contain_text("MaxSim score")
    press(stepper, "Reset")
    check_step(stepper, similarities, 0)


def test_keys_step_play_and_reset(stepper, similarities):
    stepper.keyboard.press("Tab")
    expect(stepper.locator(".stepper")).to_be_focused()
    for key, step in (
        ("ArrowLeft", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("Home", 0),
        ("ArrowRight", 1),
    ):  # fmt: skip
        stepper.keyboard.press(key)
        check_step(stepper, similarities, step)
    stepper.keyboard.press("Space")
    expect(stepper.get_by_role("button", name="Pause")).to_be_visible()
    check_step(stepper, similarities, 2)
    stepper.keyboard.press("Space")
    stepper.wait_for_timeout(1600)  # longer than it rests between two steps
    check_step(stepper, similarities, 2)
    stepper.keyboard.press("Tab")
    stepper.keyboard.press("Space")  # on the button Play, which handles it itself
    expect(stepper.get_by_role("button", name="Play")).to_be_focused()  # it has come to the end
    check_step(stepper, similarities, 3)
    stepper.keyboard.press("ArrowLeft")  # arrows also work on a button
    check_step(stepper, similarities, 2)


def test_keys_with_a_modifier_stay_with_the_browser(stepper, similarities):
    stepper.locator(".stepper").focus()
    stepper.keyboard.press("Control+ArrowRight")
    check_step(stepper, similarities, 0)


def test_the_keyboard_reaches_everything_in_order(stepper):
    labels = []
    for _ in range(6):
        stepper.keyboard.press("Tab")
        labels.append(
            stepper.evaluate(
                """() => {
                let node = document.activeElement;
                while (node?.shadowRoot?.activeElement) node = node.shadowRoot.activeElement;
                return node.getAttribute("aria-label") || node.textContent;
                }"""
            )
        )
    assert labels == ["MaxSim, step by step", "Play", "‹ Back", "Step ›", "Reset", "Similarities"]


def test_play_scans_each_row_cell_by_cell_and_adds_its_maximum(stepper, similarities):
    stepper.emulate_media(reduced_motion="no-preference")
    seen = stepper.locator(".stepper").evaluate(
        """root => new Promise((done) => {
        const seen = [];
        const watch = () => {
          const cell = root.querySelector("td.now");
          const rows = Array.from(root.querySelectorAll("tbody tr"));
          if (cell) seen.push(`${rows.indexOf(cell.parentElement)} ${cell.cellIndex - 1}`);
          if (root.querySelectorAll("td.won").length === rows.length) done([...new Set(seen)]);
          else requestAnimationFrame(watch);
        };
        root.querySelector("button").click();  // Play, in the same frame as the first look
        watch();
        })"""
    )
    assert seen == [f"{row} {column}" for row in range(3) for column in range(9)]
    check_step(stepper, similarities, 3)
    press(stepper, "Play")  # from the start again
    expect(stepper.locator("td.now")).to_have_count(1)
    expect(stepper.locator(".frames .now")).to_have_count(1)
    expect(stepper.locator(".status")).to_contain_text("looks at")
    press(stepper, "Pause")
    expect(stepper.locator("td.now")).to_have_count(0)
    check_step(stepper, similarities, 0)


def test_a_step_during_a_scan_ends_it_and_back_leaves_it(stepper, similarities):
    stepper.emulate_media(reduced_motion="no-preference")
    press(stepper, "Step")
    expect(stepper.locator("td.now")).to_have_count(1)
    expect(stepper.locator(".total strong")).to_have_text("0.00")
    press(stepper, "Step")
    check_step(stepper, similarities, 1)
    press(stepper, "Step")
    press(stepper, "Back")
    check_step(stepper, similarities, 1)


def test_a_step_is_announced_to_screen_readers(stepper, similarities):
    spoken = stepper.locator(".spoken")
    expect(spoken).to_have_attribute("aria-live", "polite")
    press(stepper, "Step")
    place = PLACES[similarities[0].argmax()]
    expect(spoken).to_contain_text(f"is {similarities[0].max():.2f}, at {place}. Sum so far")
    press(stepper, "Step")
    press(stepper, "Step")
    score = similarities.max(axis=1).sum()
    expect(spoken).to_contain_text(f"The sum of the maxima is the MaxSim score, {score:.2f}.")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_accessibility_violations_and_no_overflow(stepper, similarities, theme, width):
    stepper.set_viewport_size({"width": width, "height": 900})
    stepper.evaluate("theme => (document.documentElement.dataset.theme = theme)", theme)
    for step in range(4):
        assert find_barriers(stepper, ".stepper") == []
        assert find_overflow(stepper, ".stepper") == []
        if step == 2:
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            path = SCREENSHOTS / f"stepper-{theme}-{width}.png"
            stepper.locator(".stepper").screenshot(path=path)
        if step < 3:
            press(stepper, "Step")


def test_a_wide_table_follows_the_scan(page):
    r_c = 64
    values = np.random.default_rng(0).normal(size=(2, r_c))
    values[0, r_c - 1] = values[1, 0] = 9
    labels = [f"c{j + 1}" for j in range(r_c)]
    wide = MaxSimStepper(values, ["q1", "q2"], labels)
    page.set_content(f"<!doctype html><title>.</title>{wide.static_html()}")
    page.emulate_media(reduced_motion="reduce")
    for _ in range(2):
        press(page, "Step")
        inner, outer = (
            page.locator(part).last.bounding_box() for part in ("tr.active td.won", ".scroll")
        )
        assert inner["x"] >= outer["x"]
        assert inner["x"] + inner["width"] <= outer["x"] + outer["width"] + 1


def test_without_javascript_there_is_a_table(chromium, html):
    page = chromium.new_page(java_script_enabled=False)
    page.set_content(html)
    expect(page.locator("table", has_text="the steps need JavaScript")).to_be_visible()
    assert re.search(r"score, \d\.\d\d", page.locator("caption").inner_text())
    page.close()
