# SPDX-License-Identifier: GPL-2.0-or-later
"""The field language of traps: ``pathname->name``, ``op->open_flag``, ``addr|sockaddr(addrlen)``, ``$return``.

An expression is typed against the guest's own BTF once (`compile_field`), then bound to a guest, which gives a
function from registers to a value that is cheap to call at every hit.

    expression = ["(" "struct" NAME "*" ")"] source { ("->" | ".") MEMBER | "[" NUMBER "]" }
                 ["|" DECODER ["(" expression | NUMBER ")"]]
    source     = PARAMETER | "$return" | "$argN" | "$current" | "$" REGISTER

``->`` and ``.`` mean the same: the types tell. Without a decoder, integers, enums and pointers come as int,
``char *`` and ``char[]`` as str (surrogate escapes), other arrays as bytes.
"""

from __future__ import annotations

import re
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from drakmet.errors import GuestError, UsageError
from drakmet.guest import quickfetch
from drakmet.guest import types as t
from drakmet.guest.decoders import DECODERS, Shape
from drakmet.guest.memory import Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.guest.linux import LinuxGuest


class Registers(Protocol):
    """A vCPU's registers at a hit; all are unsigned 64-bit numbers."""

    rax: int
    rbx: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    rbp: int
    rsp: int
    r8: int
    r9: int
    r10: int
    r11: int
    r12: int
    r13: int
    r14: int
    r15: int
    rip: int
    rflags: int
    cr3: int
    gs_base: int


class FieldError(UsageError):
    """An expression that does not fit the guest's kernel: names expression, function and member."""


ARGUMENTS: Final = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")  # System V AMD64 ABI 1.0, 3.2.3
REGISTERS: Final = frozenset(Registers.__annotations__)
_TOKEN: Final = re.compile(
    r"\s*(?:(?P<cast>\(\s*(?:struct|union)\s+(?P<struct>\w+)\s*\*\s*\))|(?P<name>\$?[A-Za-z_]\w*)|(?P<access>->|\.)"
    r"|\[\s*(?P<index>\d{1,6})\s*\]|(?P<number>0x[0-9a-f]{1,8}|\d{1,9})|(?P<punctuation>[|()]))"
)
_MAX_EXPRESSION: Final = 400

When = Literal["entry", "return", "any"]


class Plan:
    """An expression typed against one kernel.

    ``when`` tells where its source is there to be read: arguments at a function's entry, ``$return`` at its
    return. ``steps`` are the offsets at which pointers are followed from the source's value; ``shape`` is what
    lies at ``last`` bytes from where they lead.
    """

    def __init__(
        self, expression: str, function: str, source: str, when: When, steps: tuple[int, ...], last: int, shape: Shape,
        decoder: str, argument: Plan | None,
    ) -> None:  # fmt: skip
        self.expression = expression
        self.function = function
        self.source = source
        self.when = when
        self.steps = steps
        self.last = last
        self.shape = shape
        self.decoder = decoder
        self.argument = argument

    def bind(self, guest: LinuxGuest) -> Callable[[Registers], Any]:
        """Return the function that fetches the value from a hit's registers.

        It never raises: what cannot be read comes as an `Unreadable` (false), which tells why.
        """
        slow = self._bind(guest)
        if self.decoder in ("", "str") and self.source in REGISTERS:
            return quickfetch.make(guest, self.source, self.steps, self.last, self.shape, slow) or slow
        if self.decoder == "path" and self.source in REGISTERS and not self.steps:
            shape, offset = self.shape, self.last
            if shape.struct() == "file" and not shape.place:
                offset += guest.types.offset("file", "f_path")
            elif shape.struct() != "path" or shape.place == shape.is_pointer():
                return slow
            return quickfetch.make_path(guest, self.source, offset, slow) or slow
        return slow

    def _bind(self, guest: LinuxGuest) -> Callable[[Registers], Any]:
        decode = DECODERS[self.decoder].make(guest, self.shape, self.argument.bind(guest) if self.argument else None)
        get = _source(self.source, guest)
        steps, last = self.steps, self.last
        space = guest.space
        page_offset, direct_end, physical = space.page_offset, space.direct_end, guest.memory.read_u64
        far = guest.read_u64

        if not steps and not last:

            def fetch_plain(regs: Registers) -> Any:  # by the expression's type
                try:
                    return decode(get(regs), regs)
                except Unreadable as error:
                    return error.as_value()

            return fetch_plain

        if not steps:

            def fetch_value(regs: Registers) -> Any:  # by the expression's type
                try:
                    return decode(get(regs) + last, regs)
                except Unreadable as error:
                    return error.as_value()

            return fetch_value

        if len(steps) == 1:
            (step,) = steps

            def fetch_one(regs: Registers) -> Any:
                try:
                    address = get(regs) + step
                    # The direct map needs no walk: this is where nearly all the kernel's objects live.
                    if page_offset <= address < direct_end:
                        return decode(physical(address - page_offset) + last, regs)
                    return decode(far(address, regs.cr3) + last, regs)
                except Unreadable as error:
                    return error.as_value()

            return fetch_one

        def fetch(regs: Registers) -> Any:
            try:
                address = get(regs)
                for step in steps:
                    address += step
                    if page_offset <= address < direct_end:
                        address = physical(address - page_offset)
                    else:
                        address = far(address, regs.cr3)
                return decode(address + last, regs)
            except Unreadable as error:
                return error.as_value()

        return fetch


