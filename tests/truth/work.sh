#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# What is watched: shells, utilities and deeds.c. Its outcome does not matter, its strace does.
cd /tmp
cp /bin/busybox /tmp/setuid; chmod 755 /tmp/setuid; chown 1000:1000 /tmp/setuid; chmod 4755 /tmp/setuid
printf '#!/bin/sh -e\necho script "$0" "$@"\n' > script; chmod +x script
printf '#!/tmp/script nested\n' > nested; chmod +x nested
./script a b; /tmp/nested c; sh script
cp /bin/busybox /tmp/removed
/bin/deeds 9< /tmp/removed
cat /etc/hostname | tr a-z A-Z > /tmp/piped
ln -s /etc link; cat link/hostname link/none
mv piped moved; cp moved copy; rm -f copy moved none; mkdir -p a/b/c; rmdir a/b/c; rm -r a
mkdir -p m; mount -t tmpfs none m && echo x > m/file && cat m/file && mkdir b && mount --bind m b && cat b/file && rm b/file
i=0; while [ $i -lt 8 ]; do /bin/echo "round $i" > out.$i; cat out.$i > /dev/null; i=$((i+1)); done
(sleep 1; exit 3) & sh -c 'kill -9 $$' | cat; sh -c 'exit 7'; sh -c 'kill -SEGV $$'
wget -q -T 1 http://pool.example.test/x; nslookup name.example.test 127.0.0.1
wait
