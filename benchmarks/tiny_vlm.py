"""Pretrain tiny-vlm: a Qwen2.5-VL small enough for a laptop's CPU that reads boards of digits.

    python benchmarks/tiny_vlm.py OUT      # makes the bundled checkpoint in about 9 minutes

The model is built from transformers' own classes. Its tokenizer and processor are trained here.
``AutoModel`` and ``AutoProcessor`` load it exactly as they load ``Qwen/Qwen2.5-VL-3B-Instruct``.

Pretraining is next-token prediction. The user shows a board of digits or of colored shapes, or
names a few of its places in a text. The answer names places, and after each place the fact that
holds there:

    "4 top-left, 7 center"  ->  "all b2=7, center b2=7, left ?, top-left a3=4"
                            or  "all b2=7, second b2=7, third ?, first a3=4"

A fact is one token. Places are written as squares of a chess board: b2=7 is a 7 in the center.
Places that the text does not name are "?". After "all", any of the facts is right. The hidden state
before a fact therefore encodes place and content together, equally for an image and for a text.
The model learns this before it learns to retrieve.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import typer
from shapes import COLORS, SHAPES, render_shapes, sample_shapes
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import Dataset

from metaembed_lite.data import handwriting
from metaembed_lite.data.boards import PLACES
from metaembed_lite.results import PRETRAINING_LOG

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
           "<|image_pad|>", "<|video_pad|>"]  # fmt: skip
SQUARES = [f"{column}{row}" for row in (3, 2, 1) for column in "abc"]  # PLACES, as in chess
ORDINALS = ("first", "second", "third", "fourth")
SPARE_TOKENS = 128  # unused vocabulary rows for meta tokens. Qwen2.5-VL has 271 of them
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def conversation(rng: np.random.Generator, shuffled: float = 1.0) -> tuple[Any, str, str]:
    """Sample one pretraining example: (image or None, text of the user, answer of the model).

    ``shuffled`` is the share of images that are described in random order instead of reading order.
    A model learns to read boards in reading order within a few hundred steps. Then it learns the
    places' names. From random order alone, a model learned nothing in 700 steps.
    """
    contents: list[tuple[str, ...]]  # one per place: (digit,) or (color, shape)
    if rng.random() < 0.6:
        digits = rng.integers(10, size=9)
        contents = [(str(d),) for d in digits]
    else:
        shapes = sample_shapes(rng)
        contents = [(list(COLORS)[c], SHAPES[s]) for c, s in shapes]
    facts = [
        [f"{square}={word}" for word in words]
        for square, words in zip(SQUARES, contents, strict=True)
    ]
    if rng.random() < 0.7:
        shows_digits = len(contents[0]) == 1
        image = (
            handwriting.render_board(digits, rng, "train")
            if shows_digits
            else render_shapes(shapes, rng)
        )
        user_text = ""
        places = rng.permutation(9) if rng.random() < shuffled else np.arange(9)
    else:
        image, named = None, rng.permutation(9)[: rng.integers(2, 5)]
        user_text = ", ".join(f"{' '.join(contents[p])} {PLACES[p]}" for p in named)
        facts = [facts[p] if p in named else ["?"] for p in range(9)]
        unnamed = [p for p in rng.permutation(9) if p not in named][:2]
        places = rng.permutation([*named, *unnamed])
    answers = [f"{PLACES[p]} {' '.join(rng.permutation(facts[p]))}" for p in places]
    if image is None and rng.random() < 0.5:  # first, second, ... instead of the places' names
        facts_in_order = [facts[p] for p in named] + [["?"]] * (len(ORDINALS) - len(named))
        answers = [
            f"{ORDINALS[i]} {' '.join(rng.permutation(facts_in_order[i]))}"
            for i in rng.permutation(len(ORDINALS))
        ]
    known = [fact for facts_of_place in facts for fact in facts_of_place if fact != "?"]
    return image, user_text, ", ".join([f"all {rng.choice(known)}", *answers])


def build_tokenizer(seed: int = 0) -> Any:
    """Train a byte-level BPE tokenizer on pretraining text. A fact such as b2=7 is one token."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r" ?[abc][123]=\w+| ?[\p{L}\-]+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = np.random.default_rng([seed, 9])
    texts = []
    for _ in range(2000):
        _, user_text, answer = conversation(rng)
        texts += [f"user\n{user_text}", f"assistant\n {answer}"]
    tokenizer.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL[1:],
        padding_side="left",
        model_max_length=512,
    )


