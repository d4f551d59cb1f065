package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// A real distribution as base: what the mount shows, the layer and the image
// hold, entry for entry and field for field.
func TestDebianReachesEveryOutput(t *testing.T) {
	need(t, "root", "fuse", "loop", "fsck", "debian")
	project := t.TempDir()
	sh(t, project, `mkdir -p mnt user/apps/x/bin user/sysconfig/etc && echo debian >user/sysconfig/etc/hostname && echo x >user/apps/x/bin/x
		printf '[base]\nsource = "%s"\n' "$1" >rootfs.toml`, debianTar())
	mnt, umount := mountProject(t, project)
	shown := describe(t, mnt, plain)
	if len(shown) < 5000 {
		t.Fatalf("only %d entries", len(shown))
	}
	// Its /bin is a link, which a program that is installed there leaves one.
	sh(t, mnt, `[ "$(readlink bin)" = usr/bin ] && cmp bin/x ../user/apps/x/bin/x && test -f usr/bin/x -a -x usr/bin/env`)
	rootfs(t, project, "export", "--img", "disk.img", "--tar", "layer.tar")
	umount()
	t.Run("tar", func(t *testing.T) { same(t, shown, describe(t, untar(t, project+"/layer.tar"), plain)) })
	t.Run("image", func(t *testing.T) { same(t, shown, describe(t, loopMount(t, project+"/disk.img", 1<<20), plain)) })
	t.Run("fsck", func(t *testing.T) { sh(t, project, `e2fsck -fn 'disk.img?offset=1048576'`) })
}

// debianTar returns a tar of Debian's smallest system, made once and kept in
// the person's cache; "" where that can't be done.
var debianTar = sync.OnceValue(func() string {
	file := filepath.Join(userCache, "rootfs-test", "debian-minbase.tar")
	if _, err := os.Stat(file); err == nil {
		return file
	}
	if err := makeDebianTar(file); err != nil {
		fmt.Fprintln(os.Stderr, "debootstrap:", err)
		return ""
	}
	return file
})

func makeDebianTar(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-euc", `
		dir=$(mktemp -d)
		trap 'rm -rf "$dir"' EXIT
		debootstrap --variant=minbase bookworm "$dir/root" http://deb.debian.org/debian >"$dir/log" 2>&1 || { tail -n 3 "$dir/log" >&2; exit 1; }
		tar -C "$dir/root" --numeric-owner --xattrs --xattrs-include='*' -cf "$1.part" .
		mv "$1.part" "$1"`, "sh", file)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}
