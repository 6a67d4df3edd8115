# SPDX-License-Identifier: GPL-2.0-or-later
"""What a scan writes beside the records that a watch has too (`Process`, ``process_running``)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from drakmet.holes.records import HOLE_RECORDS
from drakmet.naming.records import Application
from drakmet.records import Address, EventRecord, Record


class GuestState(EventRecord):
    """A guest's kernel at the moment of a scan; one row a session."""

    volatile: ClassVar[tuple[str, ...]] = ("uptime", "clock")

    hostname: Annotated[str | None, "the host name it gave itself"] = None
    release: Annotated[str | None, "the kernel's release, as uname -r shows it"] = None
    version: Annotated[str | None, "the kernel's build, as uname -v shows it"] = None
    command_line: Annotated[str | None, "what the kernel was booted with"] = None
    uptime: Annotated[int | None, "nanoseconds from its boot to the kernel's last tick"] = None
    clock: Annotated[int | None, "its own clock at that tick: nanoseconds since 1970-01-01 UTC"] = None
    cpus: Annotated[int | None, "CPUs that are online"] = None
    memory: Annotated[int | None, "bytes of its memory that could be read"] = None
    taint: Annotated[int | None, "the kernel's taint flags, as /proc/sys/kernel/tainted shows them"] = None
    levels: Annotated[int | None, "levels of its page tables: 4 or 5"] = None
    slide: Annotated[int | None, "what KASLR added to the kernel's addresses"] = None


class OpenFile(EventRecord):
    """A file descriptor that was open; ``process`` holds it."""

    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("process",),)

    fd: Annotated[int, "the descriptor"]
    path: Annotated[str | None, "the file, or pipe:[n], socket:[n], anon_inode:..."] = None
    kind: Annotated[str | None, "file, pipe, socket, anon, memfd or namespace"] = None
    flags: Annotated[int | None, "as open(2) takes them; the lowest two bits: 0 read, 1 write, 2 both"] = None
    mode: Annotated[int | None, "the inode's type and permissions"] = None
    inode: Annotated[int | None, "the inode's number"] = None
    device: Annotated[str | None, "the file system's device, major:minor"] = None
    deleted: Annotated[bool | None, "whether the file's name was removed"] = None


class OpenSocket(EventRecord):
    """A socket, once for each process that holds it; ``process`` is null for one that none holds."""

    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("process",),)

    fd: Annotated[int | None, "the descriptor; null if no process holds it"] = None
    family: Annotated[str | None, "inet, inet6, unix, netlink, packet..."] = None
    type: Annotated[str | None, "stream, dgram, raw, seqpacket..."] = None
    protocol: Annotated[str | None, "tcp, udp, ... for inet and inet6"] = None
    state: Annotated[str | None, "listen, established, time_wait...; close for one that is not connected"] = None
    local_address: Annotated[str | None, "IP address it is bound to"] = None
    local_port: Annotated[int | None, "port it is bound to"] = None
    address: Annotated[str | None, "IP address of the other end"] = None
    port: Annotated[int | None, "port of the other end"] = None
    path: Annotated[str | None, "a unix socket's path; @ and the name of an abstract one"] = None
    peer_path: Annotated[str | None, "path of the unix socket it is connected to"] = None
    inode: Annotated[int | None, "its number in ss -e and /proc/PID/fd; null for one no file leads to"] = None
    uid: Annotated[int | None, "user id of whoever made it"] = None
    net_ns: Annotated[int | None, "inode number of its network namespace"] = None
    kernel: Annotated[Address | None, "address of its struct sock"] = None


class KernelModule(EventRecord):
    """A kernel module that is loaded."""

    volatile: ClassVar[tuple[str, ...]] = ("references",)

    name: Annotated[str | None, "its name"] = None
    state: Annotated[str | None, "live, coming or going"] = None
    address: Annotated[Address | None, "where its code lies"] = None
    size: Annotated[int | None, "bytes of memory it takes"] = None
    references: Annotated[int | None, "how many use it"] = None
    version: Annotated[str | None, "what it says its version is"] = None
    source_version: Annotated[str | None, "checksum of its sources, as modinfo shows it"] = None
    taint: Annotated[int | None, "why it taints the kernel: bits as in /proc/sys/kernel/tainted"] = None


class MountPoint(EventRecord):
    """A mount in a mount namespace that a process lives in."""

    mnt_ns: Annotated[int | None, "inode number of the mount namespace"] = None
    mount: Annotated[int | None, "the mount's id"] = None
    parent: Annotated[int | None, "id of the mount it is mounted on"] = None
    path: Annotated[str | None, "where it is mounted, from the root of the namespace"] = None
    root: Annotated[str | None, "the directory of its file system that is shown there"] = None
    source: Annotated[str | None, "what was mounted: a device, or a word"] = None
    device: Annotated[str | None, "the file system's device, major:minor"] = None
    type: Annotated[str | None, "type of the file system"] = None
    options: Annotated[list[str] | None, "rw or ro, nosuid, nodev, noexec"] = None


