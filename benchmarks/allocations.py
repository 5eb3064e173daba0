"""How much memory the operations of a call allocate."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


def largest_allocation(run: Callable[[], object]) -> int:
    """Return the bytes of the largest single allocation on the CPU while a function runs.

    PyTorch's profiler records every allocation, also those inside an operation. Inputs exist before
    the call and views share memory, so neither counts.

    Example:
        >>> import torch
        >>> rows, columns = torch.ones(100, 1), torch.ones(1, 50)
        >>> largest_allocation(lambda: (rows * columns).sum())  # (100, 50) in float32
        20000
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recording:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recording.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    sizes = [event["args"]["Bytes"] for event in events if event["name"] == "[memory]"]
    return max(sizes, default=0)  # freed memory has negative bytes
