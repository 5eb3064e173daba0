"""Inputs: random and odd arguments of public functions, drawn by hypothesis."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abuse.tally import Effort, Row
from abuse.things import BUDGETS, DIM, unit
from metaembed_lite import MetaIndex, maxsim, recipes
from metaembed_lite.budget import Budget, as_budgets, rings
from metaembed_lite.data.image_folder import read_captions
from metaembed_lite.data.task import RetrievalTask
from metaembed_lite.evaluation import mrr_at_10, ndcg_at_5, precision_at_1
from metaembed_lite.search_app.request import FIELDS, read_json, read_request

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
WHOLE = [torch.int8, torch.uint8, torch.int16, torch.int32]

# What a user may pass by accident, or on purpose.
ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, float("nan"), float("inf"), 1e300, 10**30, 1 + 2j, "", "4x8",
    "0x1", "nan", "\ud800", b"4x8", [], [[]], [1], (4, 8), (0, 1), (1.0, 2.0), [(2, 4), (1, 1)],
    {}, {4, 8}, {"r_q": 4}, object(), len, range(2), np.array([4, 8]), np.zeros((0, 3)),
    np.ma.masked_array([1.0, 2.0], [True, False]), np.array(["a", None], dtype=object),
    torch.tensor([1, 2]), torch.zeros(2, 2), torch.zeros(1, 2, 3), torch.full((2, 2), torch.nan),
    torch.zeros(2, 2).to_sparse(), torch.zeros(2, 2, device="meta"), torch.zeros(2, 2) > 0,
    torch.zeros(2, 2, dtype=torch.complex64), Path("4x8"), slice(1, 2), type("Odd", (), {}),
]  # fmt: skip


def draw(n: int, strategy: Any, body: Callable[[Any], None]) -> None:
    """Call ``body`` on ``n`` examples. The same ones in every run."""

    @settings(
        max_examples=n, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def run(example: Any) -> None:
        body(example)

    run()


def abuse(effort: Effort, folder: Path) -> list[Row]:
    """20,000 examples in the long form."""
    return [
        scores(effort), odd_scores(effort), metrics(effort), odd_metrics(effort), budgets(effort),
        mutated_recipes(effort, folder), mutated_captions(effort, folder), requests(effort),
        odd_index_arguments(effort, folder),
    ]  # fmt: skip


# maxsim


def maxsim_cases() -> Any:
    """Shapes, types, layouts, masks and budgets of a call of maxsim."""
    return st.fixed_dictionaries(
        {
            "n_q": st.integers(1, 4), "n_c": st.integers(1, 40), "r_q": st.integers(1, 5),
            "r_c": st.integers(1, 6), "dim": st.integers(1, 9), "seed": st.integers(0, 2**31),
            "q_type": st.sampled_from(FLOATS + WHOLE), "c_type": st.sampled_from(FLOATS + WHOLE),
            "scale": st.sampled_from([1.0, 1e-4, 100.0]), "turned": st.booleans(),
            "as_list": st.booleans(), "q_mask": st.booleans(), "c_mask": st.booleans(),
            "budget": st.none() | st.tuples(st.integers(1, 5), st.integers(1, 6)),
            "poison": st.booleans(),
        }
    )  # fmt: skip


def make_maxsim(case: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | None]:
    """The arguments, and what float64 loops give. None if the budget is too large."""
    rng = np.random.default_rng(case["seed"])
    budget = case["budget"] or (case["r_q"], case["r_c"])
    sides, masks = [], []
    for n, r, kind, used in (
        (case["n_q"], case["r_q"], case["q_type"], budget[0]),
        (case["n_c"], case["r_c"], case["c_type"], budget[1]),
    ):
        values = rng.normal(size=(n, r, case["dim"])) * case["scale"]
        values = np.abs(values).clip(max=100) if kind in WHOLE else values
        tensor = torch.from_numpy(values).to(kind)
        if case["poison"] and kind in FLOATS and case["budget"]:
            tensor[:, used:] = torch.nan  # beyond the budget nothing is read
        if case["turned"]:
            tensor = tensor.transpose(0, 2).contiguous().transpose(0, 2)
        mask = torch.from_numpy(rng.random((n, r)) < 0.7)
        mask[:, 0] = True
        sides.append(tensor)
        masks.append(mask)
    arguments = {
        "queries": list(sides[0]) if case["as_list"] else sides[0], "candidates": sides[1],
        "budget": case["budget"],
        "query_mask": masks[0] if case["q_mask"] else None,
        "candidate_mask": masks[1] if case["c_mask"] else None,
    }  # fmt: skip
    if budget[0] > case["r_q"] or budget[1] > case["r_c"]:
        return arguments, None
    return arguments, score_by_loops(sides, arguments, budget)


def score_by_loops(sides: list[Any], arguments: dict[str, Any], budget: Any) -> np.ndarray:
    """MaxSim from its definition, in float64."""
    queries, candidates = (side.double().numpy() for side in sides)
    scores = np.zeros((len(queries), len(candidates)))
    q_mask, c_mask = arguments["query_mask"], arguments["candidate_mask"]
    for q, query in enumerate(queries):
        for c, candidate in enumerate(candidates):
            for i in range(budget[0]):
                if q_mask is not None and not q_mask[q, i]:
                    continue
                kept = [j for j in range(budget[1]) if c_mask is None or c_mask[c, j]]
                scores[q, c] += max(float(query[i] @ candidate[j]) for j in kept)
    return scores


def tolerance(case: dict[str, Any], expected: np.ndarray) -> float:
    """Half-precision inputs are exact in float32, so only sums and products round."""
    kinds = {case["q_type"], case["c_type"]}
    exact = kinds <= set(WHOLE) or torch.float64 in {case["q_type"]}
    largest = float(np.abs(expected).max()) + case["scale"] ** 2 * case["dim"] * case["r_q"] * 10
    return (1e-12 if exact and torch.float32 not in kinds else 2e-6) * largest


def scores(effort: Effort) -> Row:
    """maxsim against loops in float64."""
    row = Row("maxsim against float64 loops: types, layouts, masks, budgets, NaN beyond them", 8000)

    def body(case: dict[str, Any]) -> None:
        arguments, expected = make_maxsim(case)
        if expected is None:
            row.attempt(str(case), lambda: maxsim(**arguments), names=["budget"])
            return
        near = tolerance(case, expected)
        row.attempt(
            str(case), lambda: maxsim(**arguments),
            is_right=lambda s: bool(np.abs(s.double().numpy() - expected).max() <= near),
        )  # fmt: skip

    draw(effort.count(row.planned, 150), maxsim_cases(), body)
    return row


def odd_scores(effort: Effort) -> Row:
    """maxsim with an odd value in one place: refused by name, or finite scores."""
    row = Row("maxsim with an odd argument", 700)
    places = ("queries", "candidates", "budget", "query_mask", "candidate_mask", "products")

    def body(case: tuple[str, Any, float]) -> None:
        place, odd, scale = case
        arguments: dict[str, Any] = {
            "queries": unit(2, 3, 4) * scale, "candidates": unit(5, 4, 4), place: odd,
        }  # fmt: skip
        row.attempt(
            f"{place}={odd!r:.80}, scale {scale}", lambda: maxsim(**arguments),
            is_right=lambda s: s.ndim == 2 and bool(torch.isfinite(s).all()),
            names=[place, "budget", "scores", "score of", "mask"],
        )  # fmt: skip

    strategy = st.tuples(
        st.sampled_from(places), st.sampled_from(ODD), st.sampled_from([1.0, 1e30, 1e-40])
    )
    draw(effort.count(row.planned, 200), strategy, body)
    return row


# Metrics


def naive_metrics(s: np.ndarray, grades: np.ndarray, pool: np.ndarray) -> dict[str, float]:
    """P@1, MRR@10 and NDCG@5 by loops and sorting. Ties as the docstrings have them."""
    p, mrr, ndcg = [], [], []
    for scores, grade, inside in zip(s, grades, pool, strict=True):
        ranked = [(scores[j], grade[j]) for j in range(len(scores)) if inside[j]]
        right = [score for score, g in ranked if g > 0]
        wrong = [score for score, g in ranked if g == 0]
        best = max(right, default=None)
        p.append(best is not None and all(best > score for score in wrong))
        rank = 1 + sum(score >= best for score in wrong) if best is not None else 11
        mrr.append(1 / rank if rank <= 10 else 0)
        ideal = sum(g / np.log2(i + 2) for i, g in enumerate(sorted(grade, reverse=True)[:5]))
        gain, place = 0.0, 0
        for score in sorted({score for score, _ in ranked}, reverse=True):
            tied = [g for other, g in ranked if other == score]
            for i in range(place, min(place + len(tied), 5)):
                gain += np.mean(tied) / np.log2(i + 2)
            place += len(tied)
        ndcg.append(gain / ideal if ideal > 0 else 0)
    means = {"p": p, "mrr": mrr, "ndcg": ndcg}
    return {name: float(np.mean(values)) for name, values in means.items()}


METRICS = {"p": precision_at_1, "mrr": mrr_at_10, "ndcg": ndcg_at_5}
GRADE_TYPES = (np.float64, np.float32, np.uint8, np.int8, np.int64)


def metrics(effort: Effort) -> Row:
    """Three metrics on random scores with ties, grades of all types, and pools."""
    row = Row("P@1, MRR@10 and NDCG@5 against naive loops: ties, grades of 5 types, pools", 4000)

    def body(case: tuple[int, int, int, Any, Any, bool]) -> None:
        n_q, n_c, seed, kind, score_type, has_pool = case
        rng = np.random.default_rng(seed)
        s = rng.integers(0, 12, (n_q, n_c)).astype(score_type)
        grades = rng.integers(0, 3, (n_q, n_c)).astype(kind)
        pool = rng.random((n_q, n_c)) < 0.7 if has_pool else np.ones((n_q, n_c), bool)
        expected = naive_metrics(s.astype(float), grades.astype(float), pool)
        row.attempt(
            str(case),
            lambda: {name: f(s, grades, pool if has_pool else None) for name, f in METRICS.items()},
            is_right=lambda got: all(abs(got[name] - expected[name]) < 1e-9 for name in expected),
        )

    strategy = st.tuples(
        st.integers(1, 4), st.integers(1, 15), st.integers(0, 2**31),
        st.sampled_from(GRADE_TYPES), st.sampled_from([np.float32, np.float64, np.int32]),
        st.booleans(),
    )  # fmt: skip
    draw(effort.count(row.planned, 60), strategy, body)
    return row


def odd_metrics(effort: Effort) -> Row:
    """Odd scores, grades and pools, also as a task."""
    row = Row("metrics and tasks with an odd argument", 500)

    def body(case: tuple[str, str, Any]) -> None:
        name, place, odd = case
        arguments = {
            "scores": np.eye(2),
            "relevance": np.eye(2),
            "pool": np.ones((2, 2)),
            place: odd,
        }
        words = [place, "queries", "candidates"]
        if name == "task":
            del arguments["scores"]
            arguments = {"queries": ["a", "b"], "candidates": ["c", "d"], **arguments}
            row.attempt(
                f"{name}: {place}={odd!r:.80}",
                lambda: RetrievalTask("odd", **arguments),
                is_right=lambda task: task.relevance.shape == (2, 2), names=words,
            )  # fmt: skip
            return
        row.attempt(
            f"{name}: {place}={odd!r:.80}", lambda: METRICS[name](**arguments),
            is_right=lambda value: 0 <= value <= 1, names=words,
        )  # fmt: skip

    strategy = st.one_of(
        st.tuples(
            st.sampled_from(list(METRICS)), st.sampled_from(["scores", "relevance", "pool"]),
            st.sampled_from(ODD),
        ),
        st.tuples(
            st.just("task"), st.sampled_from(["queries", "candidates", "relevance", "pool"]),
            st.sampled_from(ODD),
        ),
    )  # fmt: skip
    draw(effort.count(row.planned, 150), strategy, body)
    return row


# Budgets, recipes, captions, requests


def budgets(effort: Effort) -> Row:
    """Anything as a budget: budgets that keep the numbers and their order, or a refusal."""
    row = Row("anything as a budget", 2000)
    numbers = st.integers(-3, 70) | st.sampled_from(ODD)
    value = st.one_of(
        st.sampled_from(ODD), st.text(max_size=12), st.lists(numbers, max_size=3),
        st.tuples(numbers, numbers), st.lists(st.tuples(numbers, numbers), max_size=3),
        st.builds("{}x{}".format, st.integers(-2, 10**10), st.integers(-2, 99)),
    )  # fmt: skip

    def is_right(value: Any, got: tuple[Budget, ...]) -> bool:
        counted = all(type(b.r_q) is int and b.r_q > 0 < b.r_c for b in got)
        return counted and as_budgets(list(got)) == got and as_budgets(str(got[0])) == got[:1]

    def body(value: Any) -> None:
        row.attempt(
            f"{value!r:.80}", lambda: as_budgets(value), is_right=partial(is_right, value),
            names=["budget"],
        )  # fmt: skip
        row.attempt(
            f"rings of {value!r:.80}", lambda: rings(value),
            is_right=lambda slices: all(ring.start <= ring.stop for ring in slices),
            names=["budget"],
        )  # fmt: skip

    draw(effort.count(row.planned // 2, 100), value, body)
    return row


def mutated_recipes(effort: Effort, folder: Path) -> Row:
    """The text of a recipe with random bytes replaced, and YAML that asks for objects."""
    row = Row("recipes of mutated YAML", 2000)
    good = (recipes.FOLDER / "tiny.yaml").read_bytes()
    file, marker = folder / "mutated.yaml", folder / "yaml has run code"
    pieces = [
        b"!!python/object/apply:os.mkdir ['%s']" % str(marker).encode(), b"\xff", b"\x00", b"\t",
        b"{", b"]", b": :", b"&a *a", b"2020-13-45", b"1e999", b"-", b"'", b"null", b"\xe2\x80\xa8",
        b"<<: *b", b"!!set {a, b}", b"[1x1, 2x4", b"0x", b"steps: .nan",
    ]  # fmt: skip

    def body(case: tuple[int, int, bytes]) -> None:
        place, cut, piece = case
        place %= len(good)
        file.write_bytes(good[:place] + piece + good[place + cut :])
        row.attempt(
            f"{piece!r} at {place}, {cut} cut", lambda: recipes.read(file),
            is_right=lambda recipe: set(recipe.model) <= set(read_keys(file)),
            names=[str(file)],
        )  # fmt: skip

    strategy = st.tuples(
        st.integers(0, 10**6), st.integers(0, 30), st.sampled_from(pieces) | st.binary(max_size=6)
    )
    draw(effort.count(row.planned, 80), strategy, body)
    row.check("!!python tags", not marker.exists(), "a tag has run code")
    return row


def read_keys(file: Path) -> set[str]:
    """Words of a file that may be keys."""
    return set(file.read_text(encoding="utf-8", errors="replace").replace(":", " ").split())


def mutated_captions(effort: Effort, folder: Path) -> Row:
    """captions.csv of any bytes. What is read must be what Python's csv module reads."""
    row = Row("captions.csv of any bytes, against Python's csv module", 1500)
    file = folder / "captions.csv"

    def is_right(table: Any) -> bool:
        text = file.read_bytes().decode("utf-8-sig")
        oracle = csv.DictReader(io.StringIO(text, newline=""))
        return table.to_numpy().tolist() == [[r["image"], r["text"]] for r in oracle]

    def body(content: bytes) -> None:
        file.write_bytes(content)
        row.attempt(
            f"{content!r:.120}", lambda: read_captions(file, "image", "text"),
            is_right=is_right, names=[str(file)],
        )  # fmt: skip

    cell = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
        ["a.png", "NA", "null", '"', '"a\nb"', "a,b", '"a,b"', "=1+1", " ", "\x00", "\r"]
    )
    lines = st.lists(st.tuples(cell, cell).map(",".join), max_size=4)
    table = lines.map(lambda rows: "\n".join(["image,text", *rows]).encode())
    content = st.one_of(table, st.binary(max_size=60), table.map(lambda data: data + b"\xff"))
    draw(effort.count(row.planned, 60), content, body)
    return row


