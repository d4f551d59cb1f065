package fusefs

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// heard is what a kernel would be told.
type heard struct {
	mu  sync.Mutex
	all []string
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

func (h *heard) InvalidateInode(id uint64) error { return h.say(fmt.Sprint(id)) }

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
		at := func(when string, want ...string) {
			t.Helper()
			h.mu.Lock()
			defer h.mu.Unlock()
			if !slices.Equal(h.all, want) {
				t.Errorf("%s: heard %v, want %v", when, h.all, want)
			}
		}
		at("at once", "7/x", "7/y", "8")
		time.Sleep(2 * echo)
		synctest.Wait()
		at("later", "7/x", "7/y", "8", "7/x", "7/y")
		a.NameChanged(&dir, "x")
		time.Sleep(2 * echo)
		synctest.Wait()
		at("the next time", "7/x", "7/y", "8", "7/x", "7/y", "7/x", "7/x")
	})
}
