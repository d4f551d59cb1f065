package fusefs

import (
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// The kernel asks for an xattr's size with an empty buffer: the size goes with
// ERANGE then, which go-fuse turns into success.

// GetXAttr implements getxattr(2).
func (f *filesystem) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return 0, stale
	}
	value, err := f.tree.GetXattr(n, name)
	if err != nil {
		return 0, f.status("getxattr", in.NodeId, err)
	}
	return fit(dest, value)
}

// ListXAttr implements listxattr(2).
func (f *filesystem) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return 0, stale
	}
	names, err := f.tree.ListXattr(n)
	if err != nil {
		return 0, f.status("listxattr", in.NodeId, err)
	}
	var list strings.Builder
	for _, name := range names {
		list.WriteString(name)
		list.WriteByte(0)
	}
	return fit(dest, list.String())
}

func fit[T string | []byte](dest []byte, value T) (uint32, fuse.Status) {
	if len(value) > len(dest) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

// SetXAttr implements setxattr(2).
func (f *filesystem) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return stale
	}
	err := f.tree.SetXattr(n, name, value, int(in.Flags))
	if err == nil && name == accessList {
		// It changes the permissions, which the kernel doesn't expect without
		// POSIX_ACL.
		_ = f.changes.kernel.InvalidateAttributes(in.NodeId)
	}
	return f.status("setxattr", in.NodeId, err)
}

const accessList = "system.posix_acl_access"

// RemoveXAttr implements removexattr(2).
func (f *filesystem) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return stale
	}
	return f.status("removexattr", in.NodeId, f.tree.RemoveXattr(n, name))
}
