"""Measure how fast the explorer repaints in Chromium, and how large it is on a page.

    python benchmarks/explorer.py                 # or CHROME=/path/to/chromium python ...

The explorer has the size that it is meant for: 200 images with 64 vectors of 64 dimensions each,
and a query of 16 vectors. A slider is moved. The script measures the time from its input event
until the page has changed, and until the frame that shows the change is painted. It writes
``book/results/explorer.json``.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

import numpy as np
import torch
from playwright.sync_api import sync_playwright
from report import write
from tqdm import tqdm

from metaembed_lite import BudgetExplorer, build, load, load_task
from metaembed_lite.data import RetrievalTask
from metaembed_lite.evaluation import EncodedTask
from metaembed_lite.explorer.page import render_html
from metaembed_lite.explorer.state import PageState, build_state

CANDIDATES, R_Q, R_C, DIM = 200, 16, 64, 64
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
MOVES = 100
MOVE = """async (value) => {
  const root = document.querySelector("#bench").shadowRoot;
  const slider = root.querySelectorAll("input[type=range]")[value[0]];
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  await frame();
  slider.value = value[1];
  const start = performance.now();
  slider.dispatchEvent(new Event("input"));
  await null;  // the explorer paints in a microtask
  const changed = performance.now() - start;
  await frame();
  await new Promise((done) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = done;  // runs when the frame has been painted
    port2.postMessage(0);
  });
  return [changed, performance.now() - start];
}"""


def build_large_page(task: RetrievalTask) -> PageState:
    """The state of an explorer at the intended size, with random vectors.

    Random vectors are the hardest case for painting, because every budget gives another ranking.
    The state is built without a ``BudgetExplorer``, because it exceeds the size limit of a page.
    """
    generator = torch.Generator().manual_seed(0)
    encoded = EncodedTask(
        task,
        torch.randn(len(task.queries), R_Q, DIM, generator=generator),
        torch.randn(len(task.candidates), R_C, DIM, generator=generator),
    )
    model = build("tiny-vlm", r_q=R_Q, r_c=R_C, dim=DIM, device="cpu")
    return build_state(model, task, encoded, queries=4, candidates=range(CANDIDATES)).page


def measure_repaints(page_state: PageState) -> dict[str, Any]:
    """Milliseconds per slider move in Chromium, over many moves."""
    chromium = shutil.which(os.environ.get("CHROME", "chromium"))
    if chromium is None:
        raise SystemExit("no Chromium found: install it, or set CHROME=/path/to/chromium")
    state = {"page": page_state, "budget": [8, 16], "query": 0, "selection": None}
    rng = np.random.default_rng(1)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_content(f"<!doctype html><title>bench</title>{render_html('bench', state, '')}")
        page.wait_for_selector(".cards li")
        for _ in range(10):  # warms up the compiler and decodes the images
            page.evaluate(MOVE, [1, int(rng.integers(1, R_C + 1))])
        times = []
        for i in tqdm(range(MOVES), desc="moves"):
            most = (R_Q, R_C)[i % 2]
            times.append(page.evaluate(MOVE, [i % 2, int(rng.integers(1, most + 1))]))
        version = browser.version
        browser.close()
    changed, painted = np.array(times).T
    return {
        "chromium": version,
        "moves": MOVES,
        "changed_ms": {"median": round(float(np.median(changed)), 2), "p95": _p95(changed)},
        "painted_ms": {"median": round(float(np.median(painted)), 2), "p95": _p95(painted)},
    }


def _p95(values: np.ndarray) -> float:
    return round(float(np.quantile(values, 0.95)), 2)


def main() -> None:
    task = load_task("handwriting", n_queries=100, n_train=0)
    result = measure_repaints(build_large_page(task))
    explorer = BudgetExplorer(load("tiny-handwriting", device="cpu"), task)
    size = {"candidates": CANDIDATES, "r_q": R_Q, "r_c": R_C, "dim": DIM}
    html = explorer.static_html()
    result |= {"size": size, "handwriting_page_bytes": len(html.encode())}
    print(result)
    print("written:", write("explorer", result))


if __name__ == "__main__":
    main()
