"""The explorer without a kernel: on the built page of chapter 7, and on pages made here."""

import base64
import json
from itertools import pairwise

import make_book
import numpy as np
import pytest
from explorer_page_object import (
    SLIDERS,
    Expected,
    drag_slider,
    find_barriers,
    find_crossed_labels,
    find_overflow,
    find_slider,
    heat_map_is_sharp,
    read_figure,
    read_first_right,
    read_ranking,
    read_state,
    wait_for_announcement,
)
from page_errors import record_errors
from playwright.sync_api import expect

from metaembed_lite import BudgetExplorer, build, load_task
from metaembed_lite.data import RetrievalTask
from metaembed_lite.explorer.page import PAGE_LIMIT, bundle_js, render_html

SCREENSHOTS = make_book.BUILD / "screenshots"
CHAPTER = "notebooks/07_budget_sliders.html"
HOSTILE = "</script><img src=x onerror=window.injected=1>"

pytestmark = pytest.mark.timeout(0)  # the first test waits until the notebooks have run


@pytest.fixture
def chapter(page, address):
    """The built page. Nothing may go wrong while a test operates it."""
    errors = record_errors(page, address)
    page.goto(f"{address}/{CHAPTER}", wait_until="networkidle")
    expect(page.locator(".cards li")).to_have_count(10)
    yield page
    assert errors == []


@pytest.fixture
def expected(chapter):
    return Expected(read_state(chapter)["page"])


@pytest.fixture
def query(chapter):
    return read_state(chapter)["query"]


