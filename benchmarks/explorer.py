"""How fast the explorer repaints in Chromium, and how large it is on a page.

    python benchmarks/explorer.py                 # or CHROME=/path/to/chromium python ...

A slider is moved at the size that the budget explorer is meant for: 200 pictures with 64 vectors of
64 dimensions each, a query of 16 vectors. Measured from the slider's input event, both until the
page is changed and until the frame that shows it is painted. Writes ``book/results/explorer.json``.
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

from metaembed_lite import PAPER_BUDGETS, BudgetExplorer, load, load_task
from metaembed_lite.data import RetrievalTask
from metaembed_lite.explorer.page import element
from metaembed_lite.explorer.state import Int8Vectors, shown, text64

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


def large_page(task: RetrievalTask) -> dict[str, Any]:
    """The state of an explorer at the intended size: real pictures, random vectors."""
    random = torch.Generator().manual_seed(0)
    queries = Int8Vectors.of(torch.randn(4, R_Q, DIM, generator=random))
    candidates = Int8Vectors.of(torch.randn(CANDIDATES, R_C, DIM, generator=random))
    maps = np.random.default_rng(0).integers(0, 256, CANDIDATES * R_C * 9, dtype=np.uint8)
    grids = [[9 * R_C * i, 3, 3] for i in range(CANDIDATES)]
    grid = [[0.5] * R_C] * R_Q
    return {
        "task": "benchmark", "about": "Random vectors.", "dim": DIM, "r_q": R_Q, "r_c": R_C,
        "trained": [[b.r_q, b.r_c] for b in PAPER_BUDGETS],
        "queries": [shown(task.queries[i], i) for i in range(4)],
        "candidates": [shown(task.candidates[i], i) for i in range(CANDIDATES)],
        "relevant": [[i] for i in range(4)],
        "excluded": None,
        "vectors": {
            "queries": text64(queries.values), "query_scales": text64(queries.scales),
            "candidates": text64(candidates.values), "candidate_scales": text64(candidates.scales),
        },
        "attention": {"maps": text64(maps), "grids": grids},
        "quality": {"p_at_1": grid, "ndcg_at_5": grid},
        "cost": {"encode_query_ms": 1, "score_ms": grid, "measured_candidates": 1, "where": "-"},
    }  # fmt: skip


def repaints(page_state: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of many slider moves in Chromium."""
    chromium = shutil.which(os.environ.get("CHROME", "chromium"))
    if chromium is None:
        raise SystemExit("no Chromium: install one, or name it with CHROME=/path/to/chromium")
    state = {"page": page_state, "budget": [8, 16], "query": 0, "selection": None}
    draws = np.random.default_rng(1)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_content(f"<!doctype html><title>bench</title>{element('bench', state, '')}")
        page.wait_for_selector(".cards li")
        for _ in range(10):  # the compiler warms up, the pictures are decoded
            page.evaluate(MOVE, [1, int(draws.integers(1, R_C + 1))])
        times = []
        for i in tqdm(range(MOVES), desc="moves"):
            most = (R_Q, R_C)[i % 2]
            times.append(page.evaluate(MOVE, [i % 2, int(draws.integers(1, most + 1))]))
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
    result = repaints(large_page(task))
    explorer = BudgetExplorer(load("tiny", device="cpu"), task)
    size = {"candidates": CANDIDATES, "r_q": R_Q, "r_c": R_C, "dim": DIM}
    html = explorer.static_html()
    result |= {"size": size, "handwriting_page_bytes": len(html.encode())}
    print(result)
    print("wrote", write("explorer", result))


if __name__ == "__main__":
    main()
