"""Visual documents: pages with a title and a table or a chart, from scikit-learn's tables."""

from __future__ import annotations

from metaembed_lite.data.pages.task import COLLECTIONS, load_pages

__all__ = ["COLLECTIONS", "load_pages"]
