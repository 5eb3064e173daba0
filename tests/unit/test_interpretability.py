"""Attention maps: their values are those of the backbone, and the model does not change."""

import pytest
import torch
from PIL import Image

from metaembed_lite import build, load
from metaembed_lite.interpretability import image_attention, share_weights

BOARD = Image.effect_noise((48, 48), 80).convert("RGB")


@pytest.fixture(scope="module")
def tiny():
    return load("tiny-handwriting", device="cpu")


def test_maps_are_the_backbones_attention_from_meta_tokens_to_image_tokens(tiny):
    transformer = tiny[0]
    features = transformer.preprocess([BOARD], task="document")
    image = (features["input_ids"][0] == transformer.config.image_token_id).nonzero()[:, 0]
    transformer.model.set_attn_implementation("eager")
    keys = ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw")
    with torch.inference_mode():
        layers = transformer.model(
            **{key: features[key] for key in keys}, output_attentions=True
        ).attentions
    transformer.model.set_attn_implementation("sdpa")
    by_hand = torch.zeros(16, 9)
    for meta in range(16):
        for place, token in enumerate(image):
            by_hand[meta, place] = layers[-1][0, :, meta - 16, token].mean()
    maps = image_attention(tiny, BOARD, layer=-1)
    assert maps.shape == (16, 3, 3)
    torch.testing.assert_close(maps.flatten(1), by_hand)
    mean = image_attention(tiny, BOARD)
    assert (mean.sum(dim=(1, 2)) < 1).all()
    assert not torch.allclose(mean, maps)


def test_the_model_is_the_same_afterwards(tiny):
    before = tiny.encode_document(BOARD)
    config = tiny[0].config.to_json_string()
    image_attention(tiny, BOARD)
    assert tiny[0].config.to_json_string() == config
    output = tiny[0].model(input_ids=torch.arange(5)[None], output_attentions=True)
    assert not output.attentions  # still sdpa, which does not return weights
    assert torch.equal(tiny.encode_document(BOARD), before)


@pytest.mark.parametrize("lora_rank", [2, None])
def test_the_copy_shares_every_tensor_and_gives_the_same_output(lora_rank):
    backbone = build(r_q=2, r_c=3, lora_rank=lora_rank, device="cpu").eval()[0].model
    twin = share_weights(backbone)
    for name, tensor in [*backbone.named_parameters(), *backbone.named_buffers()]:
        part, _, last = name.rpartition(".")
        assert getattr(twin.get_submodule(part), last) is tensor, name
    others = [
        tensor
        for module in twin.modules()
        for tensor in vars(module).values()
        if isinstance(tensor, torch.Tensor)
    ]
    assert not others  # nothing of a model's size is copied
    inputs = {"input_ids": torch.arange(5)[None]}
    assert torch.equal(twin(**inputs)[0], backbone(**inputs)[0])


def test_queries_have_maps_of_query_meta_tokens(tiny):
    maps = image_attention(tiny, {"text": "what is it?", "image": BOARD}, task="query")
    assert maps.shape == (8, 3, 3)


def test_an_item_without_image_tokens_is_named(tiny):
    with pytest.raises(ValueError, match="qwen2_5_vl has no image tokens"):
        image_attention(tiny, "a text")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "candidate"}, "task 'candidate': choose 'document' or 'query'"),
        ({"layer": 99}, "layer=99: use a number from -"),
        ({"layer": -99}, "layer=-99: use a whole number from -"),
        ({"layer": 1.0}, r"layer=1\.0"),
        ({"layer": "last"}, "layer='last'"),
    ],
)
def test_bad_settings_are_named(tiny, settings, message):
    with pytest.raises(ValueError, match=message):
        image_attention(tiny, BOARD, **settings)


def test_the_grid_of_paligemma_is_square(tmp_path):
    from test_backbones import paligemma

    model = build(paligemma(tmp_path), r_q=2, r_c=3, lora_rank=None, device="cpu").eval()
    assert image_attention(model, BOARD).shape == (3, 2, 2)


def test_a_backbone_that_reads_images_by_cross_attention_is_refused(tmp_path):
    from test_backbones import mllama

    model = build(mllama(tmp_path), r_q=2, r_c=3, lora_rank=None, device="cpu").eval()
    with pytest.raises(ValueError, match="mllama has no image tokens"):
        image_attention(model, BOARD)
