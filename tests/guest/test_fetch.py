# SPDX-License-Identifier: GPL-2.0-or-later
"""The field language: what is wrong is said with what would be right, and nothing that is read can break a hit."""

from __future__ import annotations

import contextlib
import time
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drakmet.errors import GuestError
from drakmet.guest import kernel
from drakmet.guest.fetch import REGISTERS, FieldError, compile_field
from drakmet.guest.linux import LinuxGuest
from drakmet.guest.memory import SparseMemory, Unreadable

from .images import image
from .scenes import SCENES
from .truth import census


def plan_of(expression: str, function: str = "do_filp_open") -> Any:
    return compile_field(expression, function, image("6.1").guest.types)


@pytest.mark.parametrize(
    ("expression", "what", "hint"),
    [
        ("pathnam->name", "no parameter pathnam", "did you mean pathname"),
        ("zzz", "no parameter zzz", "dfd, pathname, op"),
        ("pathname->nam", "struct filename has no member nam", "did you mean name"),
        ("dfd->x", "dfd is int: it has no members", None),
        ("pathname->name|pth", "no decoder |pth", "did you mean path"),
        ("pathname->name|sockadr", "no decoder |sockadr", "sockaddr"),
        ("dfd|path", "struct file, path or dentry", None),
        ("pathname->name|str(dfd)", "takes no argument", None),
        ("$return->f_path", "name a member of it or a decoder", None),
        ("$nothing", "no $nothing", "$return"),
        ("$arg7", "arguments in registers", None),
        ("", "starts with a parameter's name", None),
        ("->name", "starts with a parameter's name", None),
        ("pathname->", "a member's name is missing", None),
        ("pathname name", "nothing may follow", None),
        ("pathname->name|bytes(dfd", "closing bracket", None),
        ("pathname->name;import os", "cannot read it from ';", "for example"),
        ("(struct fil *)$arg1->f_flags", "no struct fil", "did you mean file"),
        ("(struct file *)$arg1", "name a member", None),
        ("op->open_flag[3]", "has no elements", None),
        ("pathname->name|bytes($return)", "not there at the same time", None),
        ("a" * 500, "too long", None),
    ],
)
def test_what_does_not_fit_is_named(expression: str, what: str, hint: str | None) -> None:
    with pytest.raises(FieldError) as caught:
        plan_of(expression)
    assert what in caught.value.what
    assert caught.value.where is not None
    assert caught.value.where.startswith("do_filp_open: ")
    if hint is not None:
        assert hint in (caught.value.hint or "")


def test_a_function_without_a_prototype_can_be_read_by_its_registers() -> None:
    with pytest.raises(FieldError, match="no prototype"):
        plan_of("file", "no_such_function")
    assert plan_of("(struct file *)$arg1->f_flags", "no_such_function").source == "rdi"
    assert plan_of("$rip|hex", "no_such_function").when == "any"


def test_a_function_that_returns_nothing_has_no_result() -> None:
    with pytest.raises(FieldError, match="returns nothing"):
        plan_of("$return", "do_exit")


@given(st.text("pathname->.|()[]0123 $argetfilop*struc_", max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_is_an_expression_or_a_field_error(text: str) -> None:
    with contextlib.suppress(FieldError):
        plan_of(text)


def wild(random: Random) -> int:
    kernel_start = image("6.1").kernel.space.page_offset
    kind = random.randrange(6)
    return (
        0 if kind == 0
        else random.randrange(1 << 64) if kind == 1
        else (1 << 64) - random.randrange(1, 5000) if kind == 2
        else kernel_start + random.randrange(image("6.1").memory.size) if kind == 3
        else image("6.1").kernel.slid(0xFFFF_FFFF_8100_0000) + random.randrange(1 << 25) if kind == 4
        else random.randrange(1 << 47)
    )  # fmt: skip


def test_wild_registers_give_values_or_reasons() -> None:
    guest = image("6.1").guest
    random = Random(3)  # noqa: S311  # a test's
    fetchers = [
        (expression, compile_field(expression, scene.function, guest.types).bind(guest))
        for scene in SCENES
        for expression in (*scene.fields, *scene.returns)
    ]
    start = time.process_time()
    reasons = 0
    for _ in range(40):
        regs = SimpleNamespace(**{name: wild(random) for name in REGISTERS})
        for _, fetch in fetchers:
            value = fetch(regs)
            if isinstance(value, Unreadable):
                assert not value
                assert value.what
                assert value.__traceback__ is None
                reasons += 1
    assert reasons > 500
    assert time.process_time() - start < 20


def mutated(random: Random) -> LinuxGuest:
    """Return a guest whose data pages were changed at random: bytes, and pointers to elsewhere."""
    source = image("6.1")
    number = random.randrange(len(source.hits))
    pages = {**source.memory.pages, **source.overlays[number]}
    found = source.kernel
    first, last = found.base >> 12, found.base + found.space.image_end - found.space.image_start >> 12
    gfns = [gfn for gfn in pages if not first <= gfn < last]
    for gfn in random.sample(gfns, len(gfns) // 2):
        page = bytearray(pages[gfn])
        for _ in range(random.choice((1, 8, 64))):
            at = random.randrange(512) * 8
            page[at : at + 8] = wild(random).to_bytes(8, "little") if random.random() < 0.7 else random.randbytes(8)
        pages[gfn] = bytes(page)
    memory = SparseMemory(pages, source.memory.size)
    return LinuxGuest(kernel.Kernel(found.profile, memory, found.base, found.slide, found.levels))


@pytest.mark.parametrize("seed", range(12))
def test_a_guest_that_lies_ends_in_reasons_and_in_time(seed: int) -> None:
    source = image("6.1")
    random = Random(seed)  # noqa: S311  # a test's
    guest = mutated(random)
    start = time.process_time()
    with contextlib.suppress(GuestError):
        census(guest, source.told, [])
    for hit in source.hits[seed::12]:
        regs = SimpleNamespace(**hit["regs"])
        for scene in SCENES:
            if scene.function == hit["function"]:
                fields = scene.fields if hit["when"] == "entry" else scene.returns
                for expression in fields:
                    compile_field(expression, scene.function, guest.types).bind(guest)(regs)
    with contextlib.suppress(GuestError):
        kernel.find(guest.memory, profiles=[source.kernel.profile])
    assert time.process_time() - start < 10


def test_errors_instead_of_pointers_are_told() -> None:
    guest = image("6.1").guest
    regs = SimpleNamespace(rax=(1 << 64) - 2, cr3=0, gs_base=0)
    fetch = plan_of("$return|path").bind(guest)
    assert fetch(regs).what == "an error instead of a pointer: -2"
    assert plan_of("$return|errno").bind(guest)(regs) == -2
    assert plan_of("$return|errno").bind(guest)(SimpleNamespace(rax=0xFFFF888000000000)) == 0
    assert plan_of("$return|errno", "vfs_unlink").bind(guest)(SimpleNamespace(rax=0xFFFFFFF3)) == -13
    assert plan_of("$return", "vfs_unlink").bind(guest)(SimpleNamespace(rax=0xABCD_0000_FFFF_FFF3)) == -13


def test_constants_and_user_memory() -> None:
    guest = image("6.1").guest
    assert plan_of("$arg1|hex").bind(guest)(SimpleNamespace(rdi=0xABC)) == "0xabc"
    value = plan_of("filename", "do_sys_openat2").bind(guest)(SimpleNamespace(rsi=0, cr3=0))
    assert value.what == "a null pointer"
