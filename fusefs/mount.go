package fusefs

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/fusefs/device"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// fsType is the filesystem's subtype: /proc/mounts shows "fuse.rootfs".
const fsType = "rootfs"

// maxWrite is how much one READ or WRITE carries, in bytes; the kernel takes
// no more by default (fs.fuse.max_pages_limit).
const maxWrite = 1 << 20

// Options say how to mount.
type Options struct {
	// AllowOther lets all users in, and makes the kernel check permissions.
	AllowOther bool

	// Owners says who new files belong to.
	Owners Owners

	// FSName is the source that /proc/mounts shows; "rootfs" if empty.
	FSName string

	// Debug logs every request, at slog.LevelDebug.
	Debug bool

	// Logger takes what can't be answered with an errno; nil for nowhere.
	Logger *slog.Logger

	// Extra are more words for -o: ro, rw, [no]dev, [no]suid, [no]exec,
	// [no]atime, [no]diratime, sync, async, dirsync, default_permissions,
	// allow_other. The last of two that contradict each other holds. Devices
	// and set-uid bits have no effect in the mount unless dev and suid are
	// asked for, which only root may.
	Extra []string
}

// Owners are the rules for who a new file belongs to.
type Owners int

// Whoever mounts is root inside, so new files are root's, unless others are
// let in: then, as everywhere, they are their maker's.
const (
	OwnersByAccess Owners = iota // root, or with allow_other the maker
	OwnersMaker
	OwnersRoot
)

// Server is a mount that is being served.
type Server struct {
	dir  string
	done chan struct{}
}

// Mount mounts t on the directory dir and serves it in the background. It
// returns when the kernel has taken the mount; on an error nothing is mounted.
// t must stay open until Done is closed, or be halted.
func Mount(t *overlay.Tree, dir string, o Options) (*Server, error) {
	s, err := mount(t, dir, &o)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	return s, nil
}

func mount(t *overlay.Tree, dir string, o *Options) (*Server, error) {
	w, err := parseOptions(o)
	if err != nil {
		return nil, err
	}
	if dir, err = mountpoint(dir); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	fd, err := attach(dir, w)
	if err != nil {
		return nil, err
	}
	f := &filesystem{tree: t, nodes: newNodes(t.Root(), t.Release), log: o.Logger, makers: w.makersOwn(o), owners: mounter(o)}
	d, err := device.Open(fd, f, serverOptions(o), o.Logger)
	if err != nil {
		return nil, errors.Join(err, detach(dir, true))
	}
	f.agree(d.KernelFlags())
	f.changes = &announcer{kernel: d}
	f.nodes.memory.follow()
	// Before anybody visits a directory, whose changes until then would be missed.
	t.Watch(f.changes)
	s := &Server{dir: dir, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		d.Serve()
		f.OnUnmount()
	}()
	return s, nil
}

// mountpoint returns the directory's path without symlinks.
func mountpoint(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return "", cause(err)
	}
	fi, err := os.Stat(abs)
	if err != nil {
		return "", cause(err)
	}
	if !fi.IsDir() {
		return "", unix.ENOTDIR
	}
	return abs, nil
}

// cause takes the path off an error that will be reported with it.
func cause(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// serverOptions says what to negotiate in INIT. go-fuse asks for ASYNC_READ,
// BIG_WRITES, FILE_OPS, READDIRPLUS, PARALLEL_DIROPS, MAX_PAGES by itself. Not
// asked for:
//
//   - READDIRPLUS_AUTO: all batches of a listing come with attributes, which
//     the kernel keeps; a second walk then costs nothing.
//   - WRITEBACK_CACHE: the kernel would own sizes and times, and layers not be
//     live (docs/adr/0007-writes-go-through.md).
//   - ATOMIC_O_TRUNC: there is no OPEN that could carry O_TRUNC.
//   - POSIX_ACL: access lists are kept and inherited, not enforced.
//   - POSIX_LOCKS, FLOCK_LOCKS: the kernel's own are enough on one machine.
//   - EXPORT_SUPPORT: nobody serves this over NFS.
func serverOptions(o *Options) *fuse.MountOptions {
	level := slog.LevelWarn
	if o.Debug {
		level = slog.LevelDebug
	}
	return &fuse.MountOptions{
		MaxWrite: maxWrite,
		Debug:    o.Debug,
		Logger:   slog.NewLogLogger(o.Logger.Handler(), level),

		// With this the kernel leaves clearing set-id bits to the tree, and
		// asks for security.capability before a file's first write only, not
		// before each. The umask is left to the tree as well.
		ExtraCapabilities: fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_DONT_MASK,

		// Negotiated, it would count as a stacked filesystem, and kernel
		// overlayfs on top of the mount would reach its limit.
		DisabledCapabilities: fuse.CAP_PASSTHROUGH,

		// The automatic way drops a file's cached content when its mtime
		// changes, so also after each write that we were told of.
		ExplicitDataCacheControl: true,
		EnableSymlinkCaching:     true,
	}
}

// Done is closed when the mount is gone, whoever unmounted it: from all mount
// namespaces, some of which may have got a copy of it when they were made.
func (s *Server) Done() <-chan struct{} { return s.done }

// Unmount ends the mount and waits for the last request. It does nothing when
// the mount is gone already; it returns EBUSY while somebody uses it.
func (s *Server) Unmount() error {
	select {
	case <-s.done:
		return nil
	default:
	}
	if err := detach(s.dir, false); err != nil {
		return fmt.Errorf("unmount %s: %w", s.dir, err)
	}
	<-s.done
	return nil
}
