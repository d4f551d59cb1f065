package overlay

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

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
// how soon a package that is half there is looked at again, and how long an
// archive is left alone for its writer to be done.
const pollEvery = 150 * time.Millisecond

// mostPatient is how long layers that can't be shown are left alone at most.
const mostPatient = 4 * time.Second

// watcher follows the plain layers' directories that have been looked up.
type watcher struct {
	tree   *Tree
	notify Notifier
	events *folderEvents

	wake        chan struct{} // there is something in the batch
	ended, done chan struct{} // nothing more is told, run has returned

	batchMu sync.Mutex
	batch   batch

	// What follows is run's alone.
	signs   *signs
	again   *time.Timer   // has the layers looked at again
	writing bool          // an archive, until again
	patient time.Duration // how long again waits; 0 while the layers can be shown
	trouble string        // why they can't be

	mu     sync.Mutex                 // held while watches change, so that they are what dirs and fixed say
	dirs   map[string][]*Node         // by host path, which several layers may have
	fixed  map[string]bool            // watched for the layers' sake
	moved  map[string]map[string]bool // directory → names on the way to what the edits have moved
	polled map[string]unix.Timespec   // not watched: their last change
	poller *time.Timer                // runs while there are polled ones: an idle daemon sleeps
	full   bool                       // the limit of watches was met
}

// Watch has changes of the layers taken in as they happen and announced to
// notify, until the tree is closed. Directories are watched from when they are
// first looked up; of what says which layers there are, changes since the tree was
// opened count.
func (t *Tree) Watch(notify Notifier) {
	events := newFolderEvents()
	w := &watcher{
		tree: t, notify: notify, events: events,
		wake: make(chan struct{}, 1), ended: make(chan struct{}), done: make(chan struct{}),
		dirs: make(map[string][]*Node), polled: make(map[string]unix.Timespec),
		moved: make(map[string]map[string]bool),
	}
	w.poller = time.AfterFunc(time.Hour, w.poll)
	w.poller.Stop()
	w.again = time.AfterFunc(time.Hour, func() { w.later(func(b *batch) { b.relayer = true }) })
	w.again.Stop()
	go func() {
		defer close(w.ended)
		events.read(w.later)
	}()
	w.watchLayers()
	if !maps.Equal(t.opened, w.signs.state()) {
		w.later(func(b *batch) { b.relayer = true })
	}
	t.opened = nil
	t.mu.Lock()
	t.watch = w
	w.visited(t.root)
	t.mu.Unlock()
	go w.run()
}

// watchLayers watches where layers come and go.
func (w *watcher) watchLayers() {
	if p := w.tree.project; p.directories == nil && isDir(p.AppsDir()) {
		_ = os.MkdirAll(p.BuiltDir(), 0o755) // a first build must be seen; where it can't be made, none is
	}
	w.signs = w.tree.project.signs()
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.fixed
	w.fixed = w.signs.watch
	for dir := range w.fixed {
		w.watchPath(dir)
	}
	for dir := range was {
		w.unwatch(dir)
	}
}

// visited watches what was looked up before.
func (w *watcher) visited(n *Node) {
	w.add(n)
	for i := range n.dir.ents {
		if child := n.dir.ents[i].node; child != nil && child.dir != nil {
			w.visited(child)
		}
	}
}

// add watches the layers' parts of n. A removed directory has none: its path
// leads to what is there in its place.
func (w *watcher) add(n *Node) {
	if !w.tree.attached(n) {
		return
	}
	for _, part := range n.dir.stack {
		if part.layer.recorded {
			continue // only the tree changes it
		}
		path := part.hostPath()
		w.mu.Lock()
		if !slices.Contains(w.dirs[path], n) {
			w.dirs[path] = append(w.dirs[path], n)
		}
		w.watchPath(path)
		if n.parent != nil && (part.name != n.name || !slices.Contains(n.parent.dir.stack, part.parent)) {
			w.addMoved(path, part.layer.Dir)
		}
		w.mu.Unlock()
	}
}

// addMoved watches the way from a layer's root to a directory that the tree has
// elsewhere: where that is, nobody may ever look. w.mu is held.
func (w *watcher) addMoved(path, root string) {
	for path != root {
		dir, name := filepath.Dir(path), filepath.Base(path)
		if w.moved[dir] == nil {
			w.moved[dir] = make(map[string]bool)
		}
		w.moved[dir][name] = true
		w.watchPath(dir)
		path = dir
	}
}

// forgetMoved forgets the ways in layers that are gone.
func (w *watcher) forgetMoved() {
	layers := w.tree.Layers()
	w.mu.Lock()
	defer w.mu.Unlock()
	for dir := range w.moved {
		if !slices.ContainsFunc(layers, func(l *Layer) bool { return inside(dir, l.Dir) }) {
			delete(w.moved, dir)
			w.unwatch(dir)
		}
	}
}

// watchMoved watches what is now on the ways that lead through path. w.mu is held.
func (w *watcher) watchMoved(path string) {
	for dir := range w.moved {
		if inside(dir, path) {
			w.watchPath(dir)
		}
	}
}

// watchPath is called with w.mu held.
func (w *watcher) watchPath(path string) {
	err := w.events.add(path)
	switch {
	case err == nil:
		delete(w.polled, path)
		return
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, os.ErrClosed),
		errors.Is(err, unix.EACCES): // we can't read it either
		return
	}
	if !w.full {
		w.full = true
		limit := "max_user_watches"
		if errors.Is(err, unix.EMFILE) {
			limit = "max_user_instances"
		}
		w.tree.log.Warn("can't watch all layers; the rest is looked at now and then, for new and removed names only (raise fs.inotify."+limit+")",
			"first", path, "error", err)
	}
	var st unix.Stat_t
	_ = unix.Stat(path, &st) // a missing one is seen when it comes
	if len(w.polled) == 0 {
		w.poller.Reset(pollEvery)
	}
	w.polled[path] = st.Mtim
}

