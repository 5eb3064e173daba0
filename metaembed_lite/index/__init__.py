"""Store embeddings ring by ring, and search them at any budget.

``MetaIndex`` (meta_index.py) is the class to use. It writes and searches, and stored.py reads back
what is there. columns.py says how vectors are stored, stages.py how a search scans and rescores,
and incoming.py what is checked before anything is written. storage.py and snapshot.py write and
read LanceDB.
"""

import os

# What one scan may read ahead. LanceDB would take 2 GiB, and reads the setting when it is imported.
os.environ.setdefault("LANCE_DEFAULT_IO_BUFFER_SIZE", str(64 << 20))

from metaembed_lite.extras import extra

with extra("index"):
    import lancedb  # noqa: F401

from metaembed_lite.index.meta_index import MetaIndex

__all__ = ["MetaIndex"]
