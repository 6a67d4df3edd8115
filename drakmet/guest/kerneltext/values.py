# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel may write at a place of one of its patch tables, by kind; anything else there is no explanation.

Each check gets the bytes of the file at ``origin``, those in memory at ``address`` (another place if the instruction
was copied: a replacement, a trampoline), and returns how many bytes it accounts for, or 0. The writers are
patch_return, patch_retpoline, apply_ibt_endbr and alternatives_smp_unlock (arch/x86/kernel/alternative.c),
__static_call_transform (static_call.c), __jump_label_set_jump_code (jump_label.c), paravirt_patch (paravirt.c, in 5.10
paravirt_patch.c) and ftrace_make_nop (ftrace.c), as in Linux 5.10, 6.1 and 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drakmet.guest.kerneltext.nops import JUMP8, JUMP32, only_nops

if TYPE_CHECKING:
    from collections.abc import Callable

_U64: Final = (1 << 64) - 1
CALL, RETURN, INT3 = 0xE8, 0xC3, 0xCC
_REGISTERS: Final = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di", *(str(n) for n in range(8, 16)))
_THUNKS: Final = ("__x86_indirect_thunk_r", "__x86_indirect_call_thunk_r", "__x86_indirect_jump_thunk_r",
                  "__x86_indirect_its_thunk_r")  # fmt: skip
_RETURNED: Final = bytes([RETURN, *[INT3] * 4])
# __static_call_return0 inlined: "data16 data16 xor rax, rax" (5.17), "cs cs cs xor eax, eax" (6.x)
_RETURN_0: Final = (bytes.fromhex("66664831c0"), bytes.fromhex("2e2e2e31c0"))
_SEALED: Final = (bytes.fromhex("660f1f00"), bytes.fromhex("0f1f40d6"))
_LFENCE: Final = b"\x0f\xae\xe8"
# TASK_SIZE_MAX with 4 and with 5 levels of page tables (arch/x86/include/asm/page_64.h)
_USER_PTR_MAX: Final = ((1 << 47) - 4096, (1 << 56) - 4096)
_UD2: Final = b"\x0f\x0b"
# patch_data_xxl and patch_data_lock of arch/x86/kernel/paravirt_patch.c (5.10), and mov %rdi,%rax of _paravirt_ident_64
_NATIVE: Final = tuple(
    map(bytes.fromhex, ("579d", "9c58", "0f09", "0f20d0", "0f20d8", "0f22df", "fa", "fb", "0f01f8480f07", "c60700",
                        "31c0", "4889f8"))
)  # fmt: skip


def target(data: bytes, address: int, opcode: int = 1) -> int:
    """Return where a jump or call with a 32-bit distance goes; ``opcode`` is the length of what stands before that."""
    end = opcode + 4
    return address + end + int.from_bytes(data[opcode:end], "little", signed=True) & _U64


