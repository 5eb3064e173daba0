"""Encoding against scoring at every budget, and LoRA's throughput: the paper's efficiency table.

    python benchmarks/efficiency.py --shape tiny      # the shipped backbone, on a CPU
    python benchmarks/efficiency.py --shape 7b        # Qwen2.5-VL-7B's shape, on a GPU

Speed does not depend on the values of weights, so the large shapes get random ones. Scoring takes
candidates in blocks of 1,000, as the paper does; the same random block stands for all of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import typer
from peft import LoraConfig, get_peft_model
from report import write
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

from metaembed_lite import PAPER_BUDGETS, MatryoshkaMultiVectorLoss, checkpoints, maxsim
from metaembed_lite.backbones import lora_targets

BLOCK = 1000
LARGE = {  # hidden, intermediate, layers, heads, key-value heads, vocabulary: the published shapes
    "3b": (2048, 11008, 36, 16, 2, 151936),
    "7b": (3584, 18944, 28, 28, 4, 152064),
}


def backbone(shape: str, device: torch.device) -> Any:
    """The shipped tiny-vlm, or a large shape with random weights in bfloat16."""
    if shape == "tiny":
        return Qwen2_5_VLModel.from_pretrained(checkpoints.folder("tiny-vlm")).to(device)
    hidden, intermediate, layers, heads, kv_heads, vocabulary = LARGE[shape]
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
            "rope_parameters": {
                "rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6,
            },
        },
        vision_config={"hidden_size": 1280, "out_hidden_size": hidden},
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            return Qwen2_5_VLModel(config)
    finally:
        torch.set_default_dtype(torch.float32)


def batch(model: Any, n: int, image_tokens: int, extra: int) -> dict[str, torch.Tensor]:
    """``n`` inputs of one square image and ``extra`` further tokens, text and meta tokens."""
    vision, config = model.config.vision_config, model.config
    side = round(image_tokens**0.5)
    patches = (side * vision.spatial_merge_size) ** 2
    pixels = 3 * vision.temporal_patch_size * vision.patch_size**2
    start = torch.tensor([config.vision_start_token_id])
    image = torch.full((side * side,), config.image_token_id)
    ids = torch.cat(
        [start, image, torch.tensor([config.vision_end_token_id]), torch.full((extra,), 20)]
    )
    kinds = (ids == config.image_token_id).long()
    grid = torch.tensor([[1, side * vision.spatial_merge_size, side * vision.spatial_merge_size]])
    made = {
        "input_ids": ids.expand(n, -1), "attention_mask": torch.ones(n, len(ids), dtype=torch.long),
        "mm_token_type_ids": kinds.expand(n, -1), "image_grid_thw": grid.expand(n, -1),
        "pixel_values": torch.randn(n * patches, pixels, dtype=model.dtype),
    }  # fmt: skip
    return {name: tensor.contiguous().to(model.device) for name, tensor in made.items()}


def milliseconds(function: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median wall-clock time of a call, after one that does not count."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[1:])


def tflop(function: Callable[[], Any]) -> float:
    """10^12 floating point operations of a call's matrix products and attention, backward too."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() / 1e12


def matmul_tflops(device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    """10^12 operations a second of one large matrix product: what the hardware gives at best."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / milliseconds(lambda: a @ b, device, repeats) / 1e9


def main(
    shape: str = "tiny", candidates: int = 100_000, image_tokens: int = 0, repeats: int = 5,
    train_batch: int = 4,
) -> None:  # fmt: skip
    """Measure one shape, print its table, write book/results/efficiency_SHAPE.json."""
    if shape not in ("tiny", *LARGE):
        raise typer.BadParameter(f"{shape!r}: choose tiny, {', '.join(LARGE)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = backbone(shape, device).eval()
    image_tokens = image_tokens or (9 if shape == "tiny" else 1024)
    dim = model.config.get_text_config().hidden_size
    torch.manual_seed(0)
    one = batch(model, 1, image_tokens, extra=32 + 16)
    with torch.inference_mode():
        encode = milliseconds(lambda: model(**one), device, repeats)
        encode_tflop = tflop(lambda: model(**one))
    print(f"{shape} on {device}: one query, image of {image_tokens} tokens: {encode:.1f} ms")
    rows = []
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    for budget in PAPER_BUDGETS:
        q = F.normalize(torch.randn(1, budget.r_q, dim, device=device, dtype=kind), dim=-1)
        c = F.normalize(torch.randn(BLOCK, budget.r_c, dim, device=device, dtype=kind), dim=-1)

        def score(q: torch.Tensor = q, c: torch.Tensor = c) -> None:
            for _ in range(candidates // BLOCK):
                maxsim(q, c)

        with torch.inference_mode():
            scoring = milliseconds(score, device, repeats)
        rows.append(
            {
                "budget": str(budget),
                "score_ms": round(scoring, 2),
                "score_gflop": round(2 * budget.multiply_adds(dim) * candidates / 1e9, 2),
                "index_gib_bf16": round(candidates * budget.r_c * dim * 2 / 2**30, 3),
                "encode_over_score": round(encode / scoring, 3),
            }
        )
        print(rows[-1])
        del q, c
    lora = get_peft_model(
        model.train(), LoraConfig(r=32, lora_alpha=32, target_modules=lora_targets(model))
    )
    loss_function = MatryoshkaMultiVectorLoss()
    inputs = batch(model, train_batch, image_tokens, extra=32 + 80)

    def step() -> None:
        hidden = lora(**inputs).last_hidden_state
        q, c = F.normalize(hidden[:, -80:-64], dim=-1), F.normalize(hidden[:, -64:], dim=-1)
        loss_function.score_loss(q, c[:, None]).backward()
        lora.zero_grad()

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    training = milliseconds(step, device, repeats)
    peak_gib = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    step_tflop = tflop(step)
    best = matmul_tflops(device, model.dtype, repeats)
    result = {
        "shape": shape, "candidates": candidates, "image_tokens": image_tokens, "dim": dim,
        "encode_query_ms": round(encode, 2), "encode_query_tflop": round(encode_tflop, 5),
        "rows": rows,
        "lora_step_ms": round(training, 1), "lora_batch": train_batch,
        "lora_tokens_per_second": round(inputs["input_ids"].numel() / training * 1000),
        "lora_step_tflop": round(step_tflop, 4), "matmul_tflops": round(best, 3),
        "lora_utilization": round(step_tflop / training * 1000 / best, 3),
        "peak_gib": peak_gib and round(peak_gib, 2),
    }  # fmt: skip
    print(
        f"LoRA, rank 32, forward and backward of {train_batch} inputs: {result['lora_step_ms']} "
        f"ms, {result['lora_utilization']:.0%} of a plain matrix product's speed"
    )
    print("written:", write(f"efficiency_{shape}", result))


if __name__ == "__main__":
    typer.run(main)