def build_untrained(layers: int = 4, width: int = 128, seed: int = 0) -> tuple[Any, Any]:
    """Build a ``Qwen2_5_VLForConditionalGeneration`` with random weights, and its processor.

    Boards of 48 x 48 pixels become 36 patches of 8 x 8. Blocks of 2 x 2 patches are
    merged into 9 image tokens, one per place.
    """
    tokenizer = build_tokenizer(seed)
    ids = {t: tokenizer.convert_tokens_to_ids(t) for t in SPECIAL}
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer) + SPARE_TOKENS,
            "hidden_size": width,
            "intermediate_size": width * 11 // 4,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [width // 32, width * 3 // 64, width * 3 // 64],
                "rope_theta": 10000.0,
            },
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 3,
            "hidden_size": width * 3 // 4,
            "intermediate_size": width * 2,
            "num_heads": 4,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 1,
            "window_size": 64,
            "fullatt_block_indexes": [0, 1, 2],
            "out_hidden_size": width,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    pixels = {"shortest_edge": 16 * 16, "longest_edge": 96 * 96}
    patches = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 1, "size": pixels}
    processor = transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**patches),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(**patches),
        chat_template=CHAT_TEMPLATE,
    )
    return model, processor


class Conversations(Dataset):
    """``n`` pretraining examples, made on access. The same seed gives the same examples."""

    def __init__(self, n: int, seed: int):
        self.n, self.seed = n, seed

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Any, str, str]:
        shuffled = min(1.0, max(0.0, 2.5 * index / self.n - 0.4))
        return conversation(np.random.default_rng([self.seed, 10, index]), shuffled)


def collate(examples: list[tuple[Any, str, str]], processor: Any) -> dict[str, torch.Tensor]:
    """Pad examples to one batch. ``labels`` are the facts in the answers, and -100 elsewhere."""
    texts, images = [], []
    for image, text, answer in examples:
        content = [{"type": "image"}] if image is not None else [{"type": "text", "text": text}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}])
        texts.append(f"{prompt} {answer}<|im_end|>")
        images += [image] if image is not None else []
    batch = processor(text=texts, images=images or None, padding=True, return_tensors="pt")
    ids = batch["input_ids"]
    words = [*map(str, range(10)), *COLORS, *SHAPES]
    facts = ["Ġ?"] + [f"Ġ{square}={word}" for square in SQUARES for word in words]
    fact_ids = torch.tensor(processor.tokenizer.convert_tokens_to_ids(facts))
    end = ids == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    in_answer = end.cumsum(dim=1) == 1  # after the user's text, before the end of the answer
    batch["labels"] = torch.where(in_answer & torch.isin(ids, fact_ids), ids, -100)
    return dict(batch)


@torch.no_grad()
def reading_accuracy(model: Any, processor: Any, n: int = 200, seed: int = 1) -> float:
    """Share of unseen writers' digits that the model reads correctly, in random order of places."""
    rng = np.random.default_rng([seed, 11])
    examples = []
    for _ in range(n):
        digits, order = rng.integers(10, size=9), rng.permutation(9)
        answer = ", ".join(f"{PLACES[p]} {SQUARES[p]}={digits[p]}" for p in order)
        examples.append((handwriting.render_board(digits, rng, "test"), "", answer))
    batch = collate(examples, processor)
    labels = batch.pop("labels")
    model.eval()
    predictions = model(**batch).logits[:, :-1].argmax(-1)
    is_fact = labels[:, 1:] != -100
    return (predictions == labels[:, 1:])[is_fact].float().mean().item()


def pretrain(
    out: Path, steps: int = 1600, batch_size: int = 64, layers: int = 4, width: int = 128,
    lr: float = 1e-3, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Pretrain tiny-vlm and save it to the folder OUT. Returns the content of its log."""
    transformers.set_seed(seed)
    model, processor = build_untrained(layers, width, seed)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = transformers.TrainingArguments(
            scratch, max_steps=steps, per_device_train_batch_size=batch_size, learning_rate=lr,
            lr_scheduler_type="cosine", warmup_steps=100, weight_decay=0.05, adam_beta2=0.98,
            logging_steps=50, save_strategy="no", report_to=[], seed=seed,
            train_sampling_strategy="sequential",
            remove_unused_columns=False, dataloader_drop_last=True,
        )  # fmt: skip
        trainer = transformers.Trainer(
            model=model, args=arguments, train_dataset=Conversations(steps * batch_size, seed),
            data_collator=lambda examples: collate(examples, processor),
        )  # fmt: skip
        trainer.train()
    model = model.cpu().eval()
    model.save_pretrained(out)
    processor.save_pretrained(out)
    log = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
        "test_digits_read": round(reading_accuracy(model, processor), 4),
        "torch": torch.__version__, "transformers": transformers.__version__,
        "loss": [
            [entry["step"], round(float(entry["loss"]), 4)]
            for entry in trainer.state.log_history
            if "loss" in entry
        ],
    }  # fmt: skip
    (Path(out) / PRETRAINING_LOG).write_text(json.dumps(log, indent=1) + "\n")
    return log


if __name__ == "__main__":
    typer.run(pretrain)