class Known:
    """What the files say of places that patched code may lead to.

    ``entry`` tells whether a function of the kernel or of a module of its package begins at an address; ``thunks`` are
    the addresses of indirect-branch thunks with their register's number; ``returns`` those of return thunks.
    """

    def __init__(self, entry: Callable[[int], bool], names: dict[str, int], read: Callable[[int, int], bytes]) -> None:
        self.entry = entry
        self.names = names
        self.read = read
        self.thunks: dict[int, int] = {}
        for number, register in enumerate(_REGISTERS):
            for thunk in _THUNKS:
                address = names.get(thunk + register)
                if address is not None:
                    self.thunks[address] = number
        self.returns = {address for name, address in names.items() if name.endswith("_return_thunk")}

    def returned(self, found: bytes, address: int) -> bool:
        """Return whether bytes are a return, or a jump to one of the kernel's return thunks."""
        return found[:5] == _RETURNED or (found[0] == JUMP32 and target(found, address) in self.returns)

    def return_site(self, found: bytes, address: int) -> int:
        """An entry of .return_sites: a jump to the return thunk that the kernel may replace."""
        return 5 if self.returned(found, address) else 0

    def retpoline(self, expected: bytes, origin: int, found: bytes, address: int) -> int:
        """An entry of .retpoline_sites: a branch to the thunk of a register, or that branch itself."""
        prefix = 1 if expected[0] == 0x2E else 0
        conditional = expected[prefix] == 0x0F
        opcode = prefix + (2 if conditional else 1)
        register = self.thunks.get(target(expected, origin, opcode))
        size = opcode + 4
        if register is None:
            return 0
        kind = JUMP32 if conditional else expected[prefix]
        branch = _branch(register, call=kind == CALL)
        rest = found[:size]
        if conditional:
            # Jcc over what follows: the reversed condition, and a distance to the end of the old instruction.
            if rest[0] == expected[prefix + 1] - 0x10 ^ 1 and rest[1] == size - 2 and self._plain(rest[2:], branch):
                return size
            return size if rest[:opcode] == expected[:opcode] and self._thunk(rest, address, opcode, register) else 0
        if self._plain(rest, branch):
            return size
        for skipped in (prefix, 0):
            moved = rest[:skipped] == expected[:skipped] and rest[skipped] == kind and only_nops(rest[skipped + 5 :])
            if moved and self._thunk(rest[skipped:], address + skipped, 1, register):
                return size
        return 0

    def _plain(self, rest: bytes, branch: bytes) -> bool:
        rest = rest.removeprefix(_LFENCE)
        if not rest.startswith(branch):
            return False
        rest = rest[len(branch) :].lstrip(bytes([INT3]))
        return only_nops(rest)

    def _thunk(self, found: bytes, address: int, opcode: int, register: int) -> bool:
        there = target(found, address, opcode)
        if there in self.thunks:
            return self.thunks[there] == register
        # Thunks against indirect target selection lie in memory that the kernel allocated (its_init_thunk).
        branch = _branch(register, call=False)
        return self.read(there, len(branch)) == branch

    def static_call(self, expected: bytes, found: bytes, address: int) -> int:
        """A site or trampoline of a static call: it may call any function of the kernel, return, or do nothing."""
        if expected[0] == 0x0F and 0x80 <= expected[1] <= 0x8F:
            there = target(found, address, 2)
            return 6 if found[:2] == expected[:2] and (self.entry(there) or there in self.returns) else 0
        tail = expected[0] in (JUMP32, RETURN)
        if found[0] == (JUMP32 if tail else CALL) and self.entry(target(found, address)):
            return 5
        if tail:
            return 5 if self.returned(found, address) else 0
        return 5 if found[:5] in _RETURN_0 or only_nops(found[:5]) else 0

    def jump_label(self, expected: bytes, found: bytes, address: int, to: int) -> int:
        """An entry of __jump_table: a nop, or a jump to the entry's own target."""
        if expected[0] == JUMP8 or expected[:2] == b"\x66\x90":
            size, jumps = 2, found[0] == JUMP8 and address + 2 + int.from_bytes(found[1:2], "little", signed=True) == to
        else:
            size, jumps = 5, found[0] == JUMP32 and target(found, address) == to
        return size if jumps or only_nops(found[:size]) else 0

    def constant(self, found: bytes, width: int, variable: str) -> int:
        """A runtime constant: the value of the variable that it stands for (runtime_const_init)."""
        value = int.from_bytes(found[:width], "little")
        if variable == "USER_PTR_MAX":
            return width if value in _USER_PTR_MAX else 0
        address = self.names.get(variable)
        return width if address is not None and self.read(address, width) == found[:width] else 0

    def paravirt(self, found: bytes, address: int, length: int) -> int:
        """An entry of .parainstructions: a direct call, a jump, the native instruction itself, or nothing."""
        if found[0] in (CALL, JUMP32) and only_nops(found[5:length]) and self.entry(target(found, address)):
            return length
        for native in (b"", _UD2, *_NATIVE):
            if found.startswith(native) and only_nops(found[len(native) : length]):
                return length
        return 0

    def direct_call(self, found: bytes, address: int, length: int) -> int:
        """An alternative with ALT_FLAG_DIRECT_CALL: the call of what pv_ops holds, or nothing (alt_replace_call)."""
        if found[0] == CALL and only_nops(found[5:length]) and self.entry(target(found, address)):
            return length
        return length if only_nops(found[:length]) else 0


def sealed(found: bytes) -> int:
    """Tell an endbr64 that was taken away (gen_endbr_poison)."""
    return 4 if found[:4] in _SEALED else 0


def mcount(found: bytes) -> int:
    """Tell a call of __fentry__ that was made a nop."""
    return 5 if only_nops(found[:5]) else 0


def lock(expected: bytes, found: bytes) -> int:
    """Tell a lock prefix that became one for a segment, as there is but one CPU (.smp_locks)."""
    return 1 if {expected[0], found[0]} == {0xF0, 0x3E} else 0


def _branch(register: int, *, call: bool) -> bytes:
    code = bytes([0xFF, (0xD0 if call else 0xE0) + register % 8])
    return b"\x41" + code if register >= 8 else code
