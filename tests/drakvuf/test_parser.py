# SPDX-License-Identifier: GPL-2.0-or-later
"""Every byte of a log is in a row or in the quarantine."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from drakmet.drakvuf.lenient import parse as lenient
from drakmet.drakvuf.parser import Parser
from drakmet.drakvuf.tables import BY_PLUGIN, RECORDS, column_of
from drakmet.text import unescape
from drakvuf.logs import LINUX, WINDOWS, WITHOUT_HEAD, Parsed, line, parse, sample, unpacked

if TYPE_CHECKING:
    from pathlib import Path


def full(row: dict[str, Any], processes: list[Any]) -> dict[str, Any]:
    """Put a row's line together again."""
    own = json.loads(row["fields"])
    if row["event"] is None:
        return own
    process = processes[row["process"] - 1]
    exe = unescape(process.exe or process.comm).decode("utf-8", "surrogateescape")
    head = {
        "TimeStamp": f"{row['time'] // 10**9}.{row['time'] % 10**9 // 1000:06d}",
        "PID": process.pid,
        "PPID": process.ppid,
        "TID": row["tid"],
        "UserId": process.uid if process.windows_session is None else process.windows_session,
        "ProcessName": exe,
        "Method": row["method"],
        "EventUID": hex(row["event"]),
    }
    return head | {name: value for name, value in own.items() if name not in head}


@pytest.mark.parametrize("path", [WINDOWS, *LINUX], ids=lambda path: path.name.split("-")[2].partition(".")[0])
def test_a_real_log_is_there_to_the_last_key(path: Path) -> None:
    log = unpacked(path)
    found = parse(log)
    assert found.refused == []
    assert found.parser.tally.balanced
    left: dict[str, list[dict[str, Any]]] = {}
    for row in found.rows:
        left.setdefault(row["table"], []).append(full(row, found.records))
    places = dict.fromkeys(left, 0)
    for text in log.decode("utf-8", "surrogateescape").split("\n"):
        if not text:
            continue
        original = dict(json.loads(text, strict=False))
        table = "drakvuf_" + original.pop("Plugin")
        stored = left[table][places[table]]
        places[table] += 1
        if any("\udc80" <= c <= "\udcff" for c in text):
            continue  # its strings are guest text; another test is about these
        assert stored == original
    assert places == {table: len(rows) for table, rows in left.items()}


def test_the_windows_log_has_4001_objects() -> None:
    tally = parse(unpacked(WINDOWS)).parser.tally
    assert (tally.lines, tally.records, tally.quarantined, tally.backwards) == (4001, 4001, 0, 4)
    assert tally.by_plugin == {"syscall": 1000, "sysret": 1000, "procmon": 1000, "apimon": 1000, "inject": 1}


@pytest.mark.parametrize("old", [False, True], ids=["today", "before 2023"])
@pytest.mark.parametrize("plugin", BY_PLUGIN)
def test_each_plugin_s_keys_are_kept_and_are_columns(plugin: str, old: bool) -> None:
    own = sample(plugin)
    text = line(plugin, own, old=old)
    found = parse(text + b"\n" + line(plugin, own, old=old, EventUID="0x20") + b"\n")
    assert found.refused == []
    assert [row["table"] for row in found.rows] == [BY_PLUGIN[plugin].table] * 2
    ends = text.endswith
    for row in found.rows:
        assert row["fields"].startswith('{"UserName":"SessionID"' if old and plugin not in WITHOUT_HEAD else "{")
        kept = lenient(row["fields"])
        assert [name for name, _ in kept][len(kept) - len(own) :] == [name for name, _ in own]
        assert not own or ends(row["fields"].partition(f'"{own[0][0]}"')[2].encode())
    connection = sqlite3.connect(":memory:")
    for name, one in own:
        if isinstance(one, str | int):
            sql, _ = BY_PLUGIN[plugin].computed[column_of(name)]
            query = f"SELECT {sql} FROM (SELECT ? AS fields)"  # noqa: S608 - an expression of ours
            assert connection.execute(query, (found.rows[1]["fields"],)).fetchone() == (one,)
    connection.close()


