"""Progress bars, on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from commands.terminal import stderr

if TYPE_CHECKING:
    from mmsent.runs.history import EpochResult, StepInfo

__all__ = ["bars_by_name", "move_bar", "progress_bars", "training_bars"]


def _epoch_line(result: "EpochResult") -> str:
    """Return the line that stays on the screen of an epoch."""
    scores = " ".join(f"{task} {value:.3f}" for task, value in result.dev_weighted_f1.items())
    return (
        f"epoch {result.epoch + 1}  train {result.train_loss:.3f}  dev {result.dev_loss:.3f}  wF1 {scores}  "
        f"{result.samples_per_second:.0f}/s  wait {result.wait_share:.1%}{'  best' if result.best else ''}"
    )


@contextmanager
def progress_bars(info: str = "{task.speed:.1f}/s") -> Iterator[Progress]:
    """Show progress on standard error; where that is no terminal, the bars appear once, in their last state."""
    rate = TextColumn(info) if "speed" not in info else _RateColumn("")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=stderr, disable=False, transient=False, speed_estimate_period=60) as progress:
        yield progress


@contextmanager
def bars_by_name() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each split or stage, from its first piece on."""
    with progress_bars() as progress:
        tasks: dict[str, TaskID] = {}

        def on_progress(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            move_bar(progress, tasks[name], done, total)

        yield on_progress


def move_bar(progress: Progress, task: TaskID, done: int, total: int) -> None:
    """Set a bar to `done` of `total`."""
    progress.update(task, completed=done, total=total)


class _RateColumn(TextColumn):
    """Units per second, once there is one to say."""

    def render(self, task: Any) -> Any:
        """Draw the rate."""
        self.text_format = f"{task.speed:.1f}/s" if task.speed else ""
        return super().render(task)


@contextmanager
def training_bars(
    *, shown: bool
) -> Iterator[tuple[Callable[["StepInfo"], None], Callable[["EpochResult"], None], Callable[[str], None]]]:
    """Show the steps of an epoch and keep a line of each; on other ranks than the first, show nothing."""
    if not shown:  # not even an empty bar, which would erase the first rank's line again and again
        yield _nothing, _nothing, _nothing
        return
    with progress_bars("{task.fields[info]}") as progress:
        task = progress.add_task("epoch 1", total=None, info="", visible=False)  # what comes before may be an error

        def on_step(info: "StepInfo") -> None:
            text = f"loss {info.loss:.3f}  {info.samples_per_second:.0f} samples/s  wait {info.wait_share:.1%}"
            progress.update(
                task,
                description=f"epoch {info.epoch + 1}",
                completed=info.step,
                total=info.num_steps,
                info=text,
                visible=True,
            )

        def on_epoch(result: "EpochResult") -> None:
            progress.console.print(_epoch_line(result), highlight=False, soft_wrap=True)

        def on_exit(line: str) -> None:
            stderr.show_cursor(True)  # the process ends without unwinding, and the bar has hidden it
            stderr.print(f"\n{escape(line)}", highlight=False, soft_wrap=True)

        yield on_step, on_epoch, on_exit


def _nothing(_: object) -> None:
    """Stand in for what shows something."""
