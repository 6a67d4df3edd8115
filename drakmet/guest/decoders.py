# SPDX-License-Identifier: GPL-2.0-or-later
"""What an expression's value becomes: by its type, or by the decoder it names (``|path``, ``|sockaddr``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from drakmet.guest import dns
from drakmet.guest import types as t
from drakmet.guest.memory import Unreadable
from drakmet.guest.pathtypes import bounded, text
from drakmet.guest.sockets import MAX_SOCKADDR, SocketAddress, size_of, sockaddr

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.guest.linux import LinuxGuest

    Decode = Callable[[int, Any], Any]
    Argument = Callable[[Any], Any] | None

MAX_STRING: Final = 4096  # PATH_MAX: no string that traps fetch is longer
MAX_BYTES: Final = 64 << 10
MAX_PAYLOAD: Final = 1500
_U64: Final = (1 << 64) - 1
_FIRST_ERROR: Final = (1 << 64) - 4095  # MAX_ERRNO, include/linux/err.h


class Shape(NamedTuple):
    """What a decoder is given: a value of type ``ref``, or (``place``) the address where one lies.

    ``bits`` is (width, shift) of a bitfield, (0, 0) for all else.
    """

    types: t.Types
    ref: t.Ref
    place: bool
    bits: tuple[int, int] = (0, 0)

    @property
    def type(self) -> t.Type:
        """The type itself."""
        return self.types.resolve(self.ref)

    def struct(self) -> str:
        """Return the struct that is, or is pointed at by, the value; an empty string for all else."""
        kind = self.type
        if isinstance(kind, t.Pointer):
            kind = self.types.resolve(kind.target)
        return kind.name if isinstance(kind, t.Struct) else ""

    def is_pointer(self) -> bool:
        """Tell whether it is a pointer."""
        return isinstance(self.type, t.Pointer)


class Decoder(NamedTuple):
    """``check`` returns why a shape does not fit (or nothing), ``make`` the function for the hits."""

    check: Callable[[Shape], str | None]
    make: Callable[[LinuxGuest, Shape, Argument], Decode]
    argument: bool = False


def number(value: int, size: int, *, signed: bool) -> int:
    """Return the low ``size`` bytes of ``value`` as a number."""
    bits = 8 * size
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def pointer_of(guest: LinuxGuest, shape: Shape) -> Decode:
    """Return what gives the address of the object: the pointer's value, or the place of an embedded object."""
    if not shape.is_pointer():
        return _same if shape.place else _no_place
    if shape.place:
        return _checked(guest.read_u64)
    return _valid


def _same(address: int, _regs: Any) -> int:  # registers are any object that has them
    return address


def _no_place(_address: int, _regs: Any) -> int:
    raise Unreadable("a value in a register has no address")


def _valid(value: int, _regs: Any) -> int:
    if not value:
        raise Unreadable("a null pointer")
    if value >= _FIRST_ERROR:
        raise Unreadable(f"an error instead of a pointer: {value - _U64 - 1}")
    return value


def _checked(read: Callable[[int, int], int]) -> Decode:
    return lambda address, regs: _valid(read(address, regs.cr3), regs)


def _by_type_check(shape: Shape) -> str | None:
    kind = shape.type
    if isinstance(kind, t.Struct):
        decoders = ", ".join(f"|{name}" for name, one in DECODERS.items() if name and not one.check(shape))
        return f"name a member of it{f' or a decoder: {decoders}' if decoders else ''}"
    if isinstance(kind, t.Void | t.Function) or (isinstance(kind, t.Int) and kind.kind == "float"):
        return "it has no value that can be read"
    if isinstance(kind, t.Array) and (not shape.place or shape.types.sizeof(shape.ref) > MAX_BYTES):
        return "it is too large"
    return None


def _is_char(types: t.Types, ref: t.Ref) -> bool:
    kind = types.resolve(ref)
    return isinstance(kind, t.Int) and kind.kind == "char"


def _by_type(guest: LinuxGuest, shape: Shape, argument: Argument) -> Decode:
    kind, types = shape.type, shape.types
    if isinstance(kind, t.Pointer):
        if _is_char(types, kind.target):
            return _string(guest, shape, argument)
        return _number(guest, shape, 8, signed=False)
    if isinstance(kind, t.Array):
        element = types.resolve(kind.element)
        if isinstance(element, t.Int) and element.kind == "char" and element.name == "char":
            return _string(guest, shape, argument)
        return _bytes(guest, shape, argument)
    if isinstance(kind, t.Int | t.Enum):
        return _number(guest, shape, kind.size, signed=kind.signed)
    raise Unreadable("it has no value that can be read")


