"""The explorer without a kernel: on the built page of chapter 7, and on pages of the tests' own."""

import base64
import json
from itertools import pairwise

import make_book
import numpy as np
import pytest
from driving import (
    SLIDERS,
    Expected,
    barriers,
    drag,
    figure,
    heat_map_is_sharp,
    overflow,
    read,
    slider,
    state_on,
    wait_for_announcement,
)
from playwright.sync_api import expect
from watching import watch

from metaembed_lite import BudgetExplorer, build, load_task
from metaembed_lite.data import RetrievalTask
from metaembed_lite.explorer.page import PAGE_LIMIT, element, front_end

SCREENSHOTS = make_book.BUILD / "screenshots"
CHAPTER = "notebooks/07_budget_sliders.html"
HOSTILE = "</script><img src=x onerror=window.bitten=1>"

pytestmark = pytest.mark.timeout(0)  # the first test waits for notebooks that have not run yet


@pytest.fixture
def chapter(page, address):
    """The built page, watched: nothing may go wrong while a test drives it."""
    heard = watch(page, address)
    page.goto(f"{address}/{CHAPTER}", wait_until="networkidle")
    expect(page.locator(".cards li")).to_have_count(10)
    yield page
    assert heard == []


@pytest.fixture
def expected(chapter):
    return Expected(state_on(chapter)["page"])


@pytest.fixture
def query(chapter):
    return state_on(chapter)["query"]


