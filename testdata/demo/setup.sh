#!/bin/sh
# Installs the programs that are named on the command line and missing here.
#
#	setup.sh PROGRAM…
#
# A Debian or Ubuntu machine gets them by apt; elsewhere it says what to
# install. Needs root or sudo only where something is missing.
set -eu

# package PROGRAM: the Debian package that holds it.
package() {
	case $1 in
	bsdtar) echo libarchive-tools ;;
	cc | gcc) echo gcc libc6-dev ;;
	e2fsck | mkfs.ext4 | debugfs | dumpe2fs | resize2fs) echo e2fsprogs ;;
	fusermount3) echo fuse3 ;;
	getfattr | setfattr) echo attr ;;
	getfacl | setfacl) echo acl ;;
	mkfs.xfs) echo xfsprogs ;;
	mkfs.fat | mkfs.vfat | fsck.fat) echo dosfstools ;;
	mcopy | mdir | minfo) echo mtools ;;
	musl-gcc) echo musl-tools ;;
	partx) echo util-linux ;;
	qemu-system-x86_64) echo qemu-system-x86 ;;
	setcap | getcap) echo libcap2-bin ;;
	sfdisk | losetup) echo fdisk mount ;;
	sgdisk) echo gdisk ;;
	xz) echo xz-utils ;;
	unionfs) echo unionfs-fuse ;;
	vim.tiny) echo vim-tiny ;;
	*) echo "$1" ;;
	esac
}

PATH=$PATH:/usr/sbin:/sbin
missing=
for program in "$@"; do
	command -v "$program" >/dev/null || missing="$missing $(package "$program")"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "setup: please install:$missing" >&2
	exit 1
fi
as_root=
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || {
		echo "setup: not root and no sudo: please install:$missing" >&2
		exit 1
	}
	as_root=sudo
fi
echo "installing:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list of words
{
	$as_root apt-get update -qq
	$as_root apt-get install -y -qq --no-install-recommends $missing
} >/dev/null </dev/null
