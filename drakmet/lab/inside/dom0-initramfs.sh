#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-or-later
# First program of dom0: mounts its root (second disk, read-only) with a RAM overlay and goes there.
b=/bin/busybox
$b mkdir -p /proc /sys /dev /ro /rw /newroot
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
for m in $($b cat /modules/order); do $b insmod /modules/$m.ko; done
# The order in which disks get names is chance: they are known by where they are plugged in.
for place in 0:0:0:0=boot 0:0:1:0=dom0 1:0:0:0=drakmet 1:0:1:0=guest; do
    i=0
    while set -- /sys/bus/scsi/devices/${place%=*}/block/*; [ ! -e "$1" ] && [ $i -lt 100 ]; do $b sleep 0.1; i=$((i+1)); done
    $b ln -s "${1##*/}" "/dev/lab-${place#*=}"
done
i=0
while [ ! -b /dev/lab-guest ] && [ $i -lt 100 ]; do $b sleep 0.1; i=$((i+1)); done
$b mount -t squashfs -o ro /dev/lab-dom0 /ro
$b mount -t tmpfs -o mode=755 tmpfs /rw
$b mkdir /rw/up /rw/work
$b mount -t overlay -o lowerdir=/ro,upperdir=/rw/up,workdir=/rw/work overlay /newroot
exec $b switch_root /newroot /lab/init
