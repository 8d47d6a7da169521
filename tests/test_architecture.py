"""Imports point down: cli -> preprocess, mmsent -> shards; foreign libraries come in by one door each."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("shards", "preprocess", "mmsent", "cli")
ALLOWED = {
    "cli": {"cli", "preprocess", "mmsent", "shards"},
    "preprocess": {"preprocess", "shards"},
    "mmsent": {"mmsent", "shards"},
    "shards": {"shards"},
}
DOORS = {
    "decord": {"preprocess/decord_clip.py"},
    "av": {"preprocess/demo_clip.py", "preprocess/probe.py", "preprocess/pyav_clip.py"},
    "torchaudio": {"preprocess/logmel.py"},
    "fsspec": {"shards/remote.py"},
    "tokenizers": {"preprocess/text.py"},
    "huggingface_hub": {"preprocess/text.py"},
    "matplotlib": {"mmsent/plots.py"},
    "torchmetrics": {"mmsent/metrics.py"},
    "torchvision": {"mmsent/video_encoder.py"},
    "transformers": {"mmsent/text_encoder.py"},
    "safetensors": {"mmsent/checkpoint.py", "mmsent/video_encoder.py"},
    "PIL": {"shards/strip.py"},
    "webdataset": {"mmsent/bench.py", "shards/stream.py"},
    "typer": {"cli/bench.py", "cli/data.py", "cli/main.py", "cli/options.py", "cli/training.py"},
    "rich": {"cli/bench.py", "cli/data.py", "cli/drawing.py", "cli/main.py", "cli/progress.py", "cli/training.py"},
}


def product_files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> Iterator[str]:
    """Yield the top-level name of every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            yield ast.literal_eval(node.args[0]).partition(".")[0]


@pytest.mark.parametrize("path", product_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = set(imported(path)) & {*PACKAGES, "tests", "benchmarks"}
    assert ours <= ALLOWED[package]


@pytest.mark.parametrize("path", product_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_foreign_library_comes_in_by_its_door(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    assert [library for library in set(imported(path)) & set(DOORS) if name not in DOORS[library]] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_file_holds_a_docstring_and_nothing_else(package: str) -> None:
    tree = ast.parse((ROOT / package / "__init__.py").read_text("utf-8"))
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


def test_every_folder_of_tests_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
