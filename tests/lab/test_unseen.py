# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that looks for breakpoints in its kernel's text finds none, and may change that text while it is watched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab.watching import stored, watching

from drakmet.lab.client import Upload
from drakmet.plugins import load_plugins

if TYPE_CHECKING:
    from drakmet.lab.client import Agent
    from drakmet.lab.hosts import Host

pytestmark = pytest.mark.lab

HERE = Path(__file__).parent
TRACED = "do_filp_open"
# Their callers have the places that calls return to, which are traps as well.
CALLERS = ("do_sys_openat2", "do_open_execat", "do_unlinkat", "__x64_sys_unlinkat", "bprm_execve", "__sys_connect")
TRACING = "/sys/kernel/tracing"
OPENS = 25


def functions() -> list[str]:
    """Return the names of all functions that the bundled plugins trap."""
    return sorted({trap.function for plugin in load_plugins().plugins for trap in plugin.traps})


class Text:
    """The guest's view of its own kernel, and its tracer."""

    def __init__(self, guest: Agent) -> None:
        self.guest = guest
        guest.push([Upload("/root/kernel_text.py", (HERE / "kernel_text.py").read_bytes(), 0o755)])
        guest.run(["sh", "-c", f"mountpoint -q {TRACING} || mount -t tracefs none {TRACING}"], check=True)

    def read(self, *names: str) -> dict[str, str]:
        """Read the text of functions."""
        done = self.guest.run(["python3", "/root/kernel_text.py", *names], check=True, timeout=600)
        found: dict[str, str] = json.loads(done.stdout)
        return found

    def trace(self, on: bool) -> None:
        """Have the kernel patch the entry of a function, or patch it back."""
        script = f"cd {TRACING}; echo {TRACED} > set_ftrace_filter; echo {'function' if on else 'nop'} > current_tracer"
        self.guest.run(["sh", "-c", script], check=True, timeout=600)

    def traced(self) -> int:
        """Return how often the tracer saw the function of late."""
        done = self.guest.run(["grep", "-c", TRACED, f"{TRACING}/trace"])
        return int(done.stdout)

    def opens(self, path: str) -> None:
        """Open a file some times."""
        program = f"import os\nfor _ in range({OPENS}): os.close(os.open({path!r}, os.O_RDONLY))"
        self.guest.run(["python3", "-c", program], check=True, timeout=600)


@pytest.fixture(scope="module")
def seen(lab_host: Host, lab_guest: Agent, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the guest read before, while and after it was watched, its tracer going in and out meanwhile."""
    text, names, found = Text(lab_guest), [*functions(), *CALLERS], {}
    for path in ("/root/plain", "/root/patched", "/root/restored"):
        lab_guest.run(["touch", path], check=True)
    found["before"] = text.read(*names)
    with watching(lab_host.agent, lab_host.guest_names()[0], "--no-rules") as watched:
        text.opens("/root/plain")
        found["watched"] = text.read(*names)
        text.trace(on=True)
        try:
            found["patched"] = text.read(*names)
            text.opens("/root/patched")
            found["traced"] = text.traced()
        finally:
            text.trace(on=False)
        found["restored"] = text.read(*names)
        text.opens("/root/restored")
    found["after"] = text.read(*names)
    text.trace(on=True)
    found["patched after"] = text.read(*names)
    text.trace(on=False)
    found["code"] = watched.code
    found["records"] = stored(lab_host.agent, tmp_path_factory.mktemp("unseen") / "watched.db")
    return found


def test_the_text_at_every_trap_is_the_original_one(seen: dict[str, Any]) -> None:
    assert len(seen["before"]) >= len(functions()) - 3  # a kernel may lack some that others have
    assert seen["watched"] == seen["before"]
    assert seen["after"] == seen["before"]


def test_what_the_guest_patches_is_carried_over_and_back(seen: dict[str, Any]) -> None:
    differing = {name for name, text in seen["patched"].items() if text != seen["before"][name]}
    assert differing == {TRACED}
    assert seen["patched"] == seen["patched after"]
    assert seen["traced"] >= OPENS
    assert seen["restored"] == seen["before"]


def test_no_open_was_missed_meanwhile(seen: dict[str, Any]) -> None:
    opened = [one.path for one in seen["records"] if one.table == "file_open"]
    assert {path: opened.count(path) for path in ("/root/plain", "/root/patched", "/root/restored")} == {
        "/root/plain": OPENS,
        "/root/patched": OPENS,
        "/root/restored": OPENS,
    }
    assert seen["code"] == 0
