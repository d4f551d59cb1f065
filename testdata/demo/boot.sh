#!/bin/sh
# Boots a disk image in QEMU, without KVM, until a line appears on its console.
#
#	boot.sh IMAGE ROOT KERNELDIR LINE
#
# ROOT is the root device inside, such as /dev/vda1. LINE is an extended
# regular expression. The image isn't changed. Exit 0 when the line came, 1
# when the machine ended or the time (BOOT_TIMEOUT, in seconds, 180) ran out
# without it; the console then goes to stderr.
set -eu
image=$1 root=$2 kernel=$3 line=$4

log=$(mktemp)
trap 'rm -f "$log"' EXIT
timeout "${BOOT_TIMEOUT:-180}" qemu-system-x86_64 \
	-accel tcg -cpu max -m 256 -nodefaults -no-reboot -display none -serial stdio \
	-kernel "$kernel/vmlinuz" -initrd "$kernel/initrd" \
	-append "console=ttyS0 root=$root rootfs.demo quiet panic=-1" \
	-drive "file=$image,format=raw,if=virtio,snapshot=on" \
	>"$log" 2>&1 </dev/null || echo "boot: QEMU ended with status $?" >>"$log"

tr -d '\r' <"$log" >"$log.text" && mv "$log.text" "$log"
if ! grep -E "$line" "$log"; then
	echo "boot: no line like '$line'; the console said:" >&2
	cat "$log" >&2
	exit 1
fi
