# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays: Ansible is run by ansible-runner in a process of its own, which may write no file longer than is allowed.

So whatever a host sends, the disk here is not filled by it, and Ansible's signals, threads and warnings stay apart.
The process (``python -m drakmet.fleet.play``) gets a `Request` on standard input and writes an `Event` a line.
"""

from __future__ import annotations

import importlib.util
import locale
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from drakmet.errors import UsageError
from drakmet.fleet.errors import FleetError

if TYPE_CHECKING:
    from collections.abc import Iterator

_KINDS = {"runner_on_ok": "ok", "runner_on_failed": "failed", "runner_on_unreachable": "unreachable"}
_TOLD = ("msg", "kind", "code", "seconds", "guests", "failed_guests", "size", "sha256", "python", "machine", "name")
_TOLD_TOO = ("xen", "free", "bundles", "checksum", "stderr", "exception")
_LONGEST = 4000
_GRACE = 20.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Request(msgspec.Struct):
    """What to run: ansible-playbook's arguments, and how. ``longest`` is in bytes a file."""

    folder: str
    playbook: str
    arguments: list[str]
    directory: str
    longest: int
    passwords: dict[str, str] = {}


class Event(msgspec.Struct):
    """What became of a task on a host; or, without a host, how Ansible ended and what it said."""

    host: str = ""
    task: str = ""
    kind: str = ""
    result: dict[str, Any] = {}
    ignored: bool = False
    status: str = ""
    said: str = ""


def require_ansible() -> None:
    """Raise `UsageError` if Ansible is not installed."""
    if not importlib.util.find_spec("ansible_runner") or not importlib.util.find_spec("ansible"):
        raise UsageError("fleets need Ansible", hint="pip install 'drakmet[fleet]'")


@contextmanager
def playing(request: Request) -> Iterator[Iterator[Event]]:
    """Run a playbook and give its events as they come; leaving early ends Ansible and what it has started."""
    require_ansible()
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "drakmet.fleet.play"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Ctrl-C is for whoever started this; Ansible is then ended in order.
        start_new_session=True,
    ) as process:
        assert process.stdin is not None  # noqa: S101 - asked for
        assert process.stdout is not None  # noqa: S101
        try:
            with process.stdin:
                process.stdin.write(msgspec.json.encode(request))
            yield _events(process.stdout)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_GRACE)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)


def _events(lines: IO[bytes]) -> Iterator[Event]:
    ended = False
    for line in lines:
        event = msgspec.json.decode(line, type=Event)
        ended = ended or bool(event.status)
        yield event
    if not ended:
        raise FleetError("Ansible's process ended before Ansible did")


def list_hosts(request: Request) -> list[str]:
    """Return the hosts that a playbook would be run on; raise `FleetError` with what Ansible says if there are none."""
    said = status = ""
    with tempfile.TemporaryDirectory(prefix="drakmet-fleet-") as folder:
        arguments = [*request.arguments, "--list-hosts"]
        with playing(msgspec.structs.replace(request, arguments=arguments, folder=folder)) as events:
            for event in events:
                status, said = event.status or status, said + event.said
    _, _, listed = said.partition("    hosts (")
    hosts = [line.strip() for line in listed.splitlines()[1:] if line.startswith("      ")]
    if status != "successful" or not hosts:
        raise FleetError(
            f"Ansible finds no host: {_last_words(said)}",
            hint="`ansible-inventory --graph`, with the same -i and --limit, shows what Ansible understands",
        )
    return hosts


def _last_words(said: str) -> str:
    words = [line.strip() for line in said.splitlines() if line.strip()]
    # With its errors Ansible prints how it is used, which says nothing of what is wrong.
    blamed = [line for line in words if line.startswith(("[ERROR]", "ERROR!", "[WARNING]", "ansible-playbook: error"))]
    return " ".join(blamed or words[-3:])[:_LONGEST] or "it said nothing"


def _main() -> int:
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    resource.setrlimit(resource.RLIMIT_FSIZE, (request.longest, request.longest))
    import ansible_runner

    def tell(event: Event) -> None:
        sys.stdout.write(msgspec.json.encode(event, enc_hook=str).decode() + "\n")
        sys.stdout.flush()

    def handle(row: dict[str, Any]) -> bool:
        if kind := _KINDS.get(row.get("event", "")):
            data = row.get("event_data", {})
            result = {name: _short(value) for name, value in data.get("res", {}).items() if name in _TOLD + _TOLD_TOO}
            tell(Event(data.get("host", ""), data.get("task", ""), kind, result, bool(data.get("ignore_errors"))))
        return True

    # Beside this Python, if it is a virtual environment's, else wherever PATH leads.
    beside = Path(sys.executable).parent
    paths = f"{beside}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    if not shutil.which("ansible-playbook", path=paths):
        tell(Event(status="failed", said="ansible-playbook is not on PATH"))
        return 1
    os.environ["PATH"] = paths
    run = ansible_runner.run(
        private_data_dir=request.folder,
        project_dir=request.directory,
        playbook=request.playbook,
        cmdline=shlex.join(request.arguments),
        passwords=request.passwords or None,
        envvars={"ANSIBLE_INVENTORY_UNPARSED_FAILED": "1", "ANSIBLE_HOST_PATTERN_MISMATCH": "error"} | _locale(),
        event_handler=handle,
        quiet=True,
    )
    said = "".join(stream.read() for stream in (run.stdout, run.stderr))
    tell(Event(status=run.status, said=_COLOUR.sub("", said)[-50_000:]))
    return 0


def _locale() -> dict[str, str]:
    """Return what gives Ansible the encoding that it insists on, if the user's locale does not."""
    try:
        locale.setlocale(locale.LC_ALL, "")
        good = locale.getlocale()[1] == "UTF-8"
    except (locale.Error, ValueError):
        good = False
    return {} if good else {"LC_ALL": "C.UTF-8"}


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else f"{value[: _LONGEST // 2]} ... {value[-_LONGEST // 2 :]}"
    if isinstance(value, list):
        return [_short(one) for one in value[:100] if isinstance(one, str | int)]
    return value if isinstance(value, int | float | None) else None


if __name__ == "__main__":
    sys.exit(_main())
