"""Write docs/config.md from the config dataclasses: `python -m tests.support.config_page`."""

import textwrap
from collections.abc import Iterable
from typing import get_origin

from commands.config_keys import OPTION_OF, SECTIONS, Section, allowed, meanings
from mmsent.runs.config_toml import toml_value
from tests.support.commands import ROOT

PAGE = ROOT / "docs" / "config.md"
_HEAD = """\
# Settings

This page is made from the config classes by `python -m tests.support.config_page`.
A test keeps it up to date.

Every key below can be given in a file or one by one:

```console
$ mmsent train --show-config > my.toml      # all keys with meanings and defaults, to be edited
$ mmsent train --config my.toml --shards meld-shards
$ mmsent train --shards meld-shards --set train.warmup_steps=200 --set model.fusion=gated
$ mmsent train --config runs/meld-shards/config.toml --out runs/again
```

The command line wins over `--set`, which wins over `--config`.
A key that is left out has its default.
Paths in a file are relative to the folder in which the command runs.
An unknown key, one of another command, or a value of the wrong type is refused, with its line.

Every run of `mmsent train` writes its own settings to `config.toml` in its folder.
Given to `--config`, with another `--out`, that file repeats the run, on a CPU to the last digit.
"""
_TITLES = {
    "preprocess": "how shards are made",
    "data": "which shards",
    "model": "the network",
    "train": "the training run",
    "encode": "outputs of frozen encoders",
}


def page() -> str:
    """Return the content of docs/config.md."""
    parts = [_HEAD]
    for table, title in _TITLES.items():
        readers = {command: tables[table] for command, tables in SECTIONS.items() if table in tables}
        [config] = {section.config for section in readers.values()}
        lines = [f"## `[{table}]`: {title}", "", f"Read by {_listed(f'`mmsent {name}`' for name in readers)}.", ""]
        for command, section in readers.items():
            if section.only:
                lines[-1:] = [f"Of it `mmsent {command}` reads {_listed(f'`{name}`' for name in section.only)}.", ""]
        for name, meaning in meanings(config).items():
            lines += _entry(table, name, Section(config=config), meaning)
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _entry(table: str, name: str, section: Section, meaning: str) -> list[str]:
    default = toml_value(getattr(section.config(), name))
    hint = section.hint(name)
    more = [f"{allowed(hint).capitalize()}."] if get_origin(hint) else []
    if option := OPTION_OF.get(f"{table}.{name}"):
        more.append(f"Also `{option}`.")
    words = " ".join([meaning, *more])
    text = textwrap.wrap(words, 98, break_on_hyphens=False, break_long_words=False)
    return [f"- **`{name} = {default}`**", *(f"  {line}" for line in text)]


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