def test_both_dialects_say_the_same_of_a_process() -> None:
    found = parse(line("syscall", [("Ret", 0)], old=True) + b"\n" + line("sysret", [("Ret", "0x0")]) + b"\n")
    assert [(one.pid, one.ppid, one.exe, one.uid) for one in found.records] == [(100, 1, "/bin/sh", 0)]
    assert [row["fields"] for row in found.rows] == ['{"UserName":"SessionID","Ret":0}', '{"Ret":"0x0"}']


def test_a_key_that_comes_twice_is_there_twice() -> None:
    own = [("RSP", "0x1"), ("RIP", "0x2"), ("RSP", "0x3")]
    first, second = line("exmon", own), line("exmon", own, EventUID="0x20")
    found = parse(first + b"\n" + second + b"\n")
    for row in found.rows:
        assert row["fields"] == '{"RSP":"0x1","RIP":"0x2","RSP":"0x3"}'


def test_an_argument_with_a_common_name_does_not_hide_the_common_key() -> None:
    lines = [line("syscall", [("PID", "0x3"), ("Method", "x")], EventUID=hex(n)) for n in (1, 2, 3)]
    found = parse(b"\n".join(lines))
    assert {row["method"] for row in found.rows} == {"NtX"}
    assert [one.pid for one in found.records] == [100]
    assert {row["fields"] for row in found.rows} == {'{"PID":"0x3","Method":"x"}'}


def test_a_name_with_newlines_is_joined() -> None:
    name = b"/tmp/a\n\nb\n}\n c"
    lines = [line("filetracer", [("FileName", name)], EventUID=hex(n)) for n in (1, 2)]
    found = parse(b"\n".join(lines))
    assert found.refused == []
    assert [json.loads(row["fields"])["FileName"].encode() for row in found.rows] == [name, name]
    tally = found.parser.tally
    assert (tally.lines, tally.joined, tally.records, tally.balanced) == (10, 8, 2, True)


def test_bytes_that_are_no_text_are_kept_as_they_are() -> None:
    text = line("procmon", [("CommandLine", b"a\xff\\b\xc3")], ProcessName=b"/bin/\xfe")
    found = parse(text + b"\n")
    assert json.loads(found.rows[0]["fields"])["CommandLine"] == r"a\xff\\b\xc3"
    assert found.rows[0]["raw"] == text
    assert found.records[0].exe == r"/bin/\xfe"  # type: ignore[attr-defined]


def test_a_line_that_is_cut_is_told_of_and_the_next_is_kept() -> None:
    whole = line("filetracer", [("FileName", "/a")])
    found = parse(whole[:60] + whole + b"\n" + whole[:70] + b"\n" + line("regmon", [("Key", "k")]) + b"\n" + whole[:50])
    assert [row["table"] for row in found.rows] == ["drakvuf_filetracer", "drakvuf_regmon"]
    assert [unescape(row) for row, _ in found.refused] == [whole[:60], whole[:70], whole[:50]]
    assert found.parser.tally.balanced


def test_a_line_that_comes_again_at_once_is_put_apart_and_one_without_time_is_not() -> None:
    text, dll = line("syscall", []), b'{"Plugin":"apimon","Event":"dll_discovered","DllName":"a","PID":7}'
    found = parse(b"\n".join([dll, dll, text, text, text]))
    assert [row["table"] for row in found.rows] == ["drakvuf_apimon", "drakvuf_apimon", "drakvuf_syscall"]
    assert len(found.refused) == 2
    assert found.parser.tally.balanced
    assert {row["time"] for row in found.rows} == {1_700_000_000_000_001_000}
    assert [row["unreadable"] for row in found.rows if row["table"] == "drakvuf_apimon"] == ["time", "time"]


