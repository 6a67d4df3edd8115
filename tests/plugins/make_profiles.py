# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes tests/data/kernel-*.json.gz: of real kernels, the types and symbols that plugins ask for, and some around them.

    python -m tests.plugins.make_profiles PROFILE...

A PROFILE is a file of drakmet's cache of profiles, made when a guest with that kernel was looked at. Run it again when
a bundled plugin fetches what these files lack.
"""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path

import msgspec

from drakmet.errors import GuestError
from drakmet.guest import types as t
from drakmet.guest.fetch import compile_field
from drakmet.guest.linux import LinuxGuest
from drakmet.guest.profile import Profile
from drakmet.plugins import load_plugins
from tests.guest.images import image

from .kernels import on_image, path_of

# Of these every member is kept, so that a plugin can be changed without the kernels at hand.
STRUCTS = (
    "cred", "dentry", "file", "filename", "inode", "iov_iter", "linux_binprm", "module", "msghdr", "open_flags", "path",
    "renamedata", "signal_struct", "sock", "sock_common", "socket", "super_block", "task_struct", "vfsmount",
)  # fmt: skip
FUNCTIONS = (
    "chmod_common", "chown_common", "commit_creds", "do_exit", "do_filp_open", "do_init_module", "do_mkdirat",
    "do_renameat2", "do_rmdir", "do_unlinkat", "inet_csk_accept", "iter_file_splice_write", "kernel_clone",
    "security_bprm_check", "security_file_open", "security_inode_rmdir", "security_path_rename", "security_path_rmdir",
    "security_path_unlink", "security_socket_connect", "tcp_v4_connect", "tcp_v6_connect", "vfs_rename", "vfs_unlink",
)  # fmt: skip


def keep(profile: Profile) -> None:
    """Ask the profile for all that is to be kept."""
    types = profile.types
    for name in STRUCTS:
        ref = types.struct(name)
        for member in types.members(ref):
            kind = types.resolve(types.members(ref)[member].type)
            if member and isinstance(kind, t.Int | t.Enum | t.Pointer):
                types.field(name, member)
    for name in FUNCTIONS:
        if profile.symbols.get(name):
            types.function(name)
    for plugin in load_plugins().plugins:
        for trap in plugin.traps:
            for function in trap.functions:
                if profile.symbols.get(function) is None:
                    continue
                for expression in (*trap.fetch.values(), *(trap.returns or {}).values()):
                    compile_field(expression, function, types)


def main(paths: list[str]) -> None:
    """Write the file of each kernel."""
    for path in map(Path, paths):
        profile = Profile.load(path)
        version = re.match(r"\d+\.\d+", profile.release)
        if version is None:
            raise GuestError("a kernel without a version", where=str(path))
        LinuxGuest(on_image(image(version[0]), profile))
        keep(profile)
        data = msgspec.json.encode(profile.subset(), order="sorted")
        path_of(version[0]).write_bytes(gzip.compress(data, 9, mtime=0))
        sys.stdout.write(f"{path_of(version[0])}: {path_of(version[0]).stat().st_size} bytes\n")


if __name__ == "__main__":
    main(sys.argv[1:])