def _number(guest: LinuxGuest, shape: Shape, size: int, *, signed: bool) -> Decode:
    width, shift = shape.bits
    half, whole = (1 << (8 * size - 1) if signed else 0), (1 << 8 * size) - 1
    if not shape.place:
        return lambda value, _: ((value & whole) ^ half) - half
    if width:
        size = (width + shift + 7) // 8
        half, whole = (1 << (width - 1) if signed else 0), (1 << width) - 1
    read, space = guest.read, guest.space
    page_offset, direct_end, physical = space.page_offset, space.direct_end, guest.memory.read

    def decode(address: int, regs: Any) -> int:
        if page_offset <= address < direct_end:
            raw = physical(address - page_offset, size)
        else:
            raw = read(address, size, regs.cr3)
        return ((int.from_bytes(raw, "little") >> shift & whole) ^ half) - half

    return decode


def _string_check(shape: Shape) -> str | None:
    kind = shape.type
    if isinstance(kind, t.Pointer | t.Array):
        inner = shape.types.resolve(kind.target if isinstance(kind, t.Pointer) else kind.element)
        if isinstance(inner, t.Void) or (isinstance(inner, t.Int) and inner.size == 1):
            return None
    return "|str wants a char pointer or array"


def _string(guest: LinuxGuest, shape: Shape, _argument: Argument) -> Decode:
    kind = shape.type
    whole = isinstance(kind, t.Array) and kind.count  # an array may be full to its end
    limit = kind.count if isinstance(kind, t.Array) and kind.count else MAX_STRING
    get = pointer_of(guest, shape)
    read, space = guest.read_cstring, guest.space
    page_offset, direct_end, physical = space.page_offset, space.direct_end, guest.memory.read

    def decode(address: int, regs: Any) -> str:
        address = get(address, regs)
        if page_offset <= address < direct_end:
            room = 4096 - (address & 4095)
            raw, nul, _ = physical(address - page_offset, min(256, room)).partition(b"\0")
            if nul and len(raw) <= limit:
                return raw.decode("utf-8", "surrogateescape")
        raw = read(address, limit, regs.cr3)
        return text(raw) if whole else bounded(raw, limit)

    return decode


def _bytes_check(shape: Shape) -> str | None:
    kind = shape.type
    if isinstance(kind, t.Pointer) or (isinstance(kind, t.Array | t.Struct) and shape.place):
        return None
    return "|bytes wants a pointer, an array or a struct"


def _bytes(guest: LinuxGuest, shape: Shape, argument: Argument) -> Decode:
    get = pointer_of(guest, shape)
    kind = shape.type
    size = shape.types.sizeof(kind.target if isinstance(kind, t.Pointer) else shape.ref)
    read = guest.read

    def decode(address: int, regs: Any) -> bytes:
        wanted = size
        if argument is not None:
            wanted = argument(regs)
            if not isinstance(wanted, int):
                raise Unreadable(f"its length: {wanted}")
        if not 0 <= wanted <= MAX_BYTES:
            raise Unreadable(f"{wanted} bytes are too many")
        return read(get(address, regs), wanted, regs.cr3)

    return decode


def _path_check(shape: Shape) -> str | None:
    return None if shape.struct() in ("file", "path", "dentry") else "|path wants a struct file, path or dentry"


def _path(guest: LinuxGuest, shape: Shape, argument: Argument) -> Decode:
    get = pointer_of(guest, shape)
    what, paths = shape.struct(), guest.paths
    if what == "dentry":

        def decode(address: int, regs: Any) -> str:
            dentry = get(address, regs)
            if argument is None:
                return paths.in_namespace(dentry, guest.current_task(regs.gs_base)).text
            mount = argument(regs)
            if not isinstance(mount, int):
                raise Unreadable(f"its mount: {mount}")
            return paths.path(mount, dentry).text

        return decode
    offset = shape.types.offset("file", "f_path") if what == "file" else 0
    text_at = paths.text_at
    if offset == 0:
        return lambda address, regs: text_at(get(address, regs))
    return lambda address, regs: text_at(get(address, regs) + offset)


def _of_struct(what: str, *names: str) -> Callable[[Shape], str | None]:
    return lambda shape: None if shape.struct() in names else f"|{what} wants a struct {' or '.join(names)}"


def _name(guest: LinuxGuest, shape: Shape, _argument: Argument) -> Decode:
    get = pointer_of(guest, shape)
    return lambda address, regs: guest.paths.name(get(address, regs))


def _process(guest: LinuxGuest, shape: Shape, _argument: Argument) -> Decode:
    get = pointer_of(guest, shape)
    return lambda address, regs: guest.process(get(address, regs))


def _hex(guest: LinuxGuest, shape: Shape, _argument: Argument) -> Decode:
    size = shape.types.sizeof(shape.ref)
    plain = _number(guest, shape, size, signed=False)
    return lambda address, regs: f"{plain(address, regs):#x}"


def _number_check(shape: Shape) -> str | None:
    return None if isinstance(shape.type, t.Int | t.Enum | t.Pointer) else "it is no number"


