"""An interactive page with two sliders that re-ranks candidates at any budget.

``widget.py`` is the notebook widget. ``state.py`` collects what it shows, with the help of
``selection.py``, ``display.py``, ``quantization.py`` and ``costs.py``. ``page.py`` writes HTML, and
``js/`` is the front end.
"""

from metaembed_lite.explorer.widget import BudgetExplorer

__all__ = ["BudgetExplorer"]
