#!/bin/sh
# Makes the trees that benchmarks export: a Debian minbase, and the same with
# the sources of a kernel unpacked in it, of some 90,000 files and 1.5 GiB.
#
#	tree.sh DIR
#
# Leaves DIR/minbase and DIR/large; does nothing where they are there already.
# Needs root and debootstrap.
set -eu
dir=$1
suite=bookworm
mkdir -p "$dir"
cd "$dir"
if ! [ -e minbase.done ]; then
	rm -rf minbase
	debootstrap --variant=minbase "$suite" minbase >debootstrap.log
	: >minbase.done
fi
if ! [ -e large.done ]; then
	rm -rf large deb
	mkdir deb
	(cd deb && apt-get download -qq linux-source-6.1 && dpkg-deb -x linux-source-6.1_*.deb .)
	cp -a minbase large
	mkdir -p large/usr/src
	tar -C large/usr/src -xf deb/usr/src/linux-source-6.1.tar.xz
	rm -r deb
	: >large.done
fi
