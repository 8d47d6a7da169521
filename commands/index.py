"""`mmsent index`: parts become a finished split, and lost indices are made again."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from commands.options import JsonOption
from commands.terminal import print_json, print_next, stdout

__all__ = ["index_command"]


def index_command(
    shards: Annotated[
        Path,
        typer.Argument(help="Folder of shards: one the parts were made or copied into, with their .work folders."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Finish splits whose shards were made in parts on machines that share no disk, or whose index is lost.

    Each part leaves its shards and what is recorded of them in the split's hidden .work folder. Copy all of it into one
    folder; when no shard is missing, this writes the index that makes a split readable.

    Of a split without a .work folder, a lost index or samples table is made again from the tars.

    Example: `mmsent index data/shards`
    """
    from preprocess.building.repair import complete_splits

    found = complete_splits(shards)
    if as_json:
        print_json(found)
        return
    words = ", ".join(f"{split} {count} shards" for split, count in found.items())
    stdout.print(f"Finished: {words}", highlight=False, soft_wrap=True)
    print_next(f"mmsent verify {shlex.quote(str(shards))}")
