# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules: their format, the linter, their evaluation, and the bundled ones."""
