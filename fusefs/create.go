package fusefs

import (
	"errors"

	"github.com/DragonOS-Community/rootfs/overlay"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The modes that arrive here are as the caller said, beside the umask
// (DONT_MASK): whether that counts depends on the directory's access list.

// permissions are the bits of st_mode that a caller chooses.
const permissions = 0o7777

// Create isn't there, so that the kernel makes a file by MKNOD and then opens it,
// as any other, without asking. The first time it asks, and so learns that no file
// is opened here, and that none is to be released.
func (f *filesystem) Create(<-chan struct{}, *fuse.CreateIn, string, *fuse.CreateOut) fuse.Status {
	return fuse.ENOSYS
}

// Tmpfile implements open(2) with O_TMPFILE.
func (f *filesystem) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	dir := f.nodes.get(in.NodeId)
	if dir == nil {
		return stale
	}
	var e overlay.Entry
	n, err := f.tree.Tmpfile(dir, in.Mode&permissions, f.owner(&in.InHeader, in.Umask), &e)
	out.OpenFlags = openFlags
	return f.made("tmpfile", in.NodeId, n, &e, err, &out.EntryOut)
}

// Mknod implements mknod(2), and open(2) with O_CREAT of a file that isn't there.
func (f *filesystem) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	dir := f.nodes.get(in.NodeId)
	if dir == nil {
		return stale
	}
	var e overlay.Entry
	n, err := f.tree.Mknod(dir, name, in.Mode, uint64(in.Rdev), f.owner(&in.InHeader, in.Umask), &e)
	if errors.Is(err, unix.EEXIST) {
		// It came through a layer, and the kernel hasn't heard yet. It looks
		// again when told so, and finds it.
		return stale
	}
	return f.made("mknod", in.NodeId, n, &e, err, out)
}

// Mkdir implements mkdir(2).
func (f *filesystem) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	dir := f.nodes.get(in.NodeId)
	if dir == nil {
		return stale
	}
	var e overlay.Entry
	n, err := f.tree.Mkdir(dir, name, in.Mode&permissions, f.owner(&in.InHeader, in.Umask), &e)
	return f.made("mkdir", in.NodeId, n, &e, err, out)
}

// Symlink implements symlink(2).
func (f *filesystem) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	dir := f.nodes.get(in.NodeId)
	if dir == nil {
		return stale
	}
	var e overlay.Entry
	n, err := f.tree.Symlink(dir, name, target, f.owner(in, 0), &e)
	return f.made("symlink", in.NodeId, n, &e, err, out)
}

// Readlink implements readlink(2).
func (f *filesystem) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return nil, stale
	}
	target, err := f.tree.Readlink(n)
	return []byte(target), f.status("readlink", in.NodeId, err)
}
