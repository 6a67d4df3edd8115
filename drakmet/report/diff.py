# SPDX-License-Identifier: GPL-2.0-or-later
"""What is different between two looks at the same guests: new, gone, changed, and what cannot be told.

Nothing here goes by process ids, addresses or times: a process is what it executes with which arguments.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from drakmet.errors import UsageError
from drakmet.report.facts import KINDS, Facts, attributes
from drakmet.report.looks import Look, history, looks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from drakmet.store import Reader

COLUMNS = ("host", "guest", "kind", "change", "what", "before", "after", "note")
"""The columns of a `Change`."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: some sessions of a file, or the last session of each of its guests."""

    file: Reader
    sessions: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Something that is not the same on both sides. Texts of guests are guest text."""

    host: str
    guest: str
    kind: str
    change: str
    """new, gone, changed, or not known."""
    what: str
    before: str | None = None
    after: str | None = None
    note: str | None = None

    @property
    def row(self) -> dict[str, Any]:
        """The change with the keys `COLUMNS`."""
        return asdict(self)


def compare(before: Side, after: Side, kinds: Collection[str] | None = None) -> list[Change]:
    """Return what is different, by hosts, guests and kinds; of all `KINDS`, or only of some.

    Guests go together by host and name; where each side has one guest only, these are compared whatever their names.
    Raises `UsageError` for a session that is not in its file.
    """
    old, new = (looks(side.file, side.sessions) for side in (before, after))
    if len(old) == 1 and len(new) == 1:
        pairs: list[tuple[Look | None, Look | None]] = [(*old.values(), *new.values())]  # type: ignore[list-item]
    else:
        pairs = [(old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys())]
    changes: list[Change] = []
    for one, other in pairs:
        if one is None or other is None:
            there = one or other
            assert there is not None  # noqa: S101 - one of both has it
            change = "gone" if other is None else "new"
            if kinds is None or "guest" in kinds:
                changes.append(Change(there.host, there.guest, "guest", change, there.guest))
            continue
        for kind, read in KINDS.items():
            if kinds is None or kind in kinds:
                changes += _of_kind(kind, other, read(one), read(other))
    return changes


def last_two(file: Reader) -> tuple[Side, Side]:
    """Return the last two sessions of each guest; raise `UsageError` if none was looked at twice."""
    pairs = [numbers[-2:] for numbers in history(file).values() if len(numbers) > 1]
    if not pairs:
        raise UsageError(
            "each guest in it was looked at once",
            where=str(file.path),
            hint="compare it with another file: drakmet diff BEFORE AFTER",
        )
    return Side(file, [pair[0] for pair in pairs]), Side(file, [pair[1] for pair in pairs])


def _of_kind(kind: str, look: Look, old: Facts, new: Facts) -> Iterator[Change]:
    reasons = [f"{side}: {facts.gap}" for side, facts in (("before", old), ("after", new)) if facts.gap]
    if old.absent and new.absent:
        return
    if reasons:
        yield Change(
            look.host, look.guest, kind, "not known", f"whether all of it is told: {kind}", note="; ".join(reasons)
        )
    if old.absent or new.absent:
        return
    for key in sorted(new.found.keys() - old.found.keys()):
        if not new.only_changes:
            fact = new.found[key]
            yield Change(look.host, look.guest, kind, "new", key, None, attributes(fact), new.notes.get(key))
    for key in sorted(old.found.keys() - new.found.keys()):
        if not new.only_changes:
            fact = old.found[key]
            yield Change(look.host, look.guest, kind, "gone", key, attributes(fact), None, old.notes.get(key))
    for key in sorted(old.found.keys() & new.found.keys()):
        was, now = old.found[key], new.found[key]
        # What one side could not read is no change.
        names = [name for name in was if name in now and was[name] and now[name] and was[name] != now[name]]
        if names:
            before, after = (attributes({name: side[name] for name in names}) for side in (was, now))
            yield Change(look.host, look.guest, kind, "changed", key, before, after, new.notes.get(key))
