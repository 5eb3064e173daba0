"""mteb runs a model at a budget through its own interface, with the scores of `sweep`."""

import json

import mteb
import pandas as pd
import pytest
import torch
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from metaembed_lite import Budget, load, load_task, mteb_bridge, sweep
from metaembed_lite.mteb_bridge import BudgetEncoder, evaluate, revision, wrap

SUITE = load_task("handwriting", n_queries=40, n_train=0)


class HandwritingBoards(AbsTaskRetrieval):
    """The handwriting suite as a task of mteb, in two subsets, without files."""

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


class OtherBoards(HandwritingBoards):
    metadata = HandwritingBoards.metadata.model_copy(update={"name": "OtherBoards"})


@pytest.fixture(scope="module")
def model():
    return load("tiny-handwriting", device="cpu")


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
    assert len(files) == 2, "each budget has separate results, in mteb's format"
    result = mteb.TaskResult.model_validate(json.loads(files[0].read_text()))
    assert result.task_name == "HandwritingBoards"


FOUR = [(1, 1), "2x4", Budget(4, 8), "(8, 16)"]


@pytest.fixture
def encoded(model, monkeypatch):
    """What the model was asked to encode: one entry per item."""
    items = []
    for name in ("encode_query", "encode_document"):
        encode = getattr(model, name)

        def count(inputs, *args, encode=encode, **kwargs):
            items.extend(inputs)
            return encode(inputs, *args, **kwargs)

        monkeypatch.setattr(model, name, count)
    return items


def test_every_input_is_encoded_once_for_all_budgets(model, encoded):
    table = evaluate(model, [HandwritingBoards()], FOUR)
    inputs = len(SUITE.queries) + 2 * len(SUITE.candidates)  # both subsets have all the boards
    assert len(encoded) == inputs
    ours = sweep(model, SUITE, FOUR)
    means = table[table.task == "mean over subsets"]
    assert means.main_score.to_list() == pytest.approx(ours.p_at_1.to_list(), abs=1e-5)
    assert means.bytes_per_candidate.to_list() == ours.bytes_per_candidate.to_list()
    assert list(zip(means.r_q, means.r_c, strict=True)) == [(1, 1), (2, 4), (4, 8), (8, 16)]


def test_embeddings_do_not_outlive_their_task(model, monkeypatch):
    cached_tasks = []
    encode = BudgetEncoder.encode

    def look(self, inputs, **kwargs):
        result = encode(self, inputs, **kwargs)
        cached_tasks.append({key[0] for key in self.cache})
        return result

    monkeypatch.setattr(BudgetEncoder, "encode", look)
    evaluate(model, [HandwritingBoards(), OtherBoards()], FOUR[:2])
    assert cached_tasks[0] == {"HandwritingBoards"}
    assert cached_tasks[-1] == {"OtherBoards"}


def test_finished_tasks_are_not_run_again_and_damaged_ones_are(model, encoded, tmp_path):
    first = evaluate(model, [HandwritingBoards()], FOUR[:2], tmp_path)
    count = len(encoded)
    assert count
    pd.testing.assert_frame_equal(evaluate(model, [HandwritingBoards()], FOUR[:2], tmp_path), first)
    assert len(encoded) == count
    files = sorted(tmp_path.rglob("HandwritingBoards.json"))
    whole = files[0].read_text()
    for damage in ("", whole[: len(whole) // 2], "{}"):
        files[0].write_text(damage)
        again = evaluate(model, [HandwritingBoards()], FOUR[:2], tmp_path)
        pd.testing.assert_frame_equal(again, first)
    assert len(encoded) == 4 * count


def test_a_run_that_was_cut_off_continues_with_the_next_task(model, encoded, tmp_path, monkeypatch):
    def fail(self, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr(OtherBoards, "load_data", fail)
        with pytest.raises(KeyboardInterrupt):
            evaluate(model, [HandwritingBoards(), OtherBoards()], FOUR[:2], tmp_path)
    count = len(encoded)
    table = evaluate(model, [HandwritingBoards(), OtherBoards()], FOUR[:2], tmp_path)
    assert len(encoded) == 2 * count
    assert set(table.task) >= {"HandwritingBoards", "OtherBoards"}


def test_results_of_another_revision_of_the_data_are_not_used(model, encoded, tmp_path):
    evaluate(model, [HandwritingBoards()], FOUR[:1], tmp_path)
    count = len(encoded)
    newer = HandwritingBoards()
    newer.metadata = newer.metadata.model_copy(
        update={"dataset": {"path": "local/handwriting", "revision": "2"}}
    )
    evaluate(model, [newer], FOUR[:1], tmp_path)
    assert len(encoded) == 2 * count


def test_results_of_another_model_of_the_same_name_are_not_used(model, encoded, tmp_path):
    evaluate(model, [HandwritingBoards()], FOUR[:1], tmp_path)
    other = load("tiny-handwriting", device="cpu")
    assert wrap(other, (1, 1)).mteb_model_meta.revision == revision(model)
    with torch.no_grad():
        next(p for name, p in other.named_parameters() if "lora_B" in name).add_(0.5)
    assert revision(other) != revision(model)
    evaluate(other, [HandwritingBoards()], FOUR[:1], tmp_path)
    assert len(list(tmp_path.rglob("HandwritingBoards.json"))) == 2
    shorter = load("tiny-handwriting", device="cpu")
    shorter.max_seq_length = 100
    assert revision(shorter) != revision(model)


def test_mteb_gets_the_size_of_the_model_and_its_kinds_of_input(model):
    for budget in ((1, 1), "1x1", Budget(1, 1)):
        meta = wrap(model, budget, name="/home/me/runs/mine").mteb_model_meta
        assert meta.name == "runs/mine-1x1"
    assert meta.n_parameters == sum(p.numel() for p in model.parameters())
    assert meta.modalities == ["text", "image"]


def test_a_budget_beyond_the_model_and_tasks_without_two_sides_are_refused(model):
    with pytest.raises(ValueError, match="r_c <= 16"):
        wrap(model, Budget(8, 17))
    with pytest.raises(ValueError, match="r_q <= 8"):
        evaluate(model, [HandwritingBoards()], ["9x9"])
    with pytest.raises(ValueError, match="no budgets"):
        evaluate(model, [HandwritingBoards()], [])
    with pytest.raises(ValueError, match="'STS12' encodes inputs that are neither"):
        wrap(model, (1, 1)).encode(
            [], task_metadata=mteb.get_task("STS12").metadata, hf_split="test", hf_subset="default"
        )


def test_scores_in_blocks_and_in_pairs_equal_maxsim(model, monkeypatch):
    torch.manual_seed(0)
    queries, documents = torch.randn(5, 2, 8), torch.randn(5, 3, 8)
    want = [[sum((d @ q_i).max() for q_i in q) for d in documents] for q in queries]
    monkeypatch.setattr(mteb_bridge, "BLOCK_VALUES", 48)  # two documents
    ours = wrap(model, (1, 1))
    torch.testing.assert_close(ours.similarity(queries, documents), torch.tensor(want))
    pairs = ours.similarity_pairwise(queries, documents)
    torch.testing.assert_close(pairs, torch.tensor(want).diagonal())


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
