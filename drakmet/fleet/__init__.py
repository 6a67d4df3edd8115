# SPDX-License-Identifier: GPL-2.0-or-later
"""Fleets: many Xen hosts scanned by way of Ansible, their results checked and merged into one file."""
