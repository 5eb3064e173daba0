"""Instruments that run in JupyterLab and on a static page: budget sliders, and MaxSim in steps.

``widget.py`` is the explorer's notebook widget. ``state.py`` collects what it shows, with the help
of ``selection.py``, ``display.py``, ``cells.py``, ``quantization.py`` and ``costs.py``.
``stepper.py`` is the widget that takes MaxSim apart. ``page.py`` writes HTML, and ``js/`` is the
front end of both.
"""

from metaembed_lite.explorer.stepper import MaxSimStepper
from metaembed_lite.explorer.widget import BudgetExplorer

__all__ = ["BudgetExplorer", "MaxSimStepper"]
