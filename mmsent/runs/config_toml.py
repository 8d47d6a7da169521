"""A run's configuration as TOML: `mmsent train --config RUN/config.toml` repeats the run."""

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["config_toml", "toml_value"]


def config_toml(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Return tables of plain values by name as a TOML document."""
    tables = []
    for name, values in sections.items():
        lines = [f"[{name}]", *(f"{key} = {toml_value(value)}" for key, value in values.items())]
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)


def toml_value(value: object) -> str:
    """Write a value as TOML has it.

    Raises:
        TypeError: if it is no text, number, truth value or list of these.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):  # JSON's escapes are TOML's, but for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    raise TypeError(f"no TOML value: {value!r}")
