"""Visual documents: text queries, and pages that show statistics of scikit-learn's tables."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from PIL import Image

from metaembed_lite.data.pages.charts import THEMES
from metaembed_lite.data.pages.layout import LAYOUTS, MIN_PAGE_PX, Style, compose_page
from metaembed_lite.data.pages.tables import STATISTICS, compute_numbers, load_tables
from metaembed_lite.data.rows import rows_from_examples
from metaembed_lite.data.task import (
    RetrievalTask,
    check_sizes,
    check_split,
    split_rng,
    training_rng,
)

ABOUT = """\
Visual documents: pages with a title and a table, a bar chart, a line chart or a pie chart.

Every number on a page is computed from a real table that scikit-learn includes: iris, wine, breast
cancer, diabetes, Linnerud. A page shows one fact: a statistic (the mean by class) of one column of
a table, in one section of its rows (the wines of 13 to 13.3 % alcohol). A query names a fact in
words. Pages that show exactly this fact have grade 2, in every layout. Pages that show another
statistic of the same column in the same section have grade 1. All other pages have grade 0.

The splits separate pairs of a column and a section, and do not depend on the seed. Every word of a
test page occurs on training pages, but its pair does not. A training page that would look like a
test page of the same quantity is left out. The suite cannot show how a model reads unknown words,
long text, photographs or scanning noise. Nor can it show whether a model can calculate, because the
words on a page say what its numbers are.
"""
COLLECTIONS = {"tables": "table", "bars": "bar chart", "lines": "line chart", "pies": "pie chart"}
REMAINDERS = {"test": (0, 1), "validation": (2,), "train": (3, 4, 5, 6)}  # see list_pairs
# Two charts count as equal if their average difference is smaller than this. It is relative to the
# height of a bar or a line, or to a whole pie.
MIN_DIFFERENCE = 0.05
PAGES_PER_FACT = 2  # candidates that show one fact, in different layouts
TEMPLATES = (
    "{what}, {where}",
    "{where}: {what}",
    "{what} ({where})",
    "{chart} of {what}, {where}",
    "show {what} for {where}",
)

Pair = tuple[str, str, int]  # a table, a column of it, a section of its rows


class Fact(NamedTuple):
    """What a page shows or a query names, as symbols.

    Attributes:
        table: the table's name, such as "wine".
        column: such as "malic acid".
        section: an index into the table's sections.
        statistic: an index into ``STATISTICS[collection]``.

    Example:
        >>> Fact("wine", "malic acid", 4, 0).column
        'malic acid'
    """

    table: str
    column: str
    section: int
    statistic: int


def grade(query_fact: Fact, page_fact: Fact) -> int:
    """Grade a page: 2 for the requested fact, 1 for another statistic of its pair, else 0.

    Example:
        >>> fact = Fact("wine", "malic acid", 4, 0)
        >>> [grade(fact, page) for page in (fact, fact._replace(statistic=1))]
        [2, 1]
        >>> grade(fact, fact._replace(section=5))
        0
    """
    return 2 if page_fact == query_fact else 1 if page_fact[:3] == query_fact[:3] else 0


@cache
def list_pairs(split: str) -> tuple[Pair, ...]:
    """List a split's (table, column, section), as in a Latin square.

    The remainder of ``2 i + 3 j`` modulo 7, for column i and section j, decides the split. So every
    column and every section occurs in every split, whatever the seed.

    Example:
        >>> list_pairs("test")[0]
        ('iris', 'sepal width', 0)
    """
    return tuple(
        (name, column, j)
        for name, table in load_tables().items()
        for i, column in enumerate(table.columns)
        for j in range(len(table.sections))
        if (2 * i + 3 * j) % 7 in REMAINDERS[split]
    )


def name_quantity(fact: Fact) -> tuple[str, str]:
    """Name a fact's table and quantity. "mean radius" and "worst radius" are one quantity.

    Example:
        >>> name_quantity(Fact("breast_cancer", "worst radius", 0, 0))
        ('breast_cancer', 'radius')
    """
    return fact.table, fact.column.removeprefix("mean ").removeprefix("worst ")


def outline_chart(collection: str, fact: Fact) -> tuple[tuple[str, ...], np.ndarray]:
    """Outline what a chart looks like: its labels, and 16 heights or shares in [0, 1].

    Example:
        >>> labels, heights = outline_chart("bars", Fact("wine", "malic acid", 4, 0))
        >>> labels, heights.shape
        (('class 0', 'class 1', 'class 2'), (16,))
    """
    numbers = compute_numbers(*fact[:3], STATISTICS[collection][fact.statistic])
    labels, values = zip(*numbers, strict=True)
    heights = np.array(values, dtype=float)
    if collection == "lines":
        heights = (heights - heights.min()) / (np.ptp(heights) or 1)
        positions = np.linspace(0, len(heights) - 1, 16)
        return ("",), np.interp(positions, np.arange(len(heights)), heights)
    heights /= (heights.sum() if collection == "pies" else heights.max()) or 1
    return labels, np.resize(heights, 16)


@cache
def list_facts(collection: str, split: str) -> tuple[Fact, ...]:
    """List a split's facts, without those that look like an earlier split's.

    Two facts look the same if they have the same quantity and statistic, and almost the same
    outline.

    Raises:
        ValueError: on an unknown split.

    Example:
        >>> len(list_facts("tables", "test"))
        700
    """
    check_split(split)
    n_statistics = len(STATISTICS[collection])
    facts = tuple(Fact(*pair, i) for pair in list_pairs(split) for i in range(n_statistics))
    outlines: dict[tuple, list[np.ndarray]] = {}
    for earlier in list(REMAINDERS)[: list(REMAINDERS).index(split)]:
        for fact in list_facts(collection, earlier):
            labels, heights = outline_chart(collection, fact)
            outlines.setdefault((name_quantity(fact), fact.statistic, labels), []).append(heights)

    def is_new(fact: Fact) -> bool:
        labels, heights = outline_chart(collection, fact)
        others = outlines.get((name_quantity(fact), fact.statistic, labels), [])
        return all(np.abs(heights - other).mean() > MIN_DIFFERENCE for other in others)

    return tuple(fact for fact in facts if is_new(fact)) if outlines else facts


@cache
def find_hard_negatives(collection: str) -> dict[Fact, list[Fact]]:
    """Find, for each training fact, the others that differ from it in column or section only.

    They have the same table and statistic, and either the same column or the same section.

    Example:
        >>> fact, others = next(iter(find_hard_negatives("pies").items()))
        >>> {grade(fact, other) for other in others}
        {0}
    """
    peers: dict[tuple, list[Fact]] = {}
    for fact in list_facts(collection, "train"):
        peers.setdefault((fact.table, fact.statistic), []).append(fact)
    negatives = {
        fact: [o for o in others if (o.column == fact.column) != (o.section == fact.section)]
        for others in peers.values()
        for fact in others
    }
    return {fact: others for fact, others in negatives.items() if others}


def write_captions(collection: str, fact: Fact) -> dict[str, str]:
    """Write the words for a fact.

    Returns:
        section, column and statistic as a page shows them, and the phrase that a query may use.

    Example:
        >>> captions = write_captions("bars", Fact("wine", "malic acid", 4, 0))
        >>> captions["section"], captions["phrase"]
        ('Wine, alcohol 13 to 13.3', 'mean malic acid by class')
    """
    table, statistic = load_tables()[fact.table], STATISTICS[collection][fact.statistic]
    names = {"by": table.by, "stratum": table.stratum, "column": fact.column}
    return {
        "section": table.sections[fact.section],
        "column": fact.column,
        "statistic": statistic.title.format(**names),
        "phrase": statistic.phrase.format(**names),
    }


def sample_query(collection: str, fact: Fact, rng: np.random.Generator) -> str:
    """Sample one of the wordings of a query for a fact.

    Example:
        >>> sample_query("bars", Fact("wine", "malic acid", 4, 0), np.random.default_rng(0))
        'show malic acid, mean by class for wine, alcohol 13 to 13.3'
    """
    captions = write_captions(collection, fact)
    phrases = (captions["phrase"], f"{captions['column']}, {captions['statistic']}")
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(
        what=phrases[rng.integers(2)],
        where=captions["section"][0].lower() + captions["section"][1:],
        chart=COLLECTIONS[collection],
    )


def render_page(collection: str, fact: Fact, style: Style, pixels: int) -> Image.Image:
    """Render the page that shows a fact, RGB.

    Example:
        >>> fact = Fact("wine", "malic acid", 4, 0)
        >>> render_page("bars", fact, Style("top", 0, variant=False), 96).size
        (96, 96)
    """
    captions = write_captions(collection, fact)
    numbers = compute_numbers(*fact[:3], STATISTICS[collection][fact.statistic])
    words = captions["section"], captions["column"], captions["statistic"]
    return compose_page(collection, words, numbers, style, pixels)


def sample_styles(n: int, rng: np.random.Generator) -> list[Style]:
    """Sample ``n`` styles with different layouts.

    Example:
        >>> len({style.layout for style in sample_styles(3, np.random.default_rng(0))})
        3
    """
    layouts = rng.permutation(len(LAYOUTS))[:n]
    return [Style(LAYOUTS[i], int(rng.integers(len(THEMES))), rng.random() < 0.5) for i in layouts]


def training_rows(collection: str, n: int, seed: int = 0, pixels: int = MIN_PAGE_PX) -> Dataset:
    """Sample ``n`` rows (query, positive, negative): text, page that shows it, page of grade 0.

    The negative has the same style and statistic. It shows either the same column in another
    section of the table, or another column in the same section.

    Example:
        >>> training_rows("pies", 1).column_names
        ['query', 'positive', 'negative']
    """
    rng = training_rng(seed, list(COLLECTIONS).index(collection))

    def sample_examples() -> Iterator[tuple[str, Image.Image, Image.Image]]:
        negatives = list(find_hard_negatives(collection).items())
        for _ in range(n):
            fact, others = negatives[int(rng.integers(len(negatives)))]
            negative = others[int(rng.integers(len(others)))]
            (style,) = sample_styles(1, rng)
            yield (
                sample_query(collection, fact, rng),
                render_page(collection, fact, style, pixels),
                render_page(collection, negative, style, pixels),
            )

    return rows_from_examples(sample_examples())


def load_pages(
    collection: str = "tables",
    n_queries: int = 500,
    n_train: int = 4_000,
    seed: int = 0,
    split: str = "test",
    pixels: int = MIN_PAGE_PX,
) -> RetrievalTask:
    """Load the task: text query to page image, over ``2 * n_queries`` candidates, graded.

    The queries name each statistic of randomly sampled pairs of a column and a section. Two
    pages show each fact, in different layouts. So a query has 2 candidates of grade 2 and, for the
    other statistics, up to 6 of grade 1.

    Args:
        collection: "tables", "bars", "lines" or "pies".
        n_queries: number of queries, one per fact.
        n_train: number of training rows, from the pairs of the train split.
        seed: random seed of the sampling. The splits are the same for every seed. Defaults to 0.
        split: "train", "validation" or "test".
        pixels: edge of a page. The content does not depend on it.

    Raises:
        ValueError: on fewer than one query, a negative ``n_train``, or more queries than the split
            has facts. Also on pages too small for their words, or an unknown collection or split.

    Example:
        >>> load_pages("bars", n_queries=4, n_train=0)
        RetrievalTask('pages/bars': 4 queries, 8 candidates, 0 training rows)
    """
    check_sizes(n_queries, n_train)
    if collection not in COLLECTIONS:
        raise ValueError(f"unknown collection {collection!r}; choose from {', '.join(COLLECTIONS)}")
    if pixels < MIN_PAGE_PX:
        raise ValueError(
            f"pixels={pixels}: letters would not be readable; use {MIN_PAGE_PX} or more"
        )
    split_facts = list_facts(collection, split)
    if n_queries > len(split_facts):
        raise ValueError(
            f"n_queries={n_queries:,}: the {split} split has {len(split_facts):,} facts; "
            f"use at most {len(split_facts):,}"
        )
    rng = split_rng(seed, split, list(COLLECTIONS).index(collection))
    facts_of_pair: dict[Pair, list[Fact]] = {}
    for fact in split_facts:
        facts_of_pair.setdefault(fact[:3], []).append(fact)
    groups = list(facts_of_pair.values())
    order = rng.permutation(len(groups)).tolist()
    facts = [fact for i in order for fact in groups[i]][:n_queries]
    pages = [(fact, style) for fact in facts for style in sample_styles(PAGES_PER_FACT, rng)]
    return RetrievalTask(
        name=f"pages/{collection}",
        queries=[sample_query(collection, fact, rng) for fact in facts],
        candidates=[render_page(collection, fact, style, pixels) for fact, style in pages],
        relevance=np.array(
            [[grade(fact, page_fact) for page_fact, _ in pages] for fact in facts],
            dtype=np.float32,
        ),
        train=training_rows(collection, n_train, seed, pixels) if n_train else None,
        about=ABOUT,
    )
