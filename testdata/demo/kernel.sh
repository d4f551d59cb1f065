#!/bin/sh
# Prepares a Linux kernel for QEMU: DIR/vmlinuz and DIR/initrd.
#
#	kernel.sh DIR BUSYBOX
#
# The kernel is the distribution's smallest one, downloaded and unpacked, never
# installed. The initrd has a static busybox and the modules for a virtio disk
# with ext4 or FAT.
set -eu
dir=$1 busybox=$2
here=$(dirname "$0")

[ -n "$(find "$dir" -maxdepth 1 -name initrd -newer "$here/init" -newer "$0" 2>/dev/null)" ] && exit 0
mkdir -p "$dir"
dir=$(realpath "$dir")

# depends PACKAGE PATTERN: the package of that pattern that PACKAGE stands for.
depends() {
	apt-cache depends "$1" 2>/dev/null | sed -n "s/^ *Depends: \($2\)\$/\1/p" | head -n 1
}

# kernel_packages: the image of the running distribution, and where its modules are
# a package of their own, that too.
kernel_packages() {
	image=$(depends linux-image-cloud-amd64 'linux-image-[0-9].*') # Debian
	if [ -z "$image" ]; then                                       # Ubuntu
		image=$(depends linux-image-virtual 'linux-image-[0-9].*')
		modules=$(depends linux-image-virtual 'linux-modules-[0-9].*')
		[ -n "$modules" ] || modules=$(depends "$image" 'linux-modules-[0-9].*')
	fi
	[ -n "$image" ] && echo "$image" "${modules:-}"
}
packages=$(kernel_packages) || {
	if [ "$(id -u)" = 0 ]; then apt-get update -qq; else sudo apt-get update -qq; fi
	packages=$(kernel_packages)
} || {
	echo "kernel: apt knows neither linux-image-cloud-amd64 nor linux-image-virtual" >&2
	exit 1
}
for package in $packages; do
	"$here/unpack-deb.sh" "$package" "$dir/$package"
done

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/newroot" "$root/modules"
cp "$busybox" "$root/bin/busybox"
install -m 755 "$here/init" "$root/init"

# What the kernel has built in is no file and is left out.
n=10
for module in crc16 libcrc32c crc32c_generic crc32c-intel mbcache jbd2 ext4 \
	nls_cp437 nls_ascii nls_iso8859-1 nls_utf8 fat vfat \
	virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
	file=$(find "$dir" -path '*/kernel/*' -name "$module.ko*" | head -n 1)
	[ -n "$file" ] || continue
	case $file in
	*.xz) xz -dc "$file" ;;
	*.zst) zstd -dcq "$file" ;;
	*) cat "$file" ;;
	esac >"$root/modules/$n-$module.ko"
	n=$((n + 1))
done
(cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 >"$dir/initrd.part"
cp "$(find "$dir" -name 'vmlinuz-*' | head -n 1)" "$dir/vmlinuz"
mv "$dir/initrd.part" "$dir/initrd"
