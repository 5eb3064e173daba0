"""No test of the module may reach for a model hub: what it needs ships with the repository."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
