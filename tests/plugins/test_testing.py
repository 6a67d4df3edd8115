# SPDX-License-Identifier: GPL-2.0-or-later
"""What plugins are tested with."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from guest.images import NAMES, image

from drakmet import EventRecord, Hit, Trap, escape_bytes
from drakmet.errors import PluginError, UsageError
from drakmet.plugins import LoadedPlugin
from drakmet.records import Coverage, Process
from drakmet.testing import PROCESS, hit, load, problems, records_of, run_trap, trap

from .recordings import record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Seen(EventRecord):
    """Something."""

    name: Annotated[str | None, "a name"]
    number: Annotated[int | None, "a number"] = None


TRAP = Trap(function="f", fetch={"name": "a"}, returns={"number": "$return"}, record=Seen)


def test_a_hit_has_the_values_it_is_given() -> None:
    made = hit(name="a", unreadable=["number"])
    assert (made.name, made.number, made.unreadable, made.process) == ("a", None, ("number",), PROCESS)
    assert hit(process=None).make(Seen, name="b").process is None
    with pytest.raises(AttributeError, match="fetches no 'other'"):
        _ = made.other


def test_fixtures_come_by_themselves(drakmet_hit: Any, drakmet_run_trap: Any) -> None:
    assert drakmet_hit is hit
    assert drakmet_run_trap is run_trap


def test_a_trap_with_a_record_makes_it() -> None:
    (made,) = run_trap(TRAP, name="a\n", number=3, time=7, vcpu=2)
    assert made == Seen(session=1, time=7, vcpu=2, process=1, name="a\\x0a", number=3)


def test_what_is_left_out_could_not_be_read() -> None:
    (made,) = run_trap(TRAP, number=3)
    assert (made.name, made.unreadable) == (None, "name")


def test_a_value_that_the_trap_does_not_fetch_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="fetches no 'nmae'"):
        run_trap(TRAP, nmae="a")


@pytest.mark.parametrize(
    ("handler", "count"), [(lambda _: None, 0), (lambda hit: hit.make(Seen, name=hit.name), 1), (lambda hit: [], 0)]
)
def test_a_handler_decides(handler: Callable[[Hit], Any], count: int) -> None:
    assert len(run_trap(Trap(function="f", fetch={"name": "a"}, handler=handler), name="a")) == count


def test_a_handler_s_error_comes_out() -> None:
    def fail(_: Hit) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_trap(Trap(function="f", handler=fail))
    with pytest.raises(TypeError, match="returned a int"):
        run_trap(Trap(function="f", handler=lambda _: [1]))  # type: ignore[list-item]


def test_loading_tells_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("1 / 0")
    with pytest.raises(PluginError, match="ZeroDivisionError") as refused:
        load(path)
    assert refused.value.where == str(path)


def test_a_trap_is_found_by_its_label() -> None:
    plugin = LoadedPlugin("p", "here", traps=[TRAP])
    assert trap(plugin, "f") is TRAP
    with pytest.raises(UsageError, match="p has no trap 'g'"):
        trap(plugin, "g")


def test_problems_are_found() -> None:
    class Poor(EventRecord):
        a: int | None = None

    class NoEvent(Process):
        """Documented."""

    found = problems(
        LoadedPlugin(
            "p", "here", records=[Poor, NoEvent], traps=[Trap(function="f", record=Seen, handler=lambda _: None)]
        )
    )
    assert [one for one in found if not one.startswith("NoEvent.")] == [
        "p has no docstring",
        "Poor has no docstring",
        "Poor.a is not documented",
        "NoEvent is no EventRecord: its rows have no time and no process",
        "the record of the trap f is not among those that drakmet_records returns",
        "the handler of the trap f has no docstring",
    ]


def test_it_is_light_to_import() -> None:
    code = "import sys, drakmet.testing; print(sorted(n for n in sys.modules if n.startswith('drakmet.')))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    for heavy in ("drakmet.guest", "drakmet.monitor", "drakmet.plugins", "drakmet.sources", "drakmet.store", "sqlite"):
        assert heavy not in out


MINE = """
from typing import Annotated
from drakmet import *

class Asked(EventRecord):
    name: Annotated[str | None, "name"]

class Opened(EventRecord):
    path: Annotated[str | None, "path"]
    deleted: Annotated[bool | None, "deleted"]

def on_open(hit):
    path = hit.file.path
    return hit.make(Opened, path=path.text, deleted=path.deleted)

@hookimpl
def drakmet_traps():
    return [
        Trap(function="do_filp_open", fetch={"name": "pathname->name"}, record=Asked),
        Trap(function="security_file_open", fetch={"file": "file|file"}, record=Opened, handler=on_open),
    ]
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    directory = tmp_path / "mine"
    directory.mkdir(mode=0o755)
    file = directory / "mine.py"
    file.write_text(MINE)
    file.chmod(0o644)
    return file


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_of_a_real_guest_gives_what_the_guest_did(tmp_path: Path, mine: Path, name: str) -> None:
    path = tmp_path / "run.drec"
    live = record(path, name, [load(mine)])
    replayed = [one for one in records_of([mine], path) if not isinstance(one, Coverage)]
    assert [str(one) for one in replayed] == [str(one) for one in live]
    hits = [hit for hit in image(name).hits if hit["when"] == "entry"]
    acts = [hit["act"] for hit in hits if hit["function"] == "do_filp_open"]
    asked = [one for one in replayed if one.table == "asked"]
    assert [one.name for one in asked] == [escape_bytes(bytes.fromhex(act["name"])) for act in acts]
    assert len(acts) >= 5
    processes = {one.id: one for one in replayed if isinstance(one, Process)}
    assert [processes[one.process].pid for one in asked] == [act["pid"] for act in acts]
    acts = [hit["act"] for hit in hits if hit["function"] == "security_file_open"]
    opened = [(one.path, one.deleted) for one in replayed if one.table == "opened"]
    assert opened == [(escape_bytes(bytes.fromhex(act["full"])), bool(act.get("deleted"))) for act in acts]


def test_directories_files_and_names_run_over_a_recording(tmp_path: Path, mine: Path) -> None:
    path = tmp_path / "run.drec"
    record(path, "6.1", [load(mine)])
    for plugins in ([mine.parent], [mine]):
        # The samples keep of each hit only what fetchers read: of who ran, what they say is of two moments.
        tables = {one.table for one in records_of(plugins, path)} - {"identity_conflict"}
        assert tables == {"process", "coverage", "asked", "opened"}
    told = [one for one in records_of(["network-intent"], path) if one.table == "coverage"]
    gaps = [one for one in told if one.plugin != "monitor"]
    assert gaps
    assert all(one.gap.startswith("the recording has no trap on") for one in gaps)
    mine.write_text("1 / 0")
    for plugins in ([mine.parent], [mine]):
        with pytest.raises(PluginError, match="ZeroDivisionError"):
            records_of(plugins, path)
