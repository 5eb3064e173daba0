"""Pretrain tiny-vlm: a Qwen2.5-VL small enough for a laptop's CPU that reads sheets of stickers.

    python benchmarks/pretrain.py OUT --compile-layers    # half an hour on two cores

The model is built from transformers' own classes. Its tokenizer and processor are trained here.
``AutoModel`` and ``AutoProcessor`` load it exactly as they load ``Qwen/Qwen2.5-VL-3B-Instruct``.

First the vision tower learns to name single stickers and digits. Its image tokens should have a
high cosine with the word embeddings of the name, so the language model can read them from the
start. The word embeddings stay random here. Random vectors are nearly orthogonal, so a sum of image
tokens still tells which things it is made of. With dot products instead of cosines, and names that
learn, a few directions would carry nearly all of the difference between things. Then the things of
a sheet could hardly be recovered from one vector.

Then the language model learns from conversations about images, which grow from one place to 5 x 5:
what is at a place, where a thing is, and captions, which name things without places. The last steps
have no captions. Where a caption ends, a model should expect everything that is left. If it still
did so at the end, all meta tokens would start out as the same summary of the image.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
import typer
from conversations import (
    DIGITS,
    MOST_SIDE,
    Conversation,
    sample_conversation,
    sample_sheet,
    vocabulary,
)
from cpu_speed import remember_windows
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import Dataset
from transformers.trainer_utils import get_last_checkpoint

from metaembed_lite.data.boards import place_names
from metaembed_lite.data.scans import render_digits
from metaembed_lite.data.sheets import Sheet, render_sheet
from metaembed_lite.data.sticker_art import ARTISTS, SEEN, SIZE, UNSEEN, draw_sticker, load_names
from metaembed_lite.results import PRETRAINING_LOG

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
           "<|image_pad|>", "<|video_pad|>"]  # fmt: skip
SPARE_TOKENS = 128  # unused vocabulary rows for meta tokens. Qwen2.5-VL has 271 of them
TOWER_TEMPERATURE = 0.1  # of the cosines between image tokens and names
PATCH = 16  # pixels; a sticker of 32 x 32 is four patches, and each is one image token
# A space before each text, so that a word is the same token wherever it stands.
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %} {{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif c['type'] == 'text' %} {{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer() -> Any:
    """Train a byte-level BPE tokenizer. Each word of a name is one token, and so is each place."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r" ?[A-Z]\d+| ?[\p{L}\-]+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,  # more than are needed, so training ends when every word is one token
        min_frequency=1,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["user\n", "assistant\n", ",", *(f" {text}" for text in vocabulary())], trainer
    )
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

    A sheet of 5 x 5 stickers, 160 x 160 pixels, becomes 100 image tokens. The vision tower attends
    within windows of one sticker. The base of the rotary embedding is 10 instead of 10,000: with
    10,000, places next to each other have nearly the same position.
    """
    tokenizer = build_tokenizer()
    ids = {t: tokenizer.convert_tokens_to_ids(t) for t in SPECIAL}
    heads = 4
    pairs, axis = width // heads // 2, width * 3 // 64  # rotary pairs of a head: time, y, x
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer) + SPARE_TOKENS,
            "hidden_size": width,
            "intermediate_size": width * 11 // 4,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [pairs - 2 * axis, axis, axis],
                "rope_theta": 10.0,
            },
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": 1,
            "temporal_patch_size": 1,
            "window_size": SIZE,
            "fullatt_block_indexes": [],
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
    pixels = {"shortest_edge": PATCH * PATCH, "longest_edge": 256 * 256}
    patches = {"patch_size": PATCH, "merge_size": 1, "temporal_patch_size": 1, "size": pixels}
    processor = transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**patches),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(**patches),
        chat_template=CHAT_TEMPLATE,
    )
    return model, processor


# ------------------------------------------------------------- the vision tower as a classifier


def name_embeddings(model: Any, processor: Any) -> torch.Tensor:
    """The mean word embedding of each class, (310, width): the names of things, then the digits."""
    names = [f" {name}" for name in (*load_names(), *DIGITS)]
    tokens = processor.tokenizer(names, add_special_tokens=False)["input_ids"]
    table = model.get_input_embeddings().weight
    return torch.stack([table[ids].mean(dim=0) for ids in tokens])


def embed_stickers(model: Any, processor: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The mean image token of each sticker: (B, 3, 32, 32) from 0 to 1, to (B, width)."""
    settings = processor.image_processor
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in (settings.image_mean, settings.image_std)
    )
    n, k = len(pixels), SIZE // PATCH
    tiles = ((pixels - mean) / std).reshape(n, 3, k, PATCH, k, PATCH)
    patches = tiles.permute(0, 2, 4, 1, 3, 5).reshape(n * k * k, -1)
    grid = torch.tensor([[1, k, k]]).expand(n, 3)
    tokens = model.model.visual(patches, grid_thw=grid).pooler_output
    return tokens.view(n, k * k, -1).mean(dim=1)


