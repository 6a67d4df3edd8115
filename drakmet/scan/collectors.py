# SPDX-License-Identifier: GPL-2.0-or-later
"""What a scan reads, one function a table; each yields rows and goes on where something cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from drakmet.errors import GuestError
from drakmet.guest import status
from drakmet.guest.memory import Unreadable, extents
from drakmet.guest.modules import Module, Modules
from drakmet.guest.mounts import Mounts
from drakmet.guest.pathtypes import GuestPath
from drakmet.guest.pids import Pids
from drakmet.guest.regions import VM_EXEC, VM_WRITE, Region, Regions
from drakmet.guest.sockettables import SocketTables, TableSocket
from drakmet.monitor.values import settle
from drakmet.scan.records import (
    GuestState,
    HiddenObject,
    KernelModule,
    MappedFile,
    MountPoint,
    OpenFile,
    OpenSocket,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from drakmet.guest.files import File
    from drakmet.records import EventRecord, Process, Record
    from drakmet.scan.session import Reading


_LIST, _TABLE, _RUNNING = "list of tasks", "table of process ids", "what CPUs run"
_VDSO = 1
"""In the place of a file's address: the code that the kernel maps into every process."""


class Collector(Protocol):
    """A collector of this room: it names its tables, for a scan that finds nothing has still looked."""

    __name__: str
    tables: tuple[str, ...]

    def __call__(self, scan: Reading) -> Iterable[Record]:
        """Yield rows."""


def _fills(*records: type[EventRecord]) -> Callable[[Any], Collector]:
    def mark(function: Any) -> Collector:
        function.tables = tuple(record.table for record in records)
        return function  # type: ignore[no-any-return]

    return mark


@_fills(GuestState)
def guest_state(scan: Reading) -> Iterator[GuestState]:
    """Read what the kernel says of itself."""
    kernel = scan.guest.kernel
    said = status.read(kernel)
    names = ("hostname", "release", "version", "command_line", "uptime", "clock", "cpus", "taint")
    yield GuestState(
        session=scan.session,
        time=scan.time,
        **{name: settle(getattr(said, name)) for name in names},
        memory=sum(length for _, length in extents(kernel.memory)),
        levels=kernel.levels,
        slide=kernel.slide,
        unreadable=",".join(sorted(said.missing)) or None,
    )


def _users(scan: Reading) -> Iterator[tuple[int, Process]]:
    """Yield task and record of each process that has a program."""
    for task in scan.tasks():
        process = scan.process(task)
        if process is None:
            scan.lose("a process that cannot be read")
        elif not process.kernel_thread:
            yield task, process


@_fills(HiddenObject)
def hidden_processes(scan: Reading) -> Iterator[HiddenObject]:
    """Compare the list of tasks with the table of process ids and with what the CPUs run."""
    guest = scan.guest
    listed = set(scan.tasks())
    reader = Pids(guest.kernel)
    books: dict[str, set[int]] = {_LIST: listed}
    for name, read in ((_TABLE, reader.tasks), (_RUNNING, reader.running)):
        try:
            books[name] = set(read())
        except GuestError as error:
            scan.lose(f"tasks by {name}: {error.what}")
    for task in sorted(set().union(*books.values())):
        try:
            process = guest.process(task)
        except GuestError as error:
            scan.lose(f"a task: {error.what}")
            continue
        if not process.pid or process.pid != process.tgid:
            continue  # an idle task, or a thread, whom no list of processes has
        # Whoever does not run just then is missing on every CPU; the other two books must have all.
        absent = [name for name in (_LIST, _TABLE) if name in books and task not in books[name]]
        if absent:
            yield HiddenObject(
                session=scan.session,
                time=scan.time,
                kind="process",
                name=settle(process.comm),
                number=process.pid,
                seen_in=[name for name, found in books.items() if task in found],
                missing_in=absent,
                address=task,
            )


@_fills(OpenFile)
def open_files(scan: Reading) -> Iterator[OpenFile]:
    """Read the descriptors of every process."""
    guest = scan.guest
    known: dict[int, File] = {}
    for task, process in _users(scan):
        try:
            for fd, address in guest.open_files(task):
                try:
                    if address not in known:
                        known[address] = settle(guest.file(address))
                    yield _open_file(scan, process, fd, known[address])
                except GuestError:
                    missing = "path,kind,flags,mode,inode,device,deleted"
                    yield OpenFile(session=scan.session, time=scan.time, process=process.id, fd=fd, unreadable=missing)
        except GuestError as error:
            scan.lose(f"descriptors of process {process.pid}: {error.what}")


