# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules beside a running watch: a thread that reads what was stored and says what it found."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from drakmet.errors import DrakmetError, RuleError
from drakmet.rules import Evaluator, Outcome, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drakmet.records import Finding
    from drakmet.rules import RuleSet


_PAUSE = 0.4
_LONGEST_PAUSE = 0.8


class Judge:
    """Evaluates rules over a growing file, in a thread and on a connection of its own.

    ``found`` gets each finding, in that thread. Call `finish` after the last flush: it judges what is left.
    """

    def __init__(self, path: Path, rules: RuleSet, found: Callable[[Finding], None], *, session: int) -> None:
        self.count = 0
        self.outcomes: list[Outcome] = []
        self.fault: DrakmetError | None = None
        self._path = path
        self._rules = rules
        self._found = found
        self._session = session
        self._ending = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rules", daemon=True)
        self._thread.start()
        # The first step must see the file as it was before the watch, else its first records count as old.
        self._ready.wait()

    def finish(self) -> list[Outcome]:
        """Judge what was stored last, end the thread, and return what became of each rule."""
        self._ending.set()
        self._thread.join()
        return self.outcomes

    def _run(self) -> None:
        try:
            rules, site = self._rules, self._rules.site
            evaluator = Evaluator(
                self._path,
                rules.rules,
                rules.lists,
                exceptions=site.exceptions,
                where=rules.where,
                start="end",
            )
        except DrakmetError as error:
            self.fault = error
            return
        finally:
            self._ready.set()
        try:
            last, pause = False, _PAUSE
            while not last:
                last = self._ending.wait(pause)
                begun = time.monotonic()
                for finding in evaluator.step():
                    self.count += 1
                    self._found(finding)
                # Slow rules leave the CPU to the guest and its monitor, but a finding comes within a second.
                pause = min(max(_PAUSE, time.monotonic() - begun), _LONGEST_PAUSE)
            self.outcomes = [*evaluator.outcomes(self._session), *self._left_out()]
            self.fault = next(iter(self._rules.errors), None)
        except DrakmetError as error:
            self.fault = error
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not look as if nothing had been found
            self.fault = RuleError(f"the rules ended with {type(error).__name__}: {error}", where=str(self._path))
        finally:
            evaluator.close()

    def _left_out(self) -> Iterator[Outcome]:
        for error in self._rules.errors:
            name = Path(str(error.where).rpartition(":")[0] or str(error.where)).stem
            yield Outcome(name, self._session, State.NOT_EVALUATED, 0, f"{error.where}: {error.what}", faulty=True)
