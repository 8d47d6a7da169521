"""Settings of a command: from `--config FILE.toml`, `--set KEY=VALUE` and the command line, of which the later win."""

import difflib
import re
import sys
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer

from commands.config_keys import OPTION_OF, SECTIONS, allowed, config_text
from shards.errors import ExpectedError, describe

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "ConfigError",
    "ConfigOption",
    "SetOption",
    "Settings",
    "ShowConfigOption",
    "print_config",
    "read_settings",
]

T = TypeVar("T")
C = TypeVar("C", bound="DataclassInstance")

ConfigOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Settings in TOML; `--show-config` prints a file to begin with.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A key of docs/config.md, as often as you like; wins over FILE."),
]
ShowConfigOption = Annotated[
    bool, typer.Option("--show-config", help="Print all settings as a file, with meanings and defaults, and end.")
]


class ConfigError(ExpectedError):
    """A config file that cannot be read, or asks for what cannot be."""


@dataclass(frozen=True, slots=True)
class _Given:
    """A value, and how it was given."""

    value: Any
    name: str
    """What a person typed: an option, or a key."""
    place: str = ""
    """File and line; empty on the command line."""


class Settings:
    """What was given for a command, of which the configs are made."""

    def __init__(self, command: str, given: Mapping[str, _Given], *, file: Path | None) -> None:
        self._given = given
        self._file = file
        self._keys = {key: f"{table}.{key}" for table, item in SECTIONS[command].items() for key in item.names()}

    def gives(self, key: str) -> bool:
        """Return whether a key was given in any way."""
        return key in self._given

    def make(self, table: str, base: C) -> C:
        """Return a config with what was given for a table in place of what it has.

        Raises:
            ConfigError: if the config refuses a value from the file, with its line.
            typer.BadParameter: if it refuses one from the command line.
        """
        changes = {name: self._given[key].value for name, key in self._keys.items() if key in self._of(table)}
        return self.checked(lambda: replace(base, **changes))

    def checked(self, make: Callable[[], T]) -> T:
        """Return what `make` returns; what it refuses is told as in `make`.

        A config's message names fields at its beginning and between backticks; they are shown as they were given.
        """
        try:
            return make()
        except ValueError as exc:
            message = str(exc)
            named = [self._keys[name] for name in _NAMED.findall(message) if name in self._keys]
            words = _NAMED.sub(lambda match: self._typed(match[0]), message)
            given = [self._given[key] for key in named if key in self._given]
            place = given[0].place if given else str(self._file or "")
            if place:
                raise ConfigError(describe(words, file=place, then="change it there")) from exc
            raise typer.BadParameter(words) from exc

    def _of(self, table: str) -> set[str]:
        return {key for key in self._given if key.startswith(f"{table}.")}

    def _typed(self, name: str) -> str:
        """Return how a field is given, by the option or the key that was typed if one was."""
        if name not in self._keys:
            return name
        key = self._keys[name]
        return self._given[key].name if key in self._given else OPTION_OF.get(key, key)


def print_config(command: str, configs: Mapping[str, "DataclassInstance"], *, derived: Collection[str] = ()) -> None:
    """Print all settings of a command as a file, as `config_text` makes it."""
    sys.stdout.write(config_text(command, configs, derived=derived))


_NAMED = re.compile(r"^\w+|(?<=`)\w+(?=`)")


