"""Documents can be read and compared line by line, and name only what exists: files, rooms, commands, options."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from cli import app
from commands.config_keys import SECTIONS
from tests.support.commands import ROOT
from tests.test_architecture import PACKAGES, product_files

MOST_COLUMNS = 100
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FOREIGN_OPTIONS = {
    "--check": "ruff",
    "--constraint": "pip",
    "--disable-pip-version-check": "pip",
    "--editable": "pip",
    "--quiet": "pip",
    "--signal": "sbatch",
    "--requeue": "sbatch",
    "--nodes": "sbatch",
    "--ntasks-per-node": "sbatch",
    "--gpus-per-node": "sbatch",
    "--cpus-per-task": "sbatch",
    "--time": "sbatch",
    "--open-mode": "sbatch",
    "--nnodes": "torchrun",
    "--node-rank": "torchrun",
    "--nproc-per-node": "torchrun",
    "--no-python": "torchrun",
    "--rdzv-backend": "torchrun",
    "--rdzv-endpoint": "torchrun",
    "--rdzv-id": "torchrun",
    "--dist": "pytest",
    "--maxprocesses": "pytest",
    "--no-loadscope-reorder": "pytest",
}
"""Options of other programs, and the name of the program, which must stand in the same text."""
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9](?![\w…-])")
MAKEFILE = ROOT / "Makefile"


def options_of_commands() -> dict[str, set[str]]:
    """Return the long options of each command of `mmsent`."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {
        name: {"--help", *(option for item in command.params for option in item.opts if option.startswith("--"))}
        for name, command in commands.items()
    }


def options_of_benchmarks() -> dict[str, set[str]]:
    """Return the options of each `python -m benchmarks.NAME`."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "benchmarks").rglob("*.py")):
        name = path.relative_to(ROOT / "benchmarks").parts[0].removesuffix(".py")
        declared = re.findall(r"add_argument\(\s*\"(--[a-z-]+)\"", path.read_text("utf-8"))
        found.setdefault(name, {"--help"}).update(declared)
    return found


COMMANDS = options_of_commands()
SETTINGS = {
    f"{table}.{key}" for tables in SECTIONS.values() for table, section in tables.items() for key in section.names()
}
BENCHMARKS = options_of_benchmarks()


def strings_of(path: Path) -> Iterator[str]:
    """Yield the strings of a Python file, docstrings too, but no style sheet; a computed part of one is `…`."""
    tree = ast.parse(path.read_text("utf-8"))
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            pieces = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
            yield "".join(pieces)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield "" if ":root {" in node.value else node.value


def invocations(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command line of `mmsent` or a benchmark in a text: what is run, and the options it is given.

    A command line stands in backticks, in a block of code, or is the whole string. It ends with the backtick, with
    the line unless a backslash goes on, and before `&&`, `;`, `|` and a comment.
    """
    text = re.sub(r"\\\n\s*", " ", text)
    blocks = re.findall(r"^ *```[a-z]*\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^ *```[a-z]*\n.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.split("\n")]
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    whole = [text] if text.startswith("mmsent ") else re.findall(r"^ +(?:mmsent|python -m) .*$", text, re.MULTILINE)
    for line in (*lines, *spans, *whole):
        for part in re.split(r"&&|;|\||\s—|\s{3,}", re.sub(r"\s#.*", "", line)):
            found = re.search(r"(?:^|[\s/])(mmsent [a-z][\w-]*|python -m benchmarks\.\w+)(?=$|[\s`,.:)…])(.*)", part)
            if found:
                yield found[1], found[2]


def unknown_in(text: str) -> list[str]:
    """Return what a text names that neither `mmsent` nor a benchmark has, nor another program that is listed."""
    foreign = {option for option, program in FOREIGN_OPTIONS.items() if program in text.lower()}
    named = [BENCHMARKS.get(name, set()) for name in re.findall(r"benchmarks[./](\w+)", text)]
    unknown = []
    for run, rest in invocations(text):
        known = COMMANDS.get(run.removeprefix("mmsent ")) or BENCHMARKS.get(run.removeprefix("python -m benchmarks."))
        if known is None:
            unknown.append(run)
            continue
        unknown += [f"{run} {option}" for option in OPTION.findall(rest) if option not in known | foreign]
    anywhere = set().union(*COMMANDS.values(), *named, foreign)
    return unknown + [option for option in OPTION.findall(text) if option not in anywhere]


def without_code(text: str) -> list[str]:
    """Return the lines of a document, with empty ones in place of blocks of code."""
    inside = False
    lines = []
    for line in text.split("\n"):
        fence = line.lstrip().startswith("```")
        inside ^= fence
        lines.append("" if inside or fence else line)
    return lines


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = [line.lstrip("#").strip() for line in without_code(path.read_text("utf-8")) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


@each_document
def test_a_line_has_at_most_100_columns_unless_it_is_a_row_of_a_table(path: Path) -> None:
    lines = path.read_text("utf-8").split("\n")
    rows = {number for number, line in enumerate(without_code("\n".join(lines))) if line.startswith("|")}
    long = [number + 1 for number, line in enumerate(lines) if len(line) > MOST_COLUMNS and number not in rows]
    assert long == []


@each_document
def test_a_link_within_the_project_leads_somewhere(path: Path) -> None:
    text = "\n".join(without_code(path.read_text("utf-8")))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name) if name else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@each_document
def test_a_document_names_commands_and_options_that_exist(path: Path) -> None:
    assert unknown_in(path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", product_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_string_of_the_program_names_commands_and_options_that_exist(path: Path) -> None:
    assert [name for text in strings_of(path) for name in unknown_in(text)] == []


def test_the_makefile_names_commands_and_options_that_exist() -> None:
    assert unknown_in(f"```\n{MAKEFILE.read_text('utf-8')}\n```") == []


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("run `mmsent trian` again", ["mmsent trian"]),
        ("give --no-such-option", ["--no-such-option"]),
        ("give --rounds-of to `python -m benchmarks.peers --rounds 3`", ["--rounds-of"]),
        ("give --minutes to the benchmark", ["--minutes"]),
        ("give --no-python to torchrun, not --editable", ["--editable"]),
        ("`mmsent verify DIR --epochs 3`", ["mmsent verify --epochs"]),
        ("mmsent verify … --epochs 3", ["mmsent verify --epochs"]),
        ("```\n$ mmsent verify DIR \\\n    --epochs 3\n```", ["mmsent verify --epochs"]),
        ("`python -m benchmarks.scale --epochs 3`", ["python -m benchmarks.scale --epochs"]),
        ("`mmsent train --epochs 3 && mmsent verify --json`, of what mmsent itself makes", []),
    ],
)
def test_what_does_not_exist_is_found(text: str, unknown: list[str]) -> None:
    assert unknown_in(text) == unknown


