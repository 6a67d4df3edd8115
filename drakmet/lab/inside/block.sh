#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-or-later
# xl's disk hotplug: the disk is a block device of dom0. Xen's own script locks and looks around, which costs seconds here.
. /lab/environment
[ "$1" = add ] || exit 0
device=$(xenstore-read "$XENBUS_PATH/params")
numbers=$(stat -L -c %t:%T "$device")
xenstore-write "$XENBUS_PATH/physical-device" "$numbers" "$XENBUS_PATH/hotplug-status" connected
