#!/bin/bash
# The whole job on the sample project: mount, edit, export, boot.
#
# Works in bin/demo; changes nothing else. Installs what is missing (apt, as
# root or with sudo). DEMO_DIR names another place to work in.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
work=${DEMO_DIR:-$top/bin/demo}
cache=$top/bin/cache

step() { printf '\n== %s\n' "$*"; }
say() { printf '   %s\n' "$*"; }
# show COMMAND…: prints a command, then runs it.
show() {
	printf '   $ %s\n' "${*//$work\//}"
	"$@" 2>&1 | sed 's/^/   /'
}
fail() {
	printf 'demo: %s\n' "$*" >&2
	exit 1
}
# fingerprint DIR: one line an entry, with everything that an edit could touch.
fingerprint() {
	(cd "$1" && find . -printf '%P %y %m %U %G %s %T@ %l\n' | sort &&
		find . -type f -print0 | sort -z | xargs -0 sha256sum)
}

[ "$(uname -m)" = x86_64 ] || fail "the demo boots an x86_64 kernel with this machine's busybox; it needs an x86_64 machine"
[ -c /dev/fuse ] || fail "no /dev/fuse here: load the module (modprobe fuse), or start the container with --device /dev/fuse --cap-add SYS_ADMIN"

step "Tools"
"$here/setup.sh" fusermount3 e2fsck gcc make cpio setfattr xz zstd qemu-system-x86_64 dpkg-deb
PATH=$top/bin:$PATH:/usr/sbin:/sbin
say "$(rootfs version)"

step "Project: the sample, its packages built by their recipes"
mnt=$work/mnt
if mountpoint -q "$mnt" 2>/dev/null; then rootfs -C "$work" umount mnt; fi
"$here/project.sh" "$work" "$cache"
mkdir "$mnt"
cd "$work"
show rootfs build
show rootfs build
"$here/kernel.sh" "$cache/kernel" .rootfs/packages/x86_64/busybox/bin/busybox
say "kernel for the boot: $(find "$cache/kernel" -name 'vmlinuz-*' -printf '%f\n')"

step "Mount: packages and sysconfig as one live tree"
trap 'rootfs umount "$mnt" 2>/dev/null || true' EXIT
show rootfs mount ./mnt
show ls mnt
say "$(find mnt | wc -l) entries; nothing was copied"

step "Rebuild: one source changes, the mount follows"
show sed -i 's/hello from/greetings from/' user/apps/hello/hello.c
show rootfs build
for _ in $(seq 20); do # a second at most
	mnt/usr/bin/hello | grep -q '^greetings from' && break
	sleep .05
done
show mnt/usr/bin/hello
mnt/usr/bin/hello | grep -q '^greetings from' || fail "the mount doesn't show the new program"
fingerprint user >"$work/before"

step "Edit with ordinary programs"
(
	set -x
	cd mnt
	echo 'Edited in the mount.' >>etc/motd
	sed -i 's/sample/demo/' etc/hostname
	mkdir -p var/lib/demo/deep
	echo new >var/lib/demo/deep/file
	rm etc/os-release
	mv usr/share/greetings usr/share/hello
	ln etc/profile etc/profile.backup
	chmod 4755 usr/bin/hello
	chown 1000:1000 srv/shared
	setfattr -n user.origin -v demo etc/fstab
	ln -s ../usr/bin/hello bin/hi
	mknod var/lib/demo/pipe p
	cp -r etc/init.d var/lib/demo/copy
) 2>&1 | sed 's/^+* \(.*\)/   $ \1/; t; s/^/   /'
if [ "$(id -u)" = 0 ]; then
	show mknod mnt/dev/zero c 1 5
else
	say "(not root: the kernel lets nobody else make device nodes)"
fi
entries=$(find mnt | wc -l)

step "Status: the edits against the layers"
show rootfs status

step "Export: a disk image, a layer and a docker archive in one walk"
export SOURCE_DATE_EPOCH=1700000000
show rootfs export -n --img bin/disk.img --tar bin/layer.tar --docker bin/image.tar
show rootfs export --img bin/disk.img --tar bin/layer.tar --docker bin/image.tar
show ls -lhs bin

step "Unmount; the edits stay in .rootfs for the next mount"
show rootfs umount ./mnt
trap - EXIT
mountpoint -q "$mnt" && fail "still mounted"

step "Check: user/ is as it was, the image is clean, a second export is the same"
fingerprint user >"$work/after"
cmp "$work/before" "$work/after" || fail "user/ has changed"
say "user/: $(wc -l <"$work/before") lines of metadata and checksums, unchanged"
truncate -s "$(($(stat -c %s bin/disk.img) - 1048576))" bin/part.img
dd if=bin/disk.img of=bin/part.img bs=1M skip=1 conv=sparse,notrunc status=none
show e2fsck -fn bin/part.img
rm bin/part.img
rootfs -q export --img bin/again.img
cmp bin/disk.img bin/again.img || fail "two exports differ"
rm bin/again.img
say "two exports: the same $(stat -c %s bin/disk.img) bytes"

# The image has lost+found besides.
step "Boot the image in QEMU (no KVM)"
line="rootfs demo: booted demo from ext4, $((entries + 1)) files"
say "waiting for: $line"
"$here/boot.sh" bin/disk.img /dev/vda1 "$cache/kernel" "^$line\$" ||
	fail "the image didn't boot to that line"
