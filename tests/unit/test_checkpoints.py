"""The bundled checkpoints are the trained ones, and a changed file raises an error."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from metaembed_lite import Budget, checkpoints, load, load_task, maxsim, recipes, sweep
from metaembed_lite.evaluation import precision_at_1

RECORDS = Path(__file__).parents[2] / "book" / "results" / "tiny.json"


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """A copy of the bundled checkpoints that a test may damage."""
    here = tmp_path / "checkpoints"
    shutil.copytree(checkpoints.HERE, here, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(checkpoints, "HERE", here)
    monkeypatch.setattr(checkpoints, "SUMS", here / "SHA256SUMS")
    checkpoints._verify.cache_clear()
    yield here
    checkpoints._verify.cache_clear()


def test_every_file_of_every_checkpoint_is_listed_with_its_hash():
    hashes = dict(line.split()[::-1] for line in checkpoints.SUMS.read_text().splitlines())
    files = {
        f.relative_to(checkpoints.HERE).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in checkpoints.HERE.rglob("*/*")
        if f.is_file() and "__pycache__" not in f.parts
    }
    assert hashes == files
    assert {name.split("/")[0] for name in files} == {*checkpoints.BACKBONES, *checkpoints.MODELS}


def test_a_changed_or_missing_file_is_refused_with_its_name(copies):
    for file in sorted(f for f in copies.rglob("*/*") if f.is_file()):
        name = file.relative_to(copies).parts[0]
        content = file.read_bytes()
        for damaged, message in (
            (content[:-1] + b"?", "SHA-256 is not the one"),
            (None, "missing"),
        ):
            checkpoints._verify.cache_clear()
            file.write_bytes(damaged) if damaged is not None else file.unlink()
            with pytest.raises(OSError, match=rf"{re.escape(file.name)}.*{message}.*install"):
                checkpoints.folder(name)
            file.write_bytes(content)
        checkpoints._verify.cache_clear()
        assert checkpoints.folder(name).is_dir()


def test_a_file_that_is_not_listed_and_a_list_without_lines_are_refused(copies):
    (copies / "tiny-vlm" / "extra.json").write_text("{}")
    with pytest.raises(OSError, match=r"extra\.json is not listed"):
        checkpoints.folder("tiny-vlm")
    lines = checkpoints.SUMS.read_text().splitlines(keepends=True)
    checkpoints.SUMS.write_text(
        "".join(line for line in lines if "tiny-no-mmr/modules" not in line)
    )
    with pytest.raises(OSError, match=r"tiny-no-mmr/modules\.json is not listed"):
        checkpoints.folder("tiny-no-mmr")
    checkpoints.SUMS.write_text("")
    with pytest.raises(OSError, match="lists no file of tiny"):
        checkpoints.folder("tiny")


def test_an_unknown_name_has_no_folder():
    assert checkpoints.folder("no-such-model") is None


def find_record(recipe):
    """The cell of tiny.json that was trained as the recipe says."""
    trained = {**recipe.train, "budgets": [Budget.parse(b) for b in recipe.train["budgets"]]}
    suite, seed = recipe.data["name"], trained.pop("seed")
    (record,) = [
        cell for cell in json.loads(RECORDS.read_text())["cells"].values()
        if (cell["suite"], cell["seed"]) == (suite, seed)
        and {**cell["train"], "budgets": [Budget(*b) for b in cell["train"]["budgets"]]} == trained
    ]  # fmt: skip
    return record


@pytest.mark.parametrize("name", [name for name in checkpoints.MODELS if name != "tiny-single"])
def test_a_bundled_model_has_its_recipe_and_scores_as_recorded(name):
    recipe = recipes.read(checkpoints.folder(name) / "recipe.yaml")
    points = [p for p in find_record(recipe)["points"] if p["split"] == "test"]
    task = load_task(recipe.data["name"], n_queries=recipe.data["n_queries"], n_train=0)
    budgets = [(point["r_q"], point["r_c"]) for point in points]
    table = sweep(load(name, device="cpu"), task, budgets)
    recorded = {(p["r_q"], p["r_c"]): p["p_at_1"] for p in points}
    assert len(table) == len(points) > 0
    for point in table.itertuples():
        assert point.p_at_1 == pytest.approx(recorded[point.r_q, point.r_c], abs=0.01)


def test_the_bundled_single_vector_model_scores_as_recorded():
    record = json.loads(RECORDS.read_text())["cells"]["stickers/mean/0"]
    (point,) = [p for p in record["points"] if p["split"] == "test"]
    task = load_task("stickers", n_queries=500, n_train=0)
    model = load("tiny-single", device="cpu")
    queries, sheets = model.encode_query(task.queries), model.encode_document(task.candidates)
    assert {len(vectors) for vectors in [*queries, *sheets]} == {1}
    found = precision_at_1(maxsim(queries, sheets), task.relevance)
    assert found == pytest.approx(point["p_at_1"], abs=0.01)
