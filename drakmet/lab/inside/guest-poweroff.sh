#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-or-later
# What the kernel runs when the toolstack asks the guest to shut down (orderly_poweroff, kernel/reboot.c): there is no
# init to ask, so it goes at once.
exec /bin/busybox poweroff -f
