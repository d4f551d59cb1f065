package fusefs

import (
	"errors"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// OpenDir tells the kernel to open directories without asking, and to keep
// their listings.
func (f *filesystem) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if f.noOpendir {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// ReleaseDir has nothing to do: a directory is read by its node.
func (f *filesystem) ReleaseDir(*fuse.ReleaseIn) {}

// FsyncDir implements fsync(2) of a directory.
func (f *filesystem) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return f.sync("fsyncdir", in)
}

// ReadDirPlus lists a directory with what LOOKUP would say of each entry, so
// that a walk asks once a batch and not once a file.
func (f *filesystem) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.list(in, listing{out, true})
}

// ReadDir lists a directory for a kernel that asks for no more than names.
func (f *filesystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.list(in, listing{out, false})
}

// listing is the answer to a request for directory entries.
type listing struct {
	out  *fuse.DirEntryList
	plus bool // with what LOOKUP would say
}

// add takes one entry of a directory into an answer and tells whether there was
// room for it; if so, it owns the reference to n. n is nil for "." and "..", and
// for an entry that couldn't be looked up.
func (f *filesystem) add(l listing, d fuse.DirEntry, n *overlay.Node, e *overlay.Entry) bool {
	if !l.plus {
		fits := l.out.AddDirEntry(d)
		if fits && n != nil {
			f.tree.Release(n, 1)
		}
		return fits
	}
	entry := l.out.AddDirLookupEntry(d)
	if entry != nil && n != nil {
		f.fill(n, e, entry)
	}
	return entry != nil
}

// dots are the offsets behind "." and ".."; a tree's cookie c becomes c+dots.
const dots = 2

// batch is how many names are asked of the tree at a time. A request has room
// for about 200.
const batch = 64

var batches = sync.Pool{New: func() any { return new([batch]overlay.DirEntry) }}

// list fills a request for directory entries.
func (f *filesystem) list(in *fuse.ReadIn, l listing) fuse.Status {
	dir := f.nodes.get(in.NodeId)
	if dir == nil {
		return stale
	}
	for off := in.Offset; off < dots; off++ {
		name := [dots]string{".", ".."}[off]
		if !f.add(l, fuse.DirEntry{Name: name, Mode: unix.S_IFDIR, Off: off + 1}, nil, nil) {
			return fuse.OK
		}
	}
	buf := batches.Get().(*[batch]overlay.DirEntry)
	defer batches.Put(buf)
	first := max(in.Offset, dots) - dots
	cookie := first
	for {
		n, err := f.tree.ReadDir(dir, cookie, buf[:])
		if err != nil && cookie > first {
			// The kernel has been told of entries, and drops them with an
			// error. It will ask for the rest and meet the error then.
			return fuse.OK
		}
		if err != nil {
			return f.status("readdir", in.NodeId, err)
		}
		for i := range buf[:n] {
			if !f.listOne(dir, &buf[i], l) {
				return fuse.OK
			}
		}
		if n < len(buf) {
			f.listed.Store(dir)
			return fuse.OK
		}
		cookie = buf[n-1].Cookie
	}
}

// listOne adds one entry and tells whether there was room for it.
func (f *filesystem) listOne(dir *overlay.Node, d *overlay.DirEntry, l listing) bool {
	var e overlay.Entry
	n, err := f.tree.Lookup(dir, d.Name, &e)
	if errors.Is(err, unix.ENOENT) {
		return true // removed meanwhile
	}
	out := fuse.DirEntry{Name: d.Name, Mode: d.Type, Ino: e.Ino, Off: d.Cookie + dots}
	if err != nil {
		// Whoever looks the name up will see the error.
		return f.add(l, out, nil, nil)
	}
	out.Mode = e.Mode
	if !f.add(l, out, n, &e) {
		f.tree.Release(n, 1)
		return false
	}
	return true
}

// Meanwhile reads what comes next in a walk: in it, a program takes about as long
// between two directories as reading one takes.
func (f *filesystem) Meanwhile() {
	if dir := f.listed.Swap(nil); dir != nil {
		f.tree.ReadAhead(dir)
	}
}
