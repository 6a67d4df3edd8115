# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory files, profile files and ISF files: round trips, and files that are not what they should be."""

from __future__ import annotations

import gzip
import json
import lzma
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drakmet.errors import GuestError, UsageError
from drakmet.guest import types as t
from drakmet.guest.kernel import note_build_id
from drakmet.guest.memory import (
    PAGE_SIZE,
    ImageMemory,
    RecordingMemory,
    SparseMemory,
    Unreadable,
    extents,
    read_lenient,
)
from drakmet.guest.profile import Profile, ProfileCache

from .images import image

if TYPE_CHECKING:
    from pathlib import Path


def test_an_image_is_read_where_its_regions_lie(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    path.write_bytes(b"a" * PAGE_SIZE + b"b" * PAGE_SIZE)
    with ImageMemory(path) as memory:
        assert memory.size == 2 * PAGE_SIZE
        assert memory.read(PAGE_SIZE - 1, 2) == b"ab"
        assert memory.read_u64(PAGE_SIZE) == int.from_bytes(b"b" * 8, "little")
        for gpa, length in ((2 * PAGE_SIZE, 1), (-1, 4), (PAGE_SIZE * 2 - 4, 8), (0, -1)):
            with pytest.raises(Unreadable):
                memory.read(gpa, length)
    with ImageMemory.with_hole(path, PAGE_SIZE) as memory:
        assert memory.read(1 << 32, 2) == b"bb"
        assert memory.read(0, 2) == b"aa"
        assert list(extents(memory)) == [(0, PAGE_SIZE), (1 << 32, PAGE_SIZE)]
        with pytest.raises(Unreadable):
            memory.read(PAGE_SIZE, 1)


@pytest.mark.parametrize("regions", [[(0, 0, 8192)], [(0, -1, 1)], [(0, 0, 10), (5, 0, 10)], [(0, 0, 0)]])
def test_regions_that_cannot_be_are_refused(tmp_path: Path, regions: list[tuple[int, int, int]]) -> None:
    path = tmp_path / "ram"
    path.write_bytes(bytes(PAGE_SIZE))
    with pytest.raises(UsageError):
        ImageMemory(path, regions)


def test_an_image_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        ImageMemory(tmp_path / "none")
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="cannot map"):
        ImageMemory(tmp_path / "empty")


def test_pages_are_kept_in_a_file(tmp_path: Path) -> None:
    memory = SparseMemory({3: b"x" * PAGE_SIZE, 4: b"y" * PAGE_SIZE, 1 << 33: b"z" * PAGE_SIZE}, 1 << 40)
    path = tmp_path / "pages"
    memory.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    again = SparseMemory.load(path)
    assert (again.pages, again.size) == (memory.pages, memory.size)
    assert list(again.extents()) == [(3 * PAGE_SIZE, 2 * PAGE_SIZE), ((1 << 33) * PAGE_SIZE, PAGE_SIZE)]
    assert again.read(4 * PAGE_SIZE - 1, 2) == b"xy"
    with pytest.raises(Unreadable):
        again.read(5 * PAGE_SIZE - 1, 2)
    assert read_lenient(again, 5 * PAGE_SIZE - 1, 3) == b"y\0\0"


