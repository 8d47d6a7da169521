"""The Python of docs/loading.md does what it says."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT, environment
from tests.support.samples import make_sample, write_split

DOCUMENT = (ROOT / "docs" / "loading.md").read_text("utf-8")
BLOCKS = {
    re.findall(r"^## (.+)$", DOCUMENT[: found.start()], flags=re.MULTILINE)[-1]: found[1]
    for found in re.finditer(r"^```python\n(.*?)^```$", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
}
NEEDED = {"Hugging Face datasets": "datasets"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("docs")
    write_split(root / "data" / "shards", [make_sample(i) for i in range(7)])
    return root


def test_there_is_a_block_for_each_way_of_loading() -> None:
    assert {"A torch data set", "A stream", "Stock webdataset", "Hugging Face datasets"} <= BLOCKS.keys()


@pytest.mark.parametrize("title", BLOCKS)
def test_a_block_runs_as_it_stands(folder: Path, title: str) -> None:
    if title in NEEDED and importlib.util.find_spec(NEEDED[title]) is None:
        pytest.skip(f"{NEEDED[title]} is not installed")
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS[title]],
        cwd=folder,
        env={**environment(), "HF_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
