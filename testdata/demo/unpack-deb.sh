#!/bin/sh
# Downloads a Debian package and unpacks it into a directory, without
# installing it.
#
#	unpack-deb.sh PACKAGE DIR
set -eu
package=$1 dir=$2

[ -d "$dir" ] && exit 0
apt-cache show "$package" >/dev/null 2>&1 || {
	if [ "$(id -u)" = 0 ]; then apt-get update -qq; else sudo apt-get update -qq; fi
}
temp=$dir.part
rm -rf "$temp"
mkdir -p "$temp/deb"
# The option spares root a warning that apt's own user can't write here.
(cd "$temp/deb" && apt-get download -qq -o APT::Sandbox::User=root "$package")
dpkg-deb -x "$temp"/deb/*.deb "$temp/root"
mv "$temp/root" "$dir"
rm -rf "$temp"