def test_a_damaged_file_of_pages_is_a_usage_error(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    SparseMemory({3: b"x" * PAGE_SIZE}).save(path)
    raw = path.read_bytes()
    for broken in (
        b"",
        raw[:20],
        raw[:-30],
        b"X" + raw[1:],
        raw[:8] + b"\x09" + raw[9:],
        raw[:12] + b"\xff" * 4 + raw[16:],
    ):
        path.write_bytes(broken)
        with pytest.raises(UsageError):
            SparseMemory.load(path)


def test_a_recording_keeps_what_was_touched() -> None:
    memory = SparseMemory({gfn: bytes([gfn]) * PAGE_SIZE for gfn in range(9)})
    recording = RecordingMemory(memory)
    assert recording.read(PAGE_SIZE * 2 - 1, 2) == b"\1\2"
    assert recording.read_u64(5 * PAGE_SIZE) == 0x0505050505050505
    assert sorted(recording.sparse().pages) == [1, 2, 5]


def test_a_damaged_profile_is_made_anew(tmp_path: Path) -> None:
    cache = ProfileCache(tmp_path)
    path = cache.put(image("5.10").kernel.profile)
    raw = path.read_bytes()
    for broken in (b"", raw[:40], raw[: len(raw) // 2], b"X" + raw[1:], raw[:20] + b"{" * 60 + raw[80:]):
        path.write_bytes(broken)
        assert cache.get(image("5.10").kernel.build_id) is None
        assert list(cache) == []
    path.write_bytes(raw)
    assert cache.get(image("5.10").kernel.build_id) is not None
    with pytest.raises(GuestError, match="not a build id"):
        cache.path("../../etc/passwd")


def isf() -> dict[str, Any]:
    number = {"kind": "base", "name": "int"}
    return {
        "metadata": {"format": "6.2.0"},
        "base_types": {
            "int": {"size": 4, "signed": True, "kind": "int", "endian": "little"},
            "char": {"size": 1, "signed": True, "kind": "char", "endian": "little"},
            "void": {"size": 0, "signed": False, "kind": "void", "endian": "little"},
        },
        "user_types": {
            "thing": {
                "kind": "struct",
                "size": 24,
                "fields": {
                    "a": {"offset": 0, "type": number},
                    "flag": {
                        "offset": 4,
                        "type": {"kind": "bitfield", "bit_position": 11, "bit_length": 3, "type": number},
                    },
                    "unnamed_field_0": {"offset": 8, "anonymous": True, "type": {"kind": "union", "name": "unnamed_1"}},
                    "comm": {
                        "offset": 16,
                        "type": {"kind": "array", "count": 8, "subtype": {"kind": "base", "name": "char"}},
                    },
                },
            },
            "unnamed_1": {
                "kind": "union",
                "size": 8,
                "fields": {
                    "next": {"offset": 0, "type": {"kind": "pointer", "subtype": {"kind": "struct", "name": "thing"}}}
                },
            },
        },
        "enums": {"color": {"size": 4, "base": "int", "constants": {"RED": 1}}},
        "symbols": {
            "_text": {"address": 0xFFFFFFFF81000000},
            "odd": {"address": "x"},
            "linux_banner": {"address": 5, "constant_data": "TGludXgK"},
        },
    }


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_an_isf_file_tells_types_and_symbols(tmp_path: Path, pack: Any) -> None:
    path = tmp_path / "kernel.json"
    path.write_bytes(pack(json.dumps(isf()).encode()))
    profile = Profile.from_isf(path)
    types = profile.types
    assert profile.banner == "Linux"
    assert profile.symbols["_text"] == 0xFFFFFFFF81000000
    assert "odd" not in profile.symbols
    assert types.field("thing", "flag") == t.Field(5, types.field("thing", "flag").type, 3, 3)
    assert types.offset("thing", "next") == 8
    assert types.describe(types.field("thing", "next").type) == "struct thing *"
    assert types.sizeof(types.field("thing", "comm").type) == 8
    assert types.enum("color") == {"RED": 1}
    with pytest.raises(GuestError, match="did you mean comm"):
        types.field("thing", "comn")
    small = Profile.from_json(profile.subset())
    assert small.types.offset("thing", "next") == 8
    assert small.types.field("thing", "flag").bits == 3


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b'{"base_types": {}, "user_types": [], "symbols": {}}', b"\xfd7zXZ...", b"\x1f\x8b.."]
)
def test_what_is_no_isf_file_is_a_usage_error(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "kernel.json"
    path.write_bytes(raw)
    with pytest.raises(UsageError):
        Profile.from_isf(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kind", "name", "fields", "type", "offset", "a", "subtype", "count"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["a", "b"]), JSON), st.dictionaries(st.sampled_from(["a", "b"]), JSON))
def test_any_isf_content_is_types_or_an_error(user: dict[str, Any], other: dict[str, Any]) -> None:
    data = {"base_types": other, "user_types": user, "enums": other, "symbols": other, "functions": other}
    profile = Profile.from_json(data)
    for name in ("a", "b"):
        try:
            ref = profile.types.struct(name)
            for field in profile.types.members(ref).values():
                profile.types.describe(field.type)
                profile.types.sizeof(field.type)
        except GuestError:
            pass
        for kind in ("enum", "int", "function"):
            profile.types.find(name, kind)  # type: ignore[arg-type]
        profile.types.function(name)


def test_a_build_id_is_read_from_among_the_notes() -> None:
    other = b"\x04\0\0\0\x05\0\0\0\x06\0\0\0Xen\0abcde\0\0\0"
    wanted = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0" + bytes(range(20))
    assert note_build_id(other + wanted) == bytes(range(20)).hex()
    assert note_build_id(other) == ""
    assert note_build_id(b"\xff" * 60) == ""
