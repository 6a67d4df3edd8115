# SPDX-License-Identifier: GPL-2.0-or-later
"""A profile for DRAKVUF out of a guest's memory: it says what the guest's own BTF and kallsyms say, and little else."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest
from guest.images import NAMES, image

if TYPE_CHECKING:
    from pathlib import Path

from drakmet.drakvuf.hooks import TYPES, gaps
from drakmet.drakvuf.profile import profile_of, save
from drakmet.errors import GuestError
from drakmet.guest.kernel import Kernel
from drakmet.guest.profile import Profile


@pytest.mark.parametrize("name", NAMES)
def test_it_reads_back_as_the_kernel_has_it(name: str, tmp_path: Path) -> None:
    kernel = image(name).kernel
    path = tmp_path / "kernel.json"
    save(kernel, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size < 500_000
    read, own = Profile.from_isf(path), kernel.profile
    assert read.banner == own.banner
    for struct, members in TYPES.items():
        for member in members.split():
            try:
                offset = own.types.offset(struct, member)
            except GuestError:
                assert not read.types.has_field(struct, member)
            else:
                assert read.types.offset(struct, member) == offset
    lowered = 0 if kernel.slide else 2 << 20
    for symbol in ("_text", "init_task", "do_exit", "vfs_write", "__x64_sys_execve"):
        assert read.symbols[symbol] == own.symbols[symbol] - lowered


def test_a_kernel_without_kaslr_seems_to_have_it() -> None:
    """DRAKVUF takes a distance of 0 between the profile and the guest for a fault, and then hooks nothing."""
    found = image("6.1").kernel
    plain = Kernel(found.profile, found.memory, found.base, 0, found.levels)
    moved = Kernel(found.profile, found.memory, found.base, 0x2000000, found.levels)
    lowered = profile_of(plain)["symbols"]
    for name, row in profile_of(moved)["symbols"].items():
        kernel_half = row["address"] >= 0xFFFFFFFF80000000
        assert lowered[name]["address"] == row["address"] - (2 << 20 if kernel_half else 0)


def test_it_is_volatility_3_s_form() -> None:
    data = profile_of(image("6.1").kernel)
    assert set(data) == {"metadata", "base_types", "user_types", "enums", "symbols"}
    known = {*data["user_types"], *data["enums"], *data["base_types"], "void"}

    def check(descriptor: dict[str, object]) -> None:
        kind = descriptor["kind"]
        if kind in ("pointer", "array"):
            check(descriptor["subtype"])  # type: ignore[arg-type]
        elif kind == "bitfield":
            check(descriptor["type"])  # type: ignore[arg-type]
        else:
            assert kind == "function" or descriptor["name"] in known

    for entry in data["user_types"].values():
        assert set(entry) == {"kind", "size", "fields"}
        for field in entry["fields"].values():
            check(field["type"])


def test_the_gaps_of_this_kernel_are_those_that_were_seen() -> None:
    """On 6.1 ebpfmon and one hook of filetracer were seen to log nothing, without a word."""
    found = {gap.trap for gap in gaps(("procmon", "filetracer", "ebpfmon"), image("6.1").kernel.find)}
    assert {"ebpfmon:__do_sys_bpf", "filetracer:vfs_allocate"} <= found
    assert not any(trap.startswith("procmon") for trap in found)