class MappedFile(EventRecord):
    """A file that a process has mapped: its program, libraries, data; or memory without a file that is executable."""

    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("process",),)

    path: Annotated[str | None, "the file, or [vdso]; null for memory without one"] = None
    address: Annotated[Address | None, "lowest address at which it is mapped"] = None
    size: Annotated[int | None, "bytes that are mapped of it, in all its parts"] = None
    executable: Annotated[bool | None, "whether code in it can run"] = None
    writable_code: Annotated[bool | None, "whether a part of it can be written and executed at once"] = None
    inode: Annotated[int | None, "the file's inode number"] = None
    device: Annotated[str | None, "the file system's device, major:minor"] = None
    deleted: Annotated[bool | None, "whether the file's name was removed"] = None
    memfd: Annotated[bool | None, "whether the file is in memory only (memfd_create)"] = None


class KernelImage(EventRecord):
    """The kernel or a module whose code in memory was compared with its file.

    Only where the kernel's files were given (``--kernel``).
    """

    module: Annotated[str | None, "the module's name; null for the kernel itself"] = None
    address: Annotated[Address | None, "where its code lies"] = None
    verdict: Annotated[str | None, "verified, modified, unknown (no package has it), unverifiable"] = None
    why: Annotated[str | None, "why nothing can be verified, or not all of it"] = None
    build_id: Annotated[str | None, "the file's build-id in hex; where there is no file, the guest's own"] = None
    file: Annotated[str | None, "name of the package or file that it was compared with"] = None
    pages: Annotated[int | None, "pages of code that were compared"] = None
    not_read: Annotated[int | None, "pages of code that could not be read"] = None
    modified: Annotated[int | None, "bytes that differ and that nothing explains"] = None
    explained: Annotated[list[str] | None, "what explains differing bytes, and how many: 'jump label: 12'"] = None
    hooks: Annotated[int | None, "places where the guest's own ftrace, kprobes, BPF or live patches hook in"] = None


class KernelText(EventRecord):
    """Code of the kernel or a module that is not its file's: modified, or hooked by the kernel's own means."""

    module: Annotated[str | None, "the module's name; null for the kernel itself"] = None
    symbol: Annotated[str | None, "the function"] = None
    offset: Annotated[int | None, "bytes from its start"] = None
    address: Annotated[Address | None, "where that is"] = None
    kind: Annotated[str | None, "modified, or what hooks there: ftrace, kprobe, livepatch, bpf"] = None
    length: Annotated[int | None, "bytes that differ"] = None
    expected: Annotated[str | None, "the first of them in the file, in hex"] = None
    found: Annotated[str | None, "the first of them in memory, in hex"] = None
    target: Annotated[str | None, "what is called or jumped to"] = None
    handler: Annotated[str | None, "the function that a hook calls in the end; an address where no file has it"] = None


class UnownedCode(EventRecord):
    """Kernel memory that can be executed, by the page tables, and that belongs to nothing the kernel knows of."""

    address: Annotated[Address | None, "where it begins"] = None
    size: Annotated[int | None, "bytes of it"] = None
    writable: Annotated[bool | None, "whether it can be written as well"] = None
    start: Annotated[str | None, "its first bytes that are not filling, in hex"] = None


class ListedCode(EventRecord):
    """Code in a process's memory that a list of hashes names. Only where such a list was given (``--hashes``)."""

    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("process",),)

    path: Annotated[str | None, "the file; [vdso], [anonymous], [jit]; null if it could not be read"] = None
    name: Annotated[str, "what the list calls it"] = ""
    pages: Annotated[int, "pages in memory that the list has under this name"] = 0
    listed: Annotated[int, "pages that the list has under this name"] = 0
    hashes: Annotated[list[str] | None, "hashes of these pages in hex, some of them"] = None
    packaged: Annotated[
        bool | None, "whether all code of the file is known to be a package's, as the package has it"
    ] = None


class CodeInTwoForms(EventRecord):
    """A page of code of a process that is not what the page cache has of the same file and page."""

    path: Annotated[str | None, "the file"] = None
    number: Annotated[int | None, "number of the page in the file"] = None
    address: Annotated[Address | None, "address in the process of the first byte that differs"] = None
    length: Annotated[int | None, "bytes that differ"] = None
    cached: Annotated[str | None, "bytes from the first on as the page cache has them, in hex"] = None
    executed: Annotated[str | None, "bytes from the first on as the process executes them, in hex"] = None


class UncoveredCode(EventRecord):
    """Memory that a process can execute by its page tables, and that no executable region of it covers."""

    address: Annotated[Address | None, "where it begins in the process"] = None
    size: Annotated[int | None, "bytes of it"] = None


class HiddenObject(EventRecord):
    """Something that one of the kernel's own books has and another has not: a sign of hiding, or of damage."""

    kind: Annotated[str | None, "process, module or socket"] = None
    name: Annotated[str | None, "what it calls itself"] = None
    number: Annotated[int | None, "a process's id"] = None
    seen_in: Annotated[list[str] | None, "the books that have it"] = None
    missing_in: Annotated[list[str] | None, "the books that should have it and do not"] = None
    address: Annotated[Address | None, "address of its kernel structure"] = None


SCAN_RECORDS: tuple[type[Record], ...] = (
    GuestState, OpenFile, OpenSocket, KernelModule, MountPoint, MappedFile, Application, KernelImage, KernelText,
    UnownedCode, CodeInTwoForms, UncoveredCode, HiddenObject, ListedCode, *HOLE_RECORDS,
)  # fmt: skip
"""The tables that a scan fills, beside those of plugins' collectors."""
