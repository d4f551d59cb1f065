//go:build bench

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// filesystem is one of those that are compared. mount shows the folder tree in
// a way that can be written, with all that it needs below dir.
type filesystem struct {
	name  string
	mount func(t *testing.T, tree, dir string) *mounted
}

// The filesystems, by what the report calls them.
const (
	native      = "native ext4"
	overlayFS   = "kernel overlayfs"
	fuseOverlay = "fuse-overlayfs"
	unionfs     = "unionfs-fuse"
	fuseFloor   = "floor of FUSE"
	ours        = "rootfs"
)

var filesystems = []filesystem{
	{native, mountNative},
	{overlayFS, mountOverlay},
	{fuseOverlay, mountFuseOverlay},
	{unionfs, mountUnionfs},
	{fuseFloor, mountFloor},
	{ours, mountOurs},
}

// mounted is one that can be used.
type mounted struct {
	name  string
	root  string // where the tree is read
	room  string // where new files go
	pid   int    // of the daemon; 0 for none
	close func()
}

// mountNative is no mount: the tree where it is, and a folder beside.
func mountNative(t *testing.T, tree, dir string) *mounted {
	t.Helper()
	sh(t, dir, `mkdir room`)
	return &mounted{name: native, root: tree, room: filepath.Join(dir, "room"), close: func() {}}
}

// newMounted describes a mount of dir/mnt that is there, and has it ended with
// the test.
func newMounted(t *testing.T, name, dir string, pid int, end func()) *mounted {
	t.Helper()
	m := &mounted{name: name, root: filepath.Join(dir, "mnt"), pid: pid, close: sync.OnceFunc(end)}
	m.room = filepath.Join(m.root, "room")
	t.Cleanup(m.close)
	// With the first open the kernel learns whether it is to ask: until then it
	// also tells of each file that was closed.
	sh(t, m.root, `mkdir room; cat etc/passwd >/dev/null`)
	return m
}

func mountOverlay(t *testing.T, tree, dir string) *mounted {
	t.Helper()
	sh(t, dir, `mkdir mnt upper work`)
	mnt := filepath.Join(dir, "mnt")
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%[2]s/work", tree, dir)
	if err := unix.Mount("overlay", mnt, "overlay", 0, options); err != nil {
		t.Fatal("mount overlay: ", err)
	}
	return newMounted(t, overlayFS, dir, 0, func() { endMount(t, mnt) })
}

func mountFuseOverlay(t *testing.T, tree, dir string) *mounted {
	t.Helper()
	sh(t, dir, `mkdir mnt upper work`)
	return serveMount(t, fuseOverlay, dir, "fuse-overlayfs", "-f",
		"-o", fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%[2]s/work", tree, dir), filepath.Join(dir, "mnt"))
}

func mountUnionfs(t *testing.T, tree, dir string) *mounted {
	t.Helper()
	sh(t, dir, `mkdir mnt upper`)
	return serveMount(t, unionfs, dir, "unionfs", "-f",
		"-o", "cow", fmt.Sprintf("%s/upper=RW:%s=RO", dir, tree), filepath.Join(dir, "mnt"))
}

// serveMount starts a FUSE daemon in the foreground and returns when dir/mnt is
// mounted.
func serveMount(t *testing.T, name, dir string, args ...string) *mounted {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	mnt := filepath.Join(dir, "mnt")
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if m, err := mountAt(mnt); err != nil {
			t.Fatal(err)
		} else if m != nil {
			break
		}
		if time.Since(begin) > commandLimit {
			t.Fatalf("%s doesn't mount", name)
		}
	}
	return newMounted(t, name, dir, cmd.Process.Pid, func() {
		endMount(t, mnt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, said.String())
		}
	})
}

// mountOurs is the program itself, as it mounts by default.
func mountOurs(t *testing.T, tree, dir string) *mounted {
	t.Helper()
	sh(t, dir, `mkdir mnt; printf '[base]\nsource = "%s"\n' "$1" >rootfs.toml`, tree)
	sh(t, dir, `"$1" mount mnt`, program(t))
	text, err := os.ReadFile(filepath.Join(dir, ".rootfs/mount.json"))
	if err != nil {
		t.Fatal(err)
	}
	var state mountState
	if err := json.Unmarshal(text, &state); err != nil {
		t.Fatal(err)
	}
	return newMounted(t, ours, dir, state.PID, func() { sh(t, dir, `"$1" umount mnt`, program(t)) })
}

// program is the one that people have (make build): a test binary starts
// slower and is larger.
func program(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../bin/rootfs")
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v: run: make build", err)
	}
	return path
}

// endMount waits a while for the last user to be gone.
func endMount(t *testing.T, mnt string) {
	t.Helper()
	for range 100 {
		err := unix.Unmount(mnt, unix.UMOUNT_NOFOLLOW)
		if !errors.Is(err, unix.EBUSY) {
			if err != nil {
				t.Error("unmount: ", err)
			}
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("%s stays busy", mnt)
	_ = unix.Unmount(mnt, unix.MNT_DETACH)
}

// cpu returns the processor time that the daemon has used, in seconds.
func (m *mounted) cpu(t *testing.T) float64 {
	t.Helper()
	if m.pid == 0 {
		return 0
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), ") ") // the name may have blanks
	fields := strings.Fields(after)
	ticks := 0
	for _, f := range fields[11:13] { // utime, stime: fields 14 and 15 of proc_pid_stat(5)
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return float64(ticks) / 100 // USER_HZ, the same on all architectures that we have
}

// rss returns the memory that the daemon occupies, in MiB.
func (m *mounted) rss(t *testing.T) float64 {
	t.Helper()
	if m.pid == 0 {
		return 0
	}
	kib := sh(t, ".", `sed -n 's/^VmRSS:[[:space:]]*\([0-9]*\) kB$/\1/p' /proc/$1/status`, strconv.Itoa(m.pid))
	n, err := strconv.Atoi(strings.TrimSpace(kib))
	if err != nil {
		t.Fatal(err)
	}
	return float64(n) / 1024
}
