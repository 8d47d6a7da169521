"""Python processes that start in milliseconds: forked from one that has imported what they import.

Importing PyTorch and its kin takes seconds of computing, and the tests start hundreds of commands. `WarmProcess` is a
`subprocess.Popen` all the same: a real process, child of the one that runs the tests, with its own environment and
folder and, if asked, its own session, to be signalled and waited for.
"""

import atexit
import ctypes
import fcntl
import gc
import importlib
import inspect
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["ROOT", "WarmProcess", "environment", "run_what_is_asked", "start_python"]

ROOT = Path(__file__).parents[2]

_SERVER = "from tests.support.warm_start import run_what_is_asked; run_what_is_asked()"
_PACKAGES = ("commands", "mmsent", "preprocess", "shards")
_FOR_FUNCTIONS = (  # what functions of those import; torch before Decord
    "torch", "torch._dynamo", "torch.utils.tensorboard", "torchaudio.transforms", "torchvision.models.video",
    "torchmetrics", "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert", "tokenizers", "huggingface_hub", "safetensors.torch", "matplotlib.pyplot",
    "PIL.Image", "av", "decord", "cli",
)  # fmt: skip
_LOOKED_AT_LATE = ("PYTEST_CURRENT_TEST", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables of the environment that no library reads when it is imported."""
_MOST_BYTES = 2**20
_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None)


def environment() -> dict[str, str]:
    """Return the environment of a command: the packages of this checkout, no colours, 80 columns, no network."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "80", "HF_HUB_OFFLINE": "1"}


def _lasting(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in _LOOKED_AT_LATE}


_ENVIRONMENT = _lasting(environment())


def can_start(other: Mapping[str, str]) -> bool:
    """Return whether a fork is as good as a process from nothing.

    It is not where another environment is asked for than the one in which the libraries were imported: they may have
    looked at it. `FRESH=1` in the environment of the tests starts all processes from nothing.
    """
    return sys.platform == "linux" and "FRESH" not in os.environ and _lasting(other) == _ENVIRONMENT


def start_python(
    *arguments: str,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    new_session: bool = False,
    fresh: bool = False,
) -> "subprocess.Popen[str]":
    """Start Python on `-c CODE …` or `-m MODULE …`, warm where that is as good; `fresh` starts it from nothing."""
    env = environment() if env is None else env
    start = subprocess.Popen[str] if fresh or not can_start(env) else WarmProcess
    return start(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        cwd=cwd,
        env=env,
        start_new_session=new_session,
    )


class WarmProcess(subprocess.Popen[str]):
    """What runs `[sys.executable, "-c", code, …]` or `[sys.executable, "-m", module, …]` in a fork.

    Made by `start_python` alone, which gives it all that is looked at.
    """

    def _execute_child(self, *values: Any) -> None:
        given = inspect.signature(subprocess.Popen._execute_child).bind(self, *values).arguments  # type: ignore[attr-defined]
        request = {
            "arguments": given["args"][1:],
            "environment": dict(given["env"]),
            "directory": str(given["cwd"] or Path.cwd()),
            "new_session": given["start_new_session"],
        }
        with _adopting():
            self.pid = _Server.get().start(request, given["c2pwrite"], given["errwrite"])
        self._child_created = True
        ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*map(given.__getitem__, ends))  # type: ignore[attr-defined]


class _Server:
    """The process that forks."""

    _running: "_Server | None" = None

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVER, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_ENVIRONMENT,
                pass_fds=[theirs.fileno()],
            )
        if self._connection.recv(_MOST_BYTES) != b"ready":
            raise RuntimeError("the process that forks did not start: see its standard error")

    @classmethod
    def get(cls) -> "_Server":
        """Return the one of this process, started at the first call."""
        if cls._running is None:
            cls._running = cls()
        return cls._running

    def start(self, request: Mapping[str, object], stdout: int, stderr: int) -> int:
        """Start a process, and return its number."""
        socket.send_fds(self._connection, [json.dumps(request).encode()], [stdout, stderr])
        answer = self._connection.recv(_MOST_BYTES)
        if not answer:
            raise RuntimeError("the process that forks has ended")
        return int(answer)


