package fusefs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// heard is what a kernel would be told.
type heard struct {
	mu      sync.Mutex
	all     []string
	unknown uint64 // an inode that it doesn't know
}

// knowsAllBut makes it know all inodes but one.
func (h *heard) knowsAllBut(id uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unknown = id
}

func (h *heard) say(what string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, what)
	return nil
}

func (h *heard) InvalidateEntry(parent uint64, name string) error {
	return h.say(fmt.Sprintf("%d/%s", parent, name))
}

func (h *heard) ExpireEntry(parent uint64, name string) error {
	return h.say(fmt.Sprintf("%d/%s?", parent, name))
}

func (h *heard) InvalidateInode(id uint64) error {
	err := h.say(fmt.Sprint(id))
	h.mu.Lock()
	defer h.mu.Unlock()
	if id == h.unknown {
		return unix.ENOENT
	}
	return err
}

func (h *heard) InvalidateAttributes(id uint64) error { return h.say(fmt.Sprintf("%d's", id)) }

// want compares with all that was heard.
func (h *heard) want(t *testing.T, when string, want ...string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Equal(h.all, want) {
		t.Errorf("%s: heard %v, want %v", when, h.all, want)
	}
}

// What is mounted on a new directory of a layer must not go when that is
// announced again.
func TestWhatIsMountedOnANewDirectoryStays(t *testing.T) {
	need(t, "root")
	dir := project(t, map[string]string{"etc/": ""})
	m := serve(t, dir, Options{}, nil)
	boot := m.path("boot")
	wantErrno(t, "access", unix.Access(boot, unix.F_OK), unix.ENOENT) // which the kernel remembers until the first announcement
	check(t, "mkdir", os.Mkdir(filepath.Join(dir, "user/apps/base/boot"), 0o755))
	within(t, "a layer's directory is shown", func() bool { return unix.Access(boot, unix.F_OK) == nil })
	check(t, "mount", unix.Mount(testSource, boot, "tmpfs", 0, ""))
	defer unix.Unmount(boot, unix.MNT_DETACH) //nolint:errcheck // gone if the test fails
	time.Sleep(echo + echo/5)
	if !slices.Contains(testMounts(), boot) {
		t.Error("it was unmounted")
	}
}

func TestNamesAreAnnouncedAgainOnceAnswersUnderWayHaveArrived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(heard)
		a := &announcer{kernel: h}
		var dir, file, unknown overlay.Node
		dir.Tag.Store(7)
		file.Tag.Store(8)
		a.NameChanged(&dir, "x")
		a.NameChanged(&dir, "y")
		a.NameChanged(&unknown, "z")
		a.Changed(&file)
		a.Changed(&unknown)
		h.want(t, "at once", "7/x", "7/y", "8")
		time.Sleep(2 * echo)
		synctest.Wait()
		h.want(t, "later", "7/x", "7/y", "8", "7/x?", "7/y?")
		a.NameChanged(&dir, "x")
		time.Sleep(2 * echo)
		synctest.Wait()
		h.want(t, "the next time", "7/x", "7/y", "8", "7/x?", "7/y?", "7/x", "7/x?")
	})
}

// The kernel can't order an answer about what it didn't know at the time.
func TestChangesAreAnnouncedAgainOnceTheKernelKnowsTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &heard{unknown: 8}
		a := &announcer{kernel: h}
		var known, answered, looked, unknown overlay.Node
		known.Tag.Store(7)
		answered.Tag.Store(8)
		for _, n := range []*overlay.Node{&known, &answered, &looked, &unknown} {
			a.Changed(n)
		}
		h.want(t, "at once", "7", "8")
		h.knowsAllBut(0)
		looked.Tag.Store(9)
		time.Sleep(2 * echo)
		synctest.Wait()
		h.want(t, "later", "7", "8", "8", "9")
		time.Sleep(2 * echo)
		synctest.Wait()
		h.want(t, "and then", "7", "8", "8", "9")
	})
}
