"""What all tests share: nothing is downloaded, quick ones do not fight over cores, none fails for being slow."""

import os

from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("NO_COLOR", "1")

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
