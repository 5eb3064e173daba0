"""The README of a saved model: what it says about training rows, and quality at every budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metaembed_lite.locking import write_whole

if TYPE_CHECKING:
    import pandas as pd
    from sentence_transformers import MultiVectorEncoder

    from metaembed_lite.data.task import RetrievalTask

TEMPLATE = Path(__file__).parent / "model_card.md"


def remove_examples(model: MultiVectorEncoder) -> None:
    """Remove captions and images of the training rows from a model's card.

    Example:
        >>> from metaembed_lite import load
        >>> model = load("tiny", device="cpu")
        >>> remove_examples(model)
        >>> model.model_card_data.widget
        []
    """
    card = model.model_card_data
    card.widget, card.usage_examples, card.usage_examples_display = [], None, None
    for dataset in [*card.train_datasets, *card.eval_datasets]:
        for key in ("examples", "examples_table", "stats", "stats_table"):
            dataset.pop(key, None)


def add_to_card(folder: str | Path, task: RetrievalTask, table: pd.DataFrame) -> None:
    """Write quality and index bytes at every budget into a saved model's card.

    The table of an earlier call is replaced.

    Args:
        folder: the folder of the saved model.
        task: the task that was evaluated.
        table: from ``sweep``.

    Example:
        >>> import tempfile
        >>> from metaembed_lite import load, load_task, save, sweep
        >>> model, folder = load("tiny", device="cpu"), tempfile.mkdtemp()
        >>> save(model, folder)
        >>> task = load_task("stickers", n_queries=4, n_train=0)
        >>> add_to_card(folder, task, sweep(model, task))
        >>> "## Quality at every budget" in Path(folder, "README.md").read_text()
        True
    """
    card = Path(folder) / "README.md"
    lines = [
        "| budget (r_q, r_c) | P@1 | NDCG@5 | index bytes per candidate |",
        "|---|---|---|---|",
    ]
    for row in table.itertuples():
        lines.append(
            f"| ({row.r_q}, {row.r_c}) | {row.p_at_1:.3f} | {row.ndcg_at_5:.3f} "
            f"| {row.bytes_per_candidate:,} |"
        )
    block = f"## Quality at every budget\n\n{task!r}\n\n" + "\n".join(lines) + "\n\n"
    before, _, rest = card.read_text(encoding="utf-8").partition("## Architecture\n")
    before = before.partition("## Quality at every budget\n")[0]
    write_whole(card, f"{before}{block}## Architecture\n{rest}")
