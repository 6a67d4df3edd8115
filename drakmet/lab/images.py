# SPDX-License-Identifier: GPL-2.0-or-later
"""The images a host is started from: each is named by all that went into it, and built only when that has changed."""

from __future__ import annotations

import gzip
import importlib.resources
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drakmet.lab import checkout, recipes
from drakmet.lab.archive import Archive
from drakmet.lab.cpio import Cpio
from drakmet.lab.disks import boot_disk, clone_tree, guest_boot_image, squashfs
from drakmet.lab.kernels import kernel_of, lighten, module_files
from drakmet.lab.places import locked, write_private
from drakmet.lab.roots import Root, build_root, compile_python, key_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drakmet.lab.progress import Progress

# Raised when code here changes what comes out of the same inputs.
_FORM = 1
_USERS = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
_GROUP = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"


@dataclass(frozen=True)
class Images:
    """All files a host needs: disks in the order in which it sees them, and the agent's token."""

    boot: Path
    dom0: Path
    drakmet: Path
    guest: Path
    token: str
    bios: Path
    vga_bios: Path
    tools: Root
    key: str


class Builder:
    """Builds images for one choice of Xen and guest kernel."""

    def __init__(
        self, cache: Path, progress: Progress, *, xen: str = "4.17", guest_kernel: str = "6.1", refresh: bool = False
    ) -> None:
        self._cache = cache
        self._images = cache / "images"
        self._progress = progress
        self._xen = recipes.xen_release(xen)
        self._guest_kernel = guest_kernel
        self._refresh = refresh
        self._archives: dict[str, Archive] = {}
        self.tools = self._root("tools", recipes.TOOLS_RELEASE, recipes.TOOLS, alone=recipes.TOOLS_ALONE)

    def build(self, xen_options: str, *, dom0_memory: int, kind: str) -> Images:
        """Build what is missing and return all images."""
        with locked(self._images):
            dom0, dom0_root = self._dom0()
            boot, token = self._boot(xen_options, dom0_memory, kind)
            drakmet = self._drakmet(dom0_root)
            guest = self._guest()
        seabios = self.tools.path / "usr/share/seabios"
        key = key_of([path.name for path in (boot, dom0, drakmet, guest)], self.tools.key)
        return Images(
            boot, dom0, drakmet, guest, token, seabios / "bios.bin", seabios / "vgabios-stdvga.bin", self.tools, key
        )

    def qemu(self) -> Root:
        """Return a root with QEMU."""
        return self._root("qemu", recipes.QEMU_RELEASE, recipes.QEMU)

    def interpreter(self) -> tuple[Root, str]:
        """Return the root with dom0's Python, and that Python's version."""
        return self._root("dom0", self._xen.release, self._xen.dom0_packages), self._xen.python

    def _archive(self, release: str) -> Archive:
        return self._archives.setdefault(release, Archive(release, self._cache, self._progress))

    def _root(self, name: str, release: str, packages: Sequence[str], *, alone: Sequence[str] = ()) -> Root:
        archive = self._archive(release)
        return build_root(
            f"{name}-{release}", archive, packages, self._cache, self._progress, alone=alone, refresh=self._refresh
        )

    def _kernel_root(self, release: str, flavour: str) -> Root:
        meta = f"linux-image-{flavour}"
        names = [name for name in self._archive(release).depends(meta) if name.startswith("linux-image-")]
        return self._root(f"kernel-{flavour}", release, (), alone=names[:1])

    def _dom0(self) -> tuple[Path, Root]:
        xen = self._xen
        root, _ = self.interpreter()
        kernel_root = self._kernel_root(xen.release, "amd64")
        inside = {name: _inside(name) for name in ("agent", "dom0-init.sh", "environment.sh", "vif.sh", "block.sh")}
        key = key_of("dom0", _FORM, root.key, kernel_root.key, inside, recipes.DOM0_MODULES)
        target = self._images / f"dom0-{xen.xen}-{key}.img"
        if not target.exists():
            self._compiled(root, xen.python)
            with self._progress.stage("pack dom0's disk"), _scratch(self._cache) as work:
                clone_tree(root.path, work)
                _common_files(work, "dom0")
                _write(work / "etc/passwd", _USERS + "sshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n")
                lab = work / "lab"
                _write(lab / "init", inside["dom0-init.sh"], 0o755)
                _write(lab / "agent.py", inside["agent"])
                _write(lab / "environment", inside["environment.sh"].replace("@XEN@", xen.xen))
                _write(lab / "vif", inside["vif.sh"], 0o755)
                _write(lab / "block", inside["block.sh"], 0o755)
                (lab / "guest").mkdir()
                for folder in ("opt/drakmet", "var/lib/xen", "var/lib/xenstored", "var/log/xen", "etc/xen"):
                    (work / folder).mkdir(parents=True, exist_ok=True)
                _write(work / "etc/xen/xl.conf", 'autoballoon="off"\n')
                _write(work / "root/.profile", ". /lab/environment\n")
                _write(
                    work / "usr/local/bin/drakmet", "#!/usr/bin/python3\nfrom drakmet.cli import main\nmain()\n", 0o755
                )
                _write(work / "usr/lib/python3/dist-packages/drakmet-lab.pth", "/opt/drakmet/src\n/opt/drakmet/site\n")
                modules = module_files(kernel_of(kernel_root.path), recipes.DOM0_MODULES)
                for name, data in modules:
                    _write(lab / f"modules/{name}.ko", data)
                _write(
                    lab / "modules/order",
                    "".join(f"{name}\n" for name, _ in modules if name not in _boot_names(kernel_root)),
                )
                squashfs(self.tools, work, target)
        return target, root

    def _boot(self, xen_options: str, dom0_memory: int, kind: str) -> tuple[Path, str]:
        xen = self._xen
        kernel_root = self._kernel_root(xen.release, "amd64")
        hypervisor = self._root("hypervisor", xen.release, (), alone=[f"xen-hypervisor-{xen.xen}-amd64"])
        init = _inside("dom0-initramfs.sh")
        busybox = self.interpreter()[0].path / "usr/bin/busybox"
        linux = "console=hvc0 loglevel=4 acpiphp.disable=1 panic=1 mitigations=off nowatchdog"
        options = f"{xen_options} dom0_mem={dom0_memory}M,max:{dom0_memory}M"
        key = key_of(
            "boot",
            _FORM,
            kernel_root.key,
            hypervisor.key,
            init,
            options,
            linux,
            recipes.DOM0_BOOT_MODULES,
            self.tools.key,
        )
        target = self._images / f"boot-{kind}-{xen.xen}-{key}.img"
        token_file = target.with_suffix(".token")
        if not target.exists() or not token_file.exists():
            token = secrets.token_hex(16)
            with self._progress.stage("write the boot disk"), _scratch(self._cache) as work:
                kernel = kernel_of(kernel_root.path)
                light = work / "vmlinuz"
                lighten(kernel.image, self.tools, light)
                initramfs = _initramfs(init, busybox, module_files(kernel, recipes.DOM0_BOOT_MODULES))
                image = next((hypervisor.path / "boot").glob("xen-*.gz"))
                files = {
                    "xen": gzip.decompress(image.read_bytes()),
                    "vmlinuz": light.read_bytes(),
                    "initramfs": initramfs,
                }
                commands = [
                    f"multiboot2 (hd0,msdos1)/xen {options}",
                    f"module2 (hd0,msdos1)/vmlinuz {linux} drakmet.token={token}",
                    "module2 (hd0,msdos1)/initramfs",
                    "boot",
                ]
                boot_disk(self.tools, target, files, commands)
            target.chmod(0o600)
            write_private(token_file, token)
        return target, token_file.read_text()

    def _guest(self) -> Path:
        root = self._root("guest", recipes.GUEST_RELEASE, recipes.GUEST)
        kernel_root = self._kernel_root(recipes.GUEST_KERNELS[self._guest_kernel], "cloud-amd64")
        names = ("agent", "guest-init.sh", "guest-initramfs.sh", "guest-poweroff.sh", "workload")
        inside = {name: _inside(name) for name in names}
        key = key_of("guest", _FORM, root.key, kernel_root.key, inside, recipes.GUEST_MODULES, self.tools.key)
        target = self._images / f"guest-{self._guest_kernel}-{key}.img"
        if not target.exists():
            self._compiled(root, recipes.GUEST_PYTHON)
            with self._progress.stage("pack the guest's disk"), _scratch(self._cache) as work:
                clone_tree(root.path, work)
                _common_files(work, "guest")
                _write(work / "lab/init", inside["guest-init.sh"], 0o755)
                _write(work / "lab/agent.py", inside["agent"])
                _write(work / "usr/local/bin/workload", inside["workload"], 0o755)
                _write(work / "usr/sbin/poweroff", inside["guest-poweroff.sh"], 0o755)
                kernel = kernel_of(kernel_root.path)
                modules = module_files(kernel, recipes.GUEST_MODULES)
                initramfs = _initramfs(inside["guest-initramfs.sh"], root.path / "usr/bin/busybox", modules)
                (work / "boot").mkdir(exist_ok=True)
                # A vCPU that comes up counts jiffies with interrupts off, while the one that ticks them waits for the
                # CPU: Bochs gives Xen no way to take it back, so it must know its delay loop's speed beforehand
                # (80 MHz at 250 Hz; see INSTRUCTIONS_A_SECOND).
                line = "console=hvc0 loglevel=4 panic=-1 mitigations=off lpj=320000"
                guest_boot_image(self.tools, work / "boot/guest.elf", kernel.image, initramfs, line)
                shutil.copyfile(kernel.image, work / "boot/vmlinuz")
                _write(work / "boot/initramfs", initramfs)
                _write(work / "boot/release", kernel.release + "\n")
                squashfs(self.tools, work, target)
        return target

    def _drakmet(self, root: Root) -> Path:
        requirements = checkout.requirements()
        files = checkout.sources()
        site_key = key_of("site", _FORM, sorted(requirements), self._xen.python)
        key = key_of("drakmet", _FORM, site_key, root.key, checkout.digests(files), checkout.metadata())
        target = self._images / f"drakmet-{self._xen.python}-{key}.img"
        if not target.exists():
            site = checkout.dependencies(
                self._cache / f"site-{site_key}", requirements, self._xen.python, self._progress
            )
            with self._progress.stage("pack drakmet's disk"), _scratch(self._cache) as work:
                clone_tree(site, work / "site")
                checkout.write_metadata(work / "site")
                checkout.stage(files, work / "src")
                folders = {work / "src": "/opt/drakmet/src", work / "site": "/opt/drakmet/site"}
                compile_python(root, self._xen.python, list(folders), folders)
                checkout.write_manifest(files, work / "manifest.json")
                for old in self._images.glob(f"drakmet-{self._xen.python}-*.img"):
                    old.unlink()
                squashfs(self.tools, work, target)
        return target

    def _compiled(self, root: Root, python: str) -> None:
        marker = root.path / ".compiled"
        if not marker.exists():
            with self._progress.stage("compile Python's library"):
                library = root.path / f"usr/lib/python{python}"
                compile_python(root, python, [library], {library: f"/usr/lib/python{python}"})
            marker.touch()


