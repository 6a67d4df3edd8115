# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages of real kernels' text: clean, traced by the guest itself, and hooked."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

from drakmet.errors import GuestError
from drakmet.guest.kerneltext.guest import NOT_IN_PACKAGE
from drakmet.guest.kerneltext.nops import only_nops

from .text_sample import NAMES, sample

if TYPE_CHECKING:
    from drakmet.guest.kerneltext.compare import Comparison, Difference
    from drakmet.guest.memory import PhysicalMemory

EVIL = 0xFFFF_FFFF_C012_3000


def compared(name: str, memory: PhysicalMemory | None = None) -> Comparison:
    return sample(name).guest_text(memory).compare_kernel()


def only(name: str, memory: PhysicalMemory) -> Difference:
    (found,) = [one for one in compared(name, memory).differences if one.kind == "modified"]
    return found


def jump(there: int, here: int, opcode: int = 0xE9) -> bytes:
    return bytes([opcode]) + struct.pack("<i", there - here - 5)


def entry(name: str) -> int:
    """Return a function's entry that nothing hooks: the kernel's nop stands there."""
    one = sample(name)
    text = one.guest_text()
    for span in one.text:
        for address in range(span.start, span.end - 5, 4):
            called = text.image.read(address, 1) == b"\xe8" and only_nops(one.kernel().space.read(address, 5))
            if called and text.image.symbol_at(address)[1] in (0, 4):  # type: ignore[index]
                return address
    raise AssertionError


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_that_patched_itself_is_verified(name: str) -> None:
    found = compared(name)
    assert (found.modified, found.unknown, found.not_read, found.untold) == (0, 0, 0, 0)
    assert found.pages == len(sample(name).text)
    expected = {"return thunk", "ftrace nop", "alternative", "static call", "jump label", "ftrace"}
    expected |= {"5.10": {"paravirt"}, "6.1": {"paravirt", "lock prefix"}, "6.12": {"endbr", "runtime constant"}}[name]
    assert expected <= set(found.explained)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_guest_traces_is_told_with_who_is_called(name: str) -> None:
    found = compared(name)
    assert found.hooks == len(found.differences) > 0
    assert {one.kind for one in found.differences} <= {"ftrace", "kprobe"}
    handlers = {one.symbol: one.handler for one in found.differences}
    assert "function_trace_call" in handlers.values()
    if name == "6.1":
        assert handlers["do_sys_openat2"] in ("kprobe_ftrace_handler", "kprobe_dispatcher")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("opcode", [0xE8, 0xE9])
def test_an_inline_hook_over_an_entry_is_told_with_symbol_and_bytes(name: str, opcode: int) -> None:
    at = entry(name)
    hook = jump(EVIL, at, opcode)
    found = only(name, sample(name).changed(at, hook))
    assert found.kind == "modified"
    # From 6.12 on an entry begins with endbr64; and the file has a call there, of another function.
    assert found.offset in ((1, 5) if opcode == 0xE8 else (0, 4))
    assert found.symbol == sample(name).guest_text().image.symbol_at(at)[0]  # type: ignore[index]
    assert hook in (found.found, hook[:1] + found.found)
    assert found.expected != found.found


@pytest.mark.parametrize("name", NAMES)
def test_a_breakpoint_that_is_no_kprobe_is_told(name: str) -> None:
    found = only(name, sample(name).changed(entry(name), b"\xcc"))
    assert found.found[:1] == b"\xcc"


@pytest.mark.parametrize("name", NAMES)
def test_a_trampoline_that_is_no_copy_of_the_kernels_is_no_explanation(name: str) -> None:
    one = sample(name)
    hooked = next(
        row for row in compared(name).differences if row.target and row.target.startswith("ftrace trampoline")
    )
    trampoline = int((hooked.target or "").split()[-1], 16)
    code = one.kernel().space.read(trampoline, 64)
    at = next(i for i in range(8, 60) if code[i] not in (0x90, 0xCC))
    found = compared(name, one.changed(trampoline + at, bytes([code[at] ^ 0x41])))
    assert found.modified
    assert hooked.symbol in {row.symbol for row in found.differences if row.kind == "modified"}


@pytest.mark.parametrize("name", NAMES)
def test_no_byte_can_be_changed_unseen(name: str) -> None:
    one, chance = sample(name), random.Random(7)  # noqa: S311 - no secret
    text = one.guest_text()
    for _ in range(150):
        span = chance.choice(one.text)
        address = chance.randrange(span.start, span.end)
        was = one.kernel().space.read(address, 1)
        new = bytes([was[0] ^ chance.randrange(1, 256)])
        memory = one.changed(address, new)
        if compared(name, memory).modified:
            continue
        read = one.kernel(memory).space.read
        harmless = (
            new == text.image.read(address, 1)  # as in the file: not patched, which is not another's code
            or {was, new} == {b"\xf0", b"\x3e"}
            or any(only_nops(read(address - back, size)) for back in range(8) for size in range(back + 1, 12))
        )
        assert harmless, (hex(address), was, new)


@pytest.mark.parametrize("name", NAMES)
def test_a_module_is_compared_with_its_relocated_file(name: str) -> None:
    one = sample(name)
    clean = one.guest_text().compare_module(one.module)
    assert clean is not None
    assert (clean.modified, clean.unknown, clean.not_read) == (0, 0, 0)
    assert clean.pages >= 2
    at = one.module.base + 64
    byte = one.kernel().space.read(at, 1)[0]
    hooked = one.guest_text(one.changed(at, bytes([byte ^ 0x3C]))).compare_module(one.module)
    assert hooked is not None
    (row,) = hooked.differences
    assert (hooked.name, row.kind, row.address) == ("dummy", "modified", at)
    assert row.symbol is not None


def test_a_module_that_no_package_has_or_of_another_build_is_told() -> None:
    one = sample("6.1")
    text = one.guest_text()
    text._module_file = lambda name: None
    text.problems.clear()
    text._files.clear()
    text._images.clear()
    text.place([one.module])
    assert text.compare_module(one.module) is None
    assert text.problems[one.module.address] == NOT_IN_PACKAGE
    text._module_file = lambda name: sample("6.12").module_file
    text.place([one.module])
    assert "another build" in text.problems[one.module.address]


@pytest.mark.parametrize("seed", range(3))
def test_a_broken_module_file_is_told(seed: int) -> None:
    one, chance = sample("6.1"), random.Random(seed)  # noqa: S311 - no secret
    for _ in range(20):
        data = bytearray(one.module_file)
        for _ in range(chance.choice([1, 30, 1000])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        text = one.guest_text()
        text._module_file = {one.module.name: bytes(data[: chance.choice([len(data), 700])])}.get
        text._files.clear()
        text._images.clear()
        text.place([one.module])
        found = text.compare_module(one.module)
        assert (found is None) == (one.module.address in text.problems)


def test_a_file_of_another_kernel_is_refused() -> None:
    one = sample("6.1")
    text = one.guest_text()
    text._reference.build_id = "00" * 20  # type: ignore[misc]
    with pytest.raises(GuestError, match="build id"):
        type(text)(one.kernel(), text._reference, {}.get)