def read_settings(
    command: str, *, file: Path | None, assignments: Sequence[str] | None, options: Mapping[str, object]
) -> Settings:
    """Gather what was given for a command.

    Args:
        command: Whose tables are read.
        file: A TOML file.
        assignments: Of the form `table.key=value`.
        options: Values from the command line by `table.key`; None where an option was not given.

    Raises:
        ConfigError: if the file is none, or holds a key or a type of value that it cannot hold.
        typer.BadParameter: if an assignment does.
    """
    given = _from_file(command, file) if file is not None else {}
    for assignment in assignments or ():
        key, equals, text = assignment.partition("=")
        key = key.strip()
        if not equals:
            raise typer.BadParameter(f"--set takes KEY=VALUE, like train.warmup_steps=200; got {assignment!r}")
        try:
            hint = _hint(command, key)
            given[key] = _Given(_converted(hint, _parsed(hint, text.strip()), key), key)
        except ValueError as exc:
            raise typer.BadParameter(f"--set: {exc}") from exc
    for key, value in options.items():
        if value is not None:
            try:
                hint = _hint(command, key)
                typed = _parsed(hint, value) if isinstance(value, str) else value
                given[key] = _Given(_converted(hint, typed, OPTION_OF[key]), OPTION_OF[key])
            except ValueError as exc:
                raise typer.BadParameter(str(exc)) from exc
    return Settings(command, given, file=file)


def _from_file(command: str, file: Path) -> dict[str, _Given]:
    show = f"`mmsent {command} --show-config` prints all keys, with what they may be"
    try:
        text = file.read_text("utf-8")
    except OSError as exc:
        what = f"the config cannot be read: {exc.strerror}"
        raise ConfigError(describe(what, file=file, then="check the path of --config")) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(describe("the config is no TOML: it is no text in UTF-8", file=file, then=show)) from exc
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(describe(f"the config is no TOML: {exc}", file=file, then=show)) from exc
    lines = _lines_of_keys(text)
    given = {}
    for table, content in document.items():
        values = {f"{table}.{key}": value for key, value in content.items()} if isinstance(content, dict) else {}
        for key, value in (values or {table: content}).items():
            if value == {} and table in SECTIONS[command]:
                continue  # a table without keys
            line = lines.get(key, lines.get(table))
            place = f"{file}, line {line}" if line else str(file)
            try:
                given[key] = _Given(_converted(_hint(command, key), value, key), key, place)
            except ValueError as exc:
                raise ConfigError(describe(str(exc), file=place, then=show)) from exc
    return given


def _lines_of_keys(text: str) -> dict[str, int]:
    """Return the line, from 1, of each `table` and `table.key`, which tomllib does not tell.

    A line within a text of several lines may be taken for one; values are never read from here.
    """
    table = ""
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            table = f"{match[1]}."
            found.setdefault(match[1], number)
        elif match := re.match(r"""\s*["']?([\w.-]+)["']?\s*=""", line):
            found.setdefault(f"{table}{match[1]}", number)
    return found


def _hint(command: str, key: str) -> Any:
    """Return the type of a key's value.

    Raises:
        ValueError: if the command has no such key, with what was perhaps meant.
    """
    table, _, name = key.partition(".")
    sections = SECTIONS[command]
    if table in sections and name in sections[table].names():
        return sections[table].hint(name)
    for other, theirs in SECTIONS.items():
        if table in theirs and name in theirs[table].names():
            raise ValueError(f"{key} is a key of `mmsent {other}`, not of `mmsent {command}`")
    known = {field: f"{where}.{field}" for where, section in sections.items() for field in section.names()}
    near = difflib.get_close_matches(name or table, known, n=1)
    raise ValueError(f"there is no key {key}" + (f"; did you mean {known[near[0]]}?" if near else ""))


def _parsed(hint: Any, text: str) -> Any:
    """Read a value as a person types it: a name needs no quotes, a list no brackets."""
    if get_origin(hint) is tuple and not text.startswith("["):
        return [name.strip() for name in text.split(",") if name.strip()]
    if (hint is str or get_origin(hint) is Literal) and not text.startswith(('"', "'")):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _converted(hint: Any, value: Any, name: str) -> Any:
    """Return a value as the config has it.

    Raises:
        ValueError: if it is of another type, or none of the choices.
    """
    if get_origin(hint) is Literal and value in get_args(hint):
        return value
    if get_origin(hint) is tuple:
        choices = get_args(get_args(hint)[0])
        if isinstance(value, list) and all(item in choices for item in value):
            return tuple(choice for choice in choices if choice in value)
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif type(value) is hint:
        return value
    raise ValueError(f"{name} must be {allowed(hint)}, got {value!r}")