def to_pixels(images: list[np.ndarray]) -> torch.Tensor:
    """Images (32, 32, 3) uint8 as pixels (B, 3, 32, 32) from 0 to 1."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def sample_stickers(rng: np.random.Generator, n: int, split: str) -> tuple[torch.Tensor, ...]:
    """Sample stickers and digits: pixels (n, 3, 32, 32) from 0 to 1, and classes (n,)."""
    images, classes = [], []
    for is_digit in rng.random(n) < 0.25:
        if is_digit:
            digit = int(rng.integers(10))
            images.append(np.asarray(render_digits(np.array([digit]), rng, split)))
            classes.append(len(load_names()) + digit)
        else:
            artist = ARTISTS[rng.integers(2)]
            classes.append(int(rng.choice(SEEN[artist])))
            images.append(draw_sticker(classes[-1], artist))
    return to_pixels(images), torch.tensor(classes)


def augment(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift by up to 2 pixels, scale and rotate by up to 10 % and degrees, change the color."""
    n = len(pixels)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    angle, scale = uniform(-0.17, 0.17), uniform(0.9, 1.1)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift = uniform(-2 / SIZE * 2, 2 / SIZE * 2, 2)
    matrix = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(n, 2, 3)
    grid = F.affine_grid(matrix, list(pixels.shape), align_corners=False)
    moved = 1 - F.grid_sample(1 - pixels, grid, align_corners=False)  # what moves in is white
    return (moved * uniform(0.85, 1.15, 3, 1, 1)).clamp(0, 1)


def train_tower(
    model: Any, processor: Any, steps: int, seed: int, batch_size: int = 256, lr: float = 2e-3
) -> list[list[float]]:
    """Train the vision tower to name stickers and digits. Returns rows (step, loss)."""
    rng, generator = np.random.default_rng([seed, 12]), torch.Generator().manual_seed(seed)
    weights = list(model.model.visual.parameters())
    names = F.normalize(name_embeddings(model, processor), dim=-1).detach()
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.05)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, 100, steps)
    rows, losses = [], []
    for step in range(1, steps + 1):
        pixels, classes = sample_stickers(rng, batch_size, "train")
        features = embed_stickers(model, processor, augment(pixels, generator))
        cosines = F.normalize(features, dim=-1) @ names.T
        loss = F.cross_entropy(cosines / TOWER_TEMPERATURE, classes)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 0:
            rows.append([step, round(float(np.mean(losses)), 4)])
            losses.clear()
            print(f"tower {step}/{steps}: loss {rows[-1][1]}", flush=True)
    return rows


def effective_rank(vectors: torch.Tensor) -> float:
    """How many directions vectors (n, D) differ in, from 1 to D.

    The variances along the principal axes, as shares of the whole, have a sum of squares between
    1 / D (all are equal) and 1 (there is one axis). The effective rank is its inverse.
    """
    variances = torch.linalg.svdvals(vectors - vectors.mean(dim=0)) ** 2
    return round((variances.sum() ** 2 / (variances**2).sum()).item(), 1)


@torch.no_grad()
def measure_spread(model: Any, processor: Any) -> float:
    """The effective rank of the image tokens of the drawings that one artist shows in training."""
    pixels = to_pixels([draw_sticker(thing, ARTISTS[0]) for thing in SEEN[ARTISTS[0]]])
    return effective_rank(embed_stickers(model, processor, pixels))


@torch.no_grad()
def measure_tower(model: Any, processor: Any) -> dict[str, float]:
    """Share of seen drawings, unseen drawings and test writers' digits that the tower names."""
    names = F.normalize(name_embeddings(model, processor), dim=-1)
    rng = np.random.default_rng(13)

    def share_right(images: list[np.ndarray], expected: list[int]) -> float:
        predicted = (embed_stickers(model, processor, to_pixels(images)) @ names.T).argmax(dim=1)
        return round((predicted == torch.tensor(expected)).float().mean().item(), 4)

    shares = {}
    for name, drawings in {"seen_drawings": SEEN, "unseen_artist": UNSEEN}.items():
        pairs = [(thing, artist) for artist in ARTISTS for thing in drawings[artist]]
        shares[name] = share_right([draw_sticker(*pair) for pair in pairs], [p[0] for p in pairs])
    digits = rng.integers(10, size=1000)
    images = [np.asarray(render_digits(np.array([d]), rng, "test")) for d in digits]
    shares["test_digits"] = share_right(images, [len(load_names()) + int(d) for d in digits])
    return shares


