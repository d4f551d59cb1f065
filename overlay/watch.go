package overlay

import (
	"errors"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// Notifier is told what changed in the tree by other programs, through the
// layers' folders. It is called without locks, from one goroutine.
type Notifier interface {
	// NameChanged says that name in dir stands for something else now, or for
	// nothing.
	NameChanged(dir *Node, name string)
	// Changed says that a node has other attributes, content or names.
	Changed(n *Node)
}

// settle is how long events are collected before they are taken in: a rebuild
// makes many, and each costs a look at its directory.
const settle = 10 * time.Millisecond

// pollEvery is how often directories are looked at that couldn't be watched,
// and how soon a package that is half there is looked at again.
const pollEvery = 150 * time.Millisecond

// watcher follows the plain layers' directories that have been visited.
type watcher struct {
	tree   *Tree
	notify Notifier
	events *fsnotify.Watcher
	done   chan struct{}

	mu     sync.Mutex
	dirs   map[string]*Node         // by host path
	polled map[string]unix.Timespec // not watched: their last change
	full   bool                     // the limit of watches was met
}

// Watch has changes of the layers taken in as they happen and announced to
// notify, until the tree is closed. Directories are watched from when they are
// first visited.
func (t *Tree) Watch(notify Notifier) error {
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	w := &watcher{
		tree: t, notify: notify, events: events, done: make(chan struct{}),
		dirs: make(map[string]*Node), polled: make(map[string]unix.Timespec),
	}
	w.watchLayers()
	t.mu.Lock()
	t.watch = w
	w.visited(t.root)
	t.mu.Unlock()
	go w.run()
	return nil
}

// watchLayers watches where layers come and go.
func (w *watcher) watchLayers() {
	for _, dir := range w.tree.project.watchDirs() {
		w.watchPath(dir)
	}
}

// visited watches what was visited before.
func (w *watcher) visited(n *Node) {
	if !n.dir.loaded {
		return
	}
	w.add(n)
	for i := range n.dir.ents {
		if child := n.dir.ents[i].node; child != nil && child.dir != nil {
			w.visited(child)
		}
	}
}

// add watches the layers' parts of n.
func (w *watcher) add(n *Node) {
	for _, part := range n.dir.stack {
		if part.layer.recorded {
			continue // only the tree changes it
		}
		path := filepath.Join(part.layer.Dir, part.path())
		w.mu.Lock()
		w.dirs[path] = n
		w.mu.Unlock()
		w.watchPath(path)
	}
}

func (w *watcher) watchPath(path string) {
	err := w.events.Add(path)
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, fsnotify.ErrClosed) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.full {
		w.full = true
		w.tree.log.Warn("can't watch all layers; the rest is looked at now and then, for new and removed names only (raise fs.inotify.max_user_watches)",
			"first", path, "error", err)
	}
	var st unix.Stat_t
	_ = unix.Stat(path, &st) // a missing one is seen when it comes
	w.polled[path] = st.Mtim
}

// remove forgets a directory that nobody refers to.
func (w *watcher) remove(n *Node) {
	if !n.dir.loaded {
		return
	}
	for _, part := range n.dir.stack {
		if part.layer.recorded {
			continue
		}
		path := filepath.Join(part.layer.Dir, part.path())
		w.mu.Lock()
		mine := w.dirs[path] == n
		if mine {
			delete(w.dirs, path)
			delete(w.polled, path)
		}
		w.mu.Unlock()
		if mine && part.parent != nil {
			_ = w.events.Remove(path) // it may be gone with its directory
		}
	}
}

func (w *watcher) close() {
	_ = w.events.Close()
	<-w.done
}

// batch is what happened since it was last taken in.
type batch struct {
	names    map[string]map[string]bool // host directory → name → may be another file
	relayer  bool
	overflow bool
}

func (b *batch) note(path string, other bool) {
	dir, name := filepath.Dir(path), filepath.Base(path)
	if b.names == nil {
		b.names = make(map[string]map[string]bool)
	}
	if b.names[dir] == nil {
		b.names[dir] = make(map[string]bool)
	}
	b.names[dir][name] = b.names[dir][name] || other
}

func (w *watcher) run() {
	defer close(w.done)
	var b batch
	var soon <-chan time.Time
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		select {
		case e, ok := <-w.events.Events:
			if !ok {
				return
			}
			const otherFile = fsnotify.Create | fsnotify.Remove | fsnotify.Rename
			other := e.Op&otherFile != 0
			b.note(e.Name, other)
			b.relayer = b.relayer || other && w.tree.project.layerSign(e.Name)
			if filepath.Base(e.Name) == ManifestName {
				b.relayer = true
			}
		case err, ok := <-w.events.Errors:
			if !ok {
				return
			}
			w.tree.log.Warn("watching the layers", "error", err)
			b.overflow = true
		case <-poll.C:
			w.poll(&b)
		case <-soon:
			soon = nil
			b = w.take(b)
			continue
		}
		if soon == nil && (b.names != nil || b.relayer || b.overflow) {
			soon = time.After(settle)
		}
	}
}

// poll looks at the directories that aren't watched.
func (w *watcher) poll(b *batch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for path, was := range w.polled {
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || st.Mtim == was {
			continue
		}
		w.polled[path] = st.Mtim
		b.overflow = true // one look at all is cheaper than many
	}
}

// take brings the tree up to a batch and announces the changes. It returns
// what must be tried again.
func (w *watcher) take(b batch) batch {
	var out news
	var again batch
	relayer := b.relayer || b.overflow
	if !relayer {
		for dir, names := range b.names {
			w.mu.Lock()
			n := w.dirs[dir]
			w.mu.Unlock()
			if n == nil {
				continue
			}
			all, err := w.tree.changed(n, names, &out)
			if err != nil {
				w.tree.log.Warn("a layer changed and can't be read", "path", dir, "error", err)
			}
			relayer = relayer || all
		}
	}
	if relayer {
		if err := w.tree.relayer(&out); err != nil {
			// A package that is being copied in is no package yet.
			w.tree.log.Warn("the layers changed and can't be shown yet", "error", err)
			again.relayer = true
			time.Sleep(pollEvery)
		}
		w.watchLayers()
	}
	for _, n := range out.nodes {
		w.notify.Changed(n)
	}
	for _, name := range out.names {
		w.notify.NameChanged(name.dir, name.name)
	}
	return again
}
