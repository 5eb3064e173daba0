"""Inputs: random and odd arguments of public functions, drawn by hypothesis."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from abuse.draws import ODD, draw
from abuse.score_inputs import metrics, odd_metrics, odd_scores, scores
from abuse.tally import Effort, Row
from abuse.things import BUDGETS, DIM, unit
from metaembed_lite import MetaIndex, recipes
from metaembed_lite.budget import Budget, as_budgets, rings
from metaembed_lite.data.image_folder import read_captions
from metaembed_lite.search_app.request import FIELDS, read_json, read_request


def abuse(effort: Effort, folder: Path) -> list[Row]:
    """20,000 examples in the long form."""
    return [
        scores(effort), odd_scores(effort), metrics(effort), odd_metrics(effort), budgets(effort),
        mutated_recipes(effort, folder), mutated_captions(effort, folder), requests(effort),
        odd_index_arguments(effort, folder),
    ]  # fmt: skip


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
