"""SIGINT, SIGTERM, SIGHUP or SIGUSR1 at any moment: save where the run stands, then end.

Note [Signals in native code]: Python runs a signal's handler between two instructions of the main thread. A backward
pass on a CPU is one call of half a minute, and so are a compilation, a kernel launch that waits, or a read from a slow
disk; whoever looks at a flag between steps comes too late (https://github.com/goodfire-ai/spd/issues/677). But the
signal's number is written to a file descriptor at once (`signal.set_wakeup_fd`), where a thread waits for it. It saves
the state after the last step, which nothing but the update of the weights changes; that holds a lock.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType

__all__ = ["SignalWatch"]

_LOG = logging.getLogger(__name__)

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
"""Ctrl-C; the end of a job; a terminal that is closed, or a connection that is lost; SLURM's usual warning before the
end of a job (`sbatch --signal=USR1@60`). Windows has the first two."""

_GRACE_SECONDS = 3.0
"""In which the main thread may come to an orderly end after the save."""

_PATIENCE_SECONDS = 120.0
"""The same on a rank that saves nothing: the launcher ends the rank that saves as soon as another one is gone."""

_SAME_SECONDS = 1.0
"""Between two signals that are one: torchrun passes on what the terminal has sent to all processes already."""


class SignalWatch:
    """While it is entered, a first signal saves and asks the main thread to end; a second SIGINT quits.

    Another second signal is not heeded: launchers send SIGTERM to what is left as soon as one process has ended. One
    that is ignored when it begins stays ignored: `nohup` asks for that.

    Where the main thread does not come to an end in time, the process is ended once the save is done. Outside of the
    main thread, where Python allows no handlers, nothing is watched.
    """

    def __init__(
        self, *, save: Callable[[], None] | None, on_exit: Callable[[str], None], echoed: bool = False
    ) -> None:
        """Prepare.

        Args:
            save: Saves the state; called in a thread of its own. None on a rank that does not save.
            on_exit: Called with a line for the user right before the process is ended without unwinding.
            echoed: Whether a launcher may pass on a signal that this process has been sent already.
        """
        self._save = save
        self._on_exit = on_exit
        self._same_seconds = _SAME_SECONDS if echoed else 0.0
        self._signum = 0
        self._failure: Exception | None = None
        self._saved = threading.Event()
        self._left = threading.Event()
        self._handlers: dict[int, object] = {}
        self._threads: list[threading.Thread] = []

    @property
    def signum(self) -> int:
        """Number of the signal that asked for the end; 0 while none did."""
        return self._signum

    def __enter__(self) -> "SignalWatch":
        if threading.current_thread() is not threading.main_thread():
            return self
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._old_descriptor = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, _leave_to_thread)
        self._start(self._watch, "signals")
        return self

    def wait_until_saved(self) -> None:
        """Return when the save that a signal began is done; at once if there was no signal."""
        if self._signum:
            self._saved.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._handlers:
            return
        self.wait_until_saved()  # whatever ends the main thread meanwhile: the other ranks' end, say
        self._left.set()
        signal.set_wakeup_fd(self._old_descriptor)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._writer.close()  # ends the thread that watches
        for thread in self._threads:  # one that outlives the interpreter may abort the process at its very end
            thread.join()
        if self._failure is not None:
            raise self._failure

    def _start(self, act: Callable[[], None], name: str) -> None:
        self._threads.append(threading.Thread(target=act, name=name, daemon=True))
        self._threads[-1].start()

    def _watch(self) -> None:
        first = 0.0
        with self._reader:
            while received := self._reader.recv(1):
                number = received[0]
                if number not in self._handlers:
                    continue
                if not self._signum:
                    first = time.monotonic()
                    self._signum = number
                    self._start(self._act, "save")
                elif number == signal.SIGINT and time.monotonic() - first >= self._same_seconds:
                    self._say("stopped at once, without this save; what was saved before is there for --resume")
                    os._exit(128 + number)

    def _act(self) -> None:
        name = signal.Signals(self._signum).name
        if self._save is not None:
            _LOG.info("%s: saving, then stopping; a second Ctrl-C stops at once", name)
            try:
                self._save()
            except Exception as exc:  # it is raised in the main thread
                self._failure = exc
        self._saved.set()
        if self._left.wait(_PATIENCE_SECONDS if self._save is None else _GRACE_SECONDS):
            return
        if self._failure is None:
            self._say(f"stopped by {name} in the middle of a step; go on with --resume")
            os._exit(128 + self._signum)
        self._say(f"error: {self._failure}")
        os._exit(1)

    def _say(self, line: str) -> None:
        """Tell the user why the process ends, if there is still a terminal to tell it on."""
        with suppress(OSError):
            self._on_exit(line)


def _leave_to_thread(_: int, __: FrameType | None) -> None:
    """Stand in for the default action, which would end the process: the thread acts."""