def _open_file(scan: Reading, process: Process, fd: int, file: File) -> OpenFile:
    path = file.path
    lost = ["path", "kind", "deleted"] if path is None else []
    if file.inode is None:
        lost += ["mode", "inode", "device"]
    return OpenFile(
        session=scan.session,
        time=scan.time,
        process=process.id,
        fd=fd,
        path=path.text if path else None,
        kind=path.kind if path else None,
        flags=file.flags,
        mode=file.mode,
        inode=file.inode,
        device=file.device,
        deleted=path.deleted if path else None,
        unreadable=",".join(lost) or None,
    )


@_fills(OpenSocket, HiddenObject)
def sockets(scan: Reading) -> Iterator[OpenSocket | HiddenObject]:
    """Read the sockets that processes hold, and those in the kernel's tables that none holds."""
    guest = scan.guest
    tables = SocketTables(guest.kernel, guest.sockets)
    held: dict[int, TableSocket] = {}
    for task, process in _users(scan):
        try:
            for fd, address in guest.open_files(task):
                sock = guest.sockets.sock_of_file(address)
                if not sock:
                    continue
                try:
                    if sock not in held:
                        held[sock] = settle(tables.describe(sock))
                    yield _open_socket(scan, held[sock], process.id, fd)
                except GuestError as error:
                    scan.lose(f"a socket of process {process.pid}: {error.what}")
        except GuestError as error:
            scan.lose(f"sockets of process {process.pid}: {error.what}")
    listed: set[int] = set()
    whole = True
    for name, read in tables.sources():
        try:
            for sock in read():
                listed.add(sock)
                if sock in held:
                    continue
                try:
                    yield _open_socket(scan, settle(tables.describe(sock)), None, None)
                except GuestError as error:
                    scan.lose(f"a {name} socket: {error.what}")
        except GuestError as error:
            whole = False
            scan.lose(f"the table of {name} sockets: {error.what}")
    if whole:
        yield from _unlisted(scan, held, listed)


def _unlisted(scan: Reading, held: dict[int, TableSocket], listed: set[int]) -> Iterator[HiddenObject]:
    """Yield sockets that should be in the kernel's tables, as they listen or are connected, and are not."""
    for address, found in held.items():
        socket = found.socket
        if address in listed or socket.protocol != "tcp" or found.state not in ("listen", "established"):
            continue
        yield HiddenObject(
            session=scan.session,
            time=scan.time,
            kind="socket",
            name=f"{socket.local} {found.state}",
            seen_in=["a process's descriptors"],
            missing_in=["the kernel's table of TCP sockets"],
            address=address,
        )


def _open_socket(scan: Reading, found: TableSocket, process: int | None, fd: int | None) -> OpenSocket:
    socket = found.socket
    local, remote = socket.local, socket.remote
    by_path = socket.family == "unix"
    return OpenSocket(
        session=scan.session,
        time=scan.time,
        process=process,
        fd=fd,
        family=socket.family,
        type=socket.type,
        protocol=socket.protocol if socket.family in ("inet", "inet6") else None,
        state=found.state,
        local_address=local.address if local and not by_path else None,
        local_port=local.port if local else None,
        address=remote.address if remote and not by_path else None,
        port=remote.port if remote else None,
        path=(local.address or None) if local and by_path else None,
        peer_path=(remote.address or None) if remote and by_path else None,
        inode=found.inode,
        uid=found.uid,
        net_ns=found.net_ns,
        kernel=found.address,
    )


