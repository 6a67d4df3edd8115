# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the program drakvuf, and has it leave the guest in order.

It writes to a pty, as it holds back its lines otherwise. It is asked to end with SIGINT, then with SIGTERM, and never
killed: a drakvuf that is killed leaves the guest stopped, with its breakpoints in it.
"""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import threading
import time
import tty
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from drakmet.errors import DrakmetError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import Self

EXIT_CODES = {
    0: "done",
    1: "drakvuf failed",
    2: "drakvuf gave up: the injection took too long",
    3: "drakvuf could not inject",
    4: "drakvuf's injection did not succeed",
    5: "drakvuf took too long to write a file",
    6: "drakvuf could not write a file",
    7: "a plugin of drakvuf's did not end in time",
    10: "the guest's kernel panicked",
    11: "the guest was powered off",
}
"""What drakvuf's exit codes mean (src/exitcodes.h)."""

_OURS = {"-d": "the guest", "-o": "the form of its lines", "-h": "help", "-I": "a process to inject into"}
_WITH_VALUE = frozenset({*(f"-{letter}" for letter in "raxtCceijkmgDfnblwSTWM"), "--traps-ttl"})
_MOST_SAID = 500
_NOT_READY = "drakvuf_init() failed"
_PATIENCE = (20.0, 20.0)
"""Seconds after SIGINT, and then after SIGTERM; leaving a guest took up to 9 s."""


def find_program(given: Path | None) -> Path:
    """Return the program; `UsageError` if there is none."""
    found = shutil.which(str(given) if given else "drakvuf")
    if found is None:
        raise UsageError(
            "there is no program drakvuf" if given is None else "this is no program",
            where=None if given is None else str(given),
            hint="install DRAKVUF (it is in no distribution), or name it with --drakvuf",
        )
    return Path(found)


def check_options(options: Sequence[str]) -> None:
    """Refuse options that are ours to give."""
    for option in options:
        for ours, what in _OURS.items():
            if option == ours or (option.startswith(ours) and not option.startswith("--")):
                raise UsageError(f"{ours} cannot be given: drakmet says {what}")


def value_of(options: Sequence[str], name: str) -> str | None:
    """Return the value of the last option called ``name``: ``-r FILE`` or ``-rFILE``."""
    found = values_of(options, name)
    return found[-1] if found else None


def values_of(options: Sequence[str], name: str) -> list[str]:
    """Return the values of all options called ``name``."""
    found: list[str] = []
    at = 0
    while at < len(options):
        option = options[at]
        if option == name:
            found += options[at + 1 : at + 2]
        elif option.startswith(name) and not option.startswith("--"):
            found.append(option[len(name) :])
        at += 2 if option in _WITH_VALUE else 1
    return found


class Running:
    """A drakvuf that runs; as a context manager it is asked to end at the end. ``output`` is the pty's handle."""

    def __init__(self, command: Sequence[str], patience: tuple[float, float] = _PATIENCE) -> None:
        self.said: deque[str] = deque(maxlen=_MOST_SAID)
        """What it said on standard error, the last lines of it."""
        self._patience = patience
        self._stopping = threading.Event()
        self.output, inner = pty.openpty()
        try:
            tty.setraw(inner)
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=inner,
                stderr=subprocess.PIPE,
                # Ctrl-C must not reach it before we know of it.
                start_new_session=True,
            )
        except OSError as error:
            os.close(self.output)
            raise DrakmetError(f"cannot run it: {error.strerror}", where=command[0]) from error
        finally:
            os.close(inner)
        self._listener = threading.Thread(target=self._listen, name="drakvuf's stderr", daemon=True)
        self._listener.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        with contextlib.suppress(OSError):
            os.close(self.output)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self) -> None:
        """Ask it to end, once; its last lines follow. Safe in a signal handler."""
        if not self._stopping.is_set():
            self._stopping.set()
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Have it end, and return its exit code, negative for a signal; raise `DrakmetError` if it does not."""
        for number, patience in zip((signal.SIGINT, signal.SIGTERM), self._patience, strict=True):
            if self._process.poll() is not None:
                break
            self._process.send_signal(number) if number != signal.SIGINT else self.ask()
            self._drain(patience)
        code = self._process.poll()
        if code is None:
            raise DrakmetError(
                f"drakvuf (process {self.pid}) does not end; it still has the guest",
                hint="wait for it; SIGKILL would leave the guest stopped",
            )
        self._listener.join(1.0)
        return code

    def _drain(self, patience: float) -> None:
        """Wait for its end; a full pty would keep it from ending."""
        deadline = time.monotonic() + patience
        while self._process.poll() is None and time.monotonic() < deadline:
            os.set_blocking(self.output, False)
            with contextlib.suppress(OSError):
                os.read(self.output, 1 << 16)
            time.sleep(0.02)

    def _listen(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - asked for above
        with self._process.stderr as lines:
            for line in lines:
                self.said.append(line.decode("utf-8", "backslashreplace").rstrip()[:1000])


def explain(code: int, said: Iterable[str]) -> str:
    """Return what an exit code means, with the last thing that was said if it means no good."""
    if code < 0:
        text = f"drakvuf was ended by {signal.Signals(-code).name}"
    else:
        text = EXIT_CODES.get(code, f"drakvuf ended with the exit code {code}, which it has no meaning for")
    last = next((line for line in reversed(list(said)) if line), None)
    if code in (0, 11) or not last:
        return text
    # LibVMI loads Xen's libraries by the names that only the development package has.
    hint = "; are libxenctrl.so and libxenstore.so (libxen-dev) there?" if _NOT_READY in last else ""
    return f"{text} ({last}{hint})"


def others(guest: str, domid: int) -> list[str]:
    """Return the programs named drakvuf that run with this guest, each with its process id."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            if Path(words[0]).name == "drakvuf" and values_of(words, "-d")[-1:] in ([guest], [str(domid)]):
                found.append(f"drakvuf (process {entry.name})")
    return found
