"""Read and drive a BudgetExplorer in a browser as a person would; say what Python expects of it."""

import base64
import json
import re
from typing import NamedTuple

import numpy as np
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from metaembed_lite import maxsim

SLIDERS = {"r_q": "Query vectors r_q", "r_c": "Candidate vectors r_c"}


class Shown(NamedTuple):
    """What a reader sees: the budget, and the candidates' numbers with their scores."""

    budget: tuple[int, int]
    candidates: list[int]
    scores: list[float]


def slider(page: Page, side: str):
    return page.get_by_role("slider", name=SLIDERS[side])


def read(page: Page) -> Shown:
    cards = page.locator(".cards li")
    budget = tuple(int(slider(page, side).input_value()) for side in SLIDERS)
    numbers = cards.evaluate_all("cards => cards.map(card => Number(card.dataset.candidate))")
    scores = [float(text) for text in cards.locator(".score").all_inner_texts()]
    return Shown(budget, numbers, scores)


def figure(page: Page, name: str) -> str:
    return page.locator(".figures div", has_text=name).locator("dd").inner_text()


def drag(page: Page, side: str, share: float) -> None:
    """Move a slider by mouse to a share of its length."""
    slider(page, side).scroll_into_view_if_needed()
    box = slider(page, side).bounding_box()
    middle, thumb = box["y"] + box["height"] / 2, 16  # a thumb's center stays inside the track
    value = float(slider(page, side).input_value()) - 1
    most = float(slider(page, side).get_attribute("max")) - 1
    along = lambda s: box["x"] + thumb / 2 + s * (box["width"] - thumb)  # noqa: E731
    page.mouse.move(along(value / most), middle)
    page.mouse.down()
    page.mouse.move(along(share), middle, steps=5)
    page.mouse.up()


def state_on(page: Page) -> dict:
    """The state that a static page carries."""
    return json.loads(page.locator("script[id^=explorer-]").first.text_content())


class Expected:
    """Python's answers from the vectors that a page carries."""

    def __init__(self, page_state: dict) -> None:
        self.page = page_state
        packed = page_state["vectors"]
        self.queries = self._floats(packed["queries"], packed["query_scales"], page_state["r_q"])
        self.candidates = self._floats(
            packed["candidates"], packed["candidate_scales"], page_state["r_c"]
        )

    def _floats(self, values: str, scales: str, r: int) -> torch.Tensor:
        whole = np.frombuffer(base64.b64decode(values), np.int8).reshape(-1, r, self.page["dim"])
        scale = np.frombuffer(base64.b64decode(scales), "<f4").reshape(-1, r, 1)
        return torch.from_numpy(whole * scale)

    def scores(self, budget: tuple[int, int]) -> np.ndarray:
        return maxsim(self.queries, self.candidates, budget).numpy()

    def check(self, shown: Shown, query: int) -> None:
        """The list is Python's ten best, each with Python's score."""
        at = [q["id"] for q in self.page["queries"]].index(query)
        scores = self.scores(shown.budget)[at]
        places = {c["id"]: i for i, c in enumerate(self.page["candidates"])}
        own = [scores[places[number]] for number in shown.candidates]
        np.testing.assert_allclose(shown.scores, own, atol=1e-3)
        np.testing.assert_allclose(shown.scores, np.sort(scores)[::-1][: len(own)], atol=1e-3)

    def quality(self, budget: tuple[int, int]) -> str:
        return f"{self.page['quality']['ndcg_at_5'][budget[0] - 1][budget[1] - 1]:.3f}"


def barriers(page: Page) -> list[str]:
    """What axe-core objects to within the explorer."""
    host = page.locator(".explorer").first.evaluate("e => (e.getRootNode().host.dataset.axe = 1)")
    assert host == 1
    where, quiet = {"include": [["[data-axe]"]]}, {"preload": False}  # it would fetch style sheets
    found = Axe().run(page, context=where, options=quiet).response["violations"]
    return [f"{v['id']}: {v['help']}: {v['nodes'][0]['target']}" for v in found]


def overflow(page: Page) -> list[str]:
    """Parts of the explorer that stick out of it, or out of their own card or tile."""
    return page.locator(".explorer").first.evaluate(
        """root => {
        const parts = Array.from(root.querySelectorAll("*:not(.scroll *):not(.spoken)"));
        return parts.filter((part) => {
          const box = (part.closest(".cards button, .figures div, .target") ?? root);
          const [own, around] = [part.getBoundingClientRect(), box.getBoundingClientRect()];
          return own.width && (own.right > around.right + 1 || own.left < around.left - 1);
        }).map((part) => `${part.tagName} ${part.className}: ${part.textContent.slice(0, 40)}`);
        }"""
    )


def heat_map_is_sharp(page: Page) -> bool:
    """Whether the heat map has a pixel for each pixel of its place on the screen."""
    return page.locator("canvas").evaluate(
        "map => Math.abs(map.width - map.clientWidth * devicePixelRatio) <= 1"
    )


def wait_for_announcement(page: Page, words: str) -> None:
    expect(page.locator(".spoken")).to_contain_text(re.compile(words), timeout=5000)
