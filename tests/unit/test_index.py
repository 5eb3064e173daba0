"""An index ranks as brute force does, after any sequence of writes, and reads only its budget."""

import json
import tempfile

import lancedb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from qdrant_client import QdrantClient, models
from search import peak_memory

from metaembed_lite import MetaIndex, load, maxsim
from metaembed_lite.index import columns as index_columns
from metaembed_lite.index.columns import RingColumns
from metaembed_lite.index.fingerprint import fingerprint
from metaembed_lite.index.qdrant import search_qdrant

BUDGETS = [(1, 1), (2, 3), (4, 6)]
DIM = 16


def unit(*shape, seed=0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


def exact(query, vectors, budget):
    """MaxSim of one query with each candidate by its definition, in float64."""
    q, c = np.float64(query)[: budget[0]], np.float64(vectors)[:, : budget[1]]
    return np.einsum("qd,ncd->nqc", q, c).max(axis=2).sum(axis=1)


def names(n, start=0):
    return [f"c{i}" for i in range(start, start + n)]


@pytest.fixture
def index(tmp_path):
    filled = MetaIndex.create(tmp_path / "index", DIM, BUDGETS)
    filled.add(
        names(300), unit(300, 6, DIM), {"year": range(2000, 2300), "even": [True, False] * 150}
    )
    return filled


class Writes(RuleBasedStateMachine):
    """Random writes on an index and on a dict. Both must answer alike."""

    ids = st.integers(0, 30).map("c{}".format)
    seeds = st.integers(0, 1000)

    @initialize(dtype=st.sampled_from(["float32", "float16"]))
    def start(self, dtype):
        self.folder = tempfile.TemporaryDirectory()
        self.index = MetaIndex.create(f"{self.folder.name}/index", DIM, BUDGETS, dtype)
        self.tolerance = 1e-5 if dtype == "float32" else 4e-3
        self.stored = {}

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule(ids=st.lists(ids, min_size=1, max_size=8, unique=True), seed=seeds)
    def add(self, ids, seed):
        vectors = unit(len(ids), 6, DIM, seed=seed)
        if self.stored.keys() & set(ids):
            with pytest.raises(ValueError, match="is in the index: use upsert"):
                self.index.add(ids, vectors)
        else:
            self.index.add(ids, vectors, {"seed": [seed] * len(ids)})
            self.stored |= dict(zip(ids, vectors, strict=True))

    @rule(ids=st.lists(ids, min_size=1, max_size=8, unique=True), seed=seeds)
    def upsert(self, ids, seed):
        vectors = unit(len(ids), 6, DIM, seed=seed)
        self.index.upsert(ids, vectors)
        self.stored |= dict(zip(ids, vectors, strict=True))

    @rule(ids=st.lists(ids, min_size=1, max_size=4, unique=True))
    def delete(self, ids):
        if set(ids) <= self.stored.keys():
            self.index.delete(ids)
            for name in ids:
                del self.stored[name]
        else:
            with pytest.raises(ValueError, match="nothing was deleted"):
                self.index.delete(ids)

    @rule()
    def optimize(self):
        self.index.optimize()

    @rule()
    def reopen(self):
        self.index = MetaIndex.open(self.index.path, dim=DIM, budgets=BUDGETS)

    @rule(seed=seeds, r_q=st.integers(1, 4), r_c=st.integers(1, 6), k=st.integers(1, 40))
    def search(self, seed, r_q, r_c, k):
        query = unit(4, DIM, seed=seed)
        results = self.index.search(query, k, (r_q, r_c))
        assert len(results) == min(k, len(self.stored))
        if self.stored:
            vectors = torch.stack(list(self.stored.values()))
            scores = dict(zip(self.stored, exact(query, vectors, (r_q, r_c)), strict=True))
            expected = sorted(scores.values(), reverse=True)[:k]
            np.testing.assert_allclose(results.score, expected, atol=self.tolerance)
            of_ids = [scores[name] for name in results.id]
            np.testing.assert_allclose(results.score, of_ids, atol=self.tolerance)

    @invariant()
    def nothing_is_lost(self):
        if hasattr(self, "index"):
            assert len(self.index) == len(self.stored)
            self.index.check()


TestWrites = Writes.TestCase
TestWrites.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)


