# SPDX-License-Identifier: GPL-2.0-or-later
"""The way into a host by SSH, as into a real one: an sshd in its dom0, keys of the host's own, an Ansible inventory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drakmet.errors import UsageError
from drakmet.lab.client import Upload
from drakmet.lab.images import Builder
from drakmet.lab.places import built_folder

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from drakmet.lab.hosts import Host
    from drakmet.lab.places import Places
    from drakmet.lab.progress import Progress
    from drakmet.lab.roots import Root

_PID = "/run/sshd.pid"
_SETTINGS = f"""\
HostKey /etc/ssh/lab_host_key
PidFile {_PID}
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
UseDNS no
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True)
class Access:
    """What a client of ssh needs for one host: port on loopback, key, and the file that knows the host's own key."""

    name: str
    port: int
    key: Path
    known_hosts: Path


def open_ssh(places: Places, host: Host, progress: Progress) -> Access:
    """Start the sshd of a host's dom0, unless it runs, and return the way to it; raise UsageError if there is none."""
    if not host.ssh_port:
        raise UsageError(
            f"no port leads to an sshd of host {host.name}",
            hint="Hosts of the kind svm have one: `drakmet lab up --kind svm`.",
        )
    folder = host.folder / "ssh"
    if not folder.exists():
        builder = Builder(places.cache, progress, xen=host.choice.xen, guest_kernel=host.choice.guest_kernel)
        with built_folder(folder) as work:
            _make_keys(builder.interpreter()[0], work, host)
        folder.chmod(0o700)
    if host.agent.run(["sh", "-c", f'kill -0 "$(cat {_PID})"'], timeout=60).returncode != 0:
        _start(host, folder)
    return Access(host.name, host.ssh_port, folder / "key", folder / "known_hosts")


def inventory(accesses: Iterable[Access]) -> str:
    """Return an Ansible inventory (JSON is YAML) of hosts in the group ``lab``."""
    hosts = {
        access.name: {
            "ansible_host": "127.0.0.1",
            "ansible_port": access.port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(access.key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={access.known_hosts} -o StrictHostKeyChecking=yes"
            " -o IdentitiesOnly=yes",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        for access in accesses
    }
    return json.dumps({"lab": {"hosts": hosts}}, indent=2) + "\n"


def _make_keys(root: Root, work: Path, host: Host) -> None:
    for name in ("key", "host_key"):
        root.run(
            "usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"drakmet-lab-{host.name}", "-f", work / name
        )
    public = (work / "host_key.pub").read_text().split()[:2]
    (work / "known_hosts").write_text(f"[127.0.0.1]:{host.ssh_port} {' '.join(public)}\n")


def _start(host: Host, folder: Path) -> None:
    agent = host.agent
    # What a login gets is what the agent's commands get, less what is only theirs.
    path = agent.run(["sh", "-c", '. /lab/environment; printf %s "$PATH"'], check=True, timeout=60).stdout.decode()
    settings = f"{_SETTINGS}SetEnv PATH={path} LANG=C.UTF-8\n"
    agent.push(
        [
            Upload("/etc/ssh/lab_host_key", (folder / "host_key").read_bytes(), 0o600),
            Upload("/etc/ssh/lab_sshd_config", settings.encode()),
            Upload("/root/.ssh/authorized_keys", (folder / "key.pub").read_bytes(), 0o600),
        ]
    )
    agent.run(["mkdir", "-p", "-m", "755", "/run/sshd"], check=True)
    agent.run(["/usr/sbin/sshd", "-f", "/etc/ssh/lab_sshd_config"], check=True, timeout=60)
