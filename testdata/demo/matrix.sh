#!/bin/bash
# Exports the sample project as each form of disk image and boots a kernel from
# each: it must find the right filesystem with all files in it.
#
# Works in bin/boot-matrix. Installs what is missing (apt, as root or with
# sudo).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
work=$top/bin/boot-matrix
cache=$top/bin/cache

[ "$(uname -m)" = x86_64 ] || {
	echo "boot-matrix: this boots an x86_64 kernel with the machine's own busybox; it needs an x86_64 machine" >&2
	exit 1
}
"$here/setup.sh" gcc make cpio xz zstd qemu-system-x86_64 dpkg-deb
PATH=$top/bin:$PATH
"$here/project.sh" "$work" "$cache"
cd "$work"
rootfs -q build
"$here/kernel.sh" "$cache/kernel" .rootfs/packages/x86_64/busybox/bin/busybox
rootfs -q export --tar bin/layer.tar

# boots FILESYSTEM TABLE ROOT FILES: whether the machine comes up from that form.
# FAT holds no owners and devices; they aren't needed to boot.
boots() {
	local image=bin/$1-$2.img
	rootfs -q export --lossy --img "$image" --fs "$1" --partition "$2" &&
		"$here/boot.sh" "$image" "$3" "$cache/kernel" \
			"^rootfs demo: booted sample from $1, $4 files\$" >/dev/null &&
		rm "$image"
}

failed=0
row() { printf '%-10s %-9s %-9s %5s %7s  %s\n' "$@"; }
try() {
	local start=$SECONDS result=booted
	boots "$@" || result=FAILED failed=1
	row "$@" $((SECONDS - start)) "$result"
}

# What the machine will count: an image of ext4 has lost+found besides, one of
# FAT no devices.
entries=$(tar -tf bin/layer.tar | wc -l)
ordinary=$(tar -tvf bin/layer.tar | grep -c '^[-dhl]')

row filesystem partition root files seconds result
try ext4 mbr /dev/vda1 $((entries + 1))
try ext4 gpt /dev/vda1 $((entries + 1))
try ext4 none /dev/vda $((entries + 1))
try vfat mbr /dev/vda1 "$ordinary"
exit $failed