# ------------------------------------------------------------- the language model


class Conversations(Dataset):
    """``n`` conversations, sampled on access. The same seed gives the same conversations."""

    def __init__(self, n: int, seed: int):
        self.n, self.seed = n, seed

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Conversation:
        most_side = min(MOST_SIDE, 1 + int(index / self.n * 20))  # 5 x 5 after a fifth
        return sample_conversation(np.random.default_rng([self.seed, 10, index]), most_side)


class Places(Conversations):
    """``n`` conversations without captions. The images are large."""

    def __getitem__(self, index: int) -> Conversation:
        rng = np.random.default_rng([self.seed, 12, index])
        return sample_conversation(rng, MOST_SIDE - 1 if index % 2 else MOST_SIDE, captions=0)


def collate(conversations: list[Conversation], processor: Any) -> dict[str, torch.Tensor]:
    """Pad conversations to one batch. ``labels`` are what is learned of facts, else -100."""
    texts, images, answers = [], [], []
    for image, text, facts in conversations:
        content = [{"type": "image"}] if image is not None else []
        content += [{"type": "text", "text": text}] if text else []
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        pieces = [(f" {given}" if given else "", f" {learned}", ",") for given, learned in facts]
        texts.append(prompt + "".join(map("".join, pieces)))
        images += [image] if image is not None else []
        flat = [piece for triple in pieces for piece in triple]
        tokens = processor.tokenizer(flat, add_special_tokens=False)["input_ids"]
        answers.append(
            [
                token if position % 3 == 1 else -100
                for position, piece in enumerate(tokens)
                for token in piece
            ]
        )
    batch = processor(text=texts, images=images or None, padding=True, return_tensors="pt")
    labels = torch.full_like(batch["input_ids"], -100)
    for row, answer in enumerate(answers):  # padding is on the left
        labels[row, -len(answer) :] = torch.tensor(answer)
    batch["labels"] = labels
    return dict(batch)


class FactsTrainer(transformers.Trainer):
    """Computes the next token's probabilities only where facts are learned, which saves time."""

    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], **kwargs: Any) -> Any:
        labels = inputs.pop("labels")[:, 1:]
        learned = labels != -100
        hidden = model.model(**inputs).last_hidden_state[:, :-1][learned]
        return F.cross_entropy(model.lm_head(hidden).float(), labels[learned])


def train_language(
    model: Any, processor: Any, data: Dataset, folder: Path, **settings: Any
) -> list[list[float]]:
    """Train the language model on conversations. Returns rows (step, loss).

    Args:
        model: trained in place. Its vision tower stays as it is.
        processor: of the model.
        data: the conversations, as many as all steps take.
        folder: for checkpoints. Training continues from the last one.
        settings: further ``TrainingArguments``.
    """
    arguments = transformers.TrainingArguments(
        str(folder), lr_scheduler_type="cosine", weight_decay=0.05, adam_beta2=0.98,
        logging_steps=50, save_steps=500, save_total_limit=1, report_to=[],
        train_sampling_strategy="sequential", remove_unused_columns=False,
        dataloader_drop_last=True, disable_tqdm=True, use_cpu=True, bf16=True, **settings,
    )  # fmt: skip
    trainer = FactsTrainer(
        model=model, args=arguments, train_dataset=data,
        data_collator=lambda examples: collate(examples, processor),
    )  # fmt: skip
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [[entry["step"], round(float(entry["loss"]), 4)] for entry in history]


def share_read(model: Any, processor: Any, images: list[Any], contents: list[list[str]]) -> float:
    """Share of places whose content the model names exactly, asked in random order."""
    rng = np.random.default_rng(14)
    places = place_names(MOST_SIDE)
    right = []
    for start in range(0, len(images), 50):
        examples = []
        for image, content in list(zip(images, contents, strict=True))[start : start + 50]:
            facts = [(places[p], content[p]) for p in rng.permutation(len(places))[:12]]
            examples.append(Conversation(image, "", facts))
        batch = collate(examples, processor)
        labels = batch.pop("labels")[:, 1:]
        with torch.inference_mode():
            predicted = model(**batch).logits[:, :-1].argmax(dim=-1)
        for row_labels, row_predicted in zip(labels, predicted, strict=True):
            learned = row_labels != -100
            starts = learned & ~torch.cat([torch.tensor([False]), learned[:-1]])
            fact = starts.cumsum(dim=0)[learned]
            wrong = (row_labels != row_predicted)[learned]
            right += [not wrong[fact == i].any().item() for i in range(1, int(fact[-1]) + 1)]
    return round(float(np.mean(right)), 4)


