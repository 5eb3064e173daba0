"""A write is all or nothing. tests/test_abuse.py also kills writers and fills disks."""

import errno
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch
from filelock import FileLock

from metaembed_lite import MetaIndex
from metaembed_lite.index import meta_index
from metaembed_lite.index.header import Header
from metaembed_lite.index.storage import VERSION

ROOT = Path(__file__).parents[2]
BUDGETS = [(1, 1), (2, 3), (4, 6)]
DIM = 16


def unit(*shape, seed=0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


@pytest.fixture
def index(tmp_path):
    filled = MetaIndex.create(tmp_path / "index", DIM, BUDGETS)
    filled.add(["a", "b", "c"], unit(3, 6, DIM), {"year": [2000, 2001, 2002]})
    return filled


@pytest.fixture
def unchanged(index):
    """Afterwards, the index holds what it held before, and can be written."""
    query = unit(4, DIM, seed=1)
    before = index.search(query, 10)
    yield index
    for same in (index, MetaIndex.open(index.path)):
        pd.testing.assert_frame_equal(same.search(query, 10), before)
        same.check()
    index.add(["new"], unit(1, 6, DIM))
    index.delete(["new"])


def nan_in_the_second():
    vectors = unit(3, 6, DIM)
    vectors[1, 2, 3] = float("nan")
    return vectors


GOOD = unit(3, 6, DIM)
IDS = ["x", "y", "z"]


@pytest.mark.parametrize(("ids", "embeddings", "metadata", "message"), [
    (IDS, unit(3, 6, 8), None, r"shape \(3, 6, 8\): this index stores \(N, 6, 16\), \(N, R_c, D\)"),
    (IDS, unit(3, 5, DIM), None, r"embeddings have shape \(3, 5, 16\)"),
    (IDS, unit(3, DIM), None, r"expected \(items, vectors, dimensions\)"),
    (IDS, nan_in_the_second(), None, r"embeddings\[1, 2, 3\] is nan: embeddings must be finite"),
    (IDS, 1e6 * GOOD, None, "the embedding of 'x' has a value beyond float16 in ring0: L2-normal"),
    (IDS, GOOD[:2], None, "there are 3 ids and 2 embeddings"),
    (["x", "y", "x"], GOOD, None, "id 'x' is given twice"),
    (["x", "y", "b"], GOOD, None, "id 'b' is in the index: use upsert"),
    (["x", "", "z"], GOOD, None, "id '': use a text that is not empty"),
    ([1, 2, 3], GOOD, None, r"id 1: use a text that is not empty, such as str\(number\)"),
    (["x", "y", "z" * 10_000_000], GOOD, None, "has 10,000,000 characters: use at most 1024 bytes"),
    (["x", "y", "\x00"], GOOD, None, "use printable characters only"),
    (["x", "y", "\ud800"], GOOD, None, "use printable characters only"),
    ("xyz", GOOD, None, "ids 'xyz': give a list of texts"),
    ([], GOOD[:0], None, "no ids: give at least one candidate"),
    (IDS, GOOD, {"year": [1, 2]}, "there are 3 ids and 2 rows of metadata"),
    (IDS, GOOD, {"year": ["new", "old", "x"]}, "metadata column 'year' is int64 in this index"),
    (IDS, GOOD, {"ring0": [1, 2, 3]}, "metadata column 'ring0': use letters, digits and _, and no"),
    (IDS, GOOD, {"two words": [1, 2, 3]}, "metadata column 'two words': use letters"),
    (IDS, GOOD, {"empty": [None] * 3}, "'empty' is empty in the first batch, so its type is unkn"),
    (IDS, GOOD, {"mixed": [1, "a", 2.0]}, "'mixed' has values of mixed types"),
    (IDS, GOOD, 7, "metadata is not a table with one row per id"),
])  # fmt: skip
@pytest.mark.parametrize("write", ["add", "upsert"])
def test_bad_candidates_are_named_and_nothing_is_written(
    unchanged, write, ids, embeddings, metadata, message
):
    if write == "upsert" and "use upsert" in message:
        return
    with pytest.raises(ValueError, match=message):
        getattr(unchanged, write)(ids, embeddings, metadata)


@pytest.mark.parametrize(("change", "message"), [
    ({"query": unit(4, 8)}, r"a query has shape \(4, 8\): index .* expects \(R_q, D\) = \(4, 16\)"),
    ({"query": unit(3, DIM)}, r"a query has shape \(3, 16\)"),
    ({"query": torch.full((4, DIM), torch.nan)}, r"query\[0, 0, 0\] is nan"),
    ({"k": 0}, "k=0: it counts results; use a whole number from 1 up"),
    ({"k": 2.5}, "k=2.5"),
    ({"budget": (5, 6)}, r"budget \(5, 6\): there are 4 query vectors"),
    ({"budget": (4, 7)}, r"budget \(4, 7\): there are 6 candidate vectors"),
    ({"budget": "4by6"}, "write it as r_q x r_c"),
    ({"prefetch": [((1, 1), 5)]}, "stage 1 keeps 10 of the 5 candidates"),
    ({"prefetch": [((9, 1), 50)]}, r"budget \(9, 1\)"),
    ({"prefetch": [(1, 1)]}, "expected a pair"),
    ({"prefetch": ["4x6"]}, "prefetch holds '4x6': give pairs of a budget and how many"),
    ({"where": "yeer > 2000"}, "where='yeer > 2000': .*No field named yeer. Valid fields are"),
    ({"where": "year >"}, "where='year >': .*an expression"),
    ({"where": "year > 'x"}, "where=.*Unterminated string"),
    ({"where": ""}, "where=''"),
    ({"where": 7}, "where=7"),
    ({"nprobes": 4, "prefetch": [((1, 1), 20)]}, "has no ANN index: call build_ann first"),
])  # fmt: skip
def test_a_bad_search_is_explained(unchanged, change, message):
    arguments = {"query": unit(4, DIM)} | change
    with pytest.raises(ValueError, match=message):
        unchanged.search(**arguments)


@pytest.mark.parametrize(("change", "message"), [
    ({"dim": 0}, "dim=0"), ({"dim": 12, "dtype": "binary"}, "multiple of 8"),
    ({"dtype": "float8"}, "dtype 'float8': choose from float32, float16, int8, binary"),
    ({"rescore": "int8"}, "rescore 'int8': choose"),
    ({"rescore": "float16"}, "an index of float16 is scanned exactly"),
    ({"budgets": [(2, 4), (1, 8)]}, "not nested"), ({"budgets": []}, "no budgets"),
])  # fmt: skip
def test_an_index_that_cannot_be_is_not_created(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        MetaIndex.create(tmp_path / "index", **{"dim": DIM, "budgets": BUDGETS} | change)
    assert not (tmp_path / "index").exists()


def test_an_index_is_not_created_over_another_and_not_opened_where_there_is_none(
    unchanged, tmp_path
):
    with pytest.raises(FileExistsError, match="holds an index: open it"):
        MetaIndex.create(unchanged.path, DIM, BUDGETS)
    with pytest.raises(FileNotFoundError, match=r"no index at .*nowhere: make one with"):
        MetaIndex.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ValueError, match="has D = 16, not 32"):
        MetaIndex.open(unchanged.path, dim=32)
    with pytest.raises(ValueError, match=r"has budgets \(1, 1\), \(2, 3\), \(4, 6\), not \(1, 1\)"):
        MetaIndex.open(unchanged.path, budgets=[(1, 1)])


def test_an_empty_index_finds_nothing(tmp_path):
    index = MetaIndex.create(tmp_path / "index", DIM, BUDGETS)
    results = index.search(unit(4, DIM), 5, prefetch=[((1, 1), 10)])
    assert list(results.columns) == ["id", "score"]
    assert results.empty
    index.add_batches(iter([]))
    index.check()
    with pytest.raises(ValueError, match="holds 0 candidates: an ANN index is trained on at least"):
        index.build_ann()


def test_one_bad_batch_of_a_stream_keeps_all_of_them_out(unchanged):
    def batches():
        for i in range(20):
            vectors = unit(200, 6, DIM, seed=i)
            if i == 19:
                vectors[5] = float("inf")
            yield [f"{i} {j}" for j in range(200)], vectors, {"year": [i] * 200}

    with pytest.raises(ValueError, match=r"embeddings\[5, 0, 0\] is inf"):
        unchanged.add_batches(batches(), progress=False)


def test_an_error_of_the_iterator_is_passed_on(unchanged):
    def batches():
        yield ["x"], unit(1, 6, DIM)
        raise KeyError("the file of page 7")

    with pytest.raises(KeyError, match="page 7"):
        unchanged.add_batches(batches(), progress=False)


def add_many(path, name):
    index = MetaIndex.open(path)
    for i in range(8):
        index.add([f"{name} {i} {j}" for j in range(300)], unit(300, 6, DIM, seed=i))


def test_two_writers_add_all_of_both(index):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["metaembed_lite.index"])
    writers = [context.Process(target=add_many, args=(index.path, name)) for name in ("1", "2")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(index) == 3 + 2 * 8 * 300
    index.check()


def test_a_second_writer_that_waits_too_long_is_told_who_writes(index, monkeypatch):
    monkeypatch.setattr(meta_index, "LOCK_SECONDS", 0.1)

    def batches():
        second = error_in_a_thread(lambda: MetaIndex.open(index.path).add(["y"], unit(1, 6, DIM)))
        assert "is in use by" in str(second)
        assert "writing to an index" in str(second)
        yield ["x"], unit(1, 6, DIM)

    index.add_batches(batches(), progress=False)
    assert len(index) == 4


def error_in_a_thread(call):
    """The error that ``call`` raises in another thread."""
    with ThreadPoolExecutor() as pool:
        return pool.submit(call).exception()


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="file"):
        MetaIndex.create(tmp_path / "file" / "index", DIM, BUDGETS)

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(PermissionError, match=f"this folder cannot be written.*{tmp_path}"):
        MetaIndex.create(tmp_path / "index", DIM, BUDGETS)


def test_an_index_without_its_newest_version_is_not_taken_for_an_older_one(index):
    """LanceDB would open the version before, which holds fewer candidates."""
    index.add(["one more"], unit(1, 6, DIM))
    versions = sorted(Path(index.path).glob("*.lance/_versions/*"))  # numbered downwards
    versions[0].unlink()
    with pytest.raises(OSError, match="missing or damaged"):
        len(MetaIndex.open(index.path))


def test_an_index_without_a_record_of_its_version_opens(index):
    (Path(index.path) / VERSION).unlink()
    assert len(MetaIndex.open(index.path)) == 3


def test_a_damaged_header_is_named():
    with pytest.raises(ValueError, match=r"index here: .*KeyError.*damaged"):
        Header.from_json('{"format": 1}', "here")


def test_damaged_vectors_are_found_and_named(index):
    (file,) = Path(index.path).glob("*.lance/data/*")
    content = bytearray(file.read_bytes())
    stored = unit(3, 6, DIM).half()[1, 3:].numpy().tobytes()  # the last ring of "b"
    place = bytes(content).index(stored)
    content[place + 7] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="the vectors of 'b' are not those that were added"):
        MetaIndex.open(index.path).check()
