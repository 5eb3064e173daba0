"""doctor(): the project's own traps, checked on your model and your items.

``examination.py`` runs the checks. ``subject.py`` holds the model, your items and generated ones.
The checks are in ``inputs.py``, ``batching.py``, ``embeddings.py``, ``weights.py``,
``precision.py`` and ``round_trip.py``.
"""

from metaembed_lite.diagnosis.examination import doctor, examine
from metaembed_lite.diagnosis.finding import Finding

__all__ = ["Finding", "doctor", "examine"]
