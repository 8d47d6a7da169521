"""What all tests share: nothing is downloaded, processes do not fight over cores, none fails for being slow.

`make quick` leaves out what is `slow`, `make test` what is `exhaustive`: the same laws on more cases. `make exhaustive`
runs those, and every property on more examples.
"""

import os

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("NO_COLOR", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a thread that waits for another one does not compute meanwhile
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("tests", deadline=None, max_examples=50)
settings.register_profile("exhaustive", deadline=None, max_examples=200)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with slow tests first, so that no worker is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
