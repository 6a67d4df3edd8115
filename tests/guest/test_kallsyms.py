# SPDX-License-Identifier: GPL-2.0-or-later
"""Symbol tables in the layouts of old and new kernels, written here as scripts/kallsyms.c writes them."""

from __future__ import annotations

import contextlib
import struct
import zlib
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drakmet.errors import GuestError
from drakmet.guest import kallsyms
from drakmet.guest.kallsyms import MIN_SYMBOLS
from drakmet.guest.symbols import Symbols

BASE = 0xFFFF_FFFF_9C60_0000
TOKENS = [bytes([one]) if 0x20 <= one < 0x7F else b"tok%d" % one for one in range(256)]
TOKENS[0], TOKENS[255], TOKENS[200] = b"sys_", b"_file", b"open"
_ALIGN = b"\0" * 8


def pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def names_of(symbols: list[tuple[int, str, str]]) -> tuple[bytes, list[int]]:
    out, markers = bytearray(), []
    by_token = {token: number for number, token in enumerate(TOKENS)}
    for i, (_, kind, name) in enumerate(symbols):
        if i % 256 == 0:
            markers.append(len(out))
        text = (kind + name).encode()
        ids = []
        while text:
            known = next(one for size in range(min(6, len(text)), 0, -1) if (one := text[:size]) in by_token)
            ids.append(by_token[known])
            text = text[len(known) :]
        out += bytes([len(ids)]) if len(ids) < 128 else bytes([len(ids) & 0x7F | 0x80, len(ids) >> 7])
        out += bytes(ids)
    return bytes(out), markers


def encode(symbols: list[tuple[int, str, str]], layout: str, before: bytes = b"") -> bytes:
    """Return the tables as they lie in memory; ``layout`` is old, old with the order of names, or new."""
    names, markers = names_of(symbols)
    offsets = [a if a < 1 << 31 else BASE - 1 - a for a, _, _ in symbols]
    raw_offsets = pad(struct.pack(f"<{len(offsets)}i", *offsets))
    base = struct.pack("<Q", BASE)
    count = pad(struct.pack("<I", len(symbols)))
    table = b"".join(token + b"\0" for token in TOKENS)
    starts = [sum(len(token) + 1 for token in TOKENS[:i]) for i in range(256)]
    tokens = pad(table) + pad(struct.pack("<256H", *starts))
    order = pad(b"\x01\x02\x03" * len(symbols))
    body = pad(names) + pad(struct.pack(f"<{len(markers)}I", *markers))
    if layout == "new":
        return pad(before) + count + body + tokens + raw_offsets + base + order + _ALIGN
    middle = order if layout == "ordered" else b""
    return pad(before) + raw_offsets + base + count + body + middle + tokens + _ALIGN


def many(extra: list[tuple[int, str, str]] = []) -> list[tuple[int, str, str]]:  # noqa: B006  # never changed
    symbols = [(0x1FB80, "A", "current_task")]
    symbols += [(BASE + 16 * i, "Tt"[i % 2], f"sys_open{i}_file") for i in range(MIN_SYMBOLS + 300)]
    return symbols + extra


@pytest.mark.parametrize("layout", ["old", "ordered", "new"])
def test_all_layouts_are_read(layout: str) -> None:
    long = (BASE + (1 << 22), "t", "_RNv" + "Xy9" * 150)
    symbols = many([long])
    data = encode(symbols, layout, before=b"junk" * 1000)
    (position,) = kallsyms.token_tables(data)
    table = kallsyms.parse(data, position)
    assert table.base == BASE
    assert [tuple(one) for one in table] == symbols
    start, end = table.extent
    again = data[start & ~7 : end]
    assert [tuple(one) for one in kallsyms.parse(again, position - (start & ~7))] == symbols


def test_the_start_need_not_follow_a_zero() -> None:
    data = encode(many(), "ordered")
    (position,) = kallsyms.token_tables(data)
    broken = bytearray(data)
    broken[position - 1] = 0x41
    assert list(kallsyms.token_tables(bytes(broken))) == [position]


@pytest.mark.parametrize("layout", ["old", "new"])
def test_a_damaged_table_is_refused_or_read(layout: str) -> None:
    data = encode(many(), layout)
    random = Random(7)  # noqa: S311  # a test's
    for _ in range(30):
        broken = bytearray(data)
        for _ in range(40):
            broken[random.randrange(len(broken))] = random.randrange(256)
        for position in kallsyms.token_tables(bytes(broken)):
            with contextlib.suppress(GuestError):
                kallsyms.parse(bytes(broken), position)
    for cut in range(0, len(data), 9973):
        for position in kallsyms.token_tables(data[:cut]):
            with contextlib.suppress(GuestError):
                kallsyms.parse(data[:cut], position)


@given(st.binary(max_size=300))
@settings(max_examples=50)
def test_bytes_around_digits_are_no_table(junk: bytes) -> None:
    digits = b"".join(b"%d\0" % digit for digit in range(10))
    assert list(kallsyms.token_tables(junk + digits + junk)) == []


NAMES = st.lists(st.text("abcdef._0123", min_size=1, max_size=8), min_size=1, max_size=40)


@given(NAMES, st.randoms(use_true_random=False))
def test_symbols_are_found_by_name_and_address(names: list[str], random: Random) -> None:
    rows = [(random.randrange(1 << 64), "t", name) for name in names]
    symbols = Symbols.of(rows)
    for address, _, name in rows:
        assert address in symbols.every(name)
        assert symbols[name] == min(a for a, _, n in rows if n == name)
        assert name in symbols.names_at(address)
        found = symbols.at(address + 1 if address + 1 not in {a for a, _, _ in rows} else address)
        assert found is not None
    assert symbols.get("none") is None
    assert sorted(symbols) == sorted(rows)


def test_what_the_compiler_made_of_a_function_is_found() -> None:
    names = ["do_it.isra.0", "do_it.cold", "do_it.part.0", "do_it_not", "redo_it.isra.0", "do_it.constprop.1"]
    symbols = Symbols.of((0x1000 * i, "t", name) for i, name in enumerate(["first", *names]))
    assert symbols.variants("do_it") == ["do_it.isra.0", "do_it.constprop.1"]
    with pytest.raises(GuestError, match="did you mean do_it_not"):
        _ = symbols["do_it_no"]


def test_names_with_one_hash_are_told_apart() -> None:
    assert zlib.crc32(b"plumless") == zlib.crc32(b"buckeroo")
    symbols = Symbols.of([(1, "t", "plumless"), (2, "t", "buckeroo")])
    assert (symbols["plumless"], symbols["buckeroo"]) == (1, 2)