def take_screenshot(page, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.locator(".explorer").screenshot(path=SCREENSHOTS / f"explorer-{name}.png")


def test_every_score_in_the_browser_equals_pythons(chromium, expected):
    """All queries, all candidates and all budgets, to 1e-3."""
    blank = chromium.new_page()  # the chapter's policy would not import the modules again
    in_browser = blank.evaluate(
        """async ([source, page]) => {
        const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
        const { unpack, similarities, maxsim } = await import(url);
        const data = unpack(page);
        return page.queries.map((_, q) => {
          const similar = similarities(data, q);
          const scores = (i, j) => Array.from(maxsim(data, similar, [i + 1, j + 1]));
          return Array.from({ length: page.r_q }, (_, i) =>
            Array.from({ length: page.r_c }, (_, j) => scores(i, j)));
        });
        }""",
        [bundle_js(), expected.page],
    )
    blank.close()
    in_browser = np.array(in_browser)  # (queries, r_q, r_c, candidates)
    assert in_browser[:, 0, 0].shape == (len(expected.queries), len(expected.candidates))
    for i, j in np.ndindex(in_browser.shape[1:3]):
        np.testing.assert_allclose(in_browser[:, i, j], expected.scores((i + 1, j + 1)), atol=1e-3)


@pytest.mark.parametrize("side", SLIDERS)
def test_keys_move_a_slider_and_the_ranking_follows(chapter, expected, query, side):
    side_index = list(SLIDERS).index(side)
    trained = [budget[side_index] for budget in expected.page["trained"]]
    find_slider(chapter, side).focus()
    rankings = []
    for key, value in (
        ("Home", 1),
        ("PageUp", trained[1]),
        ("ArrowRight", trained[1] + 1),
        ("PageUp", trained[2]),
        ("End", trained[-1]),
        ("PageDown", trained[-2]),
    ):
        chapter.keyboard.press(key)
        ranking = read_ranking(chapter)
        assert ranking.budget[side_index] == value
        expected.check(ranking, query)
        assert read_figure(chapter, "NDCG@5") == expected.quality(ranking.budget)
        rankings.append(ranking)
    assert len({tuple(ranking.candidates) for ranking in rankings}) > 1
    # An added vector may be no query vector's best match. So compare with Python's changes.
    row = [q["id"] for q in expected.page["queries"]].index(query)
    best_scores = [
        np.sort(expected.scores(ranking.budget)[row])[::-1][: len(ranking.scores)]
        for ranking in rankings
    ]
    changes = [not np.allclose(a, b, atol=2e-3) for a, b in pairwise(best_scores)]
    assert any(changes)
    for (before, after), must_change in zip(pairwise(rankings), changes, strict=True):
        assert before.scores != after.scores or not must_change


@pytest.mark.parametrize("side", SLIDERS)
def test_the_mouse_moves_a_slider_and_the_ranking_follows(chapter, expected, query, side):
    side_index = list(SLIDERS).index(side)
    most = expected.page[side]
    chapter.get_by_role("button", name="(4, 8)", exact=True).click()
    before = read_ranking(chapter)
    for fraction in (1.0, 0.4, 0.0):
        drag_slider(chapter, side, fraction)
        ranking = read_ranking(chapter)
        assert abs(ranking.budget[side_index] - (1 + fraction * (most - 1))) <= 1
        assert ranking.budget[1 - side_index] == before.budget[1 - side_index]
        expected.check(ranking, query)
    assert read_ranking(chapter).scores != before.scores


def test_presets_set_trained_budgets(chapter, expected, query):
    for budget in expected.page["trained"]:
        button = chapter.get_by_role("button", name=f"({budget[0]}, {budget[1]})", exact=True)
        button.click()
        assert read_ranking(chapter).budget == tuple(budget)
        expect(button).to_have_attribute("aria-pressed", "true")
        expected.check(read_ranking(chapter), query)


def test_it_opens_at_the_smallest_budget_and_the_tour_moves_the_sliders(chapter, expected, query):
    trained = expected.page["trained"]
    assert read_ranking(chapter).budget == tuple(trained[0]) == (1, 1)
    steps = chapter.get_by_role("group", name="Try this").get_by_role("button")
    budgets = []
    for step in steps.all():
        step.click()
        ranking = read_ranking(chapter)
        expected.check(ranking, query)
        expect(step).to_have_attribute("aria-pressed", "true")
        budgets.append(list(ranking.budget))
    assert budgets[:3] == [trained[0], trained[1], trained[-1]]
    r_q, r_c = budgets[3]
    assert r_q > r_c
    text = steps.nth(3).inner_text()
    before = next(budget for budget in trained if budget[1] == r_c)
    for budget in (before, budgets[3]):
        assert expected.quality(budget) in text
    assert ("falls" in text) == (expected.quality(budgets[3]) < expected.quality(before))


def test_the_place_of_the_first_right_item_is_the_largest_number(chapter, expected):
    for index, query in enumerate(expected.page["queries"]):
        chapter.get_by_label("Query", exact=True).select_option(index=index)
        for preset in ("(1, 1)", "(8, 16)"):
            chapter.get_by_role("button", name=preset, exact=True).click()
            order = np.argsort(-expected.scores(read_ranking(chapter).budget)[index], kind="stable")
            right = np.isin(order, expected.page["relevant"][index])
            assert read_first_right(chapter) == str(1 + int(right.argmax())), query
    sizes = chapter.locator(".explorer").evaluate(
        """root => Array.from(root.querySelectorAll("*"), (node) =>
          [parseFloat(getComputedStyle(node).fontSize), node.className]).sort((a, b) => b[0] - a[0])
        """
    )
    assert (
        chapter.locator(".first strong").evaluate(
            "node => parseFloat(getComputedStyle(node).fontSize)"
        )
        == sizes[0][0]
        > sizes[1][0]
    )


def test_cards_frame_what_the_query_names(chapter, expected):
    """Green where the candidate has it, dashed where it should be, and missing ones in words."""
    cells = expected.page["cells"]
    ids = [candidate["id"] for candidate in expected.page["candidates"]]
    for index in range(len(expected.page["queries"])):
        chapter.get_by_label("Query", exact=True).select_option(index=index)
        for card in chapter.locator(".cards li").all():
            candidate = ids.index(int(card.get_attribute("data-candidate")))
            shown = cells["contents"][candidate]
            named = {fact["name"]: fact["content"] for fact in cells["named"][index]}
            frames = card.locator(".frames .has").evaluate_all(
                "frames => frames.map(({ style }) => [style.left, style.top].map(parseFloat))"
            )
            places = {shown.index(content) for content in named.values() if content in shown}
            assert {round(x / 25) + 4 * round(y / 25) for x, y in frames} == places
            missing = [f"no {name}" for name, content in named.items() if content not in shown]
            assert card.locator(".missing span").all_inner_texts() == missing
            is_relevant = candidate in expected.page["relevant"][index]
            assert is_relevant == (not missing)
            for text in missing:
                assert f"misses {', '.join(m.removeprefix('no ') for m in missing)}" in (
                    card.locator("button").get_attribute("aria-label")
                ), text
    colors = {
        kind: chapter.locator(f".frames .{kind}").first.evaluate(
            "frame => [getComputedStyle(frame).borderColor, getComputedStyle(frame).borderStyle]"
        )
        for kind in ("has", "misses")
        if chapter.locator(f".frames .{kind}").count()
    }
    assert colors["has"] == ["rgb(0, 117, 79)", "solid"]
    assert colors.get("misses", ["", "dashed"])[1] == "dashed"


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_sliders_place_and_curve_stay_in_view_next_to_the_ranking(chapter, width, height):
    chapter.set_viewport_size({"width": width, "height": height})
    for part in (".sliders", ".cards li", ".picks"):
        chapter.locator(part).first.evaluate("node => node.scrollIntoView({ block: 'end' })")
        chapter.wait_for_timeout(100)
        for seen in (".sliders input >> nth=0", ".sliders input >> nth=1", ".first", ".curve"):
            box = chapter.locator(seen).bounding_box()
            assert box["y"] > 0
            assert box["y"] + box["height"] <= height / 2 + 40 or part == ".sliders"
    find_slider(chapter, "r_c").focus()
    chapter.keyboard.press("End")
    chapter.locator(".cards li").first.evaluate("node => node.scrollIntoView({ block: 'end' })")
    take_screenshot(chapter, f"sticky-{width}")
    card = chapter.locator(".cards button").first
    chapter.locator(".cards button").nth(3).focus()
    chapter.keyboard.press("Shift+Tab")
    chapter.keyboard.press("Shift+Tab")
    chapter.keyboard.press("Shift+Tab")
    expect(card).to_be_focused()
    panel = chapter.locator(".panel").bounding_box()
    assert card.bounding_box()["y"] >= panel["y"] + panel["height"] - 1


@pytest.mark.parametrize("width", [1280, 390])
def test_no_line_crosses_a_label_of_the_curve(chapter, expected, width):
    chapter.set_viewport_size({"width": width, "height": 900})
    chapter.wait_for_timeout(100)
    for r_q in range(expected.page["r_q"]):
        find_slider(chapter, "r_q").fill(str(r_q + 1))
        for r_c in (1, 2, 7, 16):
            find_slider(chapter, "r_c").fill(str(r_c))
            assert find_crossed_labels(chapter) == [], read_ranking(chapter).budget


def test_the_only_cell_of_the_smallest_budget_is_not_dark(chapter):
    chapter.get_by_role("button", name="(1, 1)", exact=True).click()
    legend = chapter.locator("canvas + .note").inner_text()
    dark, bright = (float(part.split()[0].strip(",.")) for part in legend.split(" is ")[1:3])
    assert dark < bright
    red, green, blue = chapter.locator("canvas").evaluate(
        """map => Array.from(map.getContext("2d").getImageData(
          map.width / 2, map.height * 0.7, 1, 1).data).slice(0, 3)"""
    )
    assert red + green > blue + 120  # darkest is (0, 34, 78)


def test_no_light_frame_surrounds_it_in_dark_mode(chapter):
    chapter.set_viewport_size({"width": 390, "height": 844})
    chapter.evaluate("document.documentElement.dataset.theme = 'dark'")
    frame = chapter.locator("div[id^=explorer-]").evaluate(
        """host => {
        const { backgroundColor, padding } = getComputedStyle(host.parentElement);
        return [backgroundColor, padding];
        }"""
    )
    assert frame == ["rgba(0, 0, 0, 0)", "0px"]


def test_arrows_show_how_many_places_a_candidate_moved(chapter):
    chapter.get_by_role("button", name="(1, 1)", exact=True).click()
    before = read_ranking(chapter)
    chapter.get_by_role("button", name="(8, 16)", exact=True).click()
    after = read_ranking(chapter)
    moved = chapter.locator(".cards .moved").all_inner_texts()
    for place, (candidate, text) in enumerate(zip(after.candidates, moved, strict=True)):
        if candidate in before.candidates:
            steps = before.candidates.index(candidate) - place
            assert text == (f"▲{steps}" if steps > 0 else f"▼{-steps}" if steps else "")
        else:
            assert int(text.removeprefix("▲")) >= 10 - place
    assert any(moved)


def test_queries_can_be_selected_and_stepped_through(chapter, expected):
    query_ids = [query["id"] for query in expected.page["queries"]]
    picker = chapter.get_by_label("Query", exact=True)
    picker.select_option(index=5)
    expected.check(read_ranking(chapter), query_ids[5])
    expect(chapter.locator(".question")).to_have_text(expected.page["queries"][5]["text"])
    chapter.get_by_role("button", name="Next query").click()
    expected.check(read_ranking(chapter), query_ids[6])
    for _ in range(2):
        chapter.get_by_role("button", name="Previous query").click()
    expected.check(read_ranking(chapter), query_ids[4])
    relevant = {expected.page["candidates"][i]["id"] for i in expected.page["relevant"][4]}
    marked = chapter.locator(".cards li:has(.mark:visible)").evaluate_all(
        "cards => cards.map(card => Number(card.dataset.candidate))"
    )
    assert set(marked) == relevant & set(read_ranking(chapter).candidates)


def test_the_picks_of_a_chosen_pair_add_up_to_its_score(chapter):
    chapter.get_by_role("button", name="(4, 8)", exact=True).click()
    card = chapter.locator(".cards button").nth(3)
    card.click()
    expect(card).to_have_attribute("aria-pressed", "true")
    picks = [float(text) for text in chapter.locator(".picks b").all_inner_texts()]
    assert len(picks) == 4
    assert abs(sum(picks) - read_ranking(chapter).scores[3]) < 0.005 * 4 + 1e-3
    candidate = read_ranking(chapter).candidates[3]
    expect(chapter.locator(".pair")).to_contain_text(f"Candidate {candidate}, place 4")
    chapter.get_by_role("button", name="Follow the best").click()
    expect(chapter.locator(".pair")).to_contain_text("place 1")
    chapter.get_by_text("All similarities as a table").click()
    expect(chapter.locator(".scroll td.won")).to_have_count(4)


def test_the_framed_patch_is_where_the_picked_vector_attends_most(chapter, expected):
    grids = expected.page["attention"]["grids"]
    maps = np.frombuffer(base64.b64decode(expected.page["attention"]["maps"]), np.uint8)
    candidate_ids = [c["id"] for c in expected.page["candidates"]]
    best = candidate_ids.index(read_ranking(chapter).candidates[0])
    offset, height, width = grids[best]
    for pick in chapter.locator(".picks li").all():
        vector = int(pick.inner_text().split("→ c")[1].split()[0]) - 1
        start = offset + vector * height * width
        row, column = divmod(int(maps[start : start + height * width].argmax()), width)
        alt = pick.locator("img").get_attribute("alt")
        assert alt == f"attends most to row {row + 1}, column {column + 1}"
        classes = pick.locator(".tint span").evaluate_all("a => a.map(s => s.className)")
        assert classes.index("most") == row * width + column


def test_target_mode_solves_explains_and_moves_the_sliders(chapter, expected):
    quality = np.array(expected.page["quality"]["ndcg_at_5"])
    r_q, r_c = np.meshgrid(*(np.arange(n) + 1 for n in quality.shape), indexing="ij")
    target = round(float(0.9 * quality.max()), 2)
    chapter.get_by_label("NDCG@5 of at least").fill(str(target))
    first = next(b for b in expected.page["trained"] if quality[b[0] - 1, b[1] - 1] >= target)
    answer = f"({first[0]}, {first[1]}) is the cheapest trained budget"
    expect(chapter.locator(".answer")).to_contain_text(answer)  # the switch starts on
    chapter.get_by_label("trained budgets only").uncheck()
    reaching = sorted(zip(r_c[quality >= target], r_q[quality >= target], strict=True))
    button = chapter.get_by_role("button", name="Set the sliders to")
    button.click()
    assert read_ranking(chapter).budget == (reaching[0][1], reaching[0][0])
    expect(chapter.locator(".answer")).to_contain_text("is the cheapest budget")

    chapter.get_by_label("Candidates in your corpus").fill("10^9")
    chapter.get_by_label("best for a size").check()
    limit = 2000  # GiB
    chapter.get_by_label("Index of at most").fill(str(limit))
    fits = r_c * expected.page["dim"] * 4 * 1e9 / 2**30 <= limit
    button.click()
    budget = read_ranking(chapter).budget
    assert quality[budget[0] - 1, budget[1] - 1] == quality[fits].max()
    chapter.get_by_label("Index of at most").fill("0.5")
    expect(chapter.locator(".answer")).to_contain_text("No budget fits into 0.5 GiB")
    chapter.get_by_label("trained budgets only").check()
    expect(chapter.locator(".answer")).to_contain_text("No trained budget fits")


def test_a_quality_that_no_budget_reaches_gets_the_best_one(serve, expected):
    def halve(state):
        for name, grid in state["quality"].items():
            state["quality"][name] = [[value / 2 for value in row] for row in grid]

    page = serve(halve)
    page.get_by_label("trained budgets only").uncheck()
    page.get_by_label("NDCG@5 of at least").fill("0.9")
    best = np.max(expected.page["quality"]["ndcg_at_5"]) / 2
    expect(page.locator(".answer")).to_contain_text("No budget reaches NDCG@5 0.900 on this task")
    expect(page.locator(".answer")).to_contain_text(f"The best is {best:.3f}")
    expect(page.get_by_role("button", name="Set the sliders to")).to_be_hidden()


def test_a_corpus_has_a_size_and_a_latency_and_a_bad_number_is_named(chapter, expected):
    chapter.get_by_role("button", name="(4, 8)", exact=True).click()
    field = chapter.get_by_label("Candidates in your corpus")
    field.fill("1e9")
    gib = 8 * expected.page["dim"] * 4 * 1e9 / 2**30
    assert read_figure(chapter, "index") == f"{gib:,.0f} GiB"
    expect(chapter.locator(".scale")).to_contain_text("a corpus of 1,000,000,000 candidates")
    cost = expected.page["cost"]
    ms = cost["encode_query_ms"] + cost["score_ms"][3][7] * 1e9 / cost["measured_candidates"]
    number, unit = read_figure(chapter, "latency").split()
    displayed_ms = float(number.replace(",", "")) * {"ms": 1, "s": 1e3, "min": 6e4}[unit]
    assert displayed_ms == pytest.approx(ms, rel=0.01)
    for text in ("12", "a lot", "1e12", ""):
        field.fill(text)
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(chapter.get_by_text("is not a corpus size: write a whole number")).to_be_visible()
        assert read_figure(chapter, "index") == f"{gib:,.0f} GiB"
    field.fill("1000")
    expect(field).to_have_attribute("aria-invalid", "false")


def test_the_keyboard_reaches_everything_in_order(chapter):
    chapter.get_by_label("Query", exact=True).focus()
    labels = []
    for _ in range(40):
        labels.append(
            chapter.evaluate(
                """() => {
                let node = document.activeElement;
                while (node?.shadowRoot?.activeElement) node = node.shadowRoot.activeElement;
                const label = node.getAttribute("aria-label") || node.labels?.[0]?.textContent;
                return label || node.textContent;
                }"""
            )
        )
        chapter.keyboard.press("Tab")
    order = [
        "Query", "Previous query", "Next query", "Start small", "All vectors", *SLIDERS.values(),
        "(1, 1)", "(8, 16)", "Place 1,", "Place 10,", "All similarities as a table",
        "Candidates in your corpus", "cheapest for a quality", "NDCG@5 of at least",
        "trained budgets only", "Set the sliders",
    ]  # fmt: skip
    places = [next(i for i, name in enumerate(labels) if name.startswith(n)) for n in order]
    assert places == sorted(places)


def test_a_move_is_announced_to_screen_readers(chapter, expected):
    find_slider(chapter, "r_q").focus()
    chapter.keyboard.press("Home")
    budget = read_ranking(chapter).budget
    wait_for_announcement(
        chapter, rf"Budget \(1, {budget[1]}\), .*Best: candidate \d+.*{expected.quality(budget)}"
    )
    assert chapter.locator(".spoken").get_attribute("aria-live") == "polite"
    assert find_slider(chapter, "r_q").get_attribute("aria-valuetext").startswith("1 of ")


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_accessibility_violations_and_no_overflow(chapter, theme, width):
    chapter.set_viewport_size({"width": width, "height": 900})
    chapter.evaluate("theme => (document.documentElement.dataset.theme = theme)", theme)
    chapter.get_by_role("button", name="(4, 8)", exact=True).click()
    chapter.get_by_role("button", name="(8, 16)", exact=True).click()
    chapter.locator(".cards button").nth(1).click()
    chapter.wait_for_timeout(400)  # until the cards stand still
    expect(chapter.locator(".explorer")).to_have_attribute("data-theme", theme)
    take_screenshot(chapter, f"{theme}-{width}")
    assert find_barriers(chapter) == []
    assert find_overflow(chapter) == []
    assert heat_map_is_sharp(chapter)


@pytest.mark.parametrize(("setting", "moves"), [("reduce", False), ("no-preference", True)])
def test_cards_move_unless_the_reader_prefers_reduced_motion(chapter, setting, moves):
    chapter.emulate_media(reduced_motion=setting)
    chapter.get_by_role("button", name="(1, 1)", exact=True).click()
    running = chapter.locator(".explorer").evaluate(
        """root => new Promise((done) => {
        root.querySelector(".presets button:last-child").click();
        requestAnimationFrame(() => done(root.getAnimations({ subtree: true }).length));
        })"""
    )
    assert (running > 0) == moves


def test_without_javascript_there_is_a_table(chromium, address):
    page = chromium.new_page(java_script_enabled=False)
    page.goto(f"{address}/{CHAPTER}")
    table = page.locator("table", has_text="the sliders need JavaScript")
    expect(table).to_be_visible()
    assert table.locator("tbody tr").count() == 4
    page.close()


def test_the_page_is_small(site):
    html = (site / CHAPTER).read_text(encoding="utf-8")
    assert len(html.encode()) < PAGE_LIMIT
    assert html.count('"query_scales"') == 1  # the page contains the state once


@pytest.fixture
def serve(page, site, address):
    """Open the explorer of the chapter on an empty page, after a function changed its state."""
    errors = record_errors(page, address)

    def open_changed(change):
        html = (site / CHAPTER).read_text(encoding="utf-8")
        state = json.loads(html.split('-state">')[1].split("</script>")[0])
        change(state["page"])
        head = "<!doctype html><html lang=en><meta charset=utf-8><title>.</title>"
        icon = "<link rel=icon href=data:,>"
        body = head + icon + render_html("explorer-x", state, "")
        page.route("**/bare.html", lambda route: route.fulfill(body=body, content_type="text/html"))
        page.goto(f"{address}/bare.html", wait_until="networkidle")
        return page

    yield open_changed
    assert errors == []


GAPS = "http://explorer.test"  # the test answers it, so there is no server


@pytest.fixture(scope="module")
def gaps():
    """Query 0 has two candidates in its pool, none relevant. 1 has none, and 2 has all."""
    model = build("tiny-vlm", r_q=3, r_c=5, dim=16, device="cpu").eval()
    task = load_task("handwriting", n_queries=8, n_train=0)
    wrong = np.flatnonzero((task.relevance[:3] == 0).all(axis=0))[:3]
    pool = np.ones(task.relevance.shape, dtype=bool)
    pool[0, wrong[2]] = False
    pool[1, wrong] = False
    pooled = RetrievalTask("gaps", task.queries, task.candidates, task.relevance, pool=pool)
    return BudgetExplorer(model, pooled, queries=3, candidates=wrong)


@pytest.fixture
def open_gaps(page, gaps):
    """Open the explorer of ``gaps`` at a query. Nothing may go wrong while a test operates it."""
    errors = record_errors(page, GAPS)

    def open_at(query, selection=None):
        gaps.query, gaps.selection = query, selection
        head = "<!doctype html><html lang=en><meta charset=utf-8><title>.</title>"
        body = f"{head}<link rel=icon href=data:,>{gaps.static_html()}"
        page.route(f"{GAPS}/", lambda route: route.fulfill(body=body, content_type="text/html"))
        page.goto(f"{GAPS}/", wait_until="networkidle")
        return page

    yield open_at
    assert errors == []


def test_a_query_with_nothing_to_rank_has_a_note_and_the_rest_works(open_gaps):
    page = open_gaps(1)
    expect(page.locator(".gap")).to_contain_text("Nothing to rank: this query has a candidate pool")
    expect(page.locator(".cards li")).to_have_count(0)
    expect(page.get_by_role("heading", name="Who matched whom")).to_be_hidden()
    expect(page.get_by_role("heading", name="Cost for your corpus")).to_be_visible()
    wait_for_announcement(page, "Nothing to rank: .* NDCG@5")
    before = read_figure(page, "per candidate")
    find_slider(page, "r_c").focus()
    page.keyboard.press("End")
    assert read_figure(page, "per candidate") != before
    page.get_by_role("button", name="Next query").click()
    expect(page.locator(".cards li")).to_have_count(3)
    expect(page.get_by_role("heading", name="Who matched whom")).to_be_visible()
    expect(page.locator(".pair")).to_contain_text("place 1")
    page.get_by_role("button", name="Previous query").click()
    expect(page.locator(".cards li")).to_have_count(0)
    assert "place 0" not in page.locator(".explorer").inner_text()


def test_a_query_without_a_relevant_candidate_has_a_note(open_gaps, gaps):
    page = open_gaps(0)
    note = "None of the 2 candidates ranked here is relevant to this query."
    expect(page.locator(".gap")).to_have_text(note)
    expect(page.locator(".cards li")).to_have_count(2)
    expect(page.locator(".mark:visible")).to_have_count(0)
    wait_for_announcement(page, f"Best: candidate .*, not relevant.*{note}")
    assert "First relevant" not in page.locator(".spoken").text_content()


def test_a_candidate_outside_the_pool_has_no_place(open_gaps, gaps):
    outside = gaps.page["candidates"][2]["id"]
    page = open_gaps(0, selection=outside)
    expect(page.locator(".pair")).to_contain_text(f"Candidate {outside}, not ranked, because it is")
    picks = [float(text) for text in page.locator(".picks b").all_inner_texts()]
    total = float(page.locator(".pair").inner_text().rstrip(".").split()[-1])
    assert abs(sum(picks) - total) < 0.005 * len(picks) + 1e-3
    page.get_by_role("button", name="Follow the best").click()
    expect(page.locator(".pair")).to_contain_text("place 1")


@pytest.mark.parametrize("query", [0, 1])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_with_gaps_have_no_accessibility_violations_and_no_overflow(
    open_gaps, query, width, theme
):
    page = open_gaps(query)
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("theme => (document.documentElement.dataset.theme = theme)", theme)
    page.wait_for_timeout(400)  # until the cards stand still
    take_screenshot(page, f"gap-{query}-{theme}-{width}")
    assert find_barriers(page) == []
    assert find_overflow(page) == []


def test_a_hostile_caption_shows_as_text(serve):
    def set_captions(state):
        for item in (*state["queries"], *state["candidates"]):
            item["text"] = HOSTILE

    page = serve(set_captions)
    expect(page.locator(".cards .text").first).to_have_text(HOSTILE)
    expect(page.locator(".question .text")).to_have_text(HOSTILE)
    assert page.locator("img[onerror]").count() == 0
    assert page.evaluate("window.injected") is None


def test_a_drag_snaps_to_trained_values_and_keys_reach_the_others(serve):
    def lengthen(state):  # to 64 candidate vectors, a few pixels per step
        values = np.frombuffer(base64.b64decode(state["vectors"]["candidates"]), np.int8)
        values = np.tile(values.reshape(-1, state["r_c"], state["dim"]), (1, 4, 1))
        scales = np.frombuffer(base64.b64decode(state["vectors"]["candidate_scales"]), "<f4")
        scales = np.tile(scales.reshape(-1, state["r_c"]), (1, 4))
        state["vectors"]["candidates"] = base64.b64encode(values.tobytes()).decode()
        state["vectors"]["candidate_scales"] = base64.b64encode(scales.tobytes()).decode()
        for grid in (*state["quality"].values(), state["cost"]["score_ms"]):
            grid[:] = [row * 4 for row in grid]
        state.update(r_c=64, trained=[[1, 1], [4, 40], [8, 64]], attention=None)

    page = serve(lengthen)
    drag_slider(page, "r_c", 38.9 / 63)
    assert read_ranking(page).budget[1] == 40
    drag_slider(page, "r_c", 30 / 63)
    assert abs(read_ranking(page).budget[1] - 31) <= 1
    find_slider(page, "r_c").focus()
    page.keyboard.press("PageUp")
    page.keyboard.press("ArrowLeft")
    assert read_ranking(page).budget[1] == 39


def test_texts_are_listed_below_each_other(serve):
    def replace_pictures(state):
        state["attention"] = None
        for item in state["candidates"]:
            item.update(
                image=None, text=f"def f(x):\n    return x + {item['id']}  # " + "long " * 40
            )

    page = serve(replace_pictures)
    expect(page.locator(".cards.wide li")).to_have_count(10)
    assert page.locator(".cards img").count() == 0
    page.set_viewport_size({"width": 360, "height": 900})
    take_screenshot(page, "snippets-360")
    assert find_overflow(page) == []
    page.set_viewport_size({"width": 820, "height": 900})
    take_screenshot(page, "snippets")
    assert find_barriers(page) == []
