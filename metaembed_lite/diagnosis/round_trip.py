"""Check of saving: a saved and loaded model gives the same vectors."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from metaembed_lite.diagnosis.finding import SKIPPED, Finding, judge
from metaembed_lite.diagnosis.subject import TASKS, Subject, difference
from metaembed_lite.encoder import MultiVectorEncoder
from metaembed_lite.loading import load
from metaembed_lite.saving import save


def check_round_trip(subject: Subject) -> Finding:
    """A saved and loaded model gives the same vectors.

    Example:
        >>> check_round_trip(Subject(load("tiny", device="cpu"), [])).result
        'ok'
    """
    model = subject.model
    if not isinstance(model, MultiVectorEncoder):
        return Finding(SKIPPED, "the model is not from build() or load()")
    with TemporaryDirectory() as folder:
        save(model, Path(folder) / "model")
        size = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
        loaded = Subject(load(Path(folder) / "model", device=str(model.device)), [])
        largest = max(
            difference(subject.embeddings[task], loaded.encode(subject.samples, task))
            for task in TASKS
        )
    return judge(
        largest,
        subject.tolerance,
        f"{size / 2**20:.1f} MiB saved and loaded, and vectors differ by {largest:.1e}",
        "something outside of the saved weights changes the vectors",
    )