def photograph(page, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.locator(".explorer").screenshot(path=SCREENSHOTS / f"explorer-{name}.png")


def test_every_score_in_the_browser_is_pythons(chapter, expected):
    """All queries, all candidates, all budgets: to 1e-3."""
    in_browser = chapter.evaluate(
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
        [front_end(), expected.page],
    )
    in_browser = np.array(in_browser)  # (queries, r_q, r_c, candidates)
    assert in_browser[:, 0, 0].shape == (len(expected.queries), len(expected.candidates))
    for i, j in np.ndindex(in_browser.shape[1:3]):
        np.testing.assert_allclose(in_browser[:, i, j], expected.scores((i + 1, j + 1)), atol=1e-3)


@pytest.mark.parametrize("side", SLIDERS)
def test_keys_move_a_slider_and_the_ranking_follows(chapter, expected, query, side):
    at = list(SLIDERS).index(side)
    trained = [budget[at] for budget in expected.page["trained"]]
    slider(chapter, side).focus()
    seen = []
    for key, value in (
        ("Home", 1),
        ("PageUp", trained[1]),
        ("ArrowRight", trained[1] + 1),
        ("PageUp", trained[2]),
        ("End", trained[-1]),
        ("PageDown", trained[-2]),
    ):
        chapter.keyboard.press(key)
        shown = read(chapter)
        assert shown.budget[at] == value
        expected.check(shown, query)
        assert figure(chapter, "NDCG@5") == expected.quality(shown.budget)
        seen.append(shown)
    assert len({tuple(shown.candidates) for shown in seen}) > 1
    # One more vector need not be anybody's best match: the scores change just where Python's do.
    at = [q["id"] for q in expected.page["queries"]].index(query)
    best = [np.sort(expected.scores(one.budget)[at])[::-1][: len(one.scores)] for one in seen]
    changed = [not np.allclose(a, b, atol=2e-3) for a, b in pairwise(best)]
    assert any(changed)
    for (one, other), moved in zip(pairwise(seen), changed, strict=True):
        assert one.scores != other.scores or not moved


@pytest.mark.parametrize("side", SLIDERS)
def test_the_mouse_moves_a_slider_and_the_ranking_follows(chapter, expected, query, side):
    at = list(SLIDERS).index(side)
    most = expected.page[side]
    before = read(chapter)
    for share in (1.0, 0.4, 0.0):
        drag(chapter, side, share)
        shown = read(chapter)
        assert abs(shown.budget[at] - (1 + share * (most - 1))) <= 1
        assert shown.budget[1 - at] == before.budget[1 - at]
        expected.check(shown, query)
    assert read(chapter).scores != before.scores


def test_presets_set_trained_budgets(chapter, expected, query):
    for budget in expected.page["trained"]:
        button = chapter.get_by_role("button", name=f"({budget[0]}, {budget[1]})", exact=True)
        button.click()
        assert read(chapter).budget == tuple(budget)
        expect(button).to_have_attribute("aria-pressed", "true")
        expected.check(read(chapter), query)


def test_arrows_tell_the_places_moved(chapter):
    chapter.get_by_role("button", name="(1, 1)", exact=True).click()
    before = read(chapter)
    chapter.get_by_role("button", name="(8, 16)", exact=True).click()
    after = read(chapter)
    moved = chapter.locator(".cards .moved").all_inner_texts()
    for place, (number, text) in enumerate(zip(after.candidates, moved, strict=True)):
        if number in before.candidates:
            steps = before.candidates.index(number) - place
            assert text == (f"▲{steps}" if steps > 0 else f"▼{-steps}" if steps else "")
        else:
            assert int(text.removeprefix("▲")) >= 10 - place
    assert any(moved)


def test_queries_are_picked_and_stepped_through(chapter, expected):
    numbers = [query["id"] for query in expected.page["queries"]]
    picker = chapter.get_by_label("Query", exact=True)
    picker.select_option(index=5)
    expected.check(read(chapter), numbers[5])
    expect(chapter.locator(".question")).to_have_text(expected.page["queries"][5]["text"])
    chapter.get_by_role("button", name="Next query").click()
    expected.check(read(chapter), numbers[6])
    for _ in range(2):
        chapter.get_by_role("button", name="Previous query").click()
    expected.check(read(chapter), numbers[4])
    relevant = {expected.page["candidates"][i]["id"] for i in expected.page["relevant"][4]}
    marked = chapter.locator(".cards li:has(.mark:visible)").evaluate_all(
        "cards => cards.map(card => Number(card.dataset.candidate))"
    )
    assert set(marked) == relevant & set(read(chapter).candidates)


def test_the_picks_of_a_chosen_pair_add_up_to_its_score(chapter):
    chapter.get_by_role("button", name="(4, 8)", exact=True).click()
    card = chapter.locator(".cards button").nth(3)
    card.click()
    expect(card).to_have_attribute("aria-pressed", "true")
    picks = [float(text) for text in chapter.locator(".picks b").all_inner_texts()]
    assert len(picks) == 4
    assert abs(sum(picks) - read(chapter).scores[3]) < 0.005 * 4 + 1e-3
    number = read(chapter).candidates[3]
    expect(chapter.locator(".pair")).to_contain_text(f"Candidate {number}, place 4")
    chapter.get_by_role("button", name="Follow the best").click()
    expect(chapter.locator(".pair")).to_contain_text("place 1")
    chapter.get_by_text("All similarities as a table").click()
    expect(chapter.locator(".scroll td.won")).to_have_count(4)


def test_the_framed_patch_is_where_the_picked_vector_attends_most(chapter, expected):
    grids = expected.page["attention"]["grids"]
    maps = np.frombuffer(base64.b64decode(expected.page["attention"]["maps"]), np.uint8)
    best = [c["id"] for c in expected.page["candidates"]].index(read(chapter).candidates[0])
    offset, height, width = grids[best]
    for pick in chapter.locator(".picks li").all():
        vector = int(pick.inner_text().split("→ c")[1].split()[0]) - 1
        start = offset + vector * height * width
        row, column = divmod(int(maps[start : start + height * width].argmax()), width)
        described = pick.locator("img").get_attribute("alt")
        assert described == f"looks most at row {row + 1}, column {column + 1}"
        framed = pick.locator(".tint span").evaluate_all("a => a.map(s => s.className)")
        assert framed.index("most") == row * width + column


def test_target_mode_solves_explains_and_moves_the_sliders(chapter, expected):
    quality = np.array(expected.page["quality"]["ndcg_at_5"])
    r_q, r_c = np.meshgrid(*(np.arange(n) + 1 for n in quality.shape), indexing="ij")
    target = round(float(0.9 * quality.max()), 2)
    chapter.get_by_label("NDCG@5 of at least").fill(str(target))
    enough = sorted(zip(r_c[quality >= target], r_q[quality >= target], strict=True))
    go = chapter.get_by_role("button", name="Set the sliders to")
    go.click()
    assert read(chapter).budget == (enough[0][1], enough[0][0])
    expect(chapter.locator(".answer")).to_contain_text("is the cheapest budget")
    chapter.get_by_label("NDCG@5 of at least").fill("1")
    expect(chapter.locator(".answer")).to_contain_text(f"The best is {quality.max():.3f}")
    expect(go).to_be_hidden()

    chapter.get_by_label("Candidates in your corpus").fill("10^9")
    chapter.get_by_label("best for a size").check()
    limit = 400  # GiB
    chapter.get_by_label("Index of at most").fill(str(limit))
    fits = r_c * expected.page["dim"] * 4 * 1e9 / 2**30 <= limit
    go.click()
    chosen = read(chapter).budget
    assert quality[chosen[0] - 1, chosen[1] - 1] == quality[fits].max()
    chapter.get_by_label("Index of at most").fill("0.5")
    expect(chapter.locator(".answer")).to_contain_text("No budget fits into 0.5 GiB")
    chapter.get_by_label("trained budgets only").check()
    expect(chapter.locator(".answer")).to_contain_text("No trained budget fits")


def test_a_corpus_is_priced_and_a_bad_size_is_named(chapter, expected):
    chapter.get_by_role("button", name="(4, 8)", exact=True).click()
    field = chapter.get_by_label("Candidates in your corpus")
    field.fill("1e9")
    gib = 8 * expected.page["dim"] * 4 * 1e9 / 2**30
    assert figure(chapter, "index") == f"{gib:,.0f} GiB"
    cost = expected.page["cost"]
    ms = cost["encode_query_ms"] + cost["score_ms"][3][7] * 1e9 / cost["measured_candidates"]
    shown, unit = figure(chapter, "latency").split()
    in_ms = float(shown.replace(",", "")) * {"ms": 1, "s": 1e3, "min": 6e4}[unit]
    assert in_ms == pytest.approx(ms, rel=0.01)
    for bad in ("12", "a lot", "1e12", ""):
        field.fill(bad)
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(chapter.get_by_text("is not a corpus size: write a whole number")).to_be_visible()
        assert figure(chapter, "index") == f"{gib:,.0f} GiB"
    field.fill("1000")
    expect(field).to_have_attribute("aria-invalid", "false")


def test_the_keyboard_reaches_everything_in_order(chapter):
    chapter.get_by_label("Query", exact=True).focus()
    reached = []
    for _ in range(40):
        reached.append(
            chapter.evaluate(
                """() => {
                let at = document.activeElement;
                while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
                const label = at.getAttribute("aria-label") || at.labels?.[0]?.textContent;
                return label || at.textContent;
                }"""
            )
        )
        chapter.keyboard.press("Tab")
    order = [
        "Query", "Previous query", "Next query", *SLIDERS.values(), "(1, 1)", "(8, 16)", "Place 1,",
        "Place 10,", "All similarities as a table", "Candidates in your corpus",
        "cheapest for a quality", "NDCG@5 of at least", "trained budgets only", "Set the sliders",
    ]  # fmt: skip
    places = [next(i for i, name in enumerate(reached) if name.startswith(n)) for n in order]
    assert places == sorted(places)


def test_a_move_is_announced(chapter, expected):
    slider(chapter, "r_q").focus()
    chapter.keyboard.press("Home")
    budget = read(chapter).budget
    wait_for_announcement(
        chapter, rf"Budget \(1, {budget[1]}\), .*Best: candidate \d+.*{expected.quality(budget)}"
    )
    assert chapter.locator(".spoken").get_attribute("aria-live") == "polite"
    assert slider(chapter, "r_q").get_attribute("aria-valuetext").startswith("1 of ")


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_barriers_and_no_overflow(chapter, theme, width):
    chapter.set_viewport_size({"width": width, "height": 900})
    chapter.evaluate("theme => (document.documentElement.dataset.theme = theme)", theme)
    chapter.get_by_role("button", name="(4, 8)", exact=True).click()
    chapter.get_by_role("button", name="(8, 16)", exact=True).click()
    chapter.locator(".cards button").nth(1).click()
    chapter.wait_for_timeout(400)  # the cards have arrived
    expect(chapter.locator(".explorer")).to_have_attribute("data-theme", theme)
    photograph(chapter, f"{theme}-{width}")
    assert barriers(chapter) == []
    assert overflow(chapter) == []
    assert heat_map_is_sharp(chapter)


@pytest.mark.parametrize(("wish", "moving"), [("reduce", False), ("no-preference", True)])
def test_cards_travel_unless_the_reader_wishes_less_motion(chapter, wish, moving):
    chapter.emulate_media(reduced_motion=wish)
    chapter.get_by_role("button", name="(1, 1)", exact=True).click()
    running = chapter.locator(".explorer").evaluate(
        """root => new Promise((done) => {
        root.querySelector(".presets button:last-child").click();
        requestAnimationFrame(() => done(root.getAnimations({ subtree: true }).length));
        })"""
    )
    assert (running > 0) == moving


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
    assert html.count('"query_scales"') == 1  # the state stands there once


@pytest.fixture
def serve(page, site, address):
    """Open the chapter's explorer on a bare page, its state changed by a function."""
    heard = watch(page, address)

    def open_changed(change):
        html = (site / CHAPTER).read_text(encoding="utf-8")
        state = json.loads(html.split('-state">')[1].split("</script>")[0])
        change(state["page"])
        head = "<!doctype html><html lang=en><meta charset=utf-8><title>.</title>"
        icon = "<link rel=icon href=data:,>"
        body = head + icon + element("explorer-x", state, "")
        page.route("**/bare.html", lambda route: route.fulfill(body=body, content_type="text/html"))
        page.goto(f"{address}/bare.html", wait_until="networkidle")
        return page

    yield open_changed
    assert heard == []


GAPS = "http://explorer.test"  # answered by the test itself: no site and no server are needed


@pytest.fixture(scope="module")
def gaps():
    """Query 0 has two candidates in its pool, none relevant; 1 has none in its pool; 2 has all."""
    model = build("tiny-vlm", r_q=3, r_c=5, dim=16, device="cpu").eval()
    task = load_task("handwriting", n_queries=8, n_train=0)
    wrong = np.flatnonzero((task.relevance[:3] == 0).all(axis=0))[:3]
    pool = np.ones(task.relevance.shape, dtype=bool)
    pool[0, wrong[2]] = False
    pool[1, wrong] = False
    mine = RetrievalTask("gaps", task.queries, task.candidates, task.relevance, pool=pool)
    return BudgetExplorer(model, mine, queries=3, candidates=wrong)


@pytest.fixture
def open_gaps(page, gaps):
    """Open the explorer of ``gaps`` at a query, nothing going wrong while a test drives it."""
    heard = watch(page, GAPS)

    def open_at(query, selection=None):
        gaps.query, gaps.selection = query, selection
        head = "<!doctype html><html lang=en><meta charset=utf-8><title>.</title>"
        body = f"{head}<link rel=icon href=data:,>{gaps.static_html()}"
        page.route(f"{GAPS}/", lambda route: route.fulfill(body=body, content_type="text/html"))
        page.goto(f"{GAPS}/", wait_until="networkidle")
        return page

    yield open_at
    assert heard == []


def test_a_query_with_nothing_to_rank_says_so_and_the_rest_works(open_gaps):
    page = open_gaps(1)
    expect(page.locator(".gap")).to_contain_text("Nothing to rank: this query has a candidate pool")
    expect(page.locator(".cards li")).to_have_count(0)
    expect(page.get_by_role("heading", name="Who matched whom")).to_be_hidden()
    expect(page.get_by_role("heading", name="Quality and cost")).to_be_visible()
    wait_for_announcement(page, "Nothing to rank: .* NDCG@5")
    before = figure(page, "per candidate")
    slider(page, "r_c").focus()
    page.keyboard.press("End")
    assert figure(page, "per candidate") != before
    page.get_by_role("button", name="Next query").click()
    expect(page.locator(".cards li")).to_have_count(3)
    expect(page.get_by_role("heading", name="Who matched whom")).to_be_visible()
    expect(page.locator(".pair")).to_contain_text("place 1")
    page.get_by_role("button", name="Previous query").click()
    expect(page.locator(".cards li")).to_have_count(0)
    assert "place 0" not in page.locator(".explorer").inner_text()


def test_a_query_without_a_relevant_candidate_says_so(open_gaps, gaps):
    page = open_gaps(0)
    note = "None of the 2 candidates ranked here is relevant to this query."
    expect(page.locator(".gap")).to_have_text(note)
    expect(page.locator(".cards li")).to_have_count(2)
    expect(page.locator(".mark:visible")).to_have_count(0)
    wait_for_announcement(page, f"Best: candidate .*, not relevant.*{note}")
    assert "First relevant" not in page.locator(".spoken").text_content()


def test_a_candidate_outside_of_the_pool_has_no_place(open_gaps, gaps):
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
def test_gaps_have_no_barriers_and_no_overflow(open_gaps, query, width, theme):
    page = open_gaps(query)
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("theme => (document.documentElement.dataset.theme = theme)", theme)
    page.wait_for_timeout(400)  # the cards have arrived
    photograph(page, f"gap-{query}-{theme}-{width}")
    assert barriers(page) == []
    assert overflow(page) == []


def test_a_hostile_caption_shows_as_text(serve):
    def bite(state):
        for item in (*state["queries"], *state["candidates"]):
            item["text"] = HOSTILE

    page = serve(bite)
    expect(page.locator(".cards .text").first).to_have_text(HOSTILE)
    expect(page.locator(".question .text")).to_have_text(HOSTILE)
    assert page.locator("img[onerror]").count() == 0
    assert page.evaluate("window.bitten") is None


def test_a_drag_is_drawn_to_trained_values_and_the_keys_go_between(serve):
    def lengthen(state):  # to 64 candidate vectors, a few pixels a step
        packed = np.frombuffer(base64.b64decode(state["vectors"]["candidates"]), np.int8)
        packed = np.tile(packed.reshape(-1, state["r_c"], state["dim"]), (1, 4, 1))
        scales = np.frombuffer(base64.b64decode(state["vectors"]["candidate_scales"]), "<f4")
        scales = np.tile(scales.reshape(-1, state["r_c"]), (1, 4))
        state["vectors"]["candidates"] = base64.b64encode(packed.tobytes()).decode()
        state["vectors"]["candidate_scales"] = base64.b64encode(scales.tobytes()).decode()
        for grid in (*state["quality"].values(), state["cost"]["score_ms"]):
            grid[:] = [row * 4 for row in grid]
        state.update(r_c=64, trained=[[1, 1], [4, 40], [8, 64]], attention=None)

    page = serve(lengthen)
    drag(page, "r_c", 38.9 / 63)
    assert read(page).budget[1] == 40
    drag(page, "r_c", 30 / 63)
    assert abs(read(page).budget[1] - 31) <= 1
    slider(page, "r_c").focus()
    page.keyboard.press("PageUp")
    page.keyboard.press("ArrowLeft")
    assert read(page).budget[1] == 39


def test_texts_are_listed_as_snippets(serve):
    def write(state):
        state["attention"] = None
        for item in state["candidates"]:
            item.update(
                image=None, text=f"def f(x):\n    return x + {item['id']}  # " + "long " * 40
            )

    page = serve(write)
    expect(page.locator(".cards.wide li")).to_have_count(10)
    assert page.locator(".cards img").count() == 0
    page.set_viewport_size({"width": 360, "height": 900})
    photograph(page, "snippets-360")
    assert overflow(page) == []
    page.set_viewport_size({"width": 820, "height": 900})
    photograph(page, "snippets")
    assert barriers(page) == []
