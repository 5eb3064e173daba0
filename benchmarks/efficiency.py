"""Measure encoding, scoring at every budget, and LoRA, as in the paper's efficiency table.

    python benchmarks/efficiency.py --shape tiny      # the bundled backbone, on a CPU
    python benchmarks/efficiency.py --shape 7b        # the shape of Qwen2.5-VL-7B, on a GPU

Speed does not depend on the values of the weights, so the large shapes get random weights.
Candidates are scored in blocks of 1,000, as in the paper. One random block is scored repeatedly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import typer
from peft import LoraConfig, get_peft_model
from report import write
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

from metaembed_lite import PAPER_BUDGETS, checkpoints, maxsim, mmr_loss
from metaembed_lite.backbones import lora_targets
from metaembed_lite.timing import median_seconds

BLOCK_SIZE = 1000  # candidates
R_Q, R_C = 16, 64  # the full budget of the paper
QUERY_TEXT_TOKENS = 32
SHAPES = {  # as published: hidden, intermediate, layers, heads, key-value heads, vocabulary
    "3b": (2048, 11008, 36, 16, 2, 151936),
    "7b": (3584, 18944, 28, 28, 4, 152064),
}


def build_backbone(shape: str, device: torch.device) -> Any:
    """Load the bundled tiny-vlm, or build a large shape with random weights in bfloat16."""
    if shape == "tiny":
        return Qwen2_5_VLModel.from_pretrained(checkpoints.folder("tiny-vlm")).to(device)
    hidden, intermediate, layers, heads, kv_heads, vocabulary = SHAPES[shape]
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


def make_batch(model: Any, n: int, image_tokens: int, extra_tokens: int) -> dict[str, torch.Tensor]:
    """Make ``n`` inputs, each with one square image and ``extra_tokens`` text and meta tokens."""
    vision, config = model.config.vision_config, model.config
    side = round(image_tokens**0.5)
    patches = (side * vision.spatial_merge_size) ** 2
    pixels = 3 * vision.temporal_patch_size * vision.patch_size**2
    start = torch.tensor([config.vision_start_token_id])
    image = torch.full((side * side,), config.image_token_id)
    end = torch.tensor([config.vision_end_token_id])
    ids = torch.cat([start, image, end, torch.full((extra_tokens,), 20)])
    token_types = (ids == config.image_token_id).long()
    grid = torch.tensor([[1, side * vision.spatial_merge_size, side * vision.spatial_merge_size]])
    inputs = {
        "input_ids": ids.expand(n, -1), "attention_mask": torch.ones(n, len(ids), dtype=torch.long),
        "mm_token_type_ids": token_types.expand(n, -1), "image_grid_thw": grid.expand(n, -1),
        "pixel_values": torch.randn(n * patches, pixels, dtype=model.dtype),
    }  # fmt: skip
    return {name: tensor.contiguous().to(model.device) for name, tensor in inputs.items()}


def measure_ms(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the median milliseconds of a call. A first call is not counted."""

    def run_and_wait() -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()

    run_and_wait()
    return 1000 * median_seconds(run_and_wait, repeats)


def count_tflop(run: Callable[[], object]) -> float:
    """Count 10^12 floating point operations of matrix products and attention, also backward."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e12


def measure_matmul_tflops(device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    """Return 10^12 operations per second of a large matrix product: the hardware's best speed."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / measure_ms(lambda: a @ b, device, repeats) / 1e9


def measure_encoding(
    model: Any, image_tokens: int, device: torch.device, repeats: int
) -> tuple[float, float]:
    """Measure the encoding of one query: milliseconds and 10^12 operations."""
    query = make_batch(model, 1, image_tokens, QUERY_TEXT_TOKENS + R_Q)
    with torch.inference_mode():
        ms = measure_ms(lambda: model(**query), device, repeats)
        return ms, count_tflop(lambda: model(**query))


