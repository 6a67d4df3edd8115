#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-or-later
# xl's network hotplug: a point-to-point link to the guest. The last byte of its MAC is its number: 10.77.N.2, here 10.77.N.1.
. /lab/environment
[ "$1" = online ] || exit 0
mac=$(xenstore-read "$XENBUS_PATH/mac")
number=$(printf %d "0x${mac##*:}")
ip addr add "10.77.$number.1/24" dev "$vif"
ip link set "$vif" up
xenstore-write "$XENBUS_PATH/hotplug-status" connected
