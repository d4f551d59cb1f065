package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// announcer tells the kernel of changes that didn't come through the mount, so
// that what it has cached can be believed for long. A node that the kernel
// doesn't know (Tag 0) needs no word.
type announcer struct{ server *fuse.Server }

// NameChanged implements overlay.Notifier.
func (a announcer) NameChanged(dir *overlay.Node, name string) {
	if id := dir.Tag.Load(); id != 0 {
		a.server.EntryNotify(id, name)
	}
}

// Changed implements overlay.Notifier. Offset and length 0 mean all pages, a
// directory's listing among them.
func (a announcer) Changed(n *overlay.Node) {
	if id := n.Tag.Load(); id != 0 {
		a.server.InodeNotify(id, 0, 0)
	}
}