@_fills(KernelModule, HiddenObject)
def modules(scan: Reading) -> Iterator[KernelModule | HiddenObject]:
    """Read the kernel's modules out of three of its books, and compare them."""
    reader = Modules(scan.guest.kernel)
    books: dict[str, set[int]] = {}
    for name, read in (
        ("list", reader.listed),
        ("/sys/module", reader.in_sysfs),
        ("addresses of code", reader.by_address),
    ):
        found: set[int] = set()
        try:
            for address in read():
                found.add(address)
            books[name] = found
        except GuestError as error:
            scan.lose(f"modules by {name}: {error.what}")
            if name == "list":
                books[name] = found
    for address in sorted(set().union(*books.values())):
        try:
            module: Module = settle(reader.module(address))
        except GuestError as error:
            scan.lose(f"a module: {error.what}")
            continue
        yield KernelModule(
            session=scan.session,
            time=scan.time,
            name=module.name,
            state=module.state,
            address=module.base,
            size=module.size,
            references=module.references,
            version=module.version,
            source_version=module.source_version,
            taint=module.taints,
        )
        absent = [name for name, found in books.items() if address not in found]
        if absent and module.state == "live":
            yield HiddenObject(
                session=scan.session,
                time=scan.time,
                kind="module",
                name=module.name,
                seen_in=[name for name in books if name not in absent],
                missing_in=absent,
                address=address,
            )


@_fills(MountPoint)
def mounts(scan: Reading) -> Iterator[MountPoint]:
    """Read the mounts of every mount namespace that a process lives in."""
    guest = scan.guest
    reader = Mounts(guest.kernel, guest.paths)
    seen: set[int] = set()
    for task in scan.tasks():
        try:
            namespace = reader.namespace(task)
            if not namespace or namespace in seen:
                continue
            seen.add(namespace)
            number = reader.number(namespace)
            for address in reader.of(namespace):
                try:
                    mount = settle(reader.mount(address))
                except GuestError as error:
                    scan.lose(f"a mount: {error.what}")
                    continue
                if mount is not None:
                    yield MountPoint(
                        session=scan.session,
                        time=scan.time,
                        mnt_ns=number,
                        mount=mount.id,
                        parent=mount.parent,
                        path=mount.path.text,
                        root=mount.root,
                        source=mount.source,
                        device=mount.device,
                        type=mount.type,
                        options=mount.options,
                    )
        except GuestError as error:
            scan.lose(f"mounts: {error.what}")


@_fills(MappedFile)
def mapped_files(scan: Reading) -> Iterator[MappedFile]:
    """Read which files each process has mapped, and executable memory that is no file's."""
    guest = scan.guest
    reader = Regions(guest.kernel)
    known: dict[int, Any] = {}
    for task, process in _users(scan):
        by_file: dict[int, list[Region]] = {}
        try:
            mm = guest.task_reader.mm(task)
            if not mm:
                raise Unreadable("it is exiting")
            vdso = reader.vdso(mm)
            for region in reader.of(mm):
                if region.file or region.flags & VM_EXEC:
                    by_file.setdefault(_VDSO if region.start == vdso else region.file, []).append(region)
        except GuestError as error:
            scan.lose(f"memory of process {process.pid}: {error.what}")
        for file, regions in by_file.items():
            if file not in known and file not in (0, _VDSO):
                try:
                    known[file] = settle(guest.file(file))
                except GuestError as error:
                    scan.lose(f"a mapped file of process {process.pid}: {error.what}")
                    known[file] = None
            yield _mapped(scan, process, known.get(file), regions, file)


def _mapped(scan: Reading, process: Process, file: File | None, regions: list[Region], address: int) -> MappedFile:
    path = GuestPath("[vdso]") if address == _VDSO else file.path if file else None
    lost = ["path", "deleted", "memfd"] if address and path is None else []
    if address not in (0, _VDSO) and (file is None or file.inode is None):
        lost += ["inode", "device"]
    return MappedFile(
        session=scan.session,
        time=scan.time,
        process=process.id,
        path=path.text if path else None,
        address=regions[0].start,
        size=sum(region.end - region.start for region in regions),
        executable=any(region.flags & VM_EXEC for region in regions),
        writable_code=any(region.flags & VM_EXEC and region.flags & VM_WRITE for region in regions),
        inode=file.inode if file else None,
        device=file.device if file else None,
        deleted=path.deleted if path else None,
        memfd=path.kind == "memfd" if path else None,
        unreadable=",".join(lost) or None,
    )


BUILT_IN: tuple[Collector, ...] = (guest_state, hidden_processes, open_files, sockets, modules, mounts, mapped_files)
"""What every scan reads, beside what plugins' collectors do."""
