package main

import (
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Who only looks at a mount for a moment, as other commands do, is waited for.
func TestUmountWhileOthersLook(t *testing.T) {
	need(t, "fuse")
	project := layProject(t, "-- user/sysconfig/etc/passwd --\n")
	mnt := filepath.Join(project, "mnt")
	t.Cleanup(func() { _ = unix.Unmount(mnt, unix.MNT_DETACH) })
	stop, stopped := make(chan struct{}), make(chan struct{})
	defer func() {
		close(stop)
		<-stopped
	}()
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Microsecond):
				_ = unix.Statfs(mnt, new(unix.Statfs_t))
			}
		}
	}()
	for range 10 {
		rootfs(t, project, "mount", "mnt")
		rootfs(t, project, "umount", "mnt")
	}
}
