"""The card of a saved model: the hub's library reads it, and what it says is true."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from metaembed_lite import build, checkpoints, hub, load_task, save, sweep
from metaembed_lite.data.handwriting import ABOUT as DIGITS
from metaembed_lite.data.sticker_art import ATTRIBUTION
from metaembed_lite.model_card import add_to_card, describe_origin

RECIPE = {
    "model": {"backbone": "tiny-vlm", "r_q": 2, "r_c": 4},
    "data": {"name": "stickers", "n_queries": 4, "side": 2, "seed": 3},
    "train": {"steps": 1},
}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A saved model with recipe and curve, the task, and its table in the card."""
    folder = tmp_path_factory.mktemp("cards") / "my-model"
    model = build("tiny-vlm", r_q=2, r_c=4, dim=8, lora_rank=2, device="cpu")
    save(model, folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    (folder / "training_curve.csv").write_text("step,loss\n", encoding="utf-8")
    task = load_task("stickers", n_queries=4, n_train=0, side=2, seed=3)
    table = sweep(model, task)
    add_to_card(folder, task, table)
    return folder, task, table


def front_matter(folder):
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])


def test_the_hubs_library_reads_the_quality_at_every_budget(evaluated):
    folder, _, table = evaluated
    name, results = model_index_to_eval_results(front_matter(folder)["model-index"])
    assert name == "my-model"
    read = {(r.metric_type, r.metric_args["r_q"], r.metric_args["r_c"]): r for r in results}
    assert len(read) == len(results) == 2 * len(table)
    for row in table.itertuples():
        for kind, value in (("precision_at_1", row.p_at_1), ("ndcg_at_5", row.ndcg_at_5)):
            result = read[kind, row.r_q, row.r_c]
            assert result.metric_value == pytest.approx(value, abs=5e-5)
            assert f"({row.r_q}, {row.r_c})" in result.metric_name
            assert (result.dataset_type, result.dataset_split) == ("stickers", "test")
            assert result.dataset_args == {"n_queries": 4, "side": 2, "seed": 3}


def test_a_card_names_backbone_license_recipe_curve_and_artists(evaluated):
    folder, _, _ = evaluated
    metadata, text = front_matter(folder), (folder / "README.md").read_text(encoding="utf-8")
    assert metadata["license"] == "unknown"
    assert "base_model" not in metadata, "the hub does not know a bundled backbone"
    assert "The backbone is `tiny-vlm`" in text
    assert "[training_curve.csv](training_curve.csv)" in text
    recipe = text.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(recipe) == RECIPE
    assert ATTRIBUTION in text


def test_a_later_evaluation_replaces_the_earlier_one(evaluated, tmp_path):
    folder, task, table = evaluated
    shutil.copytree(folder, tmp_path / "my-model")
    add_to_card(tmp_path / "my-model", task, table[:1])
    text = (tmp_path / "my-model" / "README.md").read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["## Use", "## Quality at every budget", "## Origin", "## Architecture",
                        "## Versions"]  # fmt: skip
    assert len(ModelCard(text).data.eval_results) == 2
    add_to_card(tmp_path / "my-model", task, table)
    assert (tmp_path / "my-model" / "README.md").read_bytes() == (folder / "README.md").read_bytes()


def test_a_backbone_on_the_hub_is_the_cards_base_model(evaluated, tmp_path):
    shutil.copytree(evaluated[0], tmp_path / "model")
    describe_origin(tmp_path / "model", "Qwen/Qwen2.5-VL-3B-Instruct")
    data = ModelCard.load(tmp_path / "model" / "README.md").data
    assert data.base_model == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert data["base_model_relation"] == "adapter"


def test_a_card_says_nothing_about_the_machine_of_its_author(evaluated, tmp_path):
    shutil.copytree(evaluated[0], tmp_path / "model")
    base = tmp_path / "secret-customer" / "my-base"
    base.mkdir(parents=True)
    describe_origin(tmp_path / "model", str(base))
    text = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "`my-base`" in text
    assert "secret-customer" not in text
    assert "base_model" not in front_matter(tmp_path / "model")


def test_an_upload_with_another_name_of_the_backbone_names_it_in_the_card(
    evaluated, tmp_path, monkeypatch
):
    uploaded = {}

    class Api:
        def create_repo(self, *args, **kwargs): ...

        def upload_folder(self, *, repo_id, folder_path):
            uploaded["card"] = ModelCard.load(Path(folder_path, "README.md"))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    names = hub.files_to_push(evaluated[0], "you/model", "you/base")
    hub.push(evaluated[0], "you/model", names, private=True, backbone="you/base")
    assert uploaded["card"].data.base_model == "you/base"
    assert "huggingface.co/you/base" in uploaded["card"].text


def test_damaged_metadata_are_named_with_their_file(evaluated, tmp_path):
    shutil.copytree(evaluated[0], tmp_path / "model")
    card = tmp_path / "model" / "README.md"
    card.write_text("---\ntags: [open\n---\n# mine\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README\.md: the metadata .* cannot be read"):
        describe_origin(tmp_path / "model")
    assert card.read_text(encoding="utf-8").endswith("# mine\n")


@pytest.mark.parametrize("name", checkpoints.MODELS)
def test_the_hubs_library_reads_the_card_of_a_bundled_model(name):
    card = ModelCard.load(checkpoints.HERE / name / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.model_name == name
    table = [line for line in card.text.splitlines() if line.startswith("| (")]
    assert len(card.data.eval_results) == 2 * len(table) > 0
    assert (DIGITS if "handwriting" in name else ATTRIBUTION).strip() in card.text
    assert "The backbone is `tiny-vlm`" in card.text


def test_the_card_of_the_bundled_backbone_names_its_size_and_its_artists():
    card = ModelCard.load(checkpoints.HERE / "tiny-vlm" / "README.md")
    assert card.data.license == "apache-2.0"
    log = json.loads((checkpoints.HERE / "tiny-vlm" / "pretraining_log.json").read_text())
    assert f"{log['parameters']:,} parameters" in card.text
    assert ATTRIBUTION in card.text
    assert "https://doi.org/10.24432/C50P49" in card.text