def _source(source: str, guest: LinuxGuest) -> Callable[[Any], int]:
    if source == "current":
        current = guest.current_task
        return lambda regs: current(regs.gs_base)
    if source.startswith("stack"):
        offset = int(source[5:])
        read = guest.read_u64
        return lambda regs: read(regs.rsp + offset, regs.cr3)
    if source.startswith("="):
        value = int(source[1:])
        return lambda _: value
    get: Callable[[Any], int] = attrgetter(source)
    return get


def compile_field(expression: str, function: str, types: t.Types) -> Plan:
    """Type ``expression`` for a trap on ``function``; `FieldError` says what does not fit, and what would."""
    return _Compiler(expression, function, types).compile()


class _Compiler:
    def __init__(self, expression: str, function: str, types: t.Types) -> None:
        self.expression = expression
        self.function = function
        self.types = types
        self.tokens: list[re.Match[str]] = []
        at = 0
        if len(expression) > _MAX_EXPRESSION:
            raise self.error("the expression is too long")
        while at < len(expression.rstrip()):
            match = _TOKEN.match(expression, at)
            if match is None:
                raise self.error(f"cannot read it from {expression[at:]!r} on", "for example: file->f_path|path")
            self.tokens.append(match)
            at = match.end()
        self.position = 0

    def error(self, what: str, hint: str | None = None) -> FieldError:
        return FieldError(what, where=f"{self.function}: {self.expression}", hint=hint)

    def take(self, group: str, value: str | None = None) -> str | None:
        if self.position < len(self.tokens):
            text = self.tokens[self.position].group(group)
            if text is not None and value in (None, text):
                self.position += 1
                return text
        return None

    def compile(self) -> Plan:
        plan = self.expression_plan()
        if self.position != len(self.tokens):
            raise self.error(f"nothing may follow before {self.tokens[self.position].group().strip()!r}")
        return plan

    def expression_plan(self) -> Plan:
        cast = self.tokens[self.position].group("struct") if self.position < len(self.tokens) else None
        if cast is not None:
            self.position += 1
        name = self.take("name")
        if name is None:
            raise self.error("an expression starts with a parameter's name or $return")
        source, when, ref = self.source(name)
        # A value is in hand (``place`` false), or the address of an object is.
        steps: list[int] = []
        last, place, bits = 0, False, (0, 0)
        pointee: t.Ref | None = None
        if cast is not None:
            pointee = self.struct(cast)
        while True:
            member = None
            if self.take("access"):
                member = self.take("name")
                if member is None or member.startswith("$"):
                    raise self.error("a member's name is missing after -> or .")
            index = None if member else self.take("index")
            if member is None and index is None:
                break
            if bits != (0, 0):
                raise self.error("a bitfield has no members")
            target = pointee if pointee is not None else self.pointee(ref)
            if target is not None:  # follow the pointer
                if place:
                    steps.append(last)
                    last = 0
                ref, place, pointee = target, True, None
            if index is not None:
                kind = self.types.resolve(ref)
                if target is None:
                    if not isinstance(kind, t.Array):
                        raise self.error(f"{self.types.describe(ref)} has no elements")
                    ref = kind.element
                last += int(index) * self.types.sizeof(ref)
                continue
            assert member is not None  # noqa: S101  # for mypy: one of the two was taken
            if not place:
                raise self.error(f"{name} is {self.types.describe(ref)}: it has no members")
            try:
                field = self.types.walk(ref, member)
            except GuestError as error:
                raise self.error(error.what, error.hint) from error
            last += field.offset
            ref, bits = field.type, (field.bits, field.shift)
        if pointee is not None:
            raise self.error("a cast alone: name a member")
        decoder, argument = self.decoder()
        if not decoder and bits == (0, 0):
            ref = self.scalar(ref)
        shape = Shape(self.types, ref, place, bits)
        problem = DECODERS[decoder].check(shape)
        if problem:
            raise self.error(f"{self.types.describe(ref)}: {problem}")
        if argument is not None and not DECODERS[decoder].argument:
            raise self.error(f"|{decoder} takes no argument")
        if argument is not None and argument.when not in (when, "any") and when != "any":
            raise self.error("what stands in the brackets is not there at the same time")
        return Plan(self.expression, self.function, source, when, tuple(steps), last, shape, decoder, argument)

    def decoder(self) -> tuple[str, Plan | None]:
        if not self.take("punctuation", "|"):
            return "", None
        name = self.take("name") or ""
        if name not in DECODERS or not name:
            known = [one for one in DECODERS if one]
            raise self.error(f"no decoder |{name}", t.nearest(name, known) or "there are: " + ", ".join(known))
        argument = None
        if self.take("punctuation", "("):
            constant = self.take("number")
            argument = self.expression_plan() if constant is None else self.constant(int(constant, 0))
            if not self.take("punctuation", ")"):
                raise self.error("a closing bracket is missing")
        return name, argument

    def scalar(self, ref: t.Ref) -> t.Ref:
        """Return the number in a struct that is nothing else: kuid_t, atomic_t, refcount_t."""
        for _ in range(4):
            kind = self.types.resolve(ref)
            if not isinstance(kind, t.Struct) or len(kind.members) != 1 or kind.size > 8 or kind.members[0].bits:
                break
            ref = kind.members[0].type
        return ref

    def constant(self, value: int) -> Plan:
        shape = Shape(self.types, self.word(), place=False)
        return Plan(self.expression, self.function, f"={value}", "any", (), 0, shape, "", None)

    def struct(self, name: str) -> t.Ref:
        try:
            return self.types.struct(name)
        except GuestError as error:
            raise self.error(error.what, error.hint) from error

    def pointee(self, ref: t.Ref) -> t.Ref | None:
        kind = self.types.resolve(ref)
        return kind.target if isinstance(kind, t.Pointer) else None

    def source(self, name: str) -> tuple[str, When, t.Ref]:
        if name == "$current":
            pointer = self.types.field("task_struct", "real_parent").type  # a struct task_struct *
            return "current", "any", pointer
        if name.startswith("$arg") and name[4:].isdigit():
            position = int(name[4:])
            if not 1 <= position <= len(ARGUMENTS):
                raise self.error(f"arguments in registers are $arg1 to $arg{len(ARGUMENTS)}")
            return ARGUMENTS[position - 1], "entry", self.word()
        if name.startswith("$") and name[1:] in REGISTERS:
            return name[1:], "any", self.word()
        prototype = self.types.function(self.function)
        if prototype is None:
            raise self.error(
                "the kernel's types tell no prototype of this function",
                "write ((struct file *)$arg1->f_flags) or choose another function"
                if name.startswith("$")
                else f"did you mean {t.nearest(self.function, self.types.names('function')) or 'another function?'}",
            )
        if name == "$return":
            if isinstance(self.types.resolve(prototype.result), t.Void):
                raise self.error("the function returns nothing")
            return "rax", "return", prototype.result
        if name.startswith("$"):
            raise self.error(f"there is no {name}", "there are $return, $current, $arg1 to $arg6, and registers: $rdi")
        registers, stack = list(ARGUMENTS), 8
        for parameter in prototype.parameters:
            size = max(8, self.types.sizeof(parameter.type) + 7 & ~7)
            in_registers = size <= 16 and len(registers) >= size // 8
            if parameter.name == name:
                return (registers[0] if in_registers else f"stack{stack}"), "entry", parameter.type
            if in_registers:
                del registers[: size // 8]
            else:
                stack += size
        names = [parameter.name for parameter in prototype.parameters]
        raise self.error(
            f"the function has no parameter {name}",
            t.nearest(name, names) or f"its parameters are: {', '.join(names) or 'none'}",
        )

    def word(self) -> t.Ref:
        for name in ("long unsigned int", "unsigned long"):
            ref = self.types.find(name, "int")
            if ref is not None:
                return ref
        raise self.error("the kernel's types have no unsigned long")
