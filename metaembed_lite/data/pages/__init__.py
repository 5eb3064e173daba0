"""Visual documents: pages with a title and a table or a chart, drawn from scikit-learn's tables."""

from __future__ import annotations

from metaembed_lite.data.pages.task import COLLECTIONS, pages

__all__ = ["COLLECTIONS", "pages"]
