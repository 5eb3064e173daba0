"""Visual documents: pages with a title and a table, a bar chart, a line chart or a pie chart.

Every number on a page is computed from a real table that scikit-learn carries: iris, wine, breast
cancer, diabetes, Linnerud. A page shows one fact: a column of a table, in a section of its rows
(the wines of 13 to 13.3 % alcohol), in one form (its mean by class). A query asks for a fact in
words. Graded 2 are the pages that show just this fact, in whatever layout; graded 1 are the pages
that show the same column in the same section in another form; all else is graded 0.

The splits keep apart pairs of a column and a section, whatever the seed. So every word of a test
page occurs on training pages, but not its pair, and its numbers are of other rows or of another
column; a training page that would look like a test page of its quantity is left out. It cannot show
how a model reads words that it was never trained on, long text, photographs or scanning noise; nor
whether it can calculate, since a query is answered by the words on the page, which say what the
numbers are.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from metaembed_lite.data.pages.layout import LAYOUTS, SMALLEST, THEMES, Look, draw_page
from metaembed_lite.data.pages.tables import FORMS, numbers, sources
from metaembed_lite.data.rows import rows
from metaembed_lite.data.task import (
    RetrievalTask,
    check_sizes,
    check_split,
    split_rng,
    training_rng,
)

if TYPE_CHECKING:
    from datasets import Dataset

COLLECTIONS = {"tables": "table", "bars": "bar chart", "lines": "line chart", "pies": "pie chart"}
SPLITS = {"test": (0, 1), "validation": (2,), "train": (3, 4, 5, 6)}  # remainders, see pairs()
ALIKE = 0.05  # of a bar's height, a line's, or a pie: what differs less on average is the same
PAGES_A_FACT = 2  # candidates that show a fact, in different layouts
TEMPLATES = (
    "{what}, {where}",
    "{where}: {what}",
    "{what} ({where})",
    "{chart} of {what}, {where}",
    "show {what} for {where}",
)


Pair = tuple[str, str, int]  # a table, a column of it, a section of its rows


class Fact(NamedTuple):
    """What a page shows or a query asks for, as symbols: a form is an index into FORMS[kind]."""

    table: str
    column: str
    section: int
    form: int


def grade(asked: Fact, shown: Fact) -> int:
    """2: just what is asked; 1: its column and section in another form; 0: anything else."""
    return 2 if shown == asked else 1 if shown[:3] == asked[:3] else 0


@cache
def pairs(split: str) -> tuple[Pair, ...]:
    """A split's (table, column, section): as in a Latin square, so that each part is everywhere.

    The remainder of ``2 i + 3 j`` by 7, for column i and section j, decides; no seed does.
    """
    return tuple(
        (table, column, j)
        for table, source in sources().items()
        for i, column in enumerate(source.columns)
        for j in range(len(source.sections))
        if (2 * i + 3 * j) % 7 in SPLITS[split]
    )


def quantity(fact: Fact) -> tuple[str, str]:
    """A fact's table and column, "mean radius" and "worst radius" being one."""
    return fact.table, fact.column.removeprefix("mean ").removeprefix("worst ")


def shape(kind: str, fact: Fact) -> tuple[tuple[str, ...], np.ndarray]:
    """What a page's numbers look like: their labels, and 16 heights or shares in [0, 1]."""
    labels, values = zip(*numbers(*fact[:3], FORMS[kind][fact.form]), strict=True)
    seen = np.array(values, dtype=float)
    if kind == "lines":
        seen = (seen - seen.min()) / (np.ptp(seen) or 1)
        return ("",), np.interp(np.linspace(0, len(seen) - 1, 16), np.arange(len(seen)), seen)
    seen /= (seen.sum() if kind == "pies" else seen.max()) or 1
    return labels, np.resize(seen, 16)


@cache
def facts(kind: str, split: str) -> tuple[Fact, ...]:
    """A split's facts, less those that look like an earlier split's: quantity, form and shape.

    Raises:
        ValueError: on an unknown split.
    """
    check_split(split)
    held = tuple(Fact(*pair, form) for pair in pairs(split) for form in range(len(FORMS[kind])))
    looks: dict[tuple, list[np.ndarray]] = {}
    for earlier in list(SPLITS)[: list(SPLITS).index(split)]:
        for fact in facts(kind, earlier):
            labels, seen = shape(kind, fact)
            looks.setdefault((quantity(fact), fact.form, labels), []).append(seen)

    def is_new(fact: Fact) -> bool:
        labels, seen = shape(kind, fact)
        others = looks.get((quantity(fact), fact.form, labels), [])
        return all(np.abs(seen - other).mean() > ALIKE for other in others)

    return tuple(fact for fact in held if is_new(fact)) if looks else held


@cache
def near_misses(kind: str) -> dict[Fact, list[Fact]]:
    """Training facts, and for each the others of its form with its column or its section."""
    alike: dict[tuple, list[Fact]] = {}
    for fact in facts(kind, "train"):
        alike.setdefault((fact.table, fact.form), []).append(fact)
    found = {
        fact: [g for g in group if (g.column == fact.column) != (g.section == fact.section)]
        for group in alike.values()
        for fact in group
    }
    return {fact: others for fact, others in found.items() if others}


