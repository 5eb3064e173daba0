"""Every family of backbones passes the same tests, on its real classes with a tiny configuration.

To add a family, write a builder and enter it in FAMILIES and ADAPTED. The steps are listed in
metaembed_lite/backbones.py.
"""

import copy
import json
import logging
import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from PIL import Image

from metaembed_lite import backbones, build, checkpoints, load, maxsim, save, train
from metaembed_lite.meta_tokens import append_tokens

TEXTS = ["four", "seven one nought three and then some more"]
IMAGES = [Image.effect_noise((56, 56), sigma).convert("RGB") for sigma in (20, 60, 120)]
TEXT_MODEL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip


def byte_tokenizer(special, pad, bos=None, spare=(), named=None):
    """A byte-level tokenizer with a family's special tokens, and with entries left unused."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    entries = [*special, *spare, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({entry: i for i, entry in enumerate(entries)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=bos,
        additional_special_tokens=[*special, *spare], model_max_length=512,
        extra_special_tokens=named or {},
    )  # fmt: skip


def qwen2_5_vl(folder):
    return "tiny-vlm"  # bundled with the package


def paligemma(folder):
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessor,
    )

    spare = [f"<unused{i}>" for i in range(16)]
    tokenizer = byte_tokenizer(["<pad>", "<eos>", "<bos>"], "<pad>", "<bos>", spare)
    images = SiglipImageProcessor(size={"height": 28, "width": 28})
    images.image_seq_length = 4
    processor = PaliGemmaProcessor(images, tokenizer)
    config = PaliGemmaConfig(
        text_config={
            **TEXT_MODEL, "model_type": "gemma", "head_dim": 8, "pad_token_id": 0,
            "vocab_size": len(tokenizer),
        },
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28, "patch_size": 14,
            "projection_dim": 32, "vision_use_head": False,
        },
        image_token_id=processor.image_token_id, projection_dim=32, hidden_size=32,
    )  # fmt: skip
    PaliGemmaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def mllama(folder):
    from transformers import (
        MllamaConfig,
        MllamaForConditionalGeneration,
        MllamaImageProcessor,
        MllamaProcessor,
    )

    spare = [f"<|reserved_special_token_{i}|>" for i in range(16)]
    special = ["<|begin_of_text|>", "<|finetune_right_pad_id|>", "<|python_tag|>"]
    tokenizer = byte_tokenizer([*special, *spare], special[1], special[0])
    vocabulary = len(tokenizer)
    tokenizer.add_tokens(["<|image|>"], special_tokens=True)  # beyond the embedding, as in Llama
    processor = MllamaProcessor(
        MllamaImageProcessor(size={"height": 28, "width": 28}, max_image_tiles=4), tokenizer
    )
    config = MllamaConfig(
        text_config={
            **TEXT_MODEL, "vocab_size": vocabulary, "cross_attention_layers": [1, 3],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 0,
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_global_layers": 1, "attention_heads": 4, "image_size": 28, "patch_size": 14,
            "intermediate_layers_indices": [0, 1], "vision_output_dim": 96, "max_num_tiles": 4,
        },
        image_token_index=vocabulary,
    )  # fmt: skip
    model = MllamaForConditionalGeneration(config)
    with torch.no_grad():  # they start at 0, and the image would not be seen at all
        for name, parameter in model.named_parameters():
            if "gate" in name and parameter.numel() == 1:
                parameter.fill_(0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def bert(folder):
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz"
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"[unused{i}]" for i in range(16))]
    entries += [*letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(entries))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(entries), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return str(folder)


def qwen(folder, kind, text=None, vision=None):
    """Another model with the tokenizer of tiny-vlm, whose tower merges 2 x 2 patches."""
    import transformers

    shipped = transformers.AutoProcessor.from_pretrained(checkpoints.folder("tiny-vlm"))
    patches = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 1}
    pixels = {"shortest_edge": 16 * 16, "longest_edge": 96 * 96}
    images = transformers.Qwen2VLImageProcessor(**patches, size=pixels)
    videos = transformers.Qwen2VLVideoProcessor(**patches, size=pixels)
    processor = "Qwen3VLProcessor" if kind.startswith("Qwen3") else f"{kind}Processor"
    processor = getattr(transformers, processor)(
        images, shipped.tokenizer, videos, chat_template=shipped.chat_template,
    )  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(
        text_config={
            **TEXT_MODEL, "num_hidden_layers": 2, "pad_token_id": 0,
            "vocab_size": len(shipped.tokenizer) + 128,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1],
            },
            **(text or {}),
        },
        vision_config={
            "depth": 1, "hidden_size": 32, "num_heads": 4, "patch_size": 8,
            "temporal_patch_size": 1, "spatial_merge_size": 2, **(vision or {}),
        },
        image_token_id=5, video_token_id=6, vision_start_token_id=3, vision_end_token_id=4,
    )  # fmt: skip
    getattr(transformers, f"{kind}ForConditionalGeneration")(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def qwen2_vl(folder):
    return qwen(folder, "Qwen2VL", vision={"embed_dim": 32})


def qwen3_vl(folder):
    deep = {"intermediate_size": 64, "num_position_embeddings": 16, "out_hidden_size": 32}
    return qwen(folder, "Qwen3VL", {"head_dim": 8}, {**deep, "deepstack_visual_indexes": [0]})


def qwen3_5(folder):
    """Every second layer has linear attention, without separate query, key and value."""
    hybrid = {
        "head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1],
            "partial_rotary_factor": 1.0,
        },
    }  # fmt: skip
    vision = {"intermediate_size": 64, "num_position_embeddings": 16, "out_hidden_size": 32}
    return qwen(folder, "Qwen3_5", hybrid, vision)


def gemma3(folder):
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessor,
        Gemma3Processor,
    )

    spare = [f"<unused{i}>" for i in range(16)]
    images = {
        "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }  # fmt: skip
    special = ["<pad>", "<eos>", "<bos>", *images.values()]
    tokenizer = byte_tokenizer(special, "<pad>", "<bos>", spare, images)
    template = (
        "{{ bos_token }}{% for m in messages %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<start_of_image>{% else %}{{ c['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}"
    )
    processor = Gemma3Processor(
        Gemma3ImageProcessor(size={"height": 28, "width": 28}), tokenizer,
        chat_template=template, image_seq_length=4,
    )  # fmt: skip
    config = Gemma3Config(
        text_config={
            **TEXT_MODEL, "num_hidden_layers": 2, "head_dim": 8, "vocab_size": len(tokenizer),
            "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 24,
            "query_pre_attn_scalar": 8, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1,
        },
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 28, "patch_size": 7,
            "vision_use_head": False,
        },
        mm_tokens_per_image=4, boi_token_index=3, eoi_token_index=4, image_token_index=5,
    )  # fmt: skip
    model = Gemma3ForConditionalGeneration(config)
    with torch.no_grad():  # it starts at 0, and the image would not be seen at all
        model.model.multi_modal_projector.mm_input_projection_weight.normal_(std=0.2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def smol(folder, kind, text, **config):
    """Idefics3 and models that are built on it: an image of 16 patches becomes 4 tokens."""
    import transformers

    images = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
    tokenizer = byte_tokenizer(["<pad>", "<bos>", "<eos>", *images], "<pad>", "<bos>")
    template = (
        "{{ bos_token }}{% for m in messages %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}"
        "{% endfor %}<end_of_utterance>{% endfor %}"
    )
    processor = transformers.Idefics3Processor(  # SmolVLM's needs num2words, but only for videos
        transformers.Idefics3ImageProcessor(
            size={"longest_edge": 28}, max_image_size={"longest_edge": 28},
            do_image_splitting=False,
        ),
        tokenizer, image_seq_len=4, chat_template=template,
    )  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 4, "image_size": 28, "patch_size": 7,
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(
        text_config={
            **TEXT_MODEL, "num_hidden_layers": 2, "vocab_size": len(tokenizer), "pad_token_id": 0,
            "bos_token_id": 1, "eos_token_id": 2, **text,
        },
        vision_config=vision, image_token_id=3, **config,
    )  # fmt: skip
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def idefics3(folder):
    return smol(folder, "Idefics3", {"model_type": "llama"})


def smolvlm(folder):
    return smol(folder, "SmolVLM", {"model_type": "llama"})


def modernvbert(folder):
    text = {"model_type": "modernbert", "local_attention": 16, "cls_token_id": 1, "sep_token_id": 2}
    return smol(folder, "ModernVBert", text, pixel_shuffle_factor=2)


def text_model(folder, kind, **config):
    """A text-only model, with the byte tokenizer."""
    import transformers

    spare = [f"[unused{i}]" for i in range(16)]
    tokenizer = byte_tokenizer(["<pad>", "<s>", "</s>", "<mask>"], "<pad>", "<s>", spare)
    tokenizer.model_max_length = 128
    sizes = {**TEXT_MODEL, "num_hidden_layers": 2, "vocab_size": len(tokenizer)}
    sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, f"{kind}Config")(**sizes | config)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def modernbert(folder):
    return text_model(folder, "ModernBert", local_attention=16, cls_token_id=1, sep_token_id=2)


def mpnet(folder):
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return text_model(folder, "MPNet", **still)


def roberta(folder):
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return text_model(folder, "Roberta", **still)


def qwen3(folder):
    return text_model(folder, "Qwen3", head_dim=8)


FAMILIES = {  # builder -> (reads images, has causal attention)
    qwen2_5_vl: (True, True),
    qwen2_vl: (True, True),
    qwen3_vl: (True, True),
    qwen3_5: (True, True),
    gemma3: (True, True),
    paligemma: (True, False),
    mllama: (True, True),
    idefics3: (True, True),
    smolvlm: (True, True),
    modernvbert: (True, False),
    bert: (False, False),
    roberta: (False, False),
    mpnet: (False, False),
    modernbert: (False, False),
    qwen3: (False, True),
}


SELF = {f"self_attn.{name}_proj" for name in "qkvo"}
LLAMA = SELF | {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
LINEAR = {
    f"linear_attn.{name}"
    for name in ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj")
}
CROSS = {name.replace("self_attn", "cross_attn") for name in LLAMA}
BERT = {f"attention.self.{name}" for name in ("query", "key", "value")}
BERT |= {"attention.output.dense", "intermediate.dense", "output.dense"}
MPNET = {f"attention.attn.{name}" for name in "qkvo"} | {"intermediate.dense", "output.dense"}
MODERN = {"attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"}
ADAPTED = {  # builder -> (the language model's layers, the adapted names in each layer)
    qwen2_5_vl: ("language_model.layers", [LLAMA] * 4),
    qwen2_vl: ("language_model.layers", [LLAMA] * 2),
    qwen3_vl: ("language_model.layers", [LLAMA] * 2),
    qwen3_5: ("language_model.layers", [LLAMA - SELF | LINEAR, LLAMA]),
    gemma3: ("language_model.layers", [LLAMA] * 2),
    paligemma: ("language_model.layers", [LLAMA] * 4),
    mllama: ("language_model.layers", [LLAMA, CROSS] * 2),
    idefics3: ("text_model.layers", [LLAMA] * 2),
    smolvlm: ("text_model.layers", [LLAMA] * 2),
    modernvbert: ("text_model.layers", [MODERN] * 2),
    bert: ("encoder.layer", [BERT] * 2),
    roberta: ("encoder.layer", [BERT] * 2),
    mpnet: ("encoder.layer", [MPNET] * 2),
    modernbert: ("layers", [MODERN] * 2),
    qwen3: ("layers", [LLAMA] * 2),
}


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda builder: builder.__name__)
def family(request, tmp_path_factory):
    torch.manual_seed(0)
    backbone = request.param(tmp_path_factory.mktemp(request.param.__name__))
    model = build(backbone, r_q=4, r_c=8, lora_rank=4, dim=16, device="cpu").eval()
    with torch.no_grad():  # LoRA's B starts at 0: it needs values to save
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.builder = request.param
    return model, *FAMILIES[request.param]


def kinds(sees):
    """Inputs of each kind that a family reads, two or more of a kind."""
    both = [{"text": text, "image": image} for text, image in zip(TEXTS, IMAGES, strict=False)]
    return [TEXTS, IMAGES, both] if sees else [TEXTS]


def embed(model, items):
    return torch.stack([*model.encode_query(items, batch_size=8)]), torch.stack(
        [*model.encode_document(items, batch_size=8)]
    )


def test_every_kind_of_input_gives_vectors_of_length_one_that_depend_on_it(family):
    model, sees, _ = family
    for items in kinds(sees):
        for vectors, r in zip(embed(model, items), (4, 8), strict=True):
            assert vectors.shape == (len(items), r, 16)
            torch.testing.assert_close(vectors.norm(dim=2), torch.ones(len(items), r))
            assert (vectors[0] - vectors[1]).abs().max() > 1e-3, "two inputs gave the same vectors"


def test_a_batch_equals_its_members_alone_and_left_padding_equals_right(family):
    model, sees, _ = family
    tokenizer = model[0].tokenizer
    default = tokenizer.padding_side
    for items in kinds(sees):
        by_side = {}
        for side in ("left", "right"):
            tokenizer.padding_side = side
            by_side[side] = embed(model, items)
        tokenizer.padding_side = default
        alone = [
            torch.cat(column) for column in zip(*(embed(model, [i]) for i in items), strict=True)
        ]
        for left, right, single in zip(by_side["left"], by_side["right"], alone, strict=True):
            torch.testing.assert_close(left, right, atol=1e-5, rtol=0)
            torch.testing.assert_close(left, single, atol=1e-5, rtol=0)


def test_training_and_evaluation_mode_give_the_same_vectors(family):
    model, sees, _ = family
    for items in kinds(sees):
        by_mode = []
        for mode in (True, False):
            model.train(mode)
            features = model.preprocess(items, task="document")
            with torch.no_grad():
                by_mode.append(model(features, task="document")["token_embeddings"])
        torch.testing.assert_close(*by_mode, atol=1e-5, rtol=0)


def test_fewer_query_tokens_are_read_only_where_they_give_the_same_vectors(family):
    """The oracle appends two meta tokens to the content itself, without ``r_q``."""
    model, _, causal = family
    transformer = model[0]
    assert transformer.is_causal() == causal
    full = model.encode_query(TEXTS[1])
    features = transformer.preprocess([TEXTS[1]], task="query")
    cut = {
        name: value[:, :-2]
        for name, value in features.items()
        if isinstance(value, torch.Tensor) and value.shape[:2] == features["input_ids"].shape
    }
    with torch.no_grad():
        hidden = transformer.model(**cut, return_dict=True).last_hidden_state[0, -2:]
        short = torch.nn.functional.normalize(model[1].linear(hidden), dim=-1)
    assert torch.allclose(short, full[:2], atol=1e-5) == causal
    if not causal:
        with pytest.raises(ValueError, match=r"r_q=2: .* every token sees all others.*first 2"):
            model.encode_query(TEXTS[1], r_q=2)
        return
    torch.testing.assert_close(model.encode_query(TEXTS[1], r_q=2), short, atol=1e-5, rtol=0)


def test_lora_adapts_every_layer_of_the_language_model_and_no_other_layer(family):
    model, _, _ = family
    adapted = {n.split(".lora_A")[0] for n, _ in model[0].model.named_parameters() if "lora_A" in n}
    prefix, layers = ADAPTED[model.builder]
    assert adapted == {f"{prefix}.{i}.{n}" for i, names in enumerate(layers) for n in names}
    free = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in n or "trainable_tokens" in n or "1.linear" in n for n in free)
    counts = f"LoRA of rank 4 and alpha 4 on {len(adapted)} linear layers in {len(layers)} of"
    assert f"{counts} {len(layers)} layers of the language model" in repr(model[0])


def test_a_family_encodes_in_every_type_that_a_model_can_be_cast_to(family):
    model, sees, _ = family
    item = kinds(sees)[-1][0]
    exact = model.encode_document(item)
    for dtype, tolerance in ((torch.bfloat16, 0.05), (torch.float16, 0.01), (torch.float64, 1e-5)):
        vectors = copy.deepcopy(model).to(dtype).encode_document(item)
        assert vectors.dtype == dtype
        torch.testing.assert_close(vectors.float(), exact, atol=tolerance, rtol=0)


def test_training_changes_only_trainable_weights_and_the_model_round_trips(family, tmp_path):
    model, sees, _ = family
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    rows = {"query": TEXTS * 2, "positive": (IMAGES[:2] if sees else TEXTS) * 2}
    train(
        model, Dataset.from_dict(rows), budgets=[(1, 1), (4, 8)], steps=1, batch_size=4,
        learning_rate=1e-2, warmup_steps=0,
    )  # fmt: skip
    moved = {n for n, p in model.named_parameters() if not torch.equal(before[n], p)}
    assert moved == {n for n, p in model.named_parameters() if p.requires_grad}

    save(model, tmp_path / "saved")
    loaded = load(tmp_path / "saved", device="cpu").eval()
    for items in kinds(sees):
        for vectors, loaded_vectors in zip(embed(model, items), embed(loaded, items), strict=True):
            assert torch.equal(vectors, loaded_vectors)
    folder = tmp_path / "saved"
    adapter = json.loads((folder / "adapter_config.json").read_text())
    assert adapter["modules_to_save"] is None
    names = (folder / "adapter_model.safetensors").read_bytes()[:20_000]
    assert b"lora_A" in names
    assert b"trainable_tokens" in names


def test_scores_of_queries_and_images_are_finite(family):
    model, sees, _ = family
    queries, candidates = embed(model, TEXTS)[0], embed(model, IMAGES if sees else TEXTS)[1]
    for budget in ((1, 1), (4, 8)):
        assert maxsim(queries, candidates, budget).isfinite().all()


# Single families


def test_qwen_positions_continue_after_the_image(tmp_path):
    """M-RoPE by hand: 9 image tokens form a 3 x 3 grid, and positions continue from its edge."""
    model = build(r_q=2, r_c=3, lora_rank=None, device="cpu")
    transformer = model[0]
    features = transformer.preprocess([IMAGES[0].resize((48, 48))], task="document")
    ids = features["input_ids"][0].tolist()
    image = transformer.config.image_token_id
    start, n = ids.index(image), ids.count(image)
    assert n == 9
    expected = [[i] * 3 for i in range(start)]
    expected += [[start, start + row, start + column] for row in range(3) for column in range(3)]
    expected += [[start + 3 + i] * 3 for i in range(len(ids) - start - n)]
    positions, _ = transformer.model.get_rope_index(
        features["input_ids"], mm_token_type_ids=features["mm_token_type_ids"],
        image_grid_thw=features["image_grid_thw"], attention_mask=features["attention_mask"],
    )  # fmt: skip
    assert positions[:, 0].T.tolist() == expected
    assert ids[-5:] == [*transformer.meta_ids["query"], *transformer.meta_ids["document"]]
    assert features["mm_token_type_ids"][0].tolist()[-5:] == [0] * 5


def test_paligemma_prefix_is_bidirectional_with_and_without_an_image(tmp_path):
    """Every token sees the last meta token: change it, and the first meta token's state changes."""
    model = build(paligemma(tmp_path), r_q=2, r_c=3, lora_rank=None, device="cpu").eval()
    transformer = model[0]
    for item in (TEXTS[1], IMAGES[0], {"text": TEXTS[0], "image": IMAGES[0]}):
        before = model.encode_document(item)
        features = transformer.preprocess([item], task="document")
        assert features["token_type_ids"].shape == features["input_ids"].shape
        assert not features["token_type_ids"].any()
        with torch.no_grad():
            weight = transformer.model.get_input_embeddings().weight
            row = weight[transformer.meta_ids["document"][-1]].clone()
            weight[transformer.meta_ids["document"][-1]] += 5
            after = model.encode_document(item)
            weight[transformer.meta_ids["document"][-1]] = row
        assert (before[0] - after[0]).abs().max() > 1e-4


