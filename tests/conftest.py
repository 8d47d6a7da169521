"""What all tests share: nothing is ever downloaded, and the quick ones do not fight over cores."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("NO_COLOR", "1")
