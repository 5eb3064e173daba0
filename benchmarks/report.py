"""Write a benchmark's result with hardware, versions and date."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from metaembed_lite.locking import write_whole
from metaembed_lite.timing import processor_name

RESULTS = Path(__file__).parents[1] / "book" / "results"
PACKAGES = ("torch", "transformers", "sentence-transformers", "peft", "numpy")


def environment() -> dict[str, Any]:
    """Return date, hardware and versions."""
    import torch  # takes seconds, and scripts that only start other processes do not need it

    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def write(name: str, result: dict[str, Any]) -> Path:
    """Write ``book/results/<name>.json``, either completely or not at all. Returns its path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    write_whole(path, json.dumps({**result, "environment": environment()}, indent=1) + "\n")
    return path
