# SPDX-License-Identifier: GPL-2.0-or-later
"""A real browser without a window, driven over a pipe in its own protocol (Chrome DevTools Protocol 1.3)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
PATIENCE = 120
# The protocol's pipe is at the descriptors 3 and 4.
_START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update"),
)


class Chromium:
    """A browser; `open` gives a page in it."""

    def __init__(self, home: Path) -> None:
        assert PROGRAM is not None
        ours = [*os.pipe(), *os.pipe()]
        theirs = [fcntl.fcntl(one, fcntl.F_DUPFD, 20) for one in (ours[0], ours[3])]
        command = [sys.executable, "-c", _START, *map(str, theirs), PROGRAM, *_OPTIONS, f"--user-data-dir={home}"]
        environment = os.environ | {"HOME": str(home)}
        with (home / "log").open("wb") as log:
            self._process = subprocess.Popen(command, pass_fds=theirs, stdout=log, stderr=log, env=environment)
        for one in (ours[0], ours[3], *theirs):
            os.close(one)
        self._out, self._in = ours[1], ours[2]
        self._number = 0
        self._buffer = b""
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        """End the browser."""
        with contextlib.suppress(OSError, AssertionError):
            self.call("Browser.close")
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method and return its result; events that come meanwhile are kept in ``events``."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def wait_for(self, method: str) -> dict[str, Any]:
        """Wait for an event that has not come yet."""
        while True:
            event = self._next()
            if event.get("method") == method:
                return event

    def _next(self) -> dict[str, Any]:
        limit = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, limit - time.monotonic()))
            assert ready, "the browser says nothing"
            data = os.read(self._in, 1 << 20)
            assert data, "the browser ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, path: Path, width: int = 1280, height: int = 900) -> Page:
        """Open a file in a page of its own and wait until it is loaded."""
        return Page(self, path, width, height)


class Page:
    """A page, and what it did since it was opened."""

    def __init__(self, browser: Chromium, path: Path, width: int, height: int) -> None:
        self._browser = browser
        self._target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        browser.events.clear()
        self.address = path.absolute().as_uri()
        self.call("Page.navigate", url=self.address)
        while not self.of("Page.loadEventFired"):
            browser.wait_for("Page.loadEventFired")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the page's session."""
        return self._browser.call(method, self.session, **parameters)

    def of(self, *methods: str) -> list[dict[str, Any]]:
        """Return the parameters of the page's events of some kinds."""
        here = (event for event in self._browser.events if event.get("sessionId") == self.session)
        return [event["params"] for event in here if event["method"] in methods]

    def run(self, script: str) -> Any:
        """Evaluate an expression in the page, as its console would, and return its value."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def close(self) -> None:
        """Close the page."""
        self._browser.call("Target.closeTarget", targetId=self._target)

    def complaints(self) -> list[Any]:
        """Return errors, messages on the console, dialogs, and requests for anything but the page itself."""
        told: list[Any] = self.of(
            "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Page.javascriptDialogOpening"
        )
        asked = {event["request"]["url"].partition("#")[0] for event in self.of("Network.requestWillBeSent")}
        return told + sorted(asked - {self.address})
