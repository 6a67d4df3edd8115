# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest seen from outside: memory, page walks, symbols and types, processes, files, sockets."""