// hearsAll tells whether all directories could be watched.
func (w *watcher) hearsAll() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.full
}

// unwatch ends the watch of a path that nobody needs any more. w.mu is held.
func (w *watcher) unwatch(path string) {
	if len(w.dirs[path]) > 0 || w.fixed[path] || w.moved[path] != nil {
		return
	}
	delete(w.polled, path)
	w.events.remove(path)
}

// remove forgets the parts of a directory that nobody refers to, or those that
// it has no more.
func (w *watcher) remove(n *Node, parts []*hostDir) {
	for _, part := range parts {
		if part.layer.recorded {
			continue
		}
		path := part.hostPath()
		w.mu.Lock()
		if nodes := w.dirs[path]; slices.Contains(nodes, n) {
			if nodes = slices.DeleteFunc(nodes, func(other *Node) bool { return other == n }); len(nodes) > 0 {
				w.dirs[path] = nodes
			} else {
				delete(w.dirs, path)
				w.unwatch(path)
			}
		}
		w.mu.Unlock()
	}
}

func (w *watcher) close() {
	w.poller.Stop()
	w.again.Stop()
	w.events.close()
	<-w.done
}

// batch is what happened since it was last taken in.
type batch struct {
	names    map[string]map[string]bool // host directory → name → may be another file
	relayer  bool                       // it is time to look at the layers again
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

// later notes something for run to take in.
func (w *watcher) later(note func(*batch)) {
	w.batchMu.Lock()
	note(&w.batch)
	w.batchMu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default: // it will look anyway
	}
}

func (w *watcher) run() {
	defer close(w.done)
	for {
		select {
		case <-w.ended:
			return
		case <-w.wake:
			time.Sleep(settle)
			w.batchMu.Lock()
			b := w.batch
			w.batch = batch{}
			w.batchMu.Unlock()
			w.take(b)
		}
	}
}

// poll looks at the directories that aren't watched.
func (w *watcher) poll() {
	select {
	case <-w.ended:
		return
	default:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for path, was := range w.polled {
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || st.Mtim == was {
			continue
		}
		w.polled[path] = st.Mtim
		w.later(func(b *batch) { b.overflow = true }) // one look at all is cheaper than many
	}
	if len(w.polled) > 0 {
		w.poller.Reset(pollEvery)
	}
}

// take brings the tree up to a batch and announces the changes.
func (w *watcher) take(b batch) {
	var out news
	sign := w.sign(&b)
	whole := b.overflow
	if !sign && !b.relayer {
		whole = w.changed(&b, &out)
	}
	if (sign || b.relayer || whole) && !w.relayer(sign, &out) {
		// What else happened is seen all the same.
		whole = whole || w.changed(&b, &out)
		if whole {
			if err := w.tree.renewAll(&out); err != nil {
				w.tree.log.Warn("a layer changed and can't be read", "error", err)
			}
		}
	}
	for _, name := range out.names {
		w.notify.NameChanged(name.dir, name.name)
	}
	for _, n := range out.nodes {
		w.notify.Changed(n)
	}
}

// sign tells whether what happened may change the layers themselves.
func (w *watcher) sign(b *batch) bool {
	sign := b.overflow
	for dir, names := range b.names {
		for name, other := range names {
			switch w.signs.counts(filepath.Join(dir, name), other) {
			case signArchive:
				w.writing, b.relayer = true, false
				w.again.Reset(pollEvery)
			case 0:
				// It may be what a package lacked.
				sign = sign || other && w.patient > 0 && w.signs.folders[dir]
			default:
				sign = true
			}
		}
	}
	if b.relayer {
		w.writing = false
	}
	return sign
}

// changed takes in what happened in the layers' directories. It returns true
// when the layers must be looked at as a whole.
func (w *watcher) changed(b *batch, out *news) (whole bool) {
	for dir, names := range b.names {
		w.mu.Lock()
		nodes := slices.Clone(w.dirs[dir])
		for name, other := range names {
			path := filepath.Join(dir, name)
			if !other && slices.Contains(w.dirs[path], w.tree.root) {
				out.node(w.tree.root)
			}
			if other && w.moved[dir][name] {
				w.watchMoved(path) // before all is looked at
				whole = true
			}
		}
		w.mu.Unlock()
		for _, n := range nodes {
			all, err := w.tree.changed(n, names, out)
			if err != nil {
				w.tree.log.Warn("a layer changed and can't be read", "path", dir, "error", err)
			}
			whole = whole || all
		}
	}
	return whole
}

// relayer brings the layers up to date. When it can't, it returns false and
// does so later: soon after a sign, and less and less often without one.
func (w *watcher) relayer(sign bool, out *news) bool {
	if w.writing {
		return false // which would be read in vain, and again when it is whole
	}
	w.watchLayers() // before they are looked at: they may change meanwhile
	err := w.tree.relayer(out)
	if err == nil {
		w.again.Stop()
		w.patient, w.trouble = 0, ""
		w.watchLayers()
		w.forgetMoved()
		return true
	}
	// A package that is being copied in is no package yet.
	if w.trouble != err.Error() {
		w.trouble = err.Error()
		w.tree.log.Warn("the layers changed and can't be shown yet", "error", err)
	}
	w.patient = min(2*w.patient, mostPatient)
	if sign || w.patient == 0 {
		w.patient = pollEvery
	}
	w.again.Reset(w.patient)
	return false
}