@pytest.mark.parametrize("budget", [(1, 1), (2, 3), (3, 2), (4, 6)])
def test_a_batch_of_queries_ranks_as_maxsim_does(index, budget):
    queries = unit(7, 4, DIM, seed=1)
    results = index.search_batch(queries, k=5, budget=budget)
    stored = unit(300, 6, DIM).half()
    scores, best = maxsim(queries, stored, budget).topk(5)
    np.testing.assert_allclose(results.score, scores.flatten(), atol=1e-6)
    assert list(results.year - 2000) == best.flatten().tolist()
    assert list(results["query"]) == sorted([*range(7)] * 5)


@pytest.mark.parametrize("prefetch", [(), [((1, 1), 50)]])
def test_a_mean_score_is_the_score_divided_by_the_query_vectors_of_the_budget(index, prefetch):
    query = unit(1, 4, DIM, seed=1)[0]
    total = index.search(query, 5, (3, 2), prefetch=prefetch)
    mean = index.search(query, 5, (3, 2), prefetch=prefetch, reduce="mean")
    assert mean.id.tolist() == total.id.tolist()
    np.testing.assert_allclose(mean.score, total.score / 3)
    with pytest.raises(ValueError, match="reduce='max'"):
        index.search(query, reduce="max")


def test_equal_scores_keep_the_order_in_which_candidates_were_added(tmp_path):
    index = MetaIndex.create(tmp_path / "index", DIM, BUDGETS)
    same = unit(1, 6, DIM).expand(20, 6, DIM)
    index.add(names(20), same)
    assert list(index.search(unit(4, DIM), 7).id) == names(7)


@pytest.mark.parametrize(("dtype", "rescore", "value_bytes"), [
    ("float32", None, 4), ("float16", None, 2), ("int8", None, 1), ("binary", None, 1 / 8),
])  # fmt: skip
def test_a_search_reads_the_rings_of_its_budget_and_no_other(tmp_path, dtype, rescore, value_bytes):
    index = MetaIndex.create(tmp_path / "index", DIM, BUDGETS, dtype, rescore=rescore)
    index.add(names(50), unit(50, 6, DIM))
    for r_c, ring_end in [(1, 1), (2, 3), (3, 3), (4, 6), (6, 6)]:
        scales = ring_end * 4 if dtype == "int8" else 0
        expected = 50 * (ring_end * DIM * value_bytes + scales)
        stats = index.search(unit(4, DIM), 3, (4, r_c)).attrs["stats"]
        assert stats["bytes_read"] == expected == 50 * index.columns.bytes_per_candidate(r_c)


def test_the_operating_system_reads_no_more_than_the_counted_bytes(tmp_path):
    index = MetaIndex.create(tmp_path / "index", 64, [(1, 1), (4, 16)])
    index.add(names(4000), unit(4000, 16, 64))

    def bytes_of_process():
        with open("/proc/self/io") as file:
            return int(dict(line.split(": ") for line in file)["rchar"])

    query = unit(4, 64)
    index.search(query, 3, (1, 1))  # LanceDB caches what it knows of the columns
    for budget in [(1, 1), (4, 16)]:
        before = bytes_of_process()
        stats = index.search(query, 3, budget).attrs["stats"]
        read = bytes_of_process() - before
        assert stats["bytes_read"] <= read < stats["bytes_read"] + 300_000


@pytest.mark.parametrize(("dtype", "tolerance"), [("int8", 0.03), ("binary", 1.2)])
def test_quantized_scores_are_near_and_rescored_ones_exact(tmp_path, dtype, tolerance):
    vectors = unit(200, 6, DIM)
    query = vectors[17, :4] + 0.1 * unit(4, DIM, seed=3)
    expected = exact(query, vectors, (4, 6))
    plain = MetaIndex.create(tmp_path / "plain", DIM, BUDGETS, dtype)
    plain.add(names(200), vectors)
    result = plain.search(query, 1)
    assert abs(result.score[0] - expected[int(result.id[0][1:])]) < tolerance
    both = MetaIndex.create(tmp_path / "both", DIM, BUDGETS, dtype, rescore="float16")
    both.add(names(200), vectors)
    both.check()
    result = both.search(query, 3)
    assert result.id[0] == "c17"
    np.testing.assert_allclose(result.score[0], expected[17], atol=4e-3)
    stages = result.attrs["stats"]["stages"]
    assert [stage["candidates"] for stage in stages] == [200, 12]