@pytest.mark.parametrize(
    "text",
    [b"hello", b"[1]", b'{"a":1}', b'{"Plugin":7}', b'"x"', b"\xff\xfe", b'{"Plugin":"a","x":NaN}',
     b'{"Plugin":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"Plugin":"a","x":' + b"9" * 5000 + b"x}"],
    ids=["word", "list", "no plugin", "number", "string", "bytes", "nan", "deep", "long"],
)  # fmt: skip
def test_what_is_no_line_of_drakvuf_s_is_put_apart(text: bytes) -> None:
    found = parse(text + b"\n" + line("regmon", []) + b"\n")
    assert [row["table"] for row in found.rows] == ["drakvuf_regmon"]
    assert [unescape(row) for row, _ in found.refused] == [text]
    assert found.parser.tally.balanced


def test_an_unknown_plugin_s_lines_are_kept_under_its_name() -> None:
    found = parse(line("newmon", [("A", 1)]) + b"\n" + line("oth\ner", [("B", 2)]) + b"\n")
    assert [(row["table"], row["plugin"], row["fields"]) for row in found.rows] == [
        ("drakvuf_other", "newmon", '{"A":1}'),
        ("drakvuf_other", r"oth\x0aer", '{"B":2}'),
    ]


def test_numbers_that_no_column_can_hold_stay_in_the_fields() -> None:
    found = parse(line("syscall", [], PID=10**30) + b"\n" + line("syscall", [], EventUID="0x" + "f" * 40) + b"\n")
    assert [row["event"] for row in found.rows] == [None, None]
    assert '"PID":1000000000000000000000000000000' in found.rows[0]["fields"]


def test_each_record_class_is_documented() -> None:
    for record in RECORDS:
        assert (record.__doc__ or "").strip()
        assert all(doc for _, doc in record.computed.values())


NAMES = st.binary(max_size=12) | st.sampled_from([b'"', b"\\", b"\n", b'{"Plugin":"x"', b"\xed\xa0\x80", b"\\ud800"])
VALUES = st.recursive(
    NAMES | st.integers(-(2**70), 2**70) | st.none(), lambda inner: st.lists(inner, max_size=3), max_leaves=4
)
REAL = [one for path in (WINDOWS, *LINUX) for one in unpacked(path).split(b"\n")[::97]]
LINES = st.builds(
    line,
    st.sampled_from([*BY_PLUGIN, "newmon"]),
    st.lists(st.tuples(st.sampled_from(["RSP", "FileName", "PID", "Method", "Zz"]), VALUES), max_size=4),
    old=st.booleans(),
    PID=st.integers(0, 5),
    ProcessName=NAMES,
    TimeStamp=st.integers(0, 2**31).map(lambda n: f"{n}.{n % 10**6:06d}"),
    EventUID=st.integers(0, 2**70).map(hex),
)


@given(st.lists(LINES, max_size=6))
@settings(max_examples=150, deadline=None)
def test_whole_lines_are_all_rows(lines: list[bytes]) -> None:
    found = parse(b"\n".join(lines))
    tally = found.parser.tally
    assert tally.balanced
    repeated = sum("once more" in reason for _, reason in found.refused)
    assert len(found.rows) == len(lines) - repeated
    assert len(found.refused) == repeated


def slowly(parser: Parser, lines: list[str], **_: bool) -> None:
    """Take lines without a look at what recurs in them."""
    for one in lines:
        parser._line += 1
        parser._slow(one)


def meant(found: Parsed) -> tuple[Any, ...]:
    """Return what a log came to, however its own keys were spaced."""
    rows = [row | {"fields": lenient(row["fields"])} for row in found.rows]
    return rows, found.records, found.refused, found.parser.tally, found.parser.begin, found.parser.end


