package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

func TestStateTellsALivingDaemon(t *testing.T) {
	p := &overlay.Project{Root: t.TempDir()}
	if err := os.Mkdir(p.StateDir(), 0o777); err != nil {
		t.Fatal(err)
	}
	nobody := func(when string) {
		t.Helper()
		if s, _, err := readState(p); s != nil || err != nil {
			t.Fatalf("%s: state %v, %v; want none", when, s, err)
		}
	}
	nobody("at first")

	first, err := claimState(p, mountState{PID: 1, Mountpoint: "/first"})
	if err != nil {
		t.Fatal(err)
	}
	s, wait, err := readState(p)
	if err != nil || s == nil || s.PID != 1 || s.Mountpoint != "/first" {
		t.Fatalf("state %v, %v", s, err)
	}
	if err := wait(10 * time.Millisecond); err == nil {
		t.Error("it isn't waited for a living daemon")
	}

	// The next daemon comes while the first one ends, and removes its file.
	next := make(chan *stateClaim)
	go func() {
		claim, err := claimState(p, mountState{PID: 2, Mountpoint: "/second"})
		if err != nil {
			t.Error(err)
		}
		next <- claim
	}()
	time.Sleep(20 * time.Millisecond)
	if err := first.release(); err != nil {
		t.Fatal(err)
	}
	second := <-next
	if s, _, err := readState(p); err != nil || s == nil || s.PID != 2 {
		t.Errorf("state %v, %v; want the second daemon's", s, err)
	}
	if err := second.file.Close(); err != nil { // as the kernel does for the killed
		t.Fatal(err)
	}
	nobody("after a kill")
}

// Who looks while a daemon begins sees it whole or not at all.
func TestStateIsNeverHalf(t *testing.T) {
	p := &overlay.Project{Root: t.TempDir()}
	if err := p.MakeStateDir(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 500 {
			claim, err := claimState(p, mountState{PID: 1, Mountpoint: "/mnt"})
			if err == nil {
				err = claim.file.Close() // as the kernel does for the killed
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for {
		select {
		case <-done:
			return
		default:
		}
		if s, _, err := readState(p); err != nil || s != nil && s.Mountpoint != "/mnt" {
			t.Errorf("state %v, %v", s, err)
			<-done
			return
		}
	}
}

// A daemon that begins or ends can't be asked, though its state is there; and
// only one command at a time can edit.
func TestWhoBeginsOrEndsIsWaitedFor(t *testing.T) {
	project := layProject(t, "-- user/sysconfig/etc/passwd --\n")
	p := &overlay.Project{Root: project}
	if err := p.MakeStateDir(); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"checkpoint", "chown 1:1 /etc/passwd", "restore /etc/passwd", "export --tar out.tar"} {
		claim, err := claimState(p, mountState{PID: os.Getpid(), Mountpoint: filepath.Join(project, "mnt")})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		time.AfterFunc(100*time.Millisecond, func() { ended <- claim.release() })
		rootfs(t, project, strings.Fields(verb)...)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	lock, err := os.OpenFile(p.StateFile("lock"), os.O_WRONLY|os.O_TRUNC, 0)
	if err == nil {
		_, err = fmt.Fprintln(lock, os.Getpid())
	}
	if err == nil {
		err = flock(lock, unix.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { _ = lock.Close() })
	rootfs(t, project, "chown", "2:2", "/etc/passwd")
}

// A daemon that dies may hold its lock for longer than its mount.
func TestADyingDaemonIsWaitedFor(t *testing.T) {
	need(t, "fuse")
	project := layProject(t, "-- user/sysconfig/etc/passwd --\n")
	mnt := filepath.Join(project, "mnt")
	t.Cleanup(func() { _ = unix.Unmount(mnt, unix.MNT_DETACH) })
	for _, verb := range []string{"status", "log", "checkpoint", "which /etc/passwd", "export --tar out.tar", "gc"} {
		rootfs(t, project, "mount", "mnt") // clears the dead one
		lock, err := os.Open(filepath.Join(project, ".rootfs/mount.json"))
		if err == nil {
			err = killDaemon(project)
		}
		if err == nil {
			err = flock(lock, unix.LOCK_EX) // in its place
		}
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(50*time.Millisecond, func() { _ = lock.Close() })
		rootfs(t, project, strings.Fields(verb)...)
		if _, dead, err := resolveMount(mnt); !dead || err != nil {
			t.Errorf("%s: the mount isn't dead (%v), so this shows nothing", verb, err)
		}
	}
	rootfs(t, project, "umount", "mnt")
}
