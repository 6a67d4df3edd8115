# SPDX-License-Identifier: GPL-2.0-or-later
"""What Ansible sends to the hosts of a fleet and runs there: it may import nothing of ours."""