def measure_reading(model: Any, processor: Any, n: int = 200) -> dict[str, float]:
    """Share of contents read on unseen sheets, on sheets of unseen drawings, and on test boards.

    A sheet of unseen drawings holds 25 of the 30 drawings that an artist never shows in training.
    """
    model.eval()
    rng = np.random.default_rng(15)
    sheets = [sample_sheet(rng, MOST_SIDE) for _ in range(n)]
    unseen = [
        Sheet(artist, rng.permutation(UNSEEN[artist])[: MOST_SIDE**2])
        for artist in ARTISTS
        for _ in range(n // 2)
    ]
    digits = rng.integers(10, size=(n, MOST_SIDE**2))
    names = load_names()
    suites: dict[str, tuple[list[Any], list[list[str]]]] = {
        "test_digits": (
            [render_digits(board, rng, "test") for board in digits],
            [[DIGITS[digit] for digit in board] for board in digits],
        )
    }
    for name, group in {"unseen_sheets": sheets, "unseen_artist": unseen}.items():
        contents = [[names[thing] for thing in sheet.things] for sheet in group]
        suites[name] = [render_sheet(sheet) for sheet in group], contents
    return {name: share_read(model, processor, *suite) for name, suite in suites.items()}


def pretrain(
    out: Path, steps: int = 3000, place_steps: int = 500, tower_steps: int = 1200,
    batch_size: int = 64, layers: int = 4, width: int = 128, lr: float = 1e-3, seed: int = 0,
    compile_layers: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Pretrain tiny-vlm and save it to the folder OUT. Returns the content of its log.

    An interrupted run continues: what it has so far is in OUT/unfinished. Compiled layers are
    faster, and need a C++ compiler.
    """
    started = time.perf_counter()
    transformers.set_seed(seed)
    model, processor = build_untrained(layers, width, seed)
    unfinished = Path(out) / "unfinished"
    tower_file = unfinished / "tower.pt"
    if tower_file.is_file():
        state = torch.load(tower_file)
        model.load_state_dict(state["model"])
        tower_log = state["log"]
    else:
        rows = train_tower(model, processor, tower_steps, seed)
        tower_log = {"steps": tower_steps, "reads": measure_tower(model, processor), "loss": rows}
        tower_log["effective_rank"] = measure_spread(model, processor)
        tower_log["seconds"] = round(time.perf_counter() - started, 1)
        unfinished.mkdir(parents=True, exist_ok=True)
        torch.save({"model": model.state_dict(), "log": tower_log}, tower_file)
    print(f"tower: {tower_log['reads']}", flush=True)
    model.model.visual.requires_grad_(False)
    remember_windows(model.model.visual)
    model.set_attn_implementation({"text_config": "eager"})  # its backward pass is faster on CPUs
    if compile_layers:
        for layer in model.model.language_model.layers:
            layer.compile(dynamic=True)
    settings = {"per_device_train_batch_size": batch_size, "seed": seed}
    losses = train_language(
        model, processor, Conversations(steps * batch_size, seed), unfinished / "captions",
        max_steps=steps, learning_rate=lr, warmup_steps=100, **settings,
    )  # fmt: skip
    place_losses = train_language(
        model, processor, Places(place_steps * batch_size, seed), unfinished / "places",
        max_steps=place_steps, learning_rate=lr / 2, warmup_steps=30, **settings,
    )  # fmt: skip
    model = model.cpu().eval()
    log = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed, "tower": tower_log,
        "seconds": round(time.perf_counter() - started, 1),
        "reads": measure_reading(model, processor),
        "torch": torch.__version__, "transformers": transformers.__version__,
        "loss": losses,
        "places": {"steps": place_steps, "loss": place_losses},
    }  # fmt: skip
    model.set_attn_implementation({"text_config": "sdpa"})
    model.save_pretrained(out)
    processor.save_pretrained(out)
    (Path(out) / PRETRAINING_LOG).write_text(json.dumps(log, indent=1) + "\n")
    shutil.rmtree(unfinished)
    print(log["reads"])
    return log


if __name__ == "__main__":
    typer.run(pretrain)