def test_llama_meta_tokens_see_the_tiles_of_the_image_but_no_padding_tiles(tmp_path):
    model = build(mllama(tmp_path), r_q=2, r_c=3, lora_rank=None, device="cpu").eval()
    transformer = model[0]
    wide = Image.effect_noise((112, 28), 80).convert("RGB")  # four tiles, where a square takes one
    features = transformer.preprocess([IMAGES[0].resize((28, 28)), wide], task="document")
    mask = features["cross_attention_mask"]
    assert mask.shape[1] == features["input_ids"].shape[1]
    tiles = mask[:, -5:, 0].sum(dim=2)
    assert tiles.tolist() == [[1] * 5, [4] * 5]

    alone = model.encode_document(IMAGES[0].resize((28, 28)))
    batch = model.encode_document([IMAGES[0].resize((28, 28)), wide])
    torch.testing.assert_close(batch[0], alone, atol=1e-5, rtol=0)


def test_llama_reads_text_without_a_dummy_image(tmp_path):
    model = build(mllama(tmp_path), r_q=2, r_c=3, lora_rank=None, device="cpu").eval()
    features = model[0].preprocess(TEXTS, task="query")
    assert "pixel_values" not in features
    assert "cross_attention_mask" not in features


def test_a_row_without_an_image_gets_no_tiles():
    """Masks with more axes: meta tokens see what the last content token sees, here nothing."""
    features = {
        "input_ids": torch.ones(2, 3, dtype=torch.long),
        "attention_mask": torch.ones(2, 3, dtype=torch.long),
        "cross_attention_mask": torch.stack([torch.ones(3, 1, 4), torch.zeros(3, 1, 4)]).long(),
    }
    extended = append_tokens(features, [7, 8])["cross_attention_mask"]
    assert extended[0, 3:].all()
    assert not extended[1].any()


