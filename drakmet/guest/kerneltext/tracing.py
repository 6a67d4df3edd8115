# SPDX-License-Identifier: GPL-2.0-or-later
"""Hooks that the guest itself has set by its kernel's own means: ftrace, kprobes, BPF trampolines, live patches.

They are told, with who is called, and never passed over: a rootkit uses them as well as an administrator does. Who
hooks there is asked of the guest's memory; that it *is* such a hook follows from the file: a trampoline must be a copy
of the kernel's own ``ftrace_caller`` (create_trampoline, arch/x86/kernel/ftrace.c), a kprobe must lie in the kernel's
table of them and stand on the instruction of the file (kernel/kprobes.c).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from drakmet.errors import GuestError
from drakmet.guest.kerneltext import values
from drakmet.guest.kerneltext.explain import Candidate, Reason
from drakmet.guest.kerneltext.nops import JUMP32, only_nops
from drakmet.guest.lists import chained, linked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drakmet.guest.kernel import Kernel
    from drakmet.guest.kerneltext.explain import Explainer
    from drakmet.guest.kerneltext.image import Image

_KPROBE_BUCKETS: Final = 64  # KPROBE_TABLE_SIZE
_MOST: Final = 1 << 16
_HYPERCALL: Final = 32
_HYPERCALLS: Final = 4096
_CALLERS: Final = (
    ("ftrace_regs_caller", "ftrace_regs_caller_end", "ftrace_regs_caller_op_ptr", "ftrace_regs_call"),
    ("ftrace_caller", "ftrace_caller_end", "ftrace_caller_op_ptr", "ftrace_call"),
)
_LOAD_OPS: Final = bytes.fromhex("488b15")  # mov 0x...(%rip), %rdx
_KINDS: Final = {"kprobe_ftrace_handler": "kprobe", "klp_ftrace_handler": "livepatch"}


class Probe(NamedTuple):
    """A struct kprobe: the byte that it stands for, who is called, where its jump goes if it has one."""

    address: int
    opcode: int
    handler: int
    jump: int | None


class Tracing:
    """The hooks of one kernel; ``named`` names a function by its address, ``file`` reads the text of all files."""

    def __init__(
        self,
        kernel: Kernel,
        image: Image,
        named: Callable[[int], str],
        file: Callable[[int, int], bytes],
    ) -> None:
        self._file = file
        self._kernel = kernel
        self._image = image
        self._space = kernel.space
        self._types = kernel.profile.types
        self._named = named
        self.explainer: Explainer | None = None
        self._trampolines: dict[int, tuple[int, int] | None] = {}

    def call(self, address: int, found: bytes) -> Reason | None:
        """Tell what is called at a function's entry, where the file has a call of __fentry__."""
        there = values.target(found, address)
        if there in (self._kernel.find("ftrace_caller"), self._kernel.find("ftrace_regs_caller")):
            return Reason(address + 5, "ftrace", "ftrace_caller")
        trampoline = self._trampoline(there)
        if trampoline is not None:
            callback = self._named(trampoline[0])
            kind = _KINDS.get(callback, "ftrace")
            return Reason(address + 5, kind, f"ftrace trampoline {there:#x}", callback)
        for start, end, name in self._bpf:
            if start <= there < end:
                return Reason(address + 5, "bpf", f"BPF trampoline {there:#x}", name)
        return None

    def is_trampoline(self, address: int) -> bool:
        """Return whether one of ftrace's trampolines begins at an address."""
        return self._trampoline(address) is not None

    def _trampoline(self, address: int) -> tuple[int, int] | None:
        """Return callback and ftrace_ops of a trampoline, None if it is none."""
        if address not in self._trampolines:
            found: tuple[int, int] | None = None
            if len(self._trampolines) < _MOST:
                try:
                    found = next(filter(None, (self._copy(address, *names) for names in _CALLERS)), None)
                except GuestError:
                    found = None
            self._trampolines[address] = found
        return self._trampolines[address]

    def _copy(self, address: int, first: str, last: str, operand: str, call: str) -> tuple[int, int] | None:
        places = [self._kernel.find(name) for name in (first, last, operand, call)]
        if self.explainer is None or None in places:
            return None
        start, end, load, calls = (place for place in places if place is not None)
        size = end - start
        if not 0 < size < 4096:
            return None
        found = self._space.read(address, size)
        at_load, at_call = load - start, calls - start
        free = [range(at_load, at_load + 7), range(at_call, at_call + 5)]
        jump = self._kernel.find("ftrace_regs_caller_jmp")
        if jump is not None and start <= jump < end and only_nops(found[jump - start : jump - start + 2]):
            free.append(range(jump - start, jump - start + 2))
        if found[at_load : at_load + 3] != _LOAD_OPS or found[at_call] != values.CALL:
            return None
        copied = Candidate(self._image.read(start, size), ((0, size, start),))
        if not self.explainer.matches(found, address, copied, tuple(free)):
            return None
        operand_at = values.target(found[at_load:], address + at_load, 3)
        return values.target(found[at_call:], address + at_call), self._space.read_u64(operand_at)

    @cached_property
    def _bpf(self) -> list[tuple[int, int, str]]:
        try:
            return list(self._read_bpf())
        except GuestError:
            return []

    def _read_bpf(self) -> Iterator[tuple[int, int, str]]:
        node, start, end, name = (self._types.offset("bpf_ksym", one) for one in ("lnode", "start", "end", "name"))
        for number, at in enumerate(linked(self._space, self._kernel.address("bpf_kallsyms"))):
            if number > _MOST:
                return
            text = self._space.read_cstring(at - node + name, 128).decode("utf-8", "replace")
            yield self._space.read_u64(at - node + start), self._space.read_u64(at - node + end), text

    def other(self, address: int) -> Reason | None:
        """Tell of a kprobe, of ftrace's own calls, and of the page that Xen filled."""
        try:
            return self._own_call(address) or self._hypercall(address) or self._probe(address)
        except GuestError:
            return None

    def _own_call(self, address: int) -> Reason | None:
        for name in ("ftrace_call", "ftrace_regs_call", "ftrace_graph_call"):
            start = self._kernel.find(name)
            if start is None or not start <= address < start + 5 or self.explainer is None:
                continue
            found = self._space.read(start, 5)
            there = values.target(found, start)
            if found[0] in (values.CALL, JUMP32) and self.explainer.known.entry(there):
                outside = not self._image.is_text(there)
                return Reason(start + 5, "ftrace", name if outside else None, self._named(there) if outside else None)
            if only_nops(found):
                return Reason(start + 5, "ftrace")
        return None

    def _hypercall(self, address: int) -> Reason | None:
        page = self._kernel.find("hypercall_page")
        if page is None or not page <= address < page + _HYPERCALLS:
            return None
        number, within = divmod(address - page, _HYPERCALL)
        start = address - within
        found = self._space.read(start, _HYPERCALL)
        for call in (b"\xb8%b\x0f\x01\xc1\xc3", b"\xb8%b\x0f\x01\xd9\xc3", b"\x0f\x0b"):  # vmcall, vmmcall, ud2
            stub = call % number.to_bytes(4, "little") if b"%b" in call else call
            rest = found[len(stub) :]
            if found.startswith(stub) and (len(set(rest)) == 1 and rest[0] in (0, 0x90, 0xCC)):
                return Reason(start + _HYPERCALL, "Xen's hypercall page")
        return None

    def _probe(self, address: int) -> Reason | None:
        for start in range(address, address - 5, -1):
            probe = self._probes.get(start)
            if probe is None:
                continue
            found, expected = self._space.read(start, 5), self._file(start, 5)
            if expected[0] != probe.opcode:
                continue
            who = self._named(probe.handler) if probe.handler else None
            if found[0] == values.INT3 and start == address:
                return Reason(start + 1, "kprobe", "int3", who)
            if found[0] == JUMP32 and probe.jump == values.target(found, start):
                return Reason(start + 5, "kprobe", f"jump to {probe.jump:#x}", who)
        return None

    @cached_property
    def _probes(self) -> dict[int, Probe]:
        found: dict[int, Probe] = {}
        try:
            for probe in self._read_probes():
                if len(found) > _MOST:
                    break
                found[probe.address] = probe
        except GuestError:
            pass  # what was sound before the damage; a probe that is not known shows as modified
        return found

    def _read_probes(self) -> Iterator[Probe]:
        types, space = self._types, self._space
        node = types.offset("kprobe", "hlist")
        address, opcode, handler = (types.offset("kprobe", one) for one in ("addr", "opcode", "pre_handler"))
        flags, chain = types.offset("kprobe", "flags"), types.offset("kprobe", "list")
        jump = types.offset("optimized_kprobe", "optinsn.insn")
        several = self._kernel.find("aggr_pre_handler")
        table = self._kernel.address("kprobe_table")
        for bucket in range(_KPROBE_BUCKETS):
            for at in chained(space, space.read_u64(table + 8 * bucket)):
                probe = at - node
                calls = space.read_u64(probe + handler)
                optimized = space.read_uint(probe + flags, 4) & 4  # KPROBE_FLAG_OPTIMIZED
                if calls == several:
                    first = next(linked(space, probe + chain), None)
                    calls = space.read_u64(first - chain + handler) if first else calls
                yield Probe(
                    space.read_u64(probe + address),
                    space.read_uint(probe + opcode, 1),
                    calls,
                    space.read_u64(probe + jump) if optimized else None,
                )
