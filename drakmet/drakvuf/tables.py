# SPDX-License-Identifier: GPL-2.0-or-later
"""A table for each of DRAKVUF's plugins. A row is a line of its log, with nothing left out.

What all lines have in common is in columns and in the row of the process; what is the plugin's own stays JSON, as it
was printed, and its known keys are columns that SQLite computes from it. Names and keys: DRAKVUF 1.1 (cb621398),
src/plugins, and its real logs.
"""

from __future__ import annotations

import re
import types
from typing import Annotated, Any

from drakmet.records import EventRecord

_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class DrakvufRecord(EventRecord):
    """A line of a DRAKVUF log."""

    line: Annotated[int | None, "number of the line in the log; of its last one, if it is several"] = None
    tid: Annotated[int | None, "id of the thread"] = None
    method: Annotated[str | None, "the function that was trapped"] = None
    event: Annotated[int | None, "EventUID; null if fields holds the whole line but for Plugin"] = None
    fields: Annotated[str, "JSON: the plugin's own keys, in their order"]
    raw: Annotated[
        bytes | None, "the line's bytes, if they are not UTF-8; the strings in fields are then guest text"
    ] = None


# Plugin as it is printed, what it tells, its own keys.
_PLUGINS = (
    ("apimon", "A function of a library was called, or a library was found", """
        Event CLSID CalledFrom ReturnValue FromModule Arguments Extra DllName DllBase PID Rva"""),
    ("bsodmon", "Windows crashed", """
        VCPU CR3 BugCheckCode BugCheckName BugCheckParameter1 BugCheckParameter2 BugCheckParameter3
        BugCheckParameter4"""),
    ("callbackmon", "A kernel callback was changed", "Type ListName Module RVA Action"),
    ("clipboardmon", "The clipboard was read", ""),
    ("codemon", "A page that is new or was written is executed for the first time", """
        EventType CR3 PageVA VADBase VADEnd VADName DumpSize DumpFile SHA256 DumpID MetaFile TrapPA GFN
        FrameVA VA PA"""),
    ("cpuidmon", "CPUID was executed", "VCPU CR3 Leaf Subleaf RAX RBX RCX RDX"),
    ("crashmon", "A program crashed", ""),
    ("debugmon", "A debug exception was met", "VCPU CR3 RIP DebugType DebugTypeStr"),
    ("delaymon", "A thread waits", "VCPU CR3 DelayIntervalMs"),
    ("dkommon", "A kernel object was tampered with", "Message HiddenPID DriverName"),
    ("ebpfmon", "bpf was called", "Value Type"),
    ("envmon", "A program asks what it runs on", """
        ExtendedNameFormat ExtendedNameFormatStr Flags DeviceName TargetPath NameType NameTypeStr Family
        NetType"""),
    ("etwmon", "Event tracing was tampered with", "Type Name Action Value PreviousValue"),
    ("exmon", "An exception was dispatched", """
        RSP ExceptionRecord ExceptionCode FirstChance EIP EAX EBX ECX EDX EDI ESI EBP ESP Name RIP RAX RBX
        RCX RDX RDI RSI RBP R8 R9 R10 R11 R12 R13 R14 R15"""),
    ("exploitmon", "An exploit's way was met", "Reason"),
    ("fileextractor", "A file was written, removed or mapped, and kept", """
        FileName Size FileHash Flags SeqNum Reason isClosed"""),
    ("fileextractor_close", "A file that is kept was closed", """
        FileName Size FileHash Flags SeqNum Reason Time ProcessName PID PPID"""),
    ("fileextractor_fail", "A file could not be kept", "FileName Size Flags SeqNum Message"),
    ("fileextractor_skip", "A file was not kept", "FileName Size Flags SeqNum Message Reason"),
    ("filetracer", "A file was opened, read, written, renamed, removed or changed", """
        FileName FileHandle ObjectAttributes DesiredAccess FileAttributes ShareAccess CreateDisposition
        CreateOptions OpenOptions Operation FileSrc FileDst FileSize Status IoStatusBlock SecurityDescriptor
        CreationTime LastAccessTime LastWriteTime ChangeTime AllocationSize EndOfFile Permissions ThreadName
        Mode Flag UID GID count pos old_name new_mode new_permissions oldname buflen length offset"""),
    ("hidevm", "A program looked for the virtual machine", "Reason strQuery"),
    ("inject", "DRAKVUF started a program in the guest", """
        Method Status ProcessName Arguments InjectedPid InjectedTid ErrorCode Error"""),
    ("librarymon", "A library was loaded or looked for", "ModuleName ModulePath"),
    ("linkmon", "A link was made", "FileName LinkType LinkTarget Flags"),
    ("memaccessmon", "Another process' memory was accessed", "TargetName TargetPID FileName Bytes"),
    ("memdump", "Memory of a process was kept", """
        DumpReason DumpPID DumpAddr DumpSize DumpFilename DumpsCount TargetPID WriteAddr"""),
    ("objmon", "A handle was duplicated, or an object made", """
        SourceProcessHandle SourceHandle TargetProcessHandle TargetHandle DesiredAccess HandleAttributes
        Options Key"""),
    ("poolmon", "The kernel allocated from a pool", "VCPU CR3 Tag Type Size Source Description"),
    ("procdump", "A process' memory was kept", "TargetPID TargetName DumpReason DumpSize SN Status"),
    ("procdump_fail", "A process' memory could not be kept", "TargetPID TargetName DumpReason DumpSize SN Message"),
    ("procdump_skip", "A process' memory was not kept", "TargetPID TargetName DumpReason DumpSize SN Message"),
    ("procmon", "A process ran already, started, ended, was opened, changed or signalled", """
        RunningProcess Bitness Status NewProcessHandle NewPid NewThreadHandle NewTid CommandLine
        ImagePathName DllPath CWD ExitPid ExitStatus ExitStatusStr ProcessHandle ThreadHandle DesiredAccess
        ObjectAttributes ClientID ClientName UniqueThread NewProtectWin32 NewState ParentProcess
        SectionHandle DebugPort ExceptionPort JobMemberLevel ThreadName Flags TargetPID TargetTID TargetPPID
        TargetProcessName TargetThreadName Signal SignalStr ouid osuid oeuid suid euid Environment interp
        fdpath FileName PGID have_execfd execfd secureexec"""),
    ("ptracemon", "ptrace was called", "Type TargetPID TargetProcessName"),
    ("rebootmon", "The guest is told to reboot", "Magic1 Magic2 Cmd Arg"),
    ("regmon", "The registry was read or changed", "Key ValueName Value"),
    ("rootkitmon", "The kernel was tampered with", "Type Action Name Value PreviousValue Module"),
    ("rpcmon", "A remote procedure was called", """
        InterfaceId TransferSyntax ProcedureNumber ProcNum Event CalledFrom ReturnValue Arguments Extra
        ExtraNum"""),
    ("socketmon", "A connection was made, a datagram sent, a name asked for", """
        Owner OwnerId OwnerPID OwnerPPID Protocol LocalIp LocalPort RemoteIp RemotePort DnsName"""),
    ("spraymon", "A heap spray was seen", "Reason PID ProcessName"),
    ("ssdtmon", "The table of system services was changed", "TableIndex Table"),
    ("syscall", "A system call; its arguments are in fields under their own names", """
        Module vCPU CR3 Syscall NArgs PreviousMode FromModule FromParentModule ThreadName Type"""),
    ("sysret", "A system call returns", "Module vCPU CR3 Syscall Ret Info"),
    ("tlsmon", "A TLS session got its keys", "client_random master_key"),
    ("unixsocketmon", "A message was sent through a socket", "Type Size Value"),
    ("windowmon", "A window was looked for", "Class Name"),
    ("wmimon", "WMI was asked", "Object Function Command Resource"),
)  # fmt: skip