@pytest.mark.parametrize("dtype", index_columns.STORED)
def test_what_is_stored_decodes_to_what_was_given(dtype):
    columns = RingColumns(DIM, ((1, 1), (2, 1), (2, 3), (4, 6)), dtype)
    vectors = unit(9, 6, DIM)
    batch = pa.table(columns.encode(vectors), schema=columns.schema)
    decoded = torch.cat([part.float() for part in columns.decode(batch, 6)], dim=1)
    if dtype == "binary":
        assert torch.equal(decoded > 0, vectors > 0)
        torch.testing.assert_close(decoded.norm(dim=2), torch.ones(9, 6))
    else:
        step = {"float32": 0, "float16": 2**-11, "int8": vectors.abs().max() / 254}[dtype]
        assert (decoded - vectors).abs().max() <= step
    assert sum(array.nbytes for array in batch.columns) == 9 * columns.bytes_per_candidate(6)


def test_a_cascade_that_keeps_everything_ranks_as_the_exact_search(index):
    query = unit(4, DIM, seed=5)
    full = index.search(query, 10)
    cascade = index.search(query, 10, prefetch=[((1, 1), 300), ((2, 3), 300)])
    assert list(cascade.id) == list(full.id)
    np.testing.assert_allclose(cascade.score, full.score, atol=1e-6)
    narrow = index.search(query, 10, prefetch=[((1, 1), 40)]).attrs["stats"]
    assert [s["candidates"] for s in narrow["stages"]] == [300, 40]
    assert narrow["bytes_read"] == 300 * 2 * DIM + 40 * 6 * 2 * DIM


def test_a_filter_keeps_the_rows_that_pandas_keeps(index):
    query = unit(4, DIM, seed=6)
    everything = index.search(query, 300)
    expected = everything[(everything.year > 2100) & everything.even]
    kept = index.search(query, 300, where="year > 2100 AND even")
    pd.testing.assert_frame_equal(kept, expected.reset_index(drop=True))
    assert index.search(query, 5, where="year > 9999").empty


def test_the_ann_index_finds_what_the_exact_search_finds(tmp_path):
    index = MetaIndex.create(tmp_path / "index", DIM, BUDGETS)
    vectors = unit(2000, 6, DIM)
    index.add(names(2000), vectors)
    index.build_ann()
    queries = torch.nn.functional.normalize(
        vectors[:50, :4] + 0.2 * unit(50, 4, DIM, seed=9), dim=2
    )
    found = index.search_batch(queries, 1, prefetch=[((1, 1), 100)], nprobes=1000)
    assert (found.id == index.search_batch(queries, 1).id).mean() >= 0.98
    one = index.search(queries[0], 3, (1, 1), nprobes=1000)
    exact_scores = index.search(queries[0], 2000, (1, 1)).set_index("id").score
    np.testing.assert_allclose(one.score, exact_scores[one.id], atol=2e-3)


def test_an_index_of_a_model_takes_its_vectors_only(tmp_path):
    tiny, twin = load("tiny", device="cpu"), load("tiny-no-mmr", device="cpu")
    index = MetaIndex.create(
        tmp_path / "index", 128, [(1, 1), (8, 16)], model=tiny, model_name="tiny"
    )
    texts = ["violin", "red apple", "sleeping face"]
    index.add_from(
        tiny, texts, metadata=pd.DataFrame({"text": texts}), batch_size=2, progress=False
    )
    query = tiny.encode_query(["violin"])[0]
    expected = maxsim(query[None], tiny.encode_document(texts))[0]
    results = MetaIndex.open(tmp_path / "index", model=tiny).search(query, 3)
    assert list(results.text) == [texts[i] for i in expected.argsort(descending=True)]
    assert list(results.id) == [str(texts.index(text)) for text in results.text]
    with pytest.raises(ValueError, match=f"model {fingerprint(tiny)} .tiny., and this is model"):
        index.add_from(twin, texts)
    with pytest.raises(ValueError, match="load that model"):
        MetaIndex.open(tmp_path / "index", model=twin)
    assert len(index) == 3


@pytest.mark.parametrize(("dtype", "rescore"), [("float16", None), ("int8", "float32")])
def test_stored_rows_come_back_by_id_in_the_given_order(tmp_path, dtype, rescore):
    index = MetaIndex.create(tmp_path / "index", DIM, BUDGETS, dtype, rescore=rescore)
    vectors = unit(300, 6, DIM)
    index.add(names(300), vectors, {"year": range(300), "its": ["a", "b", "c"] * 100})
    assert index.ids() == set(names(300))
    assert index.head(2).values.tolist() == [["c0", 0, "a"], ["c1", 1, "b"]]
    assert len(index.head(1000)) == 300
    chosen = ["c7", "c250", "c0"]
    assert index.get(chosen, ["year"]).values.tolist() == [["c7", 7], ["c250", 250], ["c0", 0]]
    assert list(index.get(["c4"]).columns) == ["id", "year", "its"]
    torch.testing.assert_close(index.vectors(chosen), vectors[[7, 250, 0]], atol=1e-3, rtol=0)
    index.add(["it's"], vectors[:1])
    assert index.get(["it's"]).id.item() == "it's"
    with pytest.raises(ValueError, match="id 'c300' is not in index"):
        index.vectors(["c1", "c300"])
    with pytest.raises(ValueError, match=r"no metadata column 'ring0': choose from year, its"):
        index.get(["c1"], ["ring0"])


