# SPDX-License-Identifier: GPL-2.0-or-later
"""When a guest is freed by hand, and when it is left alone; that it is freed is shown on a real Xen in tests/lab."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from drakmet import pyxen
from drakmet.cli.rescue import rescue as command
from drakmet.errors import XenError
from drakmet.guardian import rescue as room
from drakmet.guardian.survey import Survey
from drakmet.pyxen import claim as claims
from drakmet.pyxen.claim import Claim

if TYPE_CHECKING:
    from pathlib import Path

DOMAIN = 5
LEFT = {"ring": True, "altp2m": True, "views": {0: 1}, "held": [0], "frames": [7, 8, 9], "limit": 99, "right_limit": 90}


class Scene:
    """A guest, and what was done to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.found: dict[str, Any] = {}
        self.pauses = 0
        self.done: list[Any] = []
        self.stays = False
        monkeypatch.setattr(claims, "FOLDER", tmp_path / "locks")
        monkeypatch.setattr(room, "survey", self.survey)
        monkeypatch.setattr(room, "recover", lambda _control, domid, **how: self.done.append(("recover", domid, how)))

    def survey(self, _control: Any, domid: int) -> Survey:
        left = self.found if self.stays or not self.done else {}
        return Survey(domid, "web1", paused=self.pauses > 0, **left)

    def domain(self, domid: int) -> Any:
        return SimpleNamespace(paused=self.pauses > 0)

    def unpause(self, domid: int) -> None:
        self.pauses -= 1
        self.done.append("unpause")

    def depopulate(self, domid: int, gfns: list[int]) -> None:
        self.done.append(("depopulate", *gfns))

    def set_max_memkb(self, domid: int, limit: int) -> None:
        self.done.append(("limit", limit))


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scene:
    return Scene(monkeypatch, tmp_path)


def free(scene: Scene, **how: bool) -> tuple[Survey, Survey | None]:
    return room.rescue(scene, DOMAIN, **how)  # type: ignore[arg-type]


def test_a_guest_that_nothing_was_left_on_is_not_touched(scene: Scene) -> None:
    scene.pauses = 1  # a person's
    found, left = free(scene)
    assert (found.stale, left, scene.done) == (False, None, [])


def test_a_dry_run_tells_and_touches_nothing(scene: Scene) -> None:
    scene.found = LEFT
    found, left = free(scene, dry_run=True)
    assert (found.stale, left, scene.done) == (True, None, [])


def test_all_that_was_found_is_taken_back_and_the_guest_runs(scene: Scene) -> None:
    scene.found, scene.pauses = LEFT, 2
    _, left = free(scene)
    assert left is not None
    assert not left.stale
    assert scene.done == [
        ("recover", DOMAIN, {"from_the_living": False}),
        *(("depopulate", gfn) for gfn in (7, 8, 9)),
        ("limit", 90),
        "unpause",
        "unpause",
    ]


def test_a_guest_is_left_paused_if_it_is_to_be(scene: Scene) -> None:
    scene.found, scene.pauses = LEFT, 1
    free(scene, keep_paused=True)
    assert scene.pauses == 1


@pytest.mark.parametrize("who", ["drakvuf (process 7)", "ours"])
def test_a_living_monitor_keeps_its_guest_unless_it_is_forced(scene: Scene, who: str) -> None:
    scene.found = LEFT if who == "ours" else {**LEFT, "listener": who}
    claim = Claim(DOMAIN) if who == "ours" else None
    with pytest.raises(XenError, match=r"drakvuf \(process 7\)|another drakmet \(process \d+\)"):
        free(scene)
    assert scene.done == []
    free(scene, force=True)
    assert scene.done[0] == ("recover", DOMAIN, {"from_the_living": True})
    if claim is not None:
        claim.close()


def run(scene: Scene, monkeypatch: pytest.MonkeyPatch, *options: str) -> Any:
    class Opened(SimpleNamespace):
        def __enter__(self) -> Any:
            return self.what

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(pyxen, "Control", lambda: Opened(what=scene))
    monkeypatch.setattr(pyxen, "Xenstore", lambda: Opened(what=SimpleNamespace(find=lambda _name: DOMAIN)))
    return CliRunner().invoke(command, ["web1", *options])


@pytest.mark.parametrize(
    ("found", "stays", "options", "code", "text"),
    [
        ({}, False, ("--dry-run",), 0, "no monitor has left anything"),
        (LEFT, False, ("--dry-run",), 1, "vCPU 0 waits for an answer"),
        (LEFT, False, (), 0, "web1: freed"),
        (LEFT, True, (), 3, "still, altp2m is on"),
    ],
)
def test_the_command_says_what_it_found_and_did(
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
    found: dict[str, Any],
    stays: bool,
    options: tuple[str, ...],
    code: int,
    text: str,
) -> None:
    scene.found, scene.stays = found, stays
    done = run(scene, monkeypatch, *options)
    assert (done.exit_code, text in done.output) == (code, True), done.output


def test_its_json_has_all_of_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.found = LEFT
    told = json.loads(run(scene, monkeypatch, "--json").stdout)
    assert told["found"]["frames"] == [7, 8, 9]
    assert told["found"]["stale"]
    assert not told["left"]["stale"]


def test_a_guests_name_cannot_steer_the_terminal(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "survey", lambda *_: Survey(DOMAIN, "\x1b[2Jweb"))
    assert "\x1b" not in run(scene, monkeypatch).output
