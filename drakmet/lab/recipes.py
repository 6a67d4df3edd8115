# SPDX-License-Identifier: GPL-2.0-or-later
"""What each root and image is made of: names of Debian packages and kernel modules, nothing built by hand."""

from __future__ import annotations

from dataclasses import dataclass

from drakmet.errors import UsageError

# Build tools and Bochs come from one release on every machine: Bochs 3.0 is the first that can single-step guests.
TOOLS_RELEASE = "trixie"
TOOLS = (
    "squashfs-tools",
    "grub-common",
    "lz4",
    "zstd",
    "seabios",
    "libltdl7",
    "libasound2t64",
    "libncurses6",
    "ncurses-base",
    "libslirp0",
    # Bochs itself is linked against these, whichever screen it is given.
    "libgtk-3-0t64",
    "libreadline8t64",
    "libsamplerate0",
)
TOOLS_ALONE = ("bochs", "bochs-term", "grub-pc-bin", "grub-xen-bin")
# QEMU 7.2 is the one whose SVM was tried.
QEMU_RELEASE = "bookworm"
QEMU = ("qemu-system-x86",)

# What dom0 and the guests have in common.
_PROGRAMS = (
    "python3",
    "busybox-static",
    "bash",
    "dash",
    "coreutils",
    "procps",
    "iproute2",
    "strace",
    "util-linux",
    "grep",
    "sed",
    "findutils",
    "tar",
    "gzip",
)
_DOM0 = (
    *_PROGRAMS,
    "libgcc-s1",
    "libc-bin",
    "ncurses-base",
    "tzdata",
    "netbase",
    "sqlite3",
    "openssh-server",
    "openssh-sftp-server",
)
DOM0_BOOT_MODULES = ("ata_piix", "sd_mod", "squashfs", "overlay")
DOM0_MODULES = (
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-privcmd",
    "xenfs",
    "xen-blkback",
    "xen-netback",
    "loop",
    "e1000",
)
GUEST = (
    *_PROGRAMS,
    "libc-bin",
    "ncurses-base",
    "tzdata",
    "netbase",
    "curl",
    "openssl",
    "netcat-openbsd",
    "hostname",
    "mawk",
    "wget",
    "login",
    "ca-certificates",
    "gdb-minimal",
)
GUEST_MODULES = (
    "xen-blkfront",
    "xen-netfront",
    "squashfs",
    "overlay",
    "af_packet",
    "ipv6",
)


@dataclass(frozen=True)
class XenRelease:
    """A Xen version, the Debian release that has it, and that release's Python."""

    xen: str
    release: str
    python: str

    @property
    def dom0_packages(self) -> tuple[str, ...]:
        """Return the packages of dom0's root."""
        return (f"xen-utils-{self.xen}", *_DOM0)


XEN_RELEASES = {"4.17": XenRelease("4.17", "bookworm", "3.11"), "4.20": XenRelease("4.20", "trixie", "3.13")}
# The guest's kernel may come from another release than its programs.
GUEST_KERNELS = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie"}
GUEST_RELEASE = "bookworm"
GUEST_PYTHON = "3.11"


def xen_release(version: str) -> XenRelease:
    """Return what is known of a Xen version; raise UsageError for others."""
    if version not in XEN_RELEASES:
        raise UsageError(f"Xen {version} is not one of {', '.join(XEN_RELEASES)}")
    return XEN_RELEASES[version]