def test_statistics_say_what_is_stored(index):
    stats = index.stats()
    assert stats["candidates"] == 300
    assert stats["bytes_per_candidate"] == {"(1, 1)": 32, "(2, 3)": 96, "(4, 6)": 192}
    assert stats["bytes_on_disk"] > 300 * 192
    assert "300 candidates" in repr(index)


def test_a_newer_format_and_a_foreign_table_are_refused(tmp_path):
    MetaIndex.create(tmp_path / "index", DIM, BUDGETS)
    table = lancedb.connect(tmp_path / "index").open_table("candidates")
    header = json.loads(table.schema.metadata[b"metaembed_lite"])
    assert header["format"] == 1
    newer = table.schema.with_metadata({"metaembed_lite": json.dumps(header | {"format": 2})})
    lancedb.connect(tmp_path / "newer").create_table("candidates", schema=newer)
    with pytest.raises(ValueError, match=r"has format 2.*update the package"):
        MetaIndex.open(tmp_path / "newer")
    lancedb.connect(tmp_path / "other").create_table("candidates", [{"id": "a"}])
    with pytest.raises(ValueError, match="not an index of metaembed_lite"):
        MetaIndex.open(tmp_path / "other")


def test_qdrant_ranks_as_the_index_does(index):
    client = QdrantClient(":memory:")
    index.to_qdrant(client, "candidates")
    query, where = unit(4, DIM, seed=8), "year > 2100"
    for prefetch in [(), [((1, 1), 300), ((2, 3), 300)]]:
        here = index.search(query, 7, prefetch=prefetch)
        there = search_qdrant(client, "candidates", query, index.columns, 7, prefetch=prefetch)
        pd.testing.assert_frame_equal(there, here, check_exact=False, atol=1e-4)
    later = models.FieldCondition(key="year", range=models.Range(gt=2100))
    there = search_qdrant(
        client, "candidates", query, index.columns, 5, "2x3", where=models.Filter(must=[later])
    )
    here = index.search(query, 5, "2x3", where=where)
    pd.testing.assert_frame_equal(there, here, check_exact=False, atol=1e-4)
    with pytest.raises(ValueError, match=r"budget \(4, 5\): Qdrant holds prefixes of 1, 3, 6"):
        search_qdrant(client, "candidates", query, index.columns, 5, (4, 5))
    with pytest.raises(FileExistsError, match="has a collection 'candidates'"):
        index.to_qdrant(client, "candidates")


def test_batches_give_back_what_was_added(index):
    ids, embeddings, metadata = zip(*index.batches(rows=128), strict=True)
    assert [name for batch in ids for name in batch] == names(300)
    torch.testing.assert_close(torch.cat(embeddings), unit(300, 6, DIM).half().float())
    assert list(pd.concat(metadata).year) == list(range(2000, 2300))


def test_ids_may_hold_quotes_spaces_and_any_letters(tmp_path):
    index = MetaIndex.create(tmp_path / "an index", DIM, BUDGETS)
    odd = ["it's", "a' OR '1'='1", 'say "hi"', "Straße/路径 1.png", "100%_\\", "🎻"]
    index.add([*odd, "last"], unit(7, 6, DIM))
    assert set(index.search(unit(4, DIM), 10).id) == {*odd, "last"}
    index.delete(odd)
    assert list(index.search(unit(4, DIM), 10).id) == ["last"]


def test_many_candidates_are_deleted_at_once(tmp_path):
    index = MetaIndex.create(tmp_path / "index", 8, [(1, 1)])
    index.add(names(20_001), unit(20_001, 1, 8))
    index.delete(names(20_000))
    assert list(index.search(unit(1, 8), 5).id) == ["c20000"]


def test_a_search_does_not_hold_the_index_in_memory(tmp_path):
    """300,000 candidates of 2 KB. benchmarks/search.py measures a million of them."""
    memory = peak_memory(tmp_path / "index", 300_000)
    assert memory["mb_at_most"] - memory["mb_after_imports"] < 500
