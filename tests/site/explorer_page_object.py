"""A BudgetExplorer in a browser: read it, operate it, and compute what Python expects of it."""

import base64
import json
import re
from typing import NamedTuple

import numpy as np
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from metaembed_lite import maxsim

SLIDERS = {"r_q": "Query vectors r_q", "r_c": "Candidate vectors r_c"}


class Ranking(NamedTuple):
    """What a reader sees: the budget, and the best candidates (task indices) with scores."""

    budget: tuple[int, int]
    candidates: list[int]
    scores: list[float]


def find_slider(page: Page, side: str) -> Locator:
    return page.get_by_role("slider", name=SLIDERS[side])


def read_ranking(page: Page) -> Ranking:
    cards = page.locator(".cards li")
    budget = tuple(int(find_slider(page, side).input_value()) for side in SLIDERS)
    candidates = cards.evaluate_all("cards => cards.map(card => Number(card.dataset.candidate))")
    scores = [float(text) for text in cards.locator(".score").all_inner_texts()]
    return Ranking(budget, candidates, scores)


def read_figure(page: Page, name: str) -> str:
    return page.locator(".figures div", has_text=name).locator("dd").inner_text()


def drag_slider(page: Page, side: str, fraction: float) -> None:
    """Move a slider with the mouse to a fraction of its length."""
    slider = find_slider(page, side)
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    middle, thumb = box["y"] + box["height"] / 2, 16  # a thumb's center stays inside the track
    value = float(slider.input_value()) - 1
    most = float(slider.get_attribute("max")) - 1

    def to_x(fraction: float) -> float:
        return box["x"] + thumb / 2 + fraction * (box["width"] - thumb)

    page.mouse.move(to_x(value / most), middle)
    page.mouse.down()
    page.mouse.move(to_x(fraction), middle, steps=5)
    page.mouse.up()


def read_state(page: Page) -> dict:
    """The state that a static page contains."""
    return json.loads(page.locator("script[id^=explorer-]").first.text_content())


class Expected:
    """What Python computes from the vectors on a page."""

    def __init__(self, page_state: dict) -> None:
        self.page = page_state
        texts = page_state["vectors"]
        self.queries = self._dequantize(texts["queries"], texts["query_scales"], page_state["r_q"])
        self.candidates = self._dequantize(
            texts["candidates"], texts["candidate_scales"], page_state["r_c"]
        )

    def _dequantize(self, values: str, scales: str, r: int) -> torch.Tensor:
        int8 = np.frombuffer(base64.b64decode(values), np.int8).reshape(-1, r, self.page["dim"])
        scale = np.frombuffer(base64.b64decode(scales), "<f4").reshape(-1, r, 1)
        return torch.from_numpy(int8 * scale)

    def scores(self, budget: tuple[int, int]) -> np.ndarray:
        return maxsim(self.queries, self.candidates, budget).numpy()

    def check(self, ranking: Ranking, query: int) -> None:
        """Check that the ranking is Python's ten best, each with Python's score."""
        row = [q["id"] for q in self.page["queries"]].index(query)
        scores = self.scores(ranking.budget)[row]
        positions = {c["id"]: i for i, c in enumerate(self.page["candidates"])}
        expected = [scores[positions[candidate]] for candidate in ranking.candidates]
        np.testing.assert_allclose(ranking.scores, expected, atol=1e-3)
        best = np.sort(scores)[::-1][: len(expected)]
        np.testing.assert_allclose(ranking.scores, best, atol=1e-3)

    def quality(self, budget: tuple[int, int]) -> str:
        return f"{self.page['quality']['ndcg_at_5'][budget[0] - 1][budget[1] - 1]:.3f}"


def read_first_right(page: Page) -> str:
    return page.locator(".first strong").inner_text()


def find_crossed_labels(page: Page) -> list[str]:
    """Labels of the quality curve that a line, another label or the edge of the chart crosses."""
    return page.locator(".curve").evaluate(
        """chart => {
        const inside = ([x, y], box, slack = 0) => x > box.left - slack && y > box.top - slack &&
          x < box.right + slack && y < box.bottom + slack;
        const matrix = chart.getScreenCTM();
        const points = Array.from(chart.querySelectorAll(".nested, .between")).flatMap((path) =>
          Array.from({ length: 2001 }, (_, i) => {
            const at = path.getPointAtLength((i / 2000) * path.getTotalLength());
            const { x, y } = at.matrixTransform(matrix);
            return [x, y];
          }));
        const labels = Array.from(chart.querySelectorAll(".label"));
        const boxes = labels.map((label) => label.getBoundingClientRect());
        const edge = chart.getBoundingClientRect();
        return labels.filter((label, i) => {
          const { left, right, top, bottom } = boxes[i];
          const box = { left, right, top: top + 2, bottom: bottom - 2 };  // the letters
          const corners = [[left, top], [right, top], [left, bottom], [right, bottom]];
          return points.some((point) => inside(point, box)) ||
            boxes.some((other, j) => j !== i && corners.some((corner) => inside(corner, other))) ||
            corners.some((corner) => !inside(corner, edge, 2));
        }).map((label) => label.textContent);
        }"""
    )


def find_barriers(page: Page, instrument: str = ".explorer") -> list[str]:
    """Accessibility violations that axe-core finds in an instrument."""
    host = page.locator(instrument).first.evaluate("e => (e.getRootNode().host.dataset.axe = 1)")
    assert host == 1
    scope, options = {"include": [["[data-axe]"]]}, {"preload": False}  # preload fetches CSS files
    violations = Axe().run(page, context=scope, options=options).response["violations"]
    return [f"{v['id']}: {v['help']}: {v['nodes'][0]['target']}" for v in violations]


def find_overflow(page: Page, instrument: str = ".explorer") -> list[str]:
    """Parts of an instrument that extend beyond it, or beyond their card or tile."""
    return page.locator(instrument).first.evaluate(
        """root => {
        const parts = Array.from(root.querySelectorAll("*:not(.scroll *):not(.spoken)"));
        return parts.filter((part) => {
          const container = part.closest(".cards button, .figures div, .target") ?? root;
          const [inner, outer] = [part, container].map((node) => node.getBoundingClientRect());
          return inner.width && (inner.right > outer.right + 1 || inner.left < outer.left - 1);
        }).map((part) => `${part.tagName} ${part.className}: ${part.textContent.slice(0, 40)}`);
        }"""
    )


def heat_map_is_sharp(page: Page) -> bool:
    """Whether the heat map has one pixel per pixel of the screen."""
    return page.locator("canvas").evaluate(
        "map => Math.abs(map.width - map.clientWidth * devicePixelRatio) <= 1"
    )


def wait_for_announcement(page: Page, words: str) -> None:
    expect(page.locator(".spoken")).to_contain_text(re.compile(words), timeout=5000)
