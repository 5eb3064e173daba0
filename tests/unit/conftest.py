"""No test of the package may use a model hub. The repository has all that they need."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
