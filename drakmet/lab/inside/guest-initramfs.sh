#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-or-later
# First program of a guest: mounts its root (a read-only Xen disk) with a RAM overlay and goes there.
b=/bin/busybox
$b mkdir -p /proc /sys /dev /ro /rw /newroot
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
for m in $($b cat /modules/order); do $b insmod /modules/$m.ko; done
i=0
while [ ! -b /dev/xvda ] && [ $i -lt 100 ]; do $b sleep 0.1; i=$((i+1)); done
$b mount -t squashfs -o ro /dev/xvda /ro
$b mount -t tmpfs -o mode=755 tmpfs /rw
$b mkdir /rw/up /rw/work
$b mount -t overlay -o lowerdir=/ro,upperdir=/rw/up,workdir=/rw/work overlay /newroot
exec $b switch_root /newroot /lab/init
