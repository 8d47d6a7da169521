"""An HTTP server on the loopback that misbehaves by a script: in front of a folder, or of another server."""

import re
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, get_args
from urllib.parse import unquote

Answer = Callable[[bytes], tuple[bytes, bytes]]
"""From the head of a request to the head and the body of its answer."""

Kind = Literal["reset", "cut", "shorten", "flip", "delay", "status"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer."""

    kind: Kind
    """`reset` the connection or `cut` the body; `shorten` it and say so; `flip` a bit; `delay`; another `status`."""
    where: float = 0.5
    """How far into the body, from 0 to 1."""
    status: int = 503
    seconds: float = 0.05


class FaultyServer:
    """Serves in its own threads; requests whose path ends in `.tar` meet the next fault of the script, others none."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[tuple[str, str]] = []
        """Path and range of each request for a tar, as they came."""
        self.go_on = threading.Event()
        """Ends delays early when it is set."""
        self._answer = answer
        self._script: list[Fault | None] = []
        self._lock = threading.Lock()
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                outer._handle(self.request)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # clients of these tests are killed, and hang up

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def script(self, faults: Iterable[Fault | None]) -> None:
        """Replace the script, and forget the requests so far; when it is used up all goes well."""
        with self._lock:
            self._script = list(faults)
            self.go_on.clear()
            self.requests.clear()

    def __enter__(self) -> "FaultyServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, connection: socket.socket) -> None:
        request = _read_head(connection)
        if not request:
            return
        fault = None
        path = request.split(b" ")[1].decode().partition("?")[0]
        if path.endswith(".tar"):
            asked = re.search(rb"(?im)^range: *bytes=(\S+)", request)
            with self._lock:
                self.requests.append((path, asked.group(1).decode() if asked else ""))
                fault = self._script.pop(0) if self._script else None
        if fault is not None and fault.kind == "status":
            connection.sendall(
                f"HTTP/1.1 {fault.status} Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
            )
            return
        head, body = self._answer(request)
        place = 0 if fault is None else min(int(len(body) * fault.where), max(len(body) - 1, 0))
        if fault is not None and fault.kind == "flip" and body:
            body = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        if fault is not None and fault.kind == "shorten":
            body = body[:place]
            head = re.sub(rb"(?im)^content-length:.*$", b"Content-Length: %d\r" % place, head)
        if fault is not None and fault.kind == "delay":
            connection.sendall(head + body[:place])
            self.go_on.wait(fault.seconds)
            connection.sendall(body[place:])
        elif fault is not None and fault.kind in ("reset", "cut"):
            connection.sendall(head + body[:place])
            if fault.kind == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
        else:
            connection.sendall(head + body)


def folder_answer(directory: Path, *, ranges: bool = True) -> Answer:
    """Answer with the files of a folder and lists of links, and with ranges of files if `ranges`."""

    def answer(request: bytes) -> tuple[bytes, bytes]:
        path = directory / unquote(request.split(b" ")[1].decode()).strip("/")
        status, more = "200 OK", ""
        if path.is_dir():
            body = "".join(f'<a href="{entry.name}">{entry.name}</a>' for entry in sorted(path.iterdir())).encode()
            more = "Content-Type: text/html\r\n"
        elif not path.is_file():
            status, body = "404 Not Found", b""
        else:
            body = path.read_bytes()
            asked = re.search(rb"(?im)^range: *bytes=(\d+)-(\d+)", request)
            if ranges and asked:
                start, end = int(asked.group(1)), int(asked.group(2)) + 1
                whole, body = len(body), body[start:end]
                status = "206 Partial Content" if start < whole else "416 Range Not Satisfiable"
                more = f"Content-Range: bytes {start}-{start + len(body) - 1}/{whole}\r\n" if start < whole else ""
        return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}Connection: close\r\n\r\n".encode(), body

    return answer


def proxy_answer(port: int) -> Answer:
    """Answer with what the server at a port of the loopback answers."""

    def answer(request: bytes) -> tuple[bytes, bytes]:
        request = re.sub(rb"(?im)^connection:.*\r\n", b"", request)
        request = request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        with socket.create_connection(("127.0.0.1", port)) as upstream:
            upstream.sendall(request)
            received = bytearray()
            while piece := upstream.recv(1 << 16):
                received += piece
        head, end, body = bytes(received).partition(b"\r\n\r\n")
        return head + end, body

    return answer


def wait_until(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    """Wait for what happens in another thread or process, and fail if it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def _read_head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(1 << 16)
        if not piece:
            return b""
        head += piece
    return head
