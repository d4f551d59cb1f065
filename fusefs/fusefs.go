// Package fusefs serves an [overlay.Tree] through FUSE.
//
// It translates and decides nothing: each request of the kernel becomes one or
// two calls of the tree, and the answer becomes attributes or an errno. What a
// rename or a copy-up means is the tree's affair.
//
// The kernel is told to keep what it learns: names, attributes, listings,
// symlinks and contents stay in its caches for an hour, and after a first
// ENOSYS it opens files and directories without asking. So most of what a
// developer's tools do is answered by the kernel alone. That is right as long
// as every change goes through the mount or is announced to the kernel.
//
// Requests are served concurrently. A process must not touch a mount that it
// serves itself: its system call can hold the thread that should answer it.
package fusefs

import (
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// How long the kernel may keep what it was told: not a tolerance for stale
// answers (changes are announced), only a bound on what it keeps for nothing.
const (
	entryTimeout    = time.Hour
	attrTimeout     = time.Hour
	negativeTimeout = time.Hour
)

// filesystem answers the kernel's requests. It has every method of
// [fuse.RawFileSystem] itself: go-fuse's default answers OPEN and FLUSH with
// success and RELEASE with nothing, so a forgotten method would go unnoticed.
type filesystem struct {
	tree    *overlay.Tree
	nodes   *nodes
	changes *announcer
	log     *slog.Logger

	listed atomic.Pointer[overlay.Node] // the last directory read to its end, until Meanwhile

	makers bool // new files belong to who makes them, not to root
	owners owners

	// What the kernel takes ENOSYS for, set by agree before any request.
	noOpen, noOpendir bool
}

var _ fuse.RawFileSystem = (*filesystem)(nil)

// String names the filesystem in go-fuse's messages.
func (f *filesystem) String() string { return fsType }

// SetDebug does nothing: go-fuse itself logs the requests.
func (f *filesystem) SetDebug(bool) {}

// Init is for go-fuse's own server.
func (f *filesystem) Init(*fuse.Server) {}

// agree learns what the kernel can do (CAP_…), before any other request.
func (f *filesystem) agree(flags uint64) {
	f.noOpen = flags&fuse.CAP_NO_OPEN_SUPPORT != 0
	f.noOpendir = flags&fuse.CAP_NO_OPENDIR_SUPPORT != 0
}

// OnUnmount gives back what the kernel still held; it sends no FORGET for it.
func (f *filesystem) OnUnmount() {
	f.nodes.clear()
	f.nodes.memory.stop()
}

// StatFs implements statfs(2) with the numbers of the host.
func (f *filesystem) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	var st unix.Statfs_t
	if err := f.tree.Statfs(&st); err != nil {
		return f.status("statfs", in.NodeId, err)
	}
	*out = fuse.StatfsOut{
		Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail,
		Files: st.Files, Ffree: st.Ffree,
		Bsize: uint32(st.Bsize), Frsize: uint32(st.Frsize), NameLen: unix.NAME_MAX,
	}
	return fuse.OK
}

// Ioctl knows no command.
func (f *filesystem) Ioctl(_ <-chan struct{}, _ *fuse.IoctlIn, _ []byte, _ *fuse.IoctlOut, _ []byte) fuse.Status {
	return fuse.Status(unix.ENOTTY)
}