def column_of(key: str) -> str:
    """Return the column for a key of DRAKVUF's: ``FileName`` is ``file_name``, ``vCPU`` is ``v_cpu``."""
    name = _WORD.sub("_", key).lower()
    return f"{name}_key" if name in DrakvufRecord.__struct_fields__ or name == "id" else name


def _table(plugin: str, doc: str, keys: str) -> type[DrakvufRecord]:
    def body(namespace: dict[str, Any]) -> None:
        namespace["__module__"] = __name__
        namespace["__doc__"] = f"{doc} (DRAKVUF's {plugin})."
        namespace["table"] = f"drakvuf_{plugin}"
        namespace["computed"] = {
            column_of(key): (f"json_extract(fields, '$.\"{key}\"')", f"{key}, as DRAKVUF printed it")
            for key in keys.split()
        }

    return types.new_class("Drakvuf" + plugin.title().replace("_", ""), (DrakvufRecord,), {}, body)


class DrakvufOther(DrakvufRecord):
    """A line of a plugin that drakmet does not know."""

    plugin: Annotated[str, "Plugin, as DRAKVUF printed it"]


BY_PLUGIN: dict[str, type[DrakvufRecord]] = {plugin: _table(plugin, doc, keys) for plugin, doc, keys in _PLUGINS}
"""The record class of each plugin, under the name that it prints."""

RECORDS: tuple[type[DrakvufRecord], ...] = (*BY_PLUGIN.values(), DrakvufOther)
