"""What ships is what was trained: every weights file is listed, and a changed one is refused."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from metaembed_lite import checkpoints, load, load_task, recipes, sweep

RECORDS = Path(__file__).parents[2] / "book" / "results" / "tiny.json"


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the shipped checkpoints that a test may spoil."""
    here = tmp_path / "checkpoints"
    shutil.copytree(checkpoints.HERE, here, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(checkpoints, "HERE", here)
    monkeypatch.setattr(checkpoints, "SUMS", here / "SHA256SUMS")
    checkpoints._verified.cache_clear()
    yield here
    checkpoints._verified.cache_clear()


def test_every_shipped_weights_file_is_listed_with_its_hash():
    listed = dict(line.split()[::-1] for line in checkpoints.SUMS.read_text().splitlines())
    files = {
        f.relative_to(checkpoints.HERE).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in checkpoints.HERE.rglob("*.safetensors")
    }
    assert listed == files
    assert {name.split("/")[0] for name in files} == {
        *checkpoints.BACKBONES,
        *checkpoints.MODELS.values(),
    }


@pytest.mark.parametrize("name", [*checkpoints.BACKBONES, *checkpoints.MODELS])
def test_a_changed_or_missing_file_is_refused(name, copied):
    assert checkpoints.folder(name).is_dir()
    weights = next(checkpoints.folder(name).rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    checkpoints._verified.cache_clear()
    with pytest.raises(OSError, match=rf"{weights.name}: SHA-256 is .*install"):
        checkpoints.folder(name)
    weights.unlink()
    with pytest.raises(OSError, match="missing"):
        checkpoints.folder(name)


def test_a_name_that_does_not_ship_has_no_folder():
    assert checkpoints.folder("no-such-model") is None


@pytest.mark.parametrize("name", checkpoints.MODELS)
def test_a_shipped_model_has_its_recipe_and_scores_what_its_record_says(name):
    recipe = recipes.read(checkpoints.folder(name) / "recipe.yaml")
    suite, seed = recipe.data["name"], recipe.train["seed"]
    record = json.loads(RECORDS.read_text())["cells"][f"{suite}/MMR/{seed}"]
    assert recipe.train["steps"] == record["train"]["steps"]
    task = load_task(suite, n_queries=recipe.data["n_queries"], n_train=0)
    table = sweep(load(name, device="cpu"), task, recipe.train["budgets"])
    recorded = {(p["r_q"], p["r_c"]): p["p_at_1"] for p in record["points"]}
    for point in table.itertuples():
        assert point.p_at_1 == pytest.approx(recorded[point.r_q, point.r_c], abs=0.01)
