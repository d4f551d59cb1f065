package fusefs

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Link implements link(2).
func (f *filesystem) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	n, dir := f.nodes.get(in.Oldnodeid), f.nodes.get(in.NodeId)
	if n == nil || dir == nil {
		return stale
	}
	if err := f.tree.Link(n, dir, name); err != nil {
		return f.status("link", in.NodeId, err)
	}
	// The answer tells the kernel about an entry, so it costs a reference,
	// which looking the new name up gives.
	var e overlay.Entry
	n, err := f.tree.Lookup(dir, name, &e)
	if err != nil {
		err = errors.Join(err, f.tree.Unlink(dir, name)) // what failed must not be there
	}
	return f.made("link", in.NodeId, n, &e, err, out)
}

// Unlink implements unlink(2).
func (f *filesystem) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	dir := f.nodes.get(in.NodeId)
	if dir == nil {
		return stale
	}
	return f.status("unlink", in.NodeId, f.tree.Unlink(dir, name))
}

// Rmdir implements rmdir(2).
func (f *filesystem) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	dir := f.nodes.get(in.NodeId)
	if dir == nil {
		return stale
	}
	return f.status("rmdir", in.NodeId, f.tree.Rmdir(dir, name))
}

// Rename implements renameat2(2).
func (f *filesystem) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	from, to := f.nodes.get(in.NodeId), f.nodes.get(in.Newdir)
	if from == nil || to == nil {
		return stale
	}
	return f.status("rename", in.NodeId, f.tree.Rename(from, oldName, to, newName, in.Flags))
}