def test_options_of_other_programs_are_listed_only_while_somebody_names_them() -> None:
    texts = [path.read_text("utf-8") for path in (*DOCUMENTS, *product_files(), MAKEFILE)]
    assert [option for option in FOREIGN_OPTIONS if not any(option in OPTION.findall(text) for text in texts)] == []


@pytest.mark.parametrize("path", [*DOCUMENTS, *product_files()], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_of_the_project_that_is_named_exists(path: Path) -> None:
    folders = "|".join([*PACKAGES, "docs", "tests", "benchmarks"])
    named = re.findall(rf"(?<![\w./-])((?:{folders})/[\w./-]+\.(?:py|md|toml|txt))\b", path.read_text("utf-8"))
    assert [name for name in named if not (ROOT / name).is_file()] == []


def is_there(name: str) -> bool:
    """Say whether a dotted name is that of a package, a module, or of something at the top level of a module."""
    parts = name.split(".")
    folder = ROOT
    while parts and (folder / parts[0]).is_dir():
        folder /= parts.pop(0)
    if not parts:
        return True
    module, *within = parts
    file = folder / f"{module}.py"
    return file.is_file() and (
        not within
        or re.search(rf"^(?:(?:class|def) )?{within[0]}\b", file.read_text("utf-8"), re.MULTILINE) is not None
    )


@pytest.mark.parametrize("path", [*DOCUMENTS, *product_files()], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_of_the_project_that_is_named_exists(path: Path) -> None:
    packages = "|".join([*PACKAGES, "tests", "benchmarks"])
    named = re.findall(rf"`((?:{packages})(?:\.\w+)+)`", path.read_text("utf-8"))
    assert [
        name for name in named if not name.endswith((".json", ".md")) and not (is_there(name) or name in SETTINGS)
    ] == []


@pytest.mark.parametrize("path", [*DOCUMENTS, *product_files()], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_setting_that_is_named_exists(path: Path) -> None:
    tables = "|".join({name.partition(".")[0] for name in SETTINGS} - {*PACKAGES})
    text = path.read_text("utf-8")
    named = re.findall(rf"(?:`|--set )((?:{tables})\.[a-z]\w*)(?=[`=])", text)
    named += re.findall(r"(?:`|--set )(preprocess\.\w+)=", text)
    assert [name for name in named if name not in SETTINGS] == []


def test_the_readme_has_a_tree_of_all_rooms_and_of_no_others() -> None:
    [block] = re.findall(r"^```\n(cli\.py .*?)^```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    shown, package = set(), ""
    for line in block.splitlines():
        name, _, meaning = line.strip().partition(" ")
        assert meaning.strip(), f"{name} has no meaning beside it"
        package = package if line.startswith(" ") else name
        shown.add(f"{package}{name}" if line.startswith(" ") else name)
    rooms = {
        f"{path.parent.relative_to(ROOT).as_posix()}/"
        for name in PACKAGES
        if name != "cli.py"
        for path in (ROOT / name).rglob("__init__.py")
    }
    assert shown == rooms | {"cli.py", "tests/", "benchmarks/", "docs/"}


def test_a_picture_is_small_enough_for_git() -> None:
    pictures = sorted((ROOT / "docs" / "pictures").glob("*.png"))
    assert pictures
    assert [path.name for path in pictures if path.stat().st_size > 100_000] == []


def test_the_readme_and_the_page_for_contributors_stay_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 130
    assert len((ROOT / "CONTRIBUTING.md").read_text("utf-8").splitlines()) <= 45
