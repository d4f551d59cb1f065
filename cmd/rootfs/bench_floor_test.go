//go:build bench

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/fusefs/device"
)

// The floor is what a FUSE mount costs when its daemon has nothing to do: the
// tree's names and attributes are in its memory before it mounts, new files
// live in memory alone, and the kernel is told to keep all, as our own daemon
// tells it. What a mount of ours takes beyond it is the price of an overlay and
// of a host filesystem; what the floor takes no daemon in Go can save.
//
// It has what the works of this benchmark need and no more.

// keptContent is up to which size the floor keeps what is written to a file, in
// bytes: a compiler reads its sources again. Of a larger file it has the size.
const keptContent = 1 << 20

type floor struct {
	fuse.RawFileSystem // answers ENOSYS, mostly

	mu    sync.RWMutex
	nodes []*floorNode // by the kernel's number
}

type floorNode struct {
	attr    fuse.Attr
	source  string // of a file or symlink of the tree; else it is ours
	content []byte

	names    []string // of a directory, as listed; "" for one that is gone
	children map[string]uint64
	places   map[string]int
}

// serveFloor shows the folder tree on the folder in os.Args[2] until it is
// unmounted.
func serveFloor(tree string, _ func()) error {
	f := &floor{RawFileSystem: fuse.NewDefaultRawFileSystem(), nodes: make([]*floorNode, 1, 1<<17)}
	if _, err := f.load(tree); err != nil {
		return err
	}
	runtime.GC()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,max_read=%d", fd, 1<<20)
	if err := unix.Mount("floor", os.Args[2], "fuse.floor", 0, options); err != nil {
		return err
	}
	d, err := device.Open(fd, f, &fuse.MountOptions{
		MaxWrite: 1 << 20, ExtraCapabilities: fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_DONT_MASK,
		DisabledCapabilities: fuse.CAP_PASSTHROUGH, ExplicitDataCacheControl: true,
		EnableSymlinkCaching: true,
	}, slog.Default())
	if err != nil {
		return err
	}
	d.Serve()
	return nil
}

// load reads what is at path, and below it.
func (f *floor) load(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return 0, err
	}
	n := &floorNode{source: path}
	n.attr = fuse.Attr{
		Size: uint64(st.Size), Blocks: uint64(st.Blocks), Blksize: 4096,
		Atime: uint64(st.Atim.Sec), Atimensec: uint32(st.Atim.Nsec), Mtime: uint64(st.Mtim.Sec), Mtimensec: uint32(st.Mtim.Nsec),
		Ctime: uint64(st.Ctim.Sec), Ctimensec: uint32(st.Ctim.Nsec),
		Mode: st.Mode, Nlink: 1, Rdev: uint32(st.Rdev),
	}
	id := f.add(n)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return id, nil
	}
	names, err := os.ReadDir(path)
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		child, err := f.load(filepath.Join(path, name.Name()))
		if err != nil {
			return 0, err
		}
		n.put(name.Name(), child)
	}
	return id, nil
}

// add gives a node its number.
func (f *floor) add(n *floorNode) uint64 {
	id := uint64(len(f.nodes))
	n.attr.Ino = id
	f.nodes = append(f.nodes, n)
	return id
}

func (n *floorNode) put(name string, child uint64) {
	if n.children == nil {
		n.children, n.places = make(map[string]uint64), make(map[string]int)
	}
	n.children[name], n.places[name] = child, len(n.names)
	n.names = append(n.names, name)
}

func (n *floorNode) entry(out *fuse.EntryOut) {
	out.NodeId = n.attr.Ino
	out.SetEntryTimeout(time.Hour)
	out.SetAttrTimeout(time.Hour)
	out.Attr = n.attr
}

func (f *floor) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if id, ok := f.nodes[in.NodeId].children[name]; ok {
		f.nodes[id].entry(out)
	} else {
		out.SetEntryTimeout(time.Hour)
	}
	return fuse.OK
}

func (f *floor) Forget(uint64, uint64) {}

func (f *floor) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.mu.RLock()
	defer f.mu.RUnlock()
	out.SetTimeout(time.Hour)
	out.Attr = f.nodes[in.NodeId].attr
	return fuse.OK
}

