# SPDX-License-Identifier: GPL-2.0-or-later
"""A dom0 as sites have it: reached through a jump host, as a user who becomes root by a password out of a vault."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drakmet.lab.hosts import Host
    from drakmet.lab.ssh import Access

PASSWORD = "lab only"
# What crypt(3) makes of it.
_HASH = "$6$drakmetlab$8mUKT/WWHsf.5IVlh/DrjtXmGyYqvUVjwHx7vuB9NaTuNYKbXovTnOh2Yxzf8BJBkIsTSwSkHQ7RziX/gzO8./"
# The common-* files are what Debian's pam-auth-update writes; the lab's dom0 ran no maintainer scripts.
_USER = f"""
grep -q ^ops: /etc/passwd || echo ops:x:1000:65534::/home/ops:/bin/sh >> /etc/passwd
(umask 77; printf 'root:{_HASH}:1:0:99999:7:::\\nops:*:1:0:99999:7:::\\n' > /etc/shadow)
for kind in auth account password session; do
    echo $kind required pam_unix.so > /etc/pam.d/common-$kind
done
mkdir -p -m 700 /home/ops/.ssh && cp /root/.ssh/authorized_keys /home/ops/.ssh/ && chown -R 1000 /home/ops
"""
_SSH = """\
Host *
  IdentityFile {key}
  IdentitiesOnly yes
  UserKnownHostsFile {known}
  StrictHostKeyChecking yes
  HostKeyAlias [127.0.0.1]:{port}
Host jump
  HostName 127.0.0.1
  Port {port}
  User root
Host inner
  HostName 127.0.0.1
  Port 22
  ProxyJump jump
"""


def inner_host(host: Host, access: Access, folder: Path, targets: list[str]) -> tuple[Path, Path]:
    """Make the user and write what an operator has; return the inventory and the file with the vault's password.

    The host is reached at port 22 of its own loopback only, to which ``jump`` leads.
    """
    host.agent.run(["sh", "-c", _USER], check=True)
    config, secret = folder / "ssh_config", folder / "vault-password"
    config.write_text(_SSH.format(key=access.key, known=access.known_hosts, port=access.port))
    secret.write_text("of the vault\n")
    variables = folder / "group_vars" / "lab.yml"
    variables.parent.mkdir()
    variables.write_text(json.dumps({"ansible_become_password": PASSWORD}))
    vault = Path(sys.executable).with_name("ansible-vault")
    subprocess.run([vault, "encrypt", "--vault-password-file", secret, variables], check=True, capture_output=True)
    assert PASSWORD not in variables.read_text()
    inventory = folder / "site.json"
    inner = {
        "ansible_user": "ops",
        "ansible_ssh_common_args": f"-F {config}",
        "ansible_python_interpreter": "/usr/bin/python3",
        "drakmet_targets": targets,
    }
    inventory.write_text(json.dumps({"lab": {"hosts": {"inner": inner}}}))
    return inventory, secret
