"""Instruments that run in JupyterLab and on a static page: budget sliders, and MaxSim in steps.

``widget.py`` is the explorer's notebook widget. ``state.py`` collects what it shows, with the help
of ``selection.py``, ``display.py``, ``cells.py``, ``quantization.py`` and ``costs.py``.
``stepper.py`` is the widget that takes MaxSim apart. ``page.py`` writes HTML, and ``js/`` is the
front end of both.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaembed_lite.explorer.stepper import MaxSimStepper
    from metaembed_lite.explorer.widget import BudgetExplorer

# Imported on first use: they need widgets, which the search page does without.
_MODULES = {"BudgetExplorer": "widget", "MaxSimStepper": "stepper"}
__all__ = ["BudgetExplorer", "MaxSimStepper"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
