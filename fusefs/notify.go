package fusefs

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// echo is when an announcement of names is made again. An answer that was
// looked up before a change may reach the kernel after its announcement, and
// would be believed until its timeout; by then it has arrived. Attributes and
// contents need no echo: the kernel orders their answers itself (attr_version
// in fs/fuse/inode.c; a page that is being read is locked).
const echo = time.Second

// announcer tells the kernel of changes that didn't come through the mount, so
// that what it has cached can be believed for long. A node that the kernel
// doesn't know (Tag 0) needs no word.
type announcer struct {
	kernel notifier

	mu    sync.Mutex
	again []func()
}

// notifier is what an announcer needs of a [device.Device]. An error means that
// the kernel knows nothing of the kind, or that the mount is gone.
type notifier interface {
	InvalidateEntry(parent uint64, name string) error
	InvalidateInode(id uint64) error
}

// NameChanged implements overlay.Notifier.
func (a *announcer) NameChanged(dir *overlay.Node, name string) {
	if id := uint64(dir.Tag.Load()); id != 0 {
		a.sayTwice(func() { _ = a.kernel.InvalidateEntry(id, name) })
	}
}

// Changed implements overlay.Notifier.
func (a *announcer) Changed(n *overlay.Node) {
	id := uint64(n.Tag.Load())
	if id == 0 {
		return
	}
	say := func() { _ = a.kernel.InvalidateInode(id) }
	if n.Type() == unix.S_IFDIR {
		a.sayTwice(say)
	} else {
		say()
	}
}

// sayTwice makes an announcement now, and again together with the others that
// were made meanwhile.
func (a *announcer) sayTwice(say func()) {
	say()
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
