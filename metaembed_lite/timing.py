"""How long a call takes, and the processor on which it was measured."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def median_seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Median wall-clock seconds of several calls.

    Args:
        run: called without arguments. Its result is dropped.
        repeats: number of calls. Defaults to 5.

    Example:
        >>> 0 <= median_seconds(lambda: sum(range(1000))) < 1
        True
    """
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def processor_name() -> str:
    """The processor's name as the operating system reports it.

    Example:
        >>> isinstance(processor_name(), str)
        True
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
