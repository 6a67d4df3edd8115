# SPDX-License-Identifier: GPL-2.0-or-later
"""What is made of a stored file: the tree of processes, and its records in the forms of others."""