@pytest.mark.parametrize("rank", [4, None])
def test_dropout_of_a_frozen_bert_is_off_in_training_and_dropout_of_lora_is_on(rank, tmp_path):
    backbone = Path(bert(tmp_path))
    settings = json.loads((backbone / "config.json").read_text())
    settings |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2}
    (backbone / "config.json").write_text(json.dumps(settings))
    model = build(str(backbone), r_q=2, r_c=4, lora_rank=rank, lora_dropout=0.3, device="cpu")
    rows = Dataset.from_dict({"query": TEXTS * 2, "positive": TEXTS * 2})
    train(model, rows, steps=1, batch_size=4)
    rates = {n: m.p for n, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert {p for n, p in rates.items() if "lora_" in n} == ({0.3} if rank else set())
    assert {p for n, p in rates.items() if "lora_" not in n} == ({0.0} if rank else {0.1, 0.2})


def test_a_shorter_limit_cuts_content_and_is_saved(tmp_path):
    (tmp_path / "bert").mkdir()
    model = build(bert(tmp_path / "bert"), r_q=2, r_c=4, lora_rank=4, max_seq_length=12)
    save(model, tmp_path / "saved")
    for each in (model, load(tmp_path / "saved")):
        ids = each.preprocess(["a b c d e f g h i j k l m n o p"], task="document")["input_ids"]
        assert ids.shape == (1, 12)
        assert ids[0, -4:].tolist() == each[0].meta_ids["document"]


# What LoRA adapts


def unbuilt(kind, **config):
    """A backbone without weights."""
    import transformers

    with torch.device("meta"):
        return getattr(transformers, f"{kind}Model")(
            getattr(transformers, f"{kind}Config")(**config)
        )


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("Qwen2_5_VL", r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj"),
        ("Bert", r".*encoder\.layer\..*\.(query|key|value|dense)"),
        ("Llama", r".*layers\.\d+\..*\.(q|k|v|o|gate|up|down)_proj"),
    ],
)
def test_the_adapted_layers_of_the_paper_and_of_bundled_models_do_not_change(kind, pattern):
    model = unbuilt(kind)
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    before = {name for name in linear if re.fullmatch(pattern, name)}
    assert before
    targets = backbones.lora_targets(model)
    assert {name for name in linear if re.fullmatch(targets, name)} == before
    backbones.check_targets(targets)
    backbones.check_targets(pattern)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("GPT2", "gpt2: .*all 12 layers in h.*layers 0, 1, 2, 3 and 8 more: no query.*no linear"),
        ("Mamba", "mamba: .*no query, key, value, output among mixer.dt_proj, mixer.in_proj"),
        ("Albert", "albert: .*there are 12.*encoder.albert_layer_groups [(]1[)]"),
        ("DeepseekV3", "deepseek_v3: .*layers 0, 1, 2: no query, key, value among .*q_a_proj"),
    ],
)
def test_unknown_families_are_refused_with_their_layers_and_the_remedies(kind, reason):
    with pytest.raises(ValueError, match=reason) as error:
        backbones.lora_targets(unbuilt(kind, num_hidden_layers=12))
    for remedy in ("lora_targets=", "lora_rank=None", "ATTENTION"):
        assert remedy in str(error.value)


