"""mteb's own interface runs a built model at a budget; its scores are those of `sweep`."""

import json

import mteb
import pytest
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from metaembed_lite import Budget, load, load_task, sweep
from metaembed_lite.mteb_bridge import evaluate, wrap

SUITE = load_task("handwriting", n_queries=40, n_train=0)


class HandwritingBoards(AbsTaskRetrieval):
    """The handwriting suite as a task of mteb, in two subsets, from memory alone."""

    metadata = TaskMetadata(
        name="HandwritingBoards", description="Boards of scanned digits.", type="Any2AnyRetrieval",
        category="t2i", modalities=["text", "image"], eval_splits=["test"],
        eval_langs={"even": ["eng-Latn"], "odd": ["eng-Latn"]}, main_score="hit_rate_at_1",
        dataset={"path": "local/handwriting", "revision": "1"}, date=("1998-01-01", "1998-12-31"),
        domains=["Written"], task_subtypes=[], license="not specified", dialect=[],
        annotations_creators="derived", sample_creation="found", bibtex_citation="", reference=None,
    )  # fmt: skip

    def load_data(self, **kwargs):
        boards = Dataset.from_dict(
            {"id": [f"d{j}" for j in range(len(SUITE.candidates))], "image": SUITE.candidates}
        )
        self.dataset = {}
        for name, first in (("even", 0), ("odd", 1)):
            picked = range(first, len(SUITE.queries), 2)
            relevant = {
                f"q{i}": {f"d{j}": 1 for j in SUITE.relevance[i].nonzero()[0]} for i in picked
            }
            queries = Dataset.from_dict(
                {"id": [f"q{i}" for i in picked], "text": [SUITE.queries[i] for i in picked]}
            )
            split = RetrievalSplitData(
                corpus=boards, queries=queries, relevant_docs=relevant, top_ranked=None
            )
            self.dataset[name] = {"test": split}
        self.data_loaded = True


@pytest.fixture(scope="module")
def model():
    return load("tiny", device="cpu")


def test_scores_at_a_budget_are_those_of_sweep_and_both_means_are_named(model, tmp_path):
    budgets = [Budget(1, 1), Budget(4, 8)]
    table = evaluate(model, [HandwritingBoards()], budgets, tmp_path / "results")
    ours = sweep(model, SUITE, budgets)
    for row, budget in enumerate(budgets):
        of_budget = table[(table.r_q == budget.r_q) & (table.r_c == budget.r_c)]
        assert set(of_budget.subset) == {"even", "odd", ""}
        means = of_budget[of_budget.subset == ""].set_index("task").main_score
        assert set(means.index) == {"mean over tasks", "mean over subsets"}
        assert means["mean over subsets"] == pytest.approx(ours.p_at_1[row], abs=1e-6)
    files = sorted((tmp_path / "results").rglob("HandwritingBoards.json"))
    assert len(files) == 2, "each budget has results of its own, in mteb's format"
    found = mteb.TaskResult.model_validate(json.loads(files[0].read_text()))
    assert found.task_name == "HandwritingBoards"


def test_the_wrapped_model_gives_prefixes_and_refuses_what_it_has_not(model):
    with pytest.raises(ValueError, match="r_c <= 16"):
        wrap(model, Budget(8, 17))


@pytest.mark.parametrize("budget", [(2, 4), "2x4", Budget(2, 4)])
def test_a_budget_may_be_written_as_for_sweep(model, budget):
    assert wrap(model, budget).mteb_model_meta.name == "local/model-2x4"


@pytest.mark.parametrize("budgets", [[], {(1, 1)}, 5, [(1, 99)], [5]])
def test_budgets_that_cannot_be_met_are_refused_before_anything_is_encoded(model, budgets):
    with pytest.raises(ValueError, match="budget"):
        evaluate(model, [HandwritingBoards()], budgets)


def test_an_unknown_benchmark_is_named(model):
    with pytest.raises(ValueError, match="'ViDoRe of the moon'"):
        evaluate(model, "ViDoRe of the moon")


def test_the_names_of_published_benchmarks_are_known():
    from metaembed_lite.mteb_bridge import _tasks

    assert len(_tasks("ViDoRe(v2)")) == 4
    assert len(_tasks("Vidore2ESGReportsRetrieval")) == 1
