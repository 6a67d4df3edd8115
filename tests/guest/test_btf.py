# SPDX-License-Identifier: GPL-2.0-or-later
"""BTF: what is written is read, split or whole, and damage is an error."""

from __future__ import annotations

import contextlib
import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drakmet.errors import GuestError
from drakmet.guest import btf
from drakmet.guest import types as t

from .cut_btf import Writer, cut_types
from .images import NAMES, image


def sample() -> Writer:
    """A struct with all there is: bitfields, an anonymous union, arrays, a typedef chain, an enum, a function."""
    w = Writer()
    w.put(w.reserve(), "int", btf.INT, 4, 1 << 24 | 32)  # 1
    w.put(w.reserve(), "char", btf.INT, 1, 1 << 24 | 8)  # 2
    w.put(w.reserve(), "", btf.PTR, 2)  # 3: char *
    w.put(w.reserve(), "", btf.ARRAY, 0, 2, 1, 16)  # 4: char[16]
    w.put(w.reserve(), "", btf.CONST, 7)  # 5: const typedef
    w.put(w.reserve(), "", btf.UNION, 8, w.string("id"), 1, 0, w.string("text"), 3, 0, count=2)  # 6
    w.put(w.reserve(), "number_t", btf.TYPEDEF, 1)  # 7
    w.put(w.reserve(), "color", btf.ENUM, 4, w.string("RED"), 0, w.string("NONE"), -1 & 0xFFFFFFFF, count=2, flag=True)
    members = [
        (w.string("a"), 5, 0), (w.string("low"), 1, 3 << 24 | 32), (w.string("high"), 1, 5 << 24 | 35),
        (0, 6, 64), (w.string("comm"), 4, 128), (w.string("next"), 10, 256),
    ]  # fmt: skip
    flat = [word for one in members for word in one]
    w.put(w.reserve(), "thing", btf.STRUCT, 40, *flat, count=len(members), flag=True)  # 9
    w.put(w.reserve(), "", btf.PTR, 9)  # 10
    w.put(w.reserve(), "", btf.FUNC_PROTO, 1, w.string("it"), 10, w.string("n"), 7, 0, 0, count=3)  # 11
    w.put(w.reserve(), "do_it", btf.FUNC, 11)  # 12
    big = [w.string("WIDE"), 1, 2, w.string("MINUS"), 0xFFFFFFFF, 0xFFFFFFFF]
    w.put(w.reserve(), "wide", btf.ENUM64, 8, *big, count=2, flag=True)  # 13
    w.put(w.reserve(), "thing", btf.FWD, 0)  # 14
    return w


def test_types_are_read() -> None:
    types = btf.Btf(sample().blob())
    field = types.field
    assert field("thing", "a") == t.Field(0, 5)
    assert types.resolve(5) == t.Int("int", 4, signed=True)
    assert field("thing", "low") == t.Field(4, 1, 3, 0)
    assert field("thing", "high") == t.Field(4, 1, 5, 3)
    assert field("thing", "text") == t.Field(8, 3)
    assert field("thing", "comm") == t.Field(16, 4)
    assert types.size("thing") == 40
    assert types.sizeof(4) == 16
    assert types.enum("color") == {"RED": 0, "NONE": -1}
    assert types.enum("wide") == {"WIDE": 1 | 2 << 32, "MINUS": -1}
    assert types.function("do_it") == t.Function("do_it", (t.Parameter("it", 10), t.Parameter("n", 7)), 1)
    assert types.function("thing") is None
    assert types.describe(10) == "struct thing *"
    assert types.describe(4) == "char [16]"
    assert not types.has_field("thing", "comm.x")
    assert list(types.names("typedef")) == ["number_t"]


