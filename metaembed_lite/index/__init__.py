"""Store embeddings ring by ring, and search them at any budget.

``MetaIndex`` (meta_index.py) is the class to use. columns.py says how vectors are stored, stages.py
how a search scans and rescores, incoming.py what is checked before anything is written, and
snapshot.py how LanceDB is read.
"""

import os

# What one scan may read ahead. LanceDB would take 2 GiB, and reads the setting when it is imported.
os.environ.setdefault("LANCE_DEFAULT_IO_BUFFER_SIZE", str(64 << 20))

from metaembed_lite.index.meta_index import MetaIndex

__all__ = ["MetaIndex"]
