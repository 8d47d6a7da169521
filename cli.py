"""The entry point: all commands, the log, and how trouble ends one."""

import errno
import logging
import sys
from contextlib import suppress

import typer
from rich.markup import escape

from commands.bench import bench_command
from commands.doctor import doctor_command
from commands.encode import encode_command
from commands.evaluate import evaluate_command
from commands.index import index_command
from commands.make_demo import make_demo_command
from commands.preprocess import preprocess_command
from commands.terminal import stderr
from commands.train import train_command
from commands.verify import verify_command
from shards.errors import ExpectedError

__all__ = ["app", "main"]

app = typer.Typer(
    name="mmsent",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Emotion, sentiment or labels of your own from clips of people talking: raw clips to shards, a model, scores.",
)

app.command("make-demo")(make_demo_command)
app.command("doctor")(doctor_command)
app.command("preprocess")(preprocess_command)
app.command("index")(index_command)
app.command("verify")(verify_command)
app.command("encode")(encode_command)
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)
app.command("bench")(bench_command)

_DISK_TROUBLE = {
    errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO, errno.ENAMETOOLONG, errno.ENOSPC, errno.ENOTDIR,
    errno.ENOTEMPTY, errno.EPERM, errno.EROFS,
}  # fmt: skip
"""What a disk or its owner may do to any file at any time, where no nearer message was written for it."""


def main() -> None:
    """Run the command; expected trouble is printed and ends with exit code 1, wrong usage with 2."""
    try:
        app()
    except ExpectedError as exc:
        first, *rest = str(exc).splitlines()
        stderr.print(f"[bold red]error:[/] {escape(first)}", highlight=False, soft_wrap=True)
        for line in rest:
            stderr.print(escape(line), highlight=False, soft_wrap=True)
        sys.exit(1)
    except OSError as exc:
        if exc.errno not in _DISK_TROUBLE:
            raise
        stderr.print(f"[bold red]error:[/] {escape(exc.strerror or str(exc))}", highlight=False, soft_wrap=True)
        if exc.filename:
            stderr.print(f"  file: {escape(str(exc.filename))}", highlight=False, soft_wrap=True)
        then = "check the path, its permissions and the free space, and run the same command again"
        stderr.print(f"  next: {then}", highlight=False, soft_wrap=True)
        sys.exit(1)


@app.callback()
def _set_up() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_LogHandler()], force=True)
    for noisy in ("httpx", "huggingface_hub", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)  # their last word comes back as an error of ours


class _LogHandler(logging.Handler):
    """Log lines as errors look, above the bars and never wrapped: Rich's own handler breaks them at 80 columns."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line on standard error."""
        with suppress(OSError):  # a terminal that was closed: the run it speaks of is to be saved all the same
            self._print(record)

    def _print(self, record: logging.LogRecord) -> None:
        level = f"[yellow]{record.levelname.lower()}:[/] " if record.levelno >= logging.WARNING else ""
        stderr.print(f"{level}{escape(self.format(record))}", highlight=False, soft_wrap=True)