@contextmanager
def _adopting() -> Iterator[None]:
    """Become the parent of a process whose own one, a fork between it and the server, ends."""
    _LIBC.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        _LIBC.prctl(_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def run_what_is_asked() -> None:
    """Fork a process for each request of the tests, and in that one do it."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    _import_all()
    connection.send(b"ready")
    request = _wait_for_a_request(connection)
    _let_fork_servers_start_as(_Spare())
    how, what, *arguments = request["arguments"]
    try:
        if how == "-m":
            sys.argv[1:] = arguments
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.argv = ["-c", *arguments]
            exec(what, sys.modules["__main__"].__dict__)
        _end(0)
    except SystemExit as exc:
        if isinstance(exc.code, int):
            _end(exc.code)
        raise


def _import_all() -> None:
    for name in _FOR_FUNCTIONS:
        importlib.import_module(name)
    for package in _PACKAGES:
        module = importlib.import_module(package)
        for found in pkgutil.walk_packages(module.__path__, f"{package}."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)
    gc.freeze()  # what is not looked at is not copied


def _end(exit_code: int) -> NoReturn:
    """End as Python does, but leave the libraries' many objects to the system, which is a second sooner."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _wait_for_a_request(connection: socket.socket) -> dict[str, Any]:
    """Return in a process made for a request; in this one, end when the tests do."""
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(connection, _MOST_BYTES, 2)
        except KeyboardInterrupt:
            os._exit(0)  # the tests are interrupted, too, and say so
        if not message:
            os._exit(0)
        answer, told = os.pipe()
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid != 0:
                os.write(told, str(pid).encode())
                os._exit(0)
            for descriptor in (answer, told):
                os.close(descriptor)
            connection.close()
            request: dict[str, Any] = json.loads(message)
            _become(request["environment"], dict(zip((1, 2), descriptors, strict=True)))
            if request["new_session"]:
                os.setsid()
            os.chdir(request["directory"])
            return request
        os.waitpid(between, 0)  # from here on the process has another parent
        connection.send(os.read(answer, 32))
        for descriptor in (*descriptors, answer, told):
            os.close(descriptor)


def _become(environment: Mapping[str, str], descriptors: Mapping[int, int]) -> None:
    """Take over an environment, and open files under the numbers that are expected."""
    os.environ.clear()
    os.environ.update(environment)
    aside = {number: fcntl.fcntl(descriptor, fcntl.F_DUPFD, 512) for number, descriptor in descriptors.items()}
    for descriptor in descriptors.values():
        os.close(descriptor)
    for number, descriptor in aside.items():
        os.dup2(descriptor, number)
        os.close(descriptor)


class _Spare:
    """A process beside a command that becomes its fork server, which would import for seconds, too."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            self._connection.close()
            _become_a_fork_server(theirs)
        theirs.close()

    def start(self, code: str, descriptors: list[int]) -> None:
        """Let it run the code of a fork server."""
        request = {"code": code, "numbers": descriptors, "environment": dict(os.environ)}
        socket.send_fds(self._connection, [json.dumps(request).encode()], descriptors)
        self._connection.close()


def _become_a_fork_server(connection: socket.socket) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as if it were not there yet
    message, descriptors, _, _ = socket.recv_fds(connection, _MOST_BYTES, 2)
    connection.close()
    if not message:
        os._exit(0)
    request = json.loads(message)
    _become(request["environment"], dict(zip(request["numbers"], descriptors, strict=True)))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["-c"]
    exec(request["code"], sys.modules["__main__"].__dict__)
    os._exit(0)


def _let_fork_servers_start_as(spare: _Spare) -> None:
    """Let multiprocessing take the spare process for the first fork server that it starts."""
    from multiprocessing import util

    from_nothing = util.spawnv_passfds
    left = [spare]

    def spawn(path: Any, args: Any, descriptors: Any) -> int:
        if not left or "multiprocessing.forkserver" not in str(args[-1]):
            return from_nothing(path, args, descriptors)
        one = left.pop()
        one.start(str(args[-1]), list(descriptors))
        return one.pid

    util.spawnv_passfds = spawn  # type: ignore[assignment]
