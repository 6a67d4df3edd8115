# SPDX-License-Identifier: GPL-2.0-or-later
"""The inventory that the lab prints is one that Ansible reads: JSON, which is YAML, with the host's own keys."""

from __future__ import annotations

import json
from pathlib import Path

from drakmet.lab.ssh import Access, inventory


def test_the_inventory_names_port_key_and_the_file_of_known_hosts() -> None:
    text = inventory([Access("f1", 2201, Path("/k/key"), Path("/k/known")), Access("f2", 2202, Path("/l"), Path("/m"))])
    hosts = json.loads(text)["lab"]["hosts"]
    assert list(hosts) == ["f1", "f2"]
    assert hosts["f1"]["ansible_port"] == 2201
    assert hosts["f1"]["ansible_ssh_private_key_file"] == "/k/key"
    # A host whose key changed must not be spoken to.
    assert "UserKnownHostsFile=/k/known -o StrictHostKeyChecking=yes" in hosts["f1"]["ansible_ssh_common_args"]