def _errno(guest: LinuxGuest, shape: Shape, _argument: Argument) -> Decode:
    kind = shape.type
    if isinstance(kind, t.Pointer):
        plain = _number(guest, shape, 8, signed=False)

        def decode(address: int, regs: Any) -> int:
            value: int = plain(address, regs)
            return value - _U64 - 1 if value >= _FIRST_ERROR else 0

        return decode
    size = shape.types.sizeof(shape.ref)
    signed = _number(guest, shape, size, signed=True)
    return lambda address, regs: min(0, signed(address, regs))


def _sockaddr_check(shape: Shape) -> str | None:
    kind = shape.type
    if isinstance(kind, t.Pointer) or (shape.place and shape.struct().startswith("sockaddr")):
        return None
    return "|sockaddr wants a pointer to a sockaddr"


def _length(argument: Argument, regs: Any, default: int) -> int:
    if argument is None:
        return default
    length = argument(regs)
    if not isinstance(length, int):
        raise Unreadable(f"its length: {length}")
    return length


def _sockaddr(guest: LinuxGuest, shape: Shape, argument: Argument) -> Decode:
    get, read = pointer_of(guest, shape), guest.read

    def decode(address: int, regs: Any) -> SocketAddress:
        address = get(address, regs)
        length = _length(argument, regs, -1)
        if length < 0:
            family = int.from_bytes(read(address, 2, regs.cr3), "little")
            raw = read(address, size_of(family), regs.cr3)
            return sockaddr(raw, length_known=False)
        return sockaddr(read(address, min(length, MAX_SOCKADDR), regs.cr3))

    return decode


def _sock(guest: LinuxGuest, shape: Shape, _argument: Argument) -> Decode:
    get, sockets = pointer_of(guest, shape), guest.sockets
    read = {"socket": sockets.of_socket, "file": sockets.of_file}.get(shape.struct(), sockets.of_sock)
    return lambda address, regs: read(get(address, regs))


def _file(guest: LinuxGuest, shape: Shape, _argument: Argument) -> Decode:
    get = pointer_of(guest, shape)
    return lambda address, regs: guest.file(get(address, regs))


def _argv(guest: LinuxGuest, shape: Shape, _argument: Argument) -> Decode:
    get, programs, what = pointer_of(guest, shape), guest.programs, shape.struct()

    def of_task(task: int) -> list[str]:
        mm = guest.task_reader.mm(task)
        if not mm:
            raise Unreadable("a kernel thread has no arguments")
        return programs.argv(mm)

    read = {"linux_binprm": programs.bprm_argv, "mm_struct": programs.argv, "task_struct": of_task}[what]
    return lambda address, regs: read(get(address, regs))


def _cwd(guest: LinuxGuest, shape: Shape, _argument: Argument) -> Decode:
    get = pointer_of(guest, shape)
    return lambda address, regs: guest.cwd(get(address, regs)).text


def _payload(guest: LinuxGuest, shape: Shape, argument: Argument) -> Decode:
    get, payloads = pointer_of(guest, shape), guest.payloads
    read = payloads.of_message if shape.struct() == "msghdr" else payloads.of_iter

    def decode(address: int, regs: Any) -> bytes:
        limit = _length(argument, regs, MAX_PAYLOAD)
        return read(get(address, regs), max(0, min(limit, MAX_BYTES)), regs.cr3)

    return decode


def _dns(guest: LinuxGuest, shape: Shape, _argument: Argument) -> Decode:
    payload = _payload(guest, shape, None)

    def decode(address: int, regs: Any) -> dns.Message:
        try:
            return dns.parse(payload(address, regs))
        except dns.DnsError as error:
            raise Unreadable(f"no DNS message: {error}") from None

    return decode


DECODERS: Final[dict[str, Decoder]] = {
    "": Decoder(_by_type_check, _by_type),
    "str": Decoder(_string_check, _string),
    "bytes": Decoder(_bytes_check, _bytes, argument=True),
    "path": Decoder(_path_check, _path, argument=True),
    "name": Decoder(_of_struct("name", "dentry"), _name),
    "process": Decoder(_of_struct("process", "task_struct"), _process),
    "hex": Decoder(_number_check, _hex),
    "errno": Decoder(_number_check, _errno),
    "sockaddr": Decoder(_sockaddr_check, _sockaddr, argument=True),
    "sock": Decoder(_of_struct("sock", "sock", "socket", "file"), _sock),
    "file": Decoder(_of_struct("file", "file"), _file),
    "argv": Decoder(_of_struct("argv", "linux_binprm", "mm_struct", "task_struct"), _argv),
    "cwd": Decoder(_of_struct("cwd", "task_struct"), _cwd),
    "payload": Decoder(_of_struct("payload", "msghdr", "iov_iter"), _payload, argument=True),
    "dns": Decoder(_of_struct("dns", "msghdr", "iov_iter"), _dns),
}
