"""Imports point down, from floor to floor and from room to room; foreign libraries come in by one door each."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    "shards": {"shards"},
    "preprocess": {"preprocess", "shards"},
    "mmsent": {"mmsent", "shards"},
    "inference": {"inference", "preprocess", "mmsent", "shards"},
    "commands": {"commands", "inference", "preprocess", "mmsent", "shards"},
    "cli.py": {"commands", "shards"},
}
"""What each package may import."""
ROOMS = {
    "shards": (
        "schema spec errors files lock machine",
        "format",
        "order",
        "storage",
        "reading",
        "writing",
        "splits items",
    ),
    "preprocess": ("config errors", "datasets", "clips", "text", "building", "doctor", "demo", "on_the_fly"),
    "mmsent": (
        "config errors",
        "compute",
        "batches",
        "model",
        "runs",
        "evaluation",
        "encoding",
        "training",
        "bench",
    ),
}
"""The rooms of a package, from the ground up: a file imports from its own and from lower ones."""
PACKAGES = [name for name in FLOORS if (ROOT / name).is_dir()]
MOST_LINES = 400
DOORS = {
    "decord": {"preprocess/clips/decord_clip.py"},
    "av": {
        "preprocess/demo/clip_writer.py",
        "preprocess/doctor/open_clips.py",
        "preprocess/clips/known_good.py",
        "preprocess/clips/pyav_clip.py",
        "preprocess/clips/pyav_picture.py",
        "preprocess/clips/pyav_sound.py",
    },
    "torchaudio": {"preprocess/clips/logmel.py"},
    "fsspec": {"shards/storage/url_folder.py"},
    "tokenizers": {"preprocess/text/tokenizer.py"},
    "huggingface_hub": {"preprocess/text/tokenizer.py"},
    "matplotlib": {"mmsent/bench/chart.py", "mmsent/evaluation/label_fonts.py", "mmsent/evaluation/plots.py"},
    "torchmetrics": {"mmsent/evaluation/metrics.py"},
    "torchvision": {"mmsent/model/video_encoder.py"},
    "transformers": {"mmsent/model/text_encoder.py"},
    "safetensors": {"mmsent/runs/checkpoint.py", "mmsent/model/video_encoder.py"},
    "PIL": {"shards/format/frame_jpeg.py"},
    "webdataset": {"mmsent/bench/cases.py", "shards/reading/stream.py"},
    "typer": {"cli.py", "commands/"},
    "rich": {"cli.py", "commands/"},
}
"""The files, or folders with a slash, that may import a foreign library."""


def product_files() -> list[Path]:
    return [ROOT / "cli.py", *(path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))]


def imported(path: Path) -> Iterator[str]:
    """Yield the name of every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            yield ast.literal_eval(node.args[0])


def top_level(path: Path) -> set[str]:
    """Return the packages that a file imports, ours and foreign ones."""
    return {name.partition(".")[0] for name in imported(path)}


each_file = pytest.mark.parametrize("path", product_files(), ids=lambda path: path.relative_to(ROOT).as_posix())


@each_file
def test_imports_point_down(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = top_level(path) & {*FLOORS, "cli", "tests", "benchmarks"}
    assert ours <= FLOORS[package]


def room_of(package: str, module: str) -> int:
    """Return the place of a module's room in its package, from the ground up."""
    [place] = [place for place, names in enumerate(ROOMS[package]) if module in names.split()]
    return place


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_one_way(package: str) -> None:
    upwards = []
    for path in sorted((ROOT / package).rglob("*.py")):
        name = path.relative_to(ROOT).with_suffix("").as_posix()
        if name == f"{package}/__init__":
            continue
        here = room_of(package, name.split("/")[1])
        for module in imported(path):
            if module.startswith(f"{package}.") and room_of(package, module.split(".")[1]) > here:
                upwards.append(f"{name} imports {module}")
    assert upwards == []


@each_file
def test_a_foreign_library_comes_in_by_its_door(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    doors = {name, name[: name.find("/") + 1]}
    assert [library for library in top_level(path) & set(DOORS) if not doors & DOORS[library]] == []


@each_file
def test_a_file_is_no_longer_than_a_person_reads_in_one_go(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_file_holds_a_docstring_and_nothing_else(package: str) -> None:
    for path in (ROOT / package).rglob("__init__.py"):
        tree = ast.parse(path.read_text("utf-8"))
        assert ast.get_docstring(tree), path
        assert len(tree.body) == 1, path


def test_every_folder_of_tests_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