def requests(effort: Effort) -> Row:
    """Requests to the search app: any JSON, and any value in any field."""
    row = Row("fields of a search request", 1000)
    values = st.sampled_from(
        [v for v in ODD if v is None or isinstance(v, str | int | float | list)]
    )
    values |= st.text(max_size=10) | st.lists(st.text(max_size=4), max_size=3)
    fields = st.dictionaries(st.sampled_from([*FIELDS, "odd"]), values, max_size=4)

    def body(case: dict[str, Any] | bytes) -> None:
        if isinstance(case, bytes):
            row.attempt(
                f"{case!r:.80}", lambda: read_json(case),
                is_right=lambda fields: isinstance(fields, dict), names=["the body", "image"],
            )  # fmt: skip
            return
        row.attempt(
            f"{case!r:.120}", lambda: read_request(case),
            is_right=lambda wanted: wanted.k == int(case.get("k", 10)),
            names=[*case, "query", "text", "prefetch"],
        )  # fmt: skip

    draw(effort.count(row.planned, 80), fields | st.binary(max_size=20), body)
    return row


def odd_index_arguments(effort: Effort, folder: Path) -> Row:
    """Writes and searches of an index with an odd argument. The index must stay as it was."""
    row = Row("index: writes and searches with an odd argument", 300)
    index = MetaIndex.create(folder / "odd-index", DIM, BUDGETS)
    index.add(["a", "b"], unit(2, 6, DIM), {"year": [2019, 2021]})
    before = index.ids()
    calls: dict[str, Callable[[Any], Any]] = {
        "ids": lambda odd: index.add(odd, unit(2, 6, DIM)),
        "embeddings": lambda odd: index.add(["x", "y"], odd),
        "metadata": lambda odd: index.add(["x", "y"], unit(2, 6, DIM), odd),
        "query": lambda odd: index.search(odd),
        "k": lambda odd: index.search(unit(4, DIM), k=odd),
        "budget": lambda odd: index.search(unit(4, DIM), budget=odd),
        "prefetch": lambda odd: index.search(unit(4, DIM), prefetch=odd),
        "where": lambda odd: index.search(unit(4, DIM), where=odd),
        "nprobes": lambda odd: index.search(unit(4, DIM), nprobes=odd),
        "id": lambda odd: index.get(odd),
        "column": lambda odd: index.get(["a"], odd),
        "deleted": lambda odd: index.delete(odd),
        "dim": lambda odd: MetaIndex.create(folder / "new", odd, BUDGETS),
        "budgets": lambda odd: MetaIndex.create(folder / "new", DIM, odd),
        "dtype": lambda odd: MetaIndex.create(folder / "new", DIM, BUDGETS, odd),
        "rows": lambda odd: list(index.batches(odd)),
        "n": lambda odd: index.head(odd),
    }  # fmt: skip

    def body(case: tuple[str, Any]) -> None:
        place, odd = case
        words = {"ids": ["id"], "deleted": ["id"], "column": ["column"], "metadata": ["metadata"]}
        row.attempt(
            f"{place}={odd!r:.80}", lambda: calls[place](odd),
            is_right=lambda answer: answer is None or len(answer) >= 0,
            names=words.get(place, [place, "budget", "quer", "exists", "holds an index"]),
        )  # fmt: skip
        if place == "metadata" and index.ids() != before:  # none at all is allowed
            index.delete(["x", "y"])
        row.check(f"{place}={odd!r:.80}", index.ids() == before, "the index has changed")

    draw(
        effort.count(row.planned // 2, 40),
        st.tuples(st.sampled_from([*calls]), st.sampled_from(ODD)),
        body,
    )
    return row
