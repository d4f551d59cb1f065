package fusefs

import (
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Contents are read and written by node, without handles: with OPEN answered
// by ENOSYS the kernel sends no RELEASE.

// openFlags: keep the cached content from one open to the next, and don't ask
// FLUSH at close; each write has been answered before.
const openFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH

// Open tells the kernel to open files without asking. O_TRUNC then arrives as
// SETATTR, since ATOMIC_O_TRUNC isn't negotiated.
func (f *filesystem) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if f.noOpen {
		return fuse.ENOSYS
	}
	out.OpenFlags = openFlags
	return fuse.OK
}

// Release has nothing to do: there are no handles.
func (f *filesystem) Release(<-chan struct{}, *fuse.ReleaseIn) {}

// Flush has nothing to say that a write hasn't said; the kernel asks once.
func (f *filesystem) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Read implements read(2) past the kernel's cache.
func (f *filesystem) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return nil, stale
	}
	size, err := f.tree.Read(n, buf, int64(in.Offset))
	if err != nil {
		return nil, f.status("read", in.NodeId, err)
	}
	return fuse.ReadResultData(buf[:size]), fuse.OK
}

// Write implements write(2).
func (f *filesystem) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return 0, stale
	}
	var size int
	var err error
	if in.Flags&unix.O_APPEND != 0 && in.WriteFlags&fuse.WRITE_CACHE == 0 {
		size, err = f.append(n, data, int64(in.Offset))
	} else {
		size, err = f.tree.Write(n, data, int64(in.Offset))
	}
	if err == nil && in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		err = f.tree.KillSuid(n)
	}
	return uint32(size), f.status("write", in.NodeId, err)
}

// append writes to the end of a file. The kernel takes off for that, which is
// wrong where a layer's file became longer or shorter: with O_APPEND it doesn't
// ask for the size again, and keeps the data as if they were at off.
func (f *filesystem) append(n *overlay.Node, data []byte, off int64) (int, error) {
	size, at, err := f.tree.Append(n, data)
	if err == nil && at != off {
		go f.changes.Changed(n) // which may wait for this answer
	}
	return size, err
}

// Writev leaves its work to Write: the device gives a write in one piece.
func (f *filesystem) Writev(<-chan struct{}, *fuse.WriteIn, [][]byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

// Lseek implements SEEK_DATA and SEEK_HOLE; the kernel does the others.
func (f *filesystem) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return stale
	}
	off, err := f.tree.Seek(n, int64(in.Offset), int(in.Whence))
	if err != nil || f.isHole(n, in, off) {
		// Unless it is mapped and was written to, which the kernel brings to us with
		// an invalidation, not by itself.
		_ = f.changes.kernel.InvalidateInode(in.NodeId)
		off, err = f.tree.Seek(n, int64(in.Offset), int(in.Whence))
	}
	out.Offset = uint64(off)
	return f.status("lseek", in.NodeId, err)
}

// isHole tells whether the answer off to an LSEEK comes from a hole in the file.
func (f *filesystem) isHole(n *overlay.Node, in *fuse.LseekIn, off int64) bool {
	if in.Whence == unix.SEEK_DATA {
		return off != int64(in.Offset)
	}
	var e overlay.Entry
	return f.tree.Stat(n, &e) != nil || off < e.Size
}

// Fallocate implements fallocate(2) in the modes that the host has.
func (f *filesystem) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return stale
	}
	return f.status("fallocate", in.NodeId, f.tree.Allocate(n, in.Mode, int64(in.Offset), int64(in.Length)))
}

// CopyFileRange implements copy_file_range(2) between two files of the mount.
func (f *filesystem) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	src, dst := f.nodes.get(in.NodeId), f.nodes.get(in.NodeIdOut)
	if src == nil || dst == nil {
		return 0, stale
	}
	// The answer has 32 bits.
	length := int(min(in.Len, math.MaxUint32&^(blockSize-1)))
	n, err := f.tree.CopyRange(src, int64(in.OffIn), dst, int64(in.OffOut), length)
	return uint32(n), f.status("copy_file_range", in.NodeIdOut, err)
}

// Fsync implements fsync(2) and fdatasync(2).
func (f *filesystem) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return f.sync("fsync", in)
}

// fsyncData is FUSE_FSYNC_FDATASYNC of include/uapi/linux/fuse.h.
const fsyncData = 1

func (f *filesystem) sync(op string, in *fuse.FsyncIn) fuse.Status {
	n := f.nodes.get(in.NodeId)
	if n == nil {
		return stale
	}
	return f.status(op, in.NodeId, f.tree.Sync(n, in.FsyncFlags&fsyncData != 0))
}

// The kernel keeps locks itself (no POSIX_LOCKS, no FLOCK_LOCKS): all who
// could hold one are on this side of the mount.

// GetLk is never asked.
func (f *filesystem) GetLk(<-chan struct{}, *fuse.LkIn, *fuse.LkOut) fuse.Status { return fuse.ENOSYS }

// SetLk is never asked.
func (f *filesystem) SetLk(<-chan struct{}, *fuse.LkIn) fuse.Status { return fuse.ENOSYS }

// SetLkw is never asked.
func (f *filesystem) SetLkw(<-chan struct{}, *fuse.LkIn) fuse.Status { return fuse.ENOSYS }