def measure_scoring(
    dim: int, candidates: int, encode_ms: float, device: torch.device, repeats: int
) -> list[dict[str, Any]]:
    """Measure the scoring of one query at every budget of the paper: one row per budget."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rows = []
    for budget in PAPER_BUDGETS:
        q = F.normalize(torch.randn(1, budget.r_q, dim, device=device, dtype=dtype), dim=-1)
        c = F.normalize(
            torch.randn(BLOCK_SIZE, budget.r_c, dim, device=device, dtype=dtype), dim=-1
        )

        def score(q: torch.Tensor = q, c: torch.Tensor = c) -> None:
            for _ in range(candidates // BLOCK_SIZE):
                maxsim(q, c)

        with torch.inference_mode():
            score_ms = measure_ms(score, device, repeats)
        rows.append(
            {
                "budget": str(budget),
                "score_ms": round(score_ms, 2),
                "score_gflop": round(2 * budget.multiply_adds(dim) * candidates / 1e9, 2),
                "index_gib_bf16": round(candidates * budget.r_c * dim * 2 / 2**30, 3),
                "encode_over_score": round(encode_ms / score_ms, 3),
            }
        )
        print(rows[-1])
    return rows


def measure_lora_step(
    model: Any, batch_size: int, image_tokens: int, device: torch.device, repeats: int
) -> dict[str, Any]:
    """Measure forward and backward of one training step of LoRA, rank 32."""
    lora = get_peft_model(
        model.train(), LoraConfig(r=32, lora_alpha=32, target_modules=lora_targets(model))
    )
    inputs = make_batch(model, batch_size, image_tokens, QUERY_TEXT_TOKENS + R_Q + R_C)

    def step() -> None:
        hidden = lora(**inputs).last_hidden_state
        q, c = hidden[:, -R_Q - R_C : -R_C], hidden[:, -R_C:]
        q, c = F.normalize(q, dim=-1), F.normalize(c, dim=-1)
        mmr_loss(q, c[:, None])[0].backward()
        lora.zero_grad()

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step_ms = measure_ms(step, device, repeats)
    peak_gib = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    step_tflop = count_tflop(step)
    matmul_tflops = measure_matmul_tflops(device, model.dtype, repeats)
    return {
        "lora_step_ms": round(step_ms, 1), "lora_batch": batch_size,
        "lora_tokens_per_second": round(inputs["input_ids"].numel() / step_ms * 1000),
        "lora_step_tflop": round(step_tflop, 4), "matmul_tflops": round(matmul_tflops, 3),
        "lora_utilization": round(step_tflop / step_ms * 1000 / matmul_tflops, 3),
        "peak_gib": peak_gib and round(peak_gib, 2),
    }  # fmt: skip


def main(
    shape: str = "tiny",
    candidates: int = 100_000,
    image_tokens: int = 0,
    repeats: int = 5,
    train_batch: int = 4,
) -> None:
    """Measure one shape, print its table and write book/results/efficiency_SHAPE.json.

    IMAGE_TOKENS defaults to 64 for tiny, as many as a sheet of stickers has, and to 1,024 for the
    large shapes.
    """
    if shape not in ("tiny", *SHAPES):
        raise typer.BadParameter(f"--shape {shape}: choose tiny, {', '.join(SHAPES)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_backbone(shape, device).eval()
    image_tokens = image_tokens or (64 if shape == "tiny" else 1024)
    dim = model.config.get_text_config().hidden_size
    torch.manual_seed(0)
    encode_ms, encode_tflop = measure_encoding(model, image_tokens, device, repeats)
    print(f"{shape} on {device}: {encode_ms:.1f} ms per query with {image_tokens} image tokens")
    rows = measure_scoring(dim, candidates, encode_ms, device, repeats)
    lora = measure_lora_step(model, train_batch, image_tokens, device, repeats)
    print(
        f"LoRA, rank 32, forward and backward of {train_batch} inputs: {lora['lora_step_ms']} ms, "
        f"{lora['lora_utilization']:.0%} of the speed of one large matrix product"
    )
    result = {
        "shape": shape, "candidates": candidates, "image_tokens": image_tokens, "dim": dim,
        "encode_query_ms": round(encode_ms, 2), "encode_query_tflop": round(encode_tflop, 5),
        "rows": rows, **lora,
    }  # fmt: skip
    print("written:", write(f"efficiency_{shape}", result))


if __name__ == "__main__":
    typer.run(main)
