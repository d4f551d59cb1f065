package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// blockSize is the unit that programs are advised to read and write in.
const blockSize = 4096

func (f *filesystem) fillAttr(a *fuse.Attr, e *overlay.Entry) {
	*a = fuse.Attr{
		Ino: e.Ino, Size: uint64(e.Size), Blocks: uint64(e.Blocks),
		Atime: uint64(e.Atime.Sec), Atimensec: e.Atime.Nsec,
		Mtime: uint64(e.Mtime.Sec), Mtimensec: e.Mtime.Nsec,
		Ctime: uint64(e.Ctime.Sec), Ctimensec: e.Ctime.Nsec,
		Mode: e.Mode, Nlink: e.Nlink,
		Owner: fuse.Owner{Uid: f.owners.user(e.UID), Gid: f.owners.group(e.GID)},
		// The low half of what unix.Mkdev makes is the kernel's 32-bit form.
		Rdev:    uint32(e.Rdev),
		Blksize: blockSize,
	}
}

// GetAttr implements stat(2).
func (f *filesystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return stale
	}
	var e overlay.Entry
	if err := f.tree.Stat(n, &e); err != nil {
		return f.status("getattr", in.NodeId, err)
	}
	f.fillAttr(&out.Attr, &e)
	out.SetTimeout(attrTimeout)
	return fuse.OK
}

// SetAttr implements chmod, chown, truncate, utimensat and O_TRUNC.
func (f *filesystem) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return stale
	}
	var before, e overlay.Entry
	if err := f.tree.Stat(n, &before); err != nil {
		return f.status("setattr", in.NodeId, err)
	}
	change := f.changeOf(in)
	if err := f.tree.SetAttr(n, change); err != nil {
		return f.status("setattr", in.NodeId, err)
	}
	if err := f.tree.Stat(n, &e); err == nil {
		out.SetTimeout(attrTimeout)
	} else {
		// What was done mustn't be said to have failed. The kernel is told what
		// is known, and asks again.
		f.log.Warn("attributes can't be read after a change of them", "node", in.NodeId, "error", err)
		e = before
		change.Apply(&e)
	}
	f.fillAttr(&out.Attr, &e)
	return fuse.OK
}

// fattrs are the bits of SETATTR that change something that is asked for by
// name.
const fattrs = fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID | fuse.FATTR_SIZE | fuse.FATTR_ATIME | fuse.FATTR_MTIME

func (f *filesystem) changeOf(in *fuse.SetAttrIn) *overlay.Change {
	c := &overlay.Change{}
	if in.Valid&fuse.FATTR_MODE != 0 {
		mode := in.Mode & permissions
		c.Mode = &mode
	}
	if in.Valid&fuse.FATTR_UID != 0 {
		uid := f.owners.user(in.Uid)
		c.UID = &uid
	}
	if in.Valid&fuse.FATTR_GID != 0 {
		gid := f.owners.group(in.Gid)
		c.GID = &gid
	}
	if in.Valid&fuse.FATTR_SIZE != 0 {
		size := int64(in.Size)
		c.Size = &size
	}
	if in.Valid&fuse.FATTR_ATIME != 0 {
		c.Atime = setTime(in.Atime, in.Atimensec, in.Valid&fuse.FATTR_ATIME_NOW != 0)
	}
	if in.Valid&fuse.FATTR_MTIME != 0 {
		c.Mtime = setTime(in.Mtime, in.Mtimensec, in.Valid&fuse.FATTR_MTIME_NOW != 0)
	}
	// With HANDLE_KILLPRIV_V2 the kernel leaves the set-id bits to us: it says
	// so for a truncate, and chown(2) always clears them, also chown(-1, -1),
	// which arrives as a request to change nothing.
	c.KillSuid = in.Valid&(fuse.FATTR_KILL_SUIDGID|fuse.FATTR_UID|fuse.FATTR_GID) != 0 || in.Valid&fattrs == 0
	return c
}

func setTime(sec uint64, nsec uint32, now bool) *overlay.SetTime {
	return &overlay.SetTime{Time: overlay.Time{Sec: int64(sec), Nsec: nsec}, Now: now}
}

// Statx is not needed: without it the kernel asks with GETATTR, and a birth
// time is the only thing more that it could say.
func (f *filesystem) Statx(<-chan struct{}, *fuse.StatxIn, *fuse.StatxOut) fuse.Status {
	return fuse.ENOSYS
}

// Access implements access(2) where the kernel doesn't check permissions
// itself: everybody who may come is root inside, and root may execute only
// what somebody may. (ENOSYS would make each file pass test -x.)
func (f *filesystem) Access(_ <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	if in.Mask&fuse.X_OK == 0 {
		return fuse.OK
	}
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return stale
	}
	var e overlay.Entry
	if err := f.tree.Stat(n, &e); err != nil {
		return f.status("access", in.NodeId, err)
	}
	if e.Mode&unix.S_IFMT != unix.S_IFDIR && e.Mode&0o111 == 0 {
		return fuse.EACCES
	}
	return fuse.OK
}