def test_a_time_of_nought_is_a_time_like_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line without a time has that of the line before it, and not of the next, though that one is 0."""
    call = next(one for one in REAL if one.startswith(b'{"Plugin":"syscall"'))
    early = line("objmon", [], old=True, PID=5, ProcessName=b"\xff", TimeStamp="0.000000", EventUID="0x1")
    log = b"\n".join([call, early, b'{"Plugin":"fileextractor_close"}'] * 2)
    quickly = parse(log)
    monkeypatch.setattr(Parser, "_quick", slowly)
    assert meant(quickly) == meant(parse(log))
    assert {row["time"] for row in quickly.rows if row["table"] == "drakvuf_fileextractor_close"} == {0}


@given(st.lists(LINES | st.sampled_from(REAL), max_size=12), st.lists(st.integers(0, 4000), max_size=2), st.booleans())
@settings(max_examples=150, deadline=None, phases=(Phase.explicit, Phase.generate))
def test_what_recurs_is_looked_up_as_it_is_read(lines: list[bytes], cuts: list[int], spaced: bool) -> None:
    log = b"\n".join(lines * 2)
    if spaced:
        log = log.replace(b'":', b'": ').replace(b',"', b', "')
    for cut in cuts:
        at = cut % (len(log) + 1)
        log = log[:at] + log[at + cut % 9 :]
    with pytest.MonkeyPatch.context() as patch:
        quickly = parse(log)
        patch.setattr(Parser, "_quick", slowly)
        assert meant(quickly) == meant(parse(log))


@given(
    st.lists(LINES, max_size=5), st.lists(st.integers(0, 2000), max_size=4), st.binary(max_size=8), st.integers(1, 400)
)
@settings(max_examples=150, deadline=None)
def test_no_byte_is_lost_whatever_is_cut(lines: list[bytes], cuts: list[int], junk: bytes, step: int) -> None:
    log = b"\n".join(lines)
    for cut in cuts:
        at = cut % (len(log) + 1)
        log = log[:at] + junk + log[at + cut % 7 :]
    blocks = [block + b"\n" for block in log.split(b"\n")]
    found = parse(b"".join(blocks[:step]), b"".join(blocks[step:]))
    tally = found.parser.tally
    assert tally.balanced
    assert tally.lines == len(blocks)
    assert len(found.rows) == tally.records
    assert len(found.refused) == tally.quarantined
    for row in found.rows:
        json.loads(row["fields"]).items()
        row["fields"].encode()
    for text, _ in found.refused:
        unescape(text)


@pytest.mark.parametrize("between", [b"", b" ", b"\t"])
@pytest.mark.parametrize("count", [2, 3, 2000])
def test_whole_objects_that_share_a_line_are_rows_each(between: bytes, count: int) -> None:
    found = parse(between.join(line("regmon", [], EventUID=hex(number)) for number in range(count)) + b"\n")
    assert found.refused == []
    assert [row["event"] for row in found.rows] == list(range(count))
    tally = found.parser.tally
    assert (tally.lines, tally.parted, tally.balanced) == (1, count - 1, True)


def test_a_line_with_a_newline_in_a_name_goes_on_behind_a_whole_one() -> None:
    found = parse(line("regmon", [], EventUID="0x1") + line("regmon", [("Key", "a\nb")], EventUID="0x2") + b"\n")
    assert found.refused == []
    assert [row["event"] for row in found.rows] == [1, 2]
    assert found.parser.tally.balanced


def test_a_line_is_read_the_same_the_quick_way_and_the_slow_way() -> None:
    def log(event: str, end: bytes) -> bytes:
        return b"".join(
            line("regmon", [("Key", n)], EventUID=event, TimeStamp=f"1700000000.00000{n}") + end for n in range(3)
        )

    ended = parse(log("0x1f", b"\r\n"))
    assert [row["fields"] for row in ended.rows] == [f'{{"Key":{number}}}' for number in range(3)]
    odd = parse(log("0x1f", b"\n"), log("0x1_f", b"\n"))  # Python takes that for a number; DRAKVUF never wrote it
    assert [row["event"] for row in odd.rows] == [31, 31, 31, None, None, None]
