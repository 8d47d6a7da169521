"""`mmsent verify`: shards checked in full, and made again where they are broken."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from commands.options import JsonOption, checked, worker_count
from commands.progress import bars_by_name, move_bar, progress_bars
from commands.terminal import print_json, print_next, size_text, stdout

if TYPE_CHECKING:
    from shards.writing.verify import SplitCheck

__all__ = ["verify_command"]


def verify_command(
    shards: Annotated[Path, typer.Argument(help="Folder of shards, or one split of it.")],
    repair: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Make broken shards, and no others, again from the data set they came from."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes for --repair; as many as cores if not given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check shards in full: sizes, digests, and every member of every sample. Exit code 1 if anything is wrong.

    Example: `mmsent verify data/shards`
    """
    from preprocess.building.repair import repair_shards, restore_tables
    from shards.format.index import INDEX_NAME
    from shards.splits import split_directories
    from shards.writing.verify import verify_split

    if workers is not None and repair is None:
        raise typer.BadParameter("--workers is for --repair")
    num_workers = checked(lambda: worker_count(workers))

    def check_all() -> list["SplitCheck"]:
        if (shards / INDEX_NAME).is_file():
            directories = [shards]
        else:
            # A split with tars and no index is unfinished, one with an index and no tars was copied in part.
            found = {path.parent for pattern in ("*/*.tar", f"*/{INDEX_NAME}") for path in shards.glob(pattern)}
            directories = sorted(found) or list(split_directories(shards).values())
        checks = []
        with progress_bars() as progress:
            for directory in directories:
                task = progress.add_task(directory.name, total=None)
                checks.append(verify_split(directory, on_progress=partial(move_bar, progress, task)))
        return checks

    checks = check_all()
    if repair is not None and any(check.problems for check in checks):
        if not as_json:
            _print_checks(checks, repair=True)
        broken = {check.split: check.broken_shards for check in checks}
        out = shards.parent if (shards / INDEX_NAME).is_file() else shards
        restore_tables(out, [check.split for check in checks if check.only_table_broken])
        if any(check.problems and not check.only_table_broken for check in checks):
            with bars_by_name() as on_progress:
                repair_shards(out, repair, broken=broken, num_workers=num_workers, on_progress=on_progress)
        checks = check_all()
    if as_json:
        print_json({check.split: asdict(check) for check in checks})
    else:
        _print_checks(checks, repair=False)
    if any(check.problems for check in checks):
        raise typer.Exit(1)


def _print_checks(checks: list["SplitCheck"], *, repair: bool) -> None:
    """Draw what `mmsent verify` found; without `repair`, also the remedy."""
    table = Table("split", "shards", "samples", "size", "problems")
    for check in checks:
        found = f"[red]{len(check.problems)}[/]" if check.problems else "[green]none[/]"
        table.add_row(check.split, str(check.num_shards), str(check.num_samples), size_text(check.num_bytes), found)
    stdout.print(table)
    for check in checks:
        for problem in check.problems:
            stdout.print(f"[red]{escape(problem.file)}[/]: {escape(problem.what)}", highlight=False, soft_wrap=True)
    if not repair and any(check.problems for check in checks):
        print_next("copy these files again, or make them again with `mmsent verify SHARDS --repair DATA`")
