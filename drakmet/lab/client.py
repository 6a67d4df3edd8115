# SPDX-License-Identifier: GPL-2.0-or-later
"""Speak to the agents in dom0 and in its guests (see inside/agent for the protocol)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING, Any

from drakmet.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

_LIMIT = 1 << 26
_CHUNK = 1 << 16
# Seconds that a command in the lab has to end after a signal was passed on to it.
_GRACE = 30.0
# What the agent itself ends a request with when the request was no good.
AGENT_FAILED = 125

Writer = "Callable[[bytes], Any]"


@dataclasses.dataclass(frozen=True)
class Upload:
    """A file for dom0: where it goes, its content, mode and time (seconds since 1970, or None for now)."""

    path: str
    data: bytes
    mode: int = 0o644
    mtime: int | None = None
    # What it is called if ``path`` turns out to be a folder.
    name: str = ""


class Connection:
    """One request to an agent."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sending = threading.Lock()

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Send a frame (from any thread)."""
        with self._sending:
            self.socket.sendall(kind + len(payload).to_bytes(4, "big") + payload)

    def request(self, token: str, **fields: Any) -> None:
        """Send a request."""
        self.send(b"R", json.dumps({"token": token, **fields}).encode())

    def frame(self) -> tuple[bytes, bytes]:
        """Return the next frame; raise LabError if the other side has gone."""
        head = self._receive(5)
        size = int.from_bytes(head[1:], "big")
        if size > _LIMIT:
            raise LabError("the lab's agent does not speak its protocol")
        return head[:1], self._receive(size)

    def _receive(self, size: int) -> bytes:
        parts = []
        while size:
            try:
                data = self.socket.recv(min(size, 1 << 20))
            except OSError as error:
                raise LabError(f"the connection to the lab's agent broke: {error.strerror or error}") from error
            if not data:
                raise LabError(
                    "the lab's agent closed the connection", hint="Did the host end? See `drakmet lab status`."
                )
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def collect(self, output: Callable[[bytes], Any], diagnostics: Callable[[bytes], Any]) -> int:
        """Pass on what a command writes and return its exit code."""
        while True:
            kind, payload = self.frame()
            if kind == b"O":
                output(payload)
            elif kind == b"D":
                diagnostics(payload)
            elif kind == b"X":
                return int(struct.unpack(">i", payload)[0])


class Agent:
    """The way to the agent of a host's dom0, or through it to that of one of its guests."""

    def __init__(self, port: int, token: str, *, guest: str | None = None) -> None:
        self._port = port
        self._token = token
        self._guest = guest

    def guest(self, address: str) -> Agent:
        """Return the way to the agent of a guest with that address."""
        return Agent(self._port, self._token, guest=address)

    @contextlib.contextmanager
    def connect(self, timeout: float = 30.0) -> Iterator[Connection]:
        """Connect; raise LabError if nobody is there."""
        try:
            sock = socket.create_connection(("127.0.0.1", self._port), timeout=timeout)
        except OSError as error:
            raise LabError(
                f"no agent answers: {error.strerror or error}", hint="Is the host up? `drakmet lab status` tells."
            ) from error
        sock.settimeout(None)
        with sock:
            connection = Connection(sock)
            if self._guest:
                connection.request(self._token, op="relay", address=self._guest, timeout=timeout)
                kind, payload = connection.frame()
                if kind != b"J":
                    raise LabError(f"the guest does not answer: {payload.decode(errors='replace').strip()}")
            yield connection

    def answers(self, timeout: float) -> bool:
        """Tell whether the agent runs a command within some seconds."""
        try:
            with self.connect(timeout) as connection:
                connection.socket.settimeout(timeout)
                connection.request(self._token, op="exec", argv=["/bin/true"])
                return connection.collect(lambda _: None, lambda _: None) == 0
        except (LabError, OSError):
            return False

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        check: bool = False,
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command and return its exit code and output; with ``check``, raise LabError if it fails.

        ``timeout`` (seconds without any output) raises LabError; the command is ended.
        """
        output, diagnostics = bytearray(), bytearray()
        with self.connect() as connection:
            connection.request(
                self._token, op="exec", argv=list(argv), env=dict(env or {}), cwd=cwd, stdin=stdin is not None
            )
            if stdin is not None:
                for start in range(0, len(stdin), _CHUNK):
                    connection.send(b"I", stdin[start : start + _CHUNK])
                connection.send(b"E")
            connection.socket.settimeout(timeout)
            code = connection.collect(output.extend, diagnostics.extend)
        if check and code != 0:
            said = (bytes(diagnostics) or bytes(output)).decode(errors="replace").strip()[-1000:]
            raise LabError(f"{argv[0]} ended with {code} in the lab: {said}", where=" ".join(argv)[:200])
        return subprocess.CompletedProcess(list(argv), code, bytes(output), bytes(diagnostics))

    def stream(
        self, argv: Sequence[str], *, stdin: IO[bytes] | None = None, env: Mapping[str, str] | None = None
    ) -> int:
        """Run a command with this process's output (and input, if given) and signals; return its exit code."""
        out, err = sys.stdout.buffer, sys.stderr.buffer

        def show(stream: IO[bytes], data: bytes) -> None:
            stream.write(data)
            stream.flush()

        with self.connect() as connection, _signals_to(connection):
            connection.request(self._token, op="exec", argv=list(argv), env=dict(env or {}), stdin=stdin is not None)
            if stdin is not None:
                threading.Thread(target=_feed, args=(connection, stdin), daemon=True).start()
            return connection.collect(lambda data: show(out, data), lambda data: show(err, data))

    def begin(self, connection: Connection, argv: Sequence[str]) -> None:
        """Start a command over a connection whose frames the caller takes."""
        connection.request(self._token, op="exec", argv=list(argv), env={}, stdin=False)

    def push(self, uploads: Iterable[Upload], *, remove: Iterable[str] = ()) -> None:
        """Write files there, each at once (a reader sees the old or the new one)."""
        files = list(uploads)
        with self.connect() as connection:
            connection.request(
                self._token,
                op="push",
                remove=list(remove),
                files=[
                    {"path": f.path, "name": f.name, "size": len(f.data), "mode": f.mode, "mtime": f.mtime}
                    for f in files
                ],
            )
            for file in files:
                for start in range(0, len(file.data), _CHUNK):
                    connection.send(b"I", file.data[start : start + _CHUNK])
            said = bytearray()
            if connection.collect(said.extend, said.extend) != 0:
                raise LabError(f"cannot write files into the lab: {said.decode(errors='replace').strip()}")

    def pull(self, path: str, target: Path) -> None:
        """Fetch a file."""
        said = bytearray()
        with self.connect() as connection, target.open("wb") as out:
            connection.request(self._token, op="pull", path=path)
            code = connection.collect(out.write, said.extend)
        if code != 0:
            target.unlink()
            raise LabError(f"cannot fetch a file: {said.decode(errors='replace').strip()}")


def _feed(connection: Connection, source: IO[bytes]) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(source.fileno(), _CHUNK):
            connection.send(b"I", data)
        connection.send(b"E")


@contextlib.contextmanager
def _signals_to(connection: Connection) -> Iterator[None]:
    """Send on the signals that are meant for the command, and wait, but not for ever, for how it ends."""
    insist: threading.Timer | None = None

    def pass_on(number: int, _: object) -> None:
        nonlocal insist
        if insist is not None:
            raise SystemExit(128 + number)
        # A host that hangs must not hold whoever wants to stop.
        insist = threading.Timer(_GRACE, os._exit, [128 + number])
        insist.daemon = True
        insist.start()
        with contextlib.suppress(OSError):
            connection.send(b"S", struct.pack(">i", number))

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if insist is not None:
            insist.cancel()