def _boot_names(kernel_root: Root) -> set[str]:
    return {name for name, _ in module_files(kernel_of(kernel_root.path), recipes.DOM0_BOOT_MODULES)}


def _initramfs(init: str, busybox: Path, modules: Sequence[tuple[str, bytes]]) -> bytes:
    archive = Cpio()
    archive.folder("dev")
    archive.device("dev/console", 5, 1)
    archive.file("init", init.encode(), 0o755)
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    for name, data in modules:
        archive.file(f"modules/{name}.ko", data)
    archive.file("modules/order", "".join(f"{name}\n" for name, _ in modules).encode())
    return archive.packed()


def _common_files(root: Path, hostname: str) -> None:
    for folder in (
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "root",
        "mnt",
        "etc",
        "var/log",
        "var/tmp",
        "home",
        "opt",
        "srv",
        "lab",
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, target in (("var/run", "/run"), ("var/lock", "/run/lock")):
        if not (root / name).is_symlink():
            shutil.rmtree(root / name, ignore_errors=True)
            (root / name).symlink_to(target)
    _write(root / "etc/passwd", _USERS)
    _write(root / "etc/group", _GROUP)
    _write(root / "etc/hostname", hostname + "\n")
    _write(root / "etc/hosts", f"127.0.0.1 localhost {hostname}\n")
    _write(root / "etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    _write(root / "etc/shells", "/bin/sh\n/bin/bash\n")
    for name, target in (("sh", "dash"), ("awk", "mawk"), ("nc", "nc.openbsd")):
        program = root / "usr/bin" / name
        if not program.exists() and not program.is_symlink() and (root / "usr/bin" / target).exists():
            program.symlink_to(target)
    applets = root / "lab/busybox"
    applets.mkdir()
    for name in _APPLETS:
        (applets / name).symlink_to("/usr/bin/busybox")


_APPLETS = (
    "awk",
    "bc",
    "chroot",
    "clear",
    "dmesg",
    "diff",
    "du",
    "find",
    "free",
    "hexdump",
    "hostname",
    "httpd",
    "insmod",
    "ip",
    "less",
    "lsmod",
    "modprobe",
    "mount",
    "nc",
    "nslookup",
    "ping",
    "pgrep",
    "pkill",
    "rmmod",
    "switch_root",
    "telnet",
    "traceroute",
    "umount",
    "vi",
    "wget",
    "which",
    "xxd",
    "xargs",
    "losetup",
    "bunzip2",
    "unxz",
    "unzip",
    "tftp",
    "ftpget",
    "ifconfig",
    "route",
)


def _write(path: Path, data: str | bytes, mode: int = 0o644) -> None:
    """Write a file anew (never into a hard link's other name)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    path.chmod(mode)


def _inside(name: str) -> str:
    return (importlib.resources.files("drakmet.lab") / "inside" / name).read_text()


class _scratch:  # noqa: N801 - used like a function
    """A folder under the cache (so that hard links work) that goes away."""

    def __init__(self, cache: Path) -> None:
        self._path = Path(tempfile.mkdtemp(prefix="work-", dir=cache))

    def __enter__(self) -> Path:
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
