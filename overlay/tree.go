package overlay

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Tree is a project's merged root filesystem. See the package comment for
// what its methods promise.
type Tree struct {
	project *Project
	log     *slog.Logger

	// mu covers which names there are, where nodes are on the host, and the
	// parents of nodes and host directories. Who changes them holds it
	// exclusively.
	mu sync.RWMutex

	layers []*Layer // bottom to top

	// followed are the paths on which it turned where packages' directories
	// over symlinks lead (links.go).
	followed map[string]bool

	edits *Layer // the topmost, where there are any; it changes with a checkpoint
	epoch atomic.Uint32
	state *state // what is writable in the edits; nil when opened to read
	root  *Node

	overrides *overrides
	onLinks   map[linkKey]*override // on files with several names

	dirs, files *fdCache

	// freeze is held shared while content or attributes of the edits change
	// without mu, and exclusively to make a checkpoint.
	freeze sync.RWMutex

	// links are the nodes of files with several names in a layer.
	linkMu sync.Mutex
	links  map[linkKey]*Node
	names  linkNames

	// What few nodes have.
	rareMu     sync.Mutex
	overridden map[*Node]*override // the manifest's word on an entry of the layers
	hostNames  map[*Node]string    // of a file that the host calls otherwise
	copying    map[*Node]bool      // its content is being copied up
	copied     sync.Cond           // one of them has been

	indexes []*index // one for each of the edits, oldest first

	held map[string]*os.File // by directory (hold.go)

	reading *os.File // locked as long as a steady tree is open; nil for others

	ahead  aheadAttrs
	watch  *watcher          // nil until Watch
	opened map[string]string // what the signs of the layers said; until Watch

	pathXattrs atomic.Bool // the kernel lists attributes by path only
}

// Options say how to open a tree.
type Options struct {
	// ReadOnly opens the tree to look at it: nothing is created, no lock is
	// taken, and every change is refused with EROFS.
	ReadOnly bool

	// WithoutEdits leaves the edits out: the layers alone.
	WithoutEdits bool

	// UpTo leaves out what is above that part of the stack, and the manifest's
	// changes of metadata below [PartConfiguration]; 0 leaves out nothing.
	UpTo Part

	// Steady keeps what a tree that is opened to read has of the edits from being
	// changed or dropped by other processes, until it is closed.
	Steady bool

	// Checkpoint opens the edits as they were at that checkpoint, to read; ""
	// as they are now.
	Checkpoint string

	// Logger takes warnings; nil for none.
	Logger *slog.Logger

	// Context ends the fetching of images and the unpacking of archives before
	// the tree is open; nil for one that never ends.
	Context context.Context

	alone bool // nobody reads a steady tree
}

// Open merges the project's layers and edits. Unless opened to read, it takes
// the project's lock, so that one process at a time can edit, and sets the
// process's umask to 0, as a file server must. It reads no directory deeper
// than two levels.
func Open(p *Project, o Options) (_ *Tree, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Context == nil {
		o.Context = context.Background()
	}
	t := &Tree{
		project: p, log: o.Logger, links: make(map[linkKey]*Node), held: make(map[string]*os.File),
		overridden: make(map[*Node]*override), hostNames: make(map[*Node]string), copying: make(map[*Node]bool),
	}
	t.copied.L = &t.rareMu
	t.epoch.Store(1)
	t.dirs, t.files = newFDCaches()
	defer func() {
		if err != nil {
			_ = t.Close()
		}
	}()
	if !o.ReadOnly {
		t.opened = p.signs().state()
	}
	if t.layers, err = t.findLayers(o.Context, p); err != nil {
		return nil, err
	}
	if !o.has(PartConfiguration) {
		t.layers = slices.DeleteFunc(t.layers, func(l *Layer) bool { return l.Part() > o.UpTo })
	}
	if !o.WithoutEdits && o.has(PartEdits) {
		if err := t.openEdits(&o); err != nil {
			return nil, err
		}
	}
	for i, l := range t.layers {
		if err := l.open(t, i); err != nil {
			return nil, err
		}
	}
	numberLayers(t.layers)
	if err := t.linkPackages(); err != nil {
		return nil, err
	}
	if o.has(PartConfiguration) {
		if err := t.checkOverrides(); err != nil {
			return nil, err
		}
	}
	if err := t.makeRoot(); err != nil {
		return nil, err
	}
	if t.state != nil && t.state.beingRead {
		err = t.freezeForReaders()
	}
	return t, err
}

// newFDCaches shares out the process's descriptors: half stay free for
// copies, listings and the caller. The runtime has raised the soft limit.
func newFDCaches() (dirs, files *fdCache) {
	const enough = 16384
	limit := enough
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) == nil && r.Cur < enough {
		limit = int(r.Cur)
	}
	return newFDCache(limit / 4), newFDCache(limit / 4)
}

func (t *Tree) makeRoot() error {
	t.root = &Node{typ: unix.S_IFDIR}
	t.root.dir = &directory{stack: withAttached(t.stackBelow(len(t.layers))), overrides: t.overrides}
	if t.edits != nil {
		t.setInEdits(t.root)
	}
	var a attrs
	if err := t.root.dirAttrs(&a); err != nil {
		return err
	}
	// As most root directories have; it must not change when edits appear. But
	// an upper may be on a tmpfs, where a file can have it.
	t.root.ino = 2
	if t.project.directories != nil {
		t.root.ino = t.root.attrPart().layer.ino(&a.st)
	}
	if t.state != nil {
		return t.startRoot()
	}
	return nil
}

// lowerRoot is the root directory's stack without the edits and their checkpoints.
func (t *Tree) lowerRoot() []*hostDir {
	rank := 0
	for rank < len(t.layers) && !t.layers[rank].edit {
		rank++
	}
	return t.stackBelow(rank)
}

// Close gives everything back. No method may be called afterwards.
func (t *Tree) Close() error {
	if t.watch != nil {
		t.watch.close()
	}
	t.files.closeAll()
	t.dirs.closeAll()
	t.letGo(nil)
	if t.reading != nil {
		_ = t.reading.Close()
	}
	if t.state != nil {
		return t.state.close()
	}
	return nil
}

// Halt brings the edits to the disk and lets another process have them, while
// somebody may still use the tree: a call that comes now waits for the end of
// the process, which must be near.
func (t *Tree) Halt() error {
	t.freeze.Lock()
	t.mu.Lock()
	if t.state == nil {
		return nil
	}
	return errors.Join(syncHost(t.project.StateFile(".")), t.state.close())
}

// Root returns the root directory's node. It needs no Release.
func (t *Tree) Root() *Node { return t.root }

// Layers returns the layers, bottom to top, with the edits where there are any.
func (t *Tree) Layers() []*Layer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.layers
}

// Project returns the project that the tree shows.
func (t *Tree) Project() *Project {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.project
}
