# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole Xen host in an emulator, from distribution packages: hypervisor, dom0 with this drakmet, guests to watch."""
