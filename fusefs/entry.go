package fusefs

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Lookup tells the kernel about one name.
func (f *filesystem) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir := f.nodes.get(in.NodeId)
	if dir == nil {
		return stale
	}
	var e overlay.Entry
	n, err := f.tree.Lookup(dir, name, &e)
	switch {
	case err == nil:
		f.fill(n, &e, out)
	case errors.Is(err, overlay.ErrLost):
		return fuse.ENOENT // not to be remembered
	case errors.Is(err, unix.ENOENT):
		// An entry without a node: the kernel remembers that there is none.
		out.SetEntryTimeout(negativeTimeout)
	default:
		return f.status("lookup", in.NodeId, err)
	}
	return fuse.OK
}

// Forget gives back what the kernel was told n times.
func (f *filesystem) Forget(id, n uint64) { f.nodes.forget(id, n) }

// made answers with the node n, described by e, that a method of the tree has
// made in the directory dir, and passes the reference to it on to the kernel.
func (f *filesystem) made(op string, dir uint64, n *overlay.Node, e *overlay.Entry, err error, out *fuse.EntryOut) fuse.Status {
	if err != nil {
		return f.status(op, dir, err)
	}
	f.fill(n, e, out)
	return fuse.OK
}

// fill describes n, whose reference passes to the kernel.
func (f *filesystem) fill(n *overlay.Node, e *overlay.Entry, out *fuse.EntryOut) {
	out.NodeId, out.Generation = f.nodes.add(n)
	out.SetEntryTimeout(entryTimeout)
	out.SetAttrTimeout(attrTimeout)
	f.fillAttr(&out.Attr, e)
}
