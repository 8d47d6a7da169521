"""Where commands print: the two consoles, JSON, sizes in words, and what to run next."""

import json
import sys

from rich.console import Console
from rich.markup import escape

__all__ = ["print_json", "print_next", "size_text", "stderr", "stdout"]

stdout = Console()
stderr = Console(stderr=True)


def print_next(command: str) -> None:
    """Print what to run next."""
    stdout.print(f"Next: {escape(command)}", highlight=False, soft_wrap=True)


def size_text(count: int) -> str:
    """Return bytes in words: `1.5 MB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def print_json(value: object) -> None:
    """Write one JSON document to standard output."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")