func (f *floor) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[in.NodeId]
	if in.Valid&fuse.FATTR_MODE != 0 {
		n.attr.Mode = n.attr.Mode&unix.S_IFMT | in.Mode&0o7777
	}
	if in.Valid&fuse.FATTR_SIZE != 0 {
		n.attr.Size, n.content = in.Size, nil
	}
	out.SetTimeout(time.Hour)
	out.Attr = n.attr
	return fuse.OK
}

func (f *floor) make(dir uint64, name string, mode uint32, out *fuse.EntryOut) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	n := &floorNode{attr: fuse.Attr{Mode: mode, Nlink: 1, Blksize: 4096}}
	n.attr.SetTimes(&now, &now, &now)
	f.nodes[dir].put(name, f.add(n))
	n.entry(out)
}

func (f *floor) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	f.make(in.NodeId, name, in.Mode, out)
	return fuse.OK
}

func (f *floor) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	f.make(in.NodeId, name, unix.S_IFDIR|in.Mode&0o7777, out)
	return fuse.OK
}

func (f *floor) remove(dir uint64, name string) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[dir]
	id, ok := n.children[name]
	if !ok {
		return fuse.ENOENT
	}
	if len(f.nodes[id].children) > 0 {
		return fuse.Status(unix.ENOTEMPTY)
	}
	n.names[n.places[name]] = ""
	delete(n.children, name)
	delete(n.places, name)
	return fuse.OK
}

func (f *floor) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return f.remove(in.NodeId, name)
}

func (f *floor) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return f.remove(in.NodeId, name)
}

func (f *floor) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	f.mu.RLock()
	n := f.nodes[in.NodeId]
	f.mu.RUnlock()
	target, err := os.Readlink(n.source)
	return []byte(target), fuse.ToStatus(err)
}

func (f *floor) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	n := f.nodes[in.NodeId]
	if n.source == "" {
		buf = buf[:min(uint64(len(buf)), n.attr.Size-min(n.attr.Size, in.Offset))]
		clear(buf)
		if in.Offset < uint64(len(n.content)) {
			copy(buf, n.content[in.Offset:])
		}
		return fuse.ReadResultData(buf), fuse.OK
	}
	fd, err := unix.Open(n.source, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fuse.ToStatus(err)
	}
	size, err := unix.Pread(fd, buf, int64(in.Offset))
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return nil, fuse.EIO
	}
	return fuse.ReadResultData(buf[:size]), fuse.OK
}

func (f *floor) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[in.NodeId]
	end := in.Offset + uint64(len(data))
	n.attr.Size = max(n.attr.Size, end)
	if end <= keptContent {
		if missing := int(end) - len(n.content); missing > 0 {
			n.content = append(n.content, make([]byte, missing)...)
		}
		copy(n.content[in.Offset:], data)
	}
	return uint32(len(data)), fuse.OK
}

func (f *floor) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status    { return fuse.ENOSYS }
func (f *floor) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }
func (f *floor) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status                 { return fuse.ENOSYS }
func (f *floor) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status                 { return fuse.OK }
func (f *floor) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status               { return fuse.OK }

func (f *floor) GetXAttr(<-chan struct{}, *fuse.InHeader, string, []byte) (uint32, fuse.Status) {
	return 0, fuse.ENODATA
}

func (f *floor) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	f.mu.RLock()
	defer f.mu.RUnlock()
	dir := f.nodes[in.NodeId]
	for off := in.Offset; off < uint64(len(dir.names)); off++ {
		name := dir.names[off]
		if name == "" {
			continue
		}
		n := f.nodes[dir.children[name]]
		entry := out.AddDirLookupEntry(fuse.DirEntry{Name: name, Mode: n.attr.Mode, Ino: n.attr.Ino, Off: off + 1})
		if entry == nil {
			break
		}
		n.entry(entry)
	}
	return fuse.OK
}

// mountFloor has it served by a process of its own.
func mountFloor(t *testing.T, tree, dir string) *mounted {
	t.Helper()
	sh(t, dir, `mkdir mnt`)
	return serveMount(t, fuseFloor, dir, "env", childEnv+"=floor", os.Args[0], tree, filepath.Join(dir, "mnt"))
}
