"""Training rows in every form that users have: converted, or refused with the reason."""

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, IterableDataset
from PIL import Image

from metaembed_lite import build, train
from metaembed_lite.data.rows import check_rows

PICTURES = [Image.effect_noise((48, 48), 20 + 9 * i).convert("RGB") for i in range(4)]
RECORDS = [{"query": f"picture {i}", "positive": picture} for i, picture in enumerate(PICTURES)]


def pixels(dataset):
    return [np.asarray(picture.convert("RGB")) for picture in dataset["positive"]]


@pytest.mark.parametrize(
    "rows",
    [RECORDS, pd.DataFrame(RECORDS), {k: [r[k] for r in RECORDS] for k in RECORDS[0]}],
    ids=["list of dicts", "DataFrame", "dict of lists"],
)
def test_records_become_a_dataset_and_train(rows):
    (dataset,) = check_rows(rows, 4).values()
    assert dataset.column_names == ["query", "positive"]
    assert dataset["query"][:] == [f"picture {i}" for i in range(4)]
    for stored, picture in zip(pixels(dataset), PICTURES, strict=True):
        np.testing.assert_array_equal(stored, np.asarray(picture))
    model = build(r_q=2, r_c=4, lora_rank=2, dim=8, device="cpu")
    curve = train(model, rows, steps=1, batch_size=4, log_steps=1)
    assert curve.loss.notna().all()


def test_columns_are_put_in_order():
    rows = Dataset.from_list(
        [{"negative": "c", "positive": "b", "query": "a", "negative_2": "d"}] * 4
    )
    (ordered,) = check_rows(rows, 4).values()
    assert ordered.column_names == ["query", "positive", "negative", "negative_2"]
    assert ordered[0] == {"query": "a", "positive": "b", "negative": "c", "negative_2": "d"}


def test_several_named_sets_stay_separate():
    part = Dataset.from_list([{"query": "a", "positive": "b"}] * 4)
    sets = {"one": part, "two": pd.DataFrame([{"query": "a", "positive": "b"}] * 4)}
    sets["three"] = [{"query": "a", "positive": "b"}] * 4
    assert list(check_rows(sets, 4)) == ["one", "two", "three"]


@pytest.mark.parametrize("form", ["numpy", "pandas", "torch"])
def test_the_format_of_a_dataset_does_not_matter(form):
    rows = Dataset.from_list([{"query": "a", "positive": "b"}] * 4)
    (plain,) = check_rows(rows.with_format(form), 4).values()
    assert plain[0] == {"query": "a", "positive": "b"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "the task: 0 training rows for batches of 2"),
        ([], "0 training rows"),
        (RECORDS[:1], "1 training rows for batches of 2"),
        ({}, "the mapping of names to Datasets is empty"),
        ("captions.csv", "training rows are a str: give a Dataset, a DataFrame or a list"),
        (7, "training rows are a int"),
        ([{"query": "a", "positive": "b", "label": 1}] * 2, "leave out label"),
        (Dataset.from_list([{"query": "a", "positive": "b", "id": 3}] * 2), "leave out id"),
        ([{"query": "a", "image": "b"}] * 2, r"expected query, positive.*leave out image"),
        ([{"query": "a"}] * 2, "expected query, positive"),
        (
            Dataset.from_list([{"query": "a", "positive": "b", "negative": ["c", "d"]}] * 2),
            r"column 'negative' holds lists: spread them.*negative_1",
        ),
        ([{"query": "a", "positive": "b", "negative": ["c"]}] * 2, "row 0, column 'negative'"),
        ([{"query": "a", "positive": 3}] * 2, "row 0, column 'positive'.*int is not an item"),
        ([RECORDS[0], {"query": "a", "positive": None}], "row 1, column 'positive'"),
        ([RECORDS[0], {"query": "a", "positive": "b", "negative": "c"}], "row 1 has the columns"),
        ({"query": ["a", "b"], "positive": ["c"]}, "columns of different lengths"),
        (
            IterableDataset.from_generator(lambda: iter(())),
            "an IterableDataset has no length.*from_generator",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_rows_that_cannot_be_trained_on_are_refused_with_the_reason(rows, message):
    with pytest.raises(ValueError, match=message):
        check_rows(rows, 2)
