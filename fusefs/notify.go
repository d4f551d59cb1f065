package fusefs

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// echo is when an announcement of names is made again. An answer that was
// looked up before a change may reach the kernel after its announcement, and
// would be believed until its timeout; by then it has arrived. The same goes for
// the attributes of a node that the kernel doesn't know yet. For one that it
// knows, it orders the answers itself (attr_version in fs/fuse/inode.c; a page
// that is being read is locked).
const echo = time.Second

// announcer tells the kernel of changes that didn't come through the mount, so
// that what it has cached can be believed for long.
type announcer struct {
	kernel notifier

	mu    sync.Mutex
	again []func()
}

// notifier is what an announcer needs of a [device.Device]. ENOENT means that the
// kernel knows nothing of the kind, another error that the mount is gone.
type notifier interface {
	InvalidateEntry(parent uint64, name string) error
	ExpireEntry(parent uint64, name string) error
	InvalidateInode(id uint64) error
	InvalidateAttributes(id uint64) error
}

// NameChanged implements overlay.Notifier. Of a directory that the kernel doesn't
// know (Tag 0), it knows no names, and has asked for none. The second time, what
// is there may be in use, and something be mounted on it.
func (a *announcer) NameChanged(dir *overlay.Node, name string) {
	if id := uint64(dir.Tag.Load()); id != 0 {
		_ = a.kernel.InvalidateEntry(id, name)
		a.later(func() { _ = a.kernel.ExpireEntry(id, name) })
	}
}

// Changed implements overlay.Notifier.
func (a *announcer) Changed(n *overlay.Node) {
	if known := a.invalidate(n); !known || n.Type() == unix.S_IFDIR {
		a.later(func() { a.invalidate(n) })
	}
}

// invalidate announces a change of a node. It returns whether the kernel knows
// the node.
func (a *announcer) invalidate(n *overlay.Node) bool {
	id := uint64(n.Tag.Load())
	return id != 0 && !errors.Is(a.kernel.InvalidateInode(id), unix.ENOENT)
}

// later makes an announcement together with the others that are made meanwhile.
func (a *announcer) later(say func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.again = append(a.again, say); len(a.again) == 1 {
		time.AfterFunc(echo, a.repeat)
	}
}

func (a *announcer) repeat() {
	a.mu.Lock()
	again := a.again
	a.again = nil
	a.mu.Unlock()
	for _, say := range again {
		say()
	}
}