def said(kind: str, fact: Fact) -> dict[str, str]:
    """The words for a fact: section, column and form as a page has them, phrase for a query."""
    source, form = sources()[fact.table], FORMS[kind][fact.form]
    own = {"by": source.by, "stratum": source.stratum, "column": fact.column}
    return {
        "section": source.sections[fact.section],
        "column": fact.column,
        "form": form.title.format(**own),
        "phrase": form.phrase.format(**own),
    }


def describe(kind: str, fact: Fact, rng: np.random.Generator) -> str:
    """A query for a fact: "mean malic acid by class, wine, alcohol 13 to 13.3", or other words."""
    words = said(kind, fact)
    whats = (words["phrase"], f"{words['column']}, {words['form']}")
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(
        what=whats[rng.integers(2)],
        where=words["section"][0].lower() + words["section"][1:],
        chart=COLLECTIONS[kind],
    )


def draw(kind: str, fact: Fact, look: Look, pixels: int) -> Image.Image:
    """The page that shows a fact."""
    words = said(kind, fact)
    shown = numbers(*fact[:3], FORMS[kind][fact.form])
    titles = words["section"], words["column"], words["form"]
    return draw_page(kind, titles, shown, look, pixels)


def draw_looks(n: int, rng: np.random.Generator) -> list[Look]:
    """``n`` random looks in different layouts."""
    layouts = rng.permutation(len(LAYOUTS))[:n]
    return [Look(LAYOUTS[i], int(rng.integers(len(THEMES))), rng.random() < 0.5) for i in layouts]


def training_rows(collection: str, n: int, seed: int = 0, pixels: int = SMALLEST) -> Dataset:
    """``n`` rows (query, positive, negative): text, page that shows it, page of grade 0.

    The negative looks the same and has the same form; it shows either the same column of the table
    in another section, or another column in the same section.
    """
    rng = training_rng(seed, list(COLLECTIONS).index(collection))

    def examples() -> Iterator[tuple[str, Image.Image, Image.Image]]:
        found = list(near_misses(collection).items())
        for _ in range(n):
            fact, others = found[int(rng.integers(len(found)))]
            negative = others[int(rng.integers(len(others)))]
            (look,) = draw_looks(1, rng)
            yield (
                describe(collection, fact, rng),
                draw(collection, fact, look, pixels),
                draw(collection, negative, look, pixels),
            )

    return rows(examples())


def pages(
    collection: str = "tables",
    n_queries: int = 500,
    n_train: int = 4_000,
    seed: int = 0,
    split: str = "test",
    pixels: int = SMALLEST,
) -> RetrievalTask:
    """Text query to page image, over ``2 * n_queries`` candidates, with graded relevance.

    The queries ask for each form of randomly drawn pairs of a column and a section; two pages show
    each fact, in different layouts. So a query has 2 candidates of grade 2 and, for the other
    forms, up to 6 of grade 1.

    Args:
        collection: "tables", "bars", "lines" or "pies".
        n_queries: facts to ask for.
        n_train: training rows, of the train split's pairs.
        seed: of the draws; the splits are the same for every seed.
        split: "test", "validation" or "train".
        pixels: of a page's edge; what the page says does not depend on it.

    Raises:
        ValueError: on sizes below one, more queries than the split has facts, pages too small for
            their words, or an unknown collection or split.
    """
    check_sizes(n_queries, n_train)
    if collection not in COLLECTIONS:
        raise ValueError(f"unknown collection {collection!r}; choose from {', '.join(COLLECTIONS)}")
    if pixels < SMALLEST:
        raise ValueError(f"pixels={pixels}: letters could not be read; ask for {SMALLEST} or more")
    held = facts(collection, split)
    if n_queries > len(held):
        raise ValueError(
            f"n_queries={n_queries:,}: the {split} split has {len(held):,} facts to ask for; ask "
            "for that many or fewer"
        )
    rng = split_rng(seed, split, list(COLLECTIONS).index(collection))
    of_pair: dict[Pair, list[Fact]] = {}
    for fact in held:
        of_pair.setdefault(fact[:3], []).append(fact)
    drawn = [list(of_pair.values())[i] for i in rng.permutation(len(of_pair)).tolist()]
    asked = [fact for group in drawn for fact in group][:n_queries]
    looks = [(fact, look) for fact in asked for look in draw_looks(PAGES_A_FACT, rng)]
    return RetrievalTask(
        name=f"pages/{collection}",
        queries=[describe(collection, fact, rng) for fact in asked],
        candidates=[draw(collection, fact, look, pixels) for fact, look in looks],
        relevance=np.array(
            [[grade(fact, shown) for shown, _ in looks] for fact in asked], dtype=np.float32
        ),
        train=training_rows(collection, n_train, seed, pixels) if n_train else None,
        about=__doc__ or "",
    )