def test_a_layer_without_attention_among_others_is_refused():
    model = unbuilt("Lfm2", num_hidden_layers=2, layer_types=["conv", "full_attention"])
    with pytest.raises(ValueError, match=r"lfm2: .*layers 0: no query.*conv\.in_proj"):
        backbones.lora_targets(model)


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (["q_proj", "v_proj"], {"self_attn.q_proj", "self_attn.v_proj"}),
        (".*self_attn.(q|o)_proj", {"self_attn.q_proj", "self_attn.o_proj"}),
        (r"text_model\.layers\.\d+\.mlp\.up_proj", {"mlp.up_proj"}),
    ],
)
def test_a_caller_chooses_layers_of_the_language_model_and_the_choice_is_saved(
    targets, names, tmp_path, caplog
):
    (tmp_path / "backbone").mkdir()
    backbone = smolvlm(tmp_path / "backbone")  # its vision tower has layers of the same names
    caplog.set_level(logging.INFO, logger="metaembed_lite")
    model = build(backbone, r_q=2, r_c=4, lora_rank=2, lora_targets=targets, device="cpu")
    expected = {f"text_model.layers.{i}.{name}" for i in range(2) for name in names}
    save(model, tmp_path / "saved")
    for each in (model, load(tmp_path / "saved")):
        parameters = each[0].model.named_parameters()
        assert {n.split(".lora_A")[0] for n, _ in parameters if "lora_A" in n} == expected
    description = f"on {len(expected)} linear layers in 2 of 2 layers of the language model: "
    description += ", ".join(sorted(names))
    assert f"SmolVLMModel: LoRA of rank 2 and alpha 2 {description}" in caplog.text
    assert description in (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "targets",
    ["(.*.*)*x", "(a|aa)+b", ".*.*.*.*x", "[a-z]+", "", [], ["q_proj", 4], [""], 3, {"q_proj"}],
)
def test_targets_that_are_neither_names_nor_a_plain_pattern_are_refused(targets):
    with pytest.raises(ValueError, match=r"lora_targets=.*give a list of layer names"):
        build(lora_targets=targets)


@pytest.mark.parametrize("targets", ["nope", ["q_proj", "nope"], "visual.*"])
def test_targets_that_match_no_layer_are_named_with_existing_layers(targets):
    with pytest.raises(ValueError, match=r"(nope|visual).*matches none of the 28.*layers\.0\.self"):
        build(lora_targets=targets, r_q=1, r_c=1)