def test_what_is_not_there_is_named_with_what_is_near() -> None:
    types = btf.Btf(sample().blob())
    with pytest.raises(GuestError, match=r"struct thing has no member com\b.*\n.*did you mean comm"):
        types.field("thing", "com")
    with pytest.raises(GuestError, match=r"no struct thong\n.*did you mean thing"):
        types.struct("thong")
    with pytest.raises(GuestError, match="no enum colour"):
        types.enum("colour")
    with pytest.raises(GuestError, match="no type 99"):
        types.resolve(99)


def test_a_module_s_types_stand_on_the_kernel_s() -> None:
    whole = sample()
    base = btf.Btf(whole.blob())
    count, size = len(whole.records), len(whole.strings)
    module = Writer()
    module.strings = bytearray(b"")
    module.known_strings = {"": 0}
    text = module.string

    def string(name: str) -> int:
        return whole.known_strings[name] if name in whole.known_strings else text(name) + size

    module.string = string  # type: ignore[method-assign]
    module.put(module.reserve(), "module_thing", btf.STRUCT, 48, string("inner"), 9, 0, string("p"), 10, 320, count=2)
    split = btf.Btf(module.blob(), base)
    assert split.offset("module_thing", "inner.comm") == 16
    assert split.offset("module_thing", "p") == 40
    assert split.offset("thing", "comm") == 16
    assert split.count == count + 2
    assert split.struct("module_thing") == count + 1
    assert "module_thing" in set(split.names("struct"))


@given(st.data())
def test_damaged_btf_is_an_error_or_types(data: st.DataObject) -> None:
    blob = bytearray(sample().blob())
    for _ in range(data.draw(st.integers(1, 6))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(blob)))
    for one in (bytes(blob), bytes(blob[:cut])):
        with contextlib.suppress(GuestError):
            types = btf.Btf(one)
            for ref in range(types.count):
                with contextlib.suppress(GuestError):
                    types.resolve(ref)
                    types.sizeof(ref)
                    types.describe(ref)
                    types.members(ref)
            for kind in ("struct", "union", "enum", "function"):
                for name in types.names(kind):  # type: ignore[arg-type]
                    types.find(name, kind)  # type: ignore[arg-type]
                    types.function(name)


def test_types_that_contain_themselves_end() -> None:
    w = Writer()
    w.put(w.reserve(), "loop", btf.TYPEDEF, 1)
    w.put(w.reserve(), "", btf.STRUCT, 8, 0, 2, 0, count=1)
    w.put(w.reserve(), "", btf.ARRAY, 0, 3, 3, 9)
    w.put(w.reserve(), "", btf.PTR, 4)
    types = btf.Btf(w.blob())
    with pytest.raises(GuestError, match="itself"):
        types.resolve(1)
    with pytest.raises(GuestError, match="too deep"):
        types.members(2)
    assert types.sizeof(3) == 0
    assert "deep" in types.describe(3)
    assert "deep" in types.describe(4)


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_s_types_survive_being_written_again(name: str) -> None:
    source = image(name).kernel.profile.types
    for struct in ("task_struct", "file", "dentry"):
        source.struct(struct)
    again = btf.Btf(cut_types(source))
    for struct in ("task_struct", "file", "dentry"):
        old, new = source.members(source.struct(struct)), again.members(again.struct(struct))
        assert {k: (v.offset, v.bits, v.shift) for k, v in old.items()} == {
            k: (v.offset, v.bits, v.shift) for k, v in new.items()
        }


def test_a_hundred_thousand_types_are_indexed_in_no_time() -> None:
    w = Writer()
    random = Random(1)  # noqa: S311  # a test's
    for number in range(100_000):
        members = [word for i in range(number % 4) for word in (w.string(f"m{i}"), random.randrange(1, 99), 64 * i)]
        w.put(w.reserve(), f"struct_{number}", btf.STRUCT, 64, *members, count=number % 4)
    blob = w.blob()
    start = time.process_time()
    types = btf.Btf(blob)
    taken = time.process_time() - start
    assert types.size("struct_77777") == 64
    assert taken < 1.5, "half a second on an idle machine"
