# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m drakmet`` is the command line."""

from drakmet.cli import main

main()
