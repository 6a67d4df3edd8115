# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kernel functions DRAKVUF's plugins hook in a Linux guest, and which types they read: DRAKVUF 1.1 (cb621398).

A function that the kernel lacks is left out by DRAKVUF without a word; here it is a gap in the coverage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_START, _FORK, _EXIT = ("process_start",), ("process_fork",), ("process_exit",)


class Hook(NamedTuple):
    """What a plugin hooks: one of these functions, to fill these tables of ours beside its own."""

    plugin: str
    functions: tuple[str, ...]
    tables: tuple[str, ...] = ()


LINUX: tuple[Hook, ...] = (
    Hook("procmon", ("begin_new_exec",), _START),
    Hook("procmon", ("kernel_clone", "_do_fork"), _FORK),
    Hook("procmon", ("do_exit",), _EXIT),
    Hook("procmon", ("do_send_sig_info", "send_signal")),
    Hook("filetracer", ("do_filp_open",), ("file_open",)),
    Hook("filetracer", ("vfs_write",), ("file_write",)),
    Hook("filetracer", ("filp_close",), ("file_close",)),
    Hook("filetracer", ("vfs_rename",), ("file_rename",)),
    Hook("filetracer", ("vfs_unlink",), ("file_remove",)),
    Hook("filetracer", ("vfs_rmdir",), ("file_remove",)),
    Hook("filetracer", ("chmod_common",), ("file_chmod",)),
    Hook("filetracer", ("chown_common",), ("file_chown",)),
    *(
        Hook("filetracer", (function,))
        for function in (
            *("vfs_read", "vfs_llseek", "memfd_create", "vfs_mknod", "vfs_link", "vfs_symlink", "vfs_readlink"),
            *("do_truncate", "vfs_allocate", "vfs_utimes", "do_faccessat", "vfs_mkdir", "set_fs_pwd", "set_fs_root"),
        )
    ),
    Hook("ptracemon", ("__x64_sys_ptrace",)),
    Hook("ebpfmon", ("__do_sys_bpf",)),
    Hook("unixsocketmon", ("sock_sendmsg",)),
    Hook("syscalls", ("do_syscall_64",)),
)
_ALIASES = {"memfd_create": "__x64_sys_memfd_create"}
_TABLES = {"syscalls": ("drakvuf_syscall", "drakvuf_sysret"), "filedelete": ("drakvuf_fileextractor",)}

WINDOWS_ONLY = frozenset(
    (
        *("socketmon", "regmon", "librarymon", "apimon", "memdump", "codemon", "rootkitmon", "envmon", "exmon"),
        *("tlsmon", "fileextractor", "filedelete", "objmon", "ssdtmon", "windowmon", "clipboardmon"),
    )
)
"""Plugins that do nothing on a Linux guest, and do not say so."""

SYMBOLS = (
    *("_text", "init_task", "init_top_pgt", "swapper_pg_dir", "linux_banner", "current_task", "pcpu_hot", "panic"),
    *("startup_64", "phys_startup_64", "__per_cpu_offset", "do_syscall_64", "entry_SYSCALL_64", "_end", "_etext"),
)
"""Symbols that DRAKVUF and LibVMI look for beside the hooks' functions."""

SYMBOL_PREFIXES = ("__x64_sys_", "__ia32_sys_")
"""Every system call, for the plugin syscalls."""

TYPES: dict[str, str] = {
    "cred": "uid euid suid",
    "dentry": "d_inode d_name d_parent",
    "elf64_hdr": "e_phentsize e_phnum e_phoff",
    "elf64_phdr": "p_offset p_type p_vaddr",
    "elf64_rela": "r_addend r_info r_offset",
    "elf64_sym": "st_name st_value",
    "file": "f_flags f_mode f_path",
    "fs_struct": "root",
    "inode": "i_flags i_gid i_mode i_uid",
    "iov_iter": "iov __iov",
    "iovec": "iov_base iov_len",
    "kernel_clone_args": "exit_signal flags",
    "linux_binprm": "argc envc execfd fdpath filename have_execfd interp p",
    "maple_arange_64": "slot",
    "maple_range_64": "slot",
    "maple_tree": "ma_root",
    "mm_struct": "arg_start env_end env_start exe_file map_count mm_mt mmap pgd vdso",
    "msghdr": "msg_iter",
    "new_utsname": "release",
    "nsproxy": "uts_ns",
    "path": "dentry mnt",
    "pcpu_hot": "current_task",
    "pid": "level numbers",
    "pid_namespace": "level",
    "proto_ops": "family",
    "pt_regs": "ax bp bx cs cx di dx flags ip orig_ax r8 r9 r10 r11 r12 r13 r14 r15 si sp ss",
    "qstr": "len name",
    "renamedata": "new_dentry old_dentry",
    "signal_struct": "pids",
    "socket": "ops",
    "task_struct": "active_mm comm cred flags fs mm nameidata nsproxy parent pid real_cred real_parent signal tasks"
    " tgid thread_pid",
    "timespec64": "tv_sec",
    "upid": "nr ns",
    "uts_namespace": "name",
    "vfsmount": "mnt_root",
    "vm_area_struct": "vm_end vm_file vm_flags vm_next vm_pgoff vm_start",
}
"""Members of structs that DRAKVUF and LibVMI read of a Linux guest; which of them a kernel has depends on it."""


class Gap(NamedTuple):
    """A hook that will not be there, and why."""

    plugin: str
    trap: str
    tables: tuple[str, ...]
    reason: str


def tables_of(plugin: str) -> tuple[str, ...]:
    """Return all tables that a plugin fills."""
    own = tuple(dict.fromkeys(table for hook in LINUX if hook.plugin == plugin for table in hook.tables))
    return (*_TABLES.get(plugin, (f"drakvuf_{plugin}",)), *own)


def gaps(plugins: Iterable[str], find: Callable[[str], object | None]) -> Iterator[Gap]:
    """Yield the hooks of these plugins that a Linux kernel cannot have; ``find`` looks up its symbols."""
    for plugin in plugins:
        if plugin in WINDOWS_ONLY:
            yield Gap(plugin, plugin, tables_of(plugin), f"DRAKVUF's {plugin} is for Windows guests")
        for hook in LINUX:
            if hook.plugin == plugin and all(find(_ALIASES.get(one, one)) is None for one in hook.functions):
                names = " nor ".join(hook.functions)
                reason = f"the kernel has no function {names}, and DRAKVUF then hooks nothing"
                tables = (*_TABLES.get(plugin, (f"drakvuf_{plugin}",)), *hook.tables)
                yield Gap(plugin, f"{plugin}:{hook.functions[0]}", tables, reason)
