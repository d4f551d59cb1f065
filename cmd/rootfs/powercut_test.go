package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A power cut takes along what wasn't synced, and no more: each entry is the
// old one or the new one, and what was synced is the new one.
func TestPowerCutLeavesOldOrNew(t *testing.T) {
	need(t, "fuse", "loop", "fsck")
	cuts := crashes("ROOTFS_POWER_CUTS", 5)
	edits, syncs := 0, 0
	for left := cuts; left > 0; left -= crashesAProject {
		c := newCrashing(t)
		c.cut = new(atomic.Bool)
		h := newLoopHost(t, filepath.Join(c.project, ".rootfs"))
		c.crash = func() error {
			pid, err := daemonPID(c.project)
			if err != nil {
				return err
			}
			c.cut.Store(true)
			defer c.cut.Store(false)
			return errors.Join(h.shutdown(), unix.Kill(pid, unix.SIGKILL), h.plugIn())
		}
		c.begin()
		for range min(left, crashesAProject) {
			c.round()
		}
		c.end()
		for _, w := range c.writers {
			edits, syncs = edits+w.edits, syncs+w.syncs
		}
	}
	t.Logf("%d power cuts, %d edits, %d syncs", cuts, edits, syncs)
}

// What is in the cache is whole, though names reach the disk before contents do
// when another program syncs a file of its own.
func TestPowerCutLeavesTheCacheWhole(t *testing.T) {
	need(t, "loop", "fsck")
	project := layProject(t, `
-- rootfs.toml --
[[file]]
path = "/etc/link"
type = "symlink"
target = "/elsewhere"
-- user/sysconfig/etc/issue --
issue
`)
	h := newLoopHost(t, filepath.Join(t.TempDir(), "cache"))
	t.Setenv("XDG_CACHE_HOME", h.dir)
	rootfs(t, project, "export", "--tar", "before.tar")
	sh(t, h.dir, `echo other >other; sync other`)
	if err := errors.Join(h.shutdown(), h.plugIn()); err != nil {
		t.Fatal(err)
	}
	rootfs(t, project, "export", "--tar", "after.tar")
	sh(t, project, `cmp before.tar after.tar`)
}

// loopHost is an ext4 filesystem in a file, mounted, which can lose power.
type loopHost struct {
	t          *testing.T
	image, dir string
}

func newLoopHost(t *testing.T, dir string) *loopHost {
	t.Helper()
	h := &loopHost{t: t, image: filepath.Join(t.TempDir(), "host.img"), dir: dir}
	sh(t, ".", `truncate -s 128M "$1"; mkfs.ext4 -q -b 4096 "$1"; mkdir -p "$2"`, h.image, h.dir)
	if err := h.mount(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(h.dir, unix.MNT_DETACH) })
	return h
}

func (h *loopHost) mount() error { return exec.Command("mount", "-o", "loop", h.image, h.dir).Run() }

// unmount waits for a process that was killed and still has files open. Another
// mount namespace may go on holding the filesystem.
func (h *loopHost) unmount() error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if err := unix.Unmount(h.dir, 0); !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}

// shutdown stops the filesystem as it is on the disk at this moment.
func (h *loopHost) shutdown() error {
	const (
		ioctlShutdown = 0x8004587d // EXT4_IOC_SHUTDOWN, fs/ext4/ext4.h
		noLogFlush    = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH
	)
	f, err := os.Open(h.dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.IoctlSetPointerInt(int(f.Fd()), ioctlShutdown, noLogFlush), f.Close())
}

// plugIn mounts again, which replays the journal, and has e2fsck look. It goes
// on with a copy, which nobody else can hold.
func (h *loopHost) plugIn() error {
	if err := h.unmount(); err != nil {
		return err
	}
	next := h.image + "+"
	if err := exec.Command("cp", "--sparse=always", h.image, next).Run(); err != nil {
		return err
	}
	if err := os.Remove(h.image); err != nil {
		return err
	}
	h.image = next
	if err := errors.Join(h.mount(), h.unmount()); err != nil {
		return err
	}
	if out, err := exec.Command("e2fsck", "-fn", h.image).CombinedOutput(); err != nil {
		h.t.Errorf("e2fsck after a power cut: %v\n%s", err, out)
	}
	return h.mount()
}

// A checkpoint is on the disk when the command is done, also where all it does is
// to name one.
func TestPowerCutLeavesCheckpoints(t *testing.T) {
	need(t, "loop", "fsck")
	project := layProject(t, "-- user/sysconfig/etc/passwd --\n")
	h := newLoopHost(t, filepath.Join(project, ".rootfs"))
	rootfs(t, project, "chown", "1:1", "/etc/passwd")
	rootfs(t, project, "checkpoint")
	for _, name := range []string{"first", "second"} {
		rootfs(t, project, "checkpoint", name)
		if err := errors.Join(h.shutdown(), h.plugIn()); err != nil {
			t.Fatal(err)
		}
		if log := rootfs(t, project, "log"); !strings.Contains(log, name) {
			t.Errorf("after checkpoint %s, log has\n%s", name, log)
		}
	}
}
