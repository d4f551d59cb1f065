package export

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Walk calls visit with every entry of the tree: the root, ".", first, each
// directory before what is in it, names in bytewise order. Times later than
// epoch become epoch, unless that is nil (reproducible-builds.org,
// SOURCE_DATE_EPOCH). visit is called by one goroutine, while others read
// ahead. The entry is used again for the next one; what it refers to stays.
func Walk(ctx context.Context, t *overlay.Tree, epoch *overlay.Time, visit func(*overlay.Entry) error) error {
	w := &walker{tree: t, epoch: epoch, visit: visit}
	w.ahead.start(w)
	defer w.ahead.stop()
	var root overlay.Entry
	if err := t.Stat(t.Root(), &root); err != nil {
		return err
	}
	if err := w.complete(t.Root(), &root, "."); err != nil {
		return err
	}
	if err := visit(&root); err != nil {
		return err
	}
	err := w.folder(ctx, &folder{node: t.Root()})
	t.ReleaseAll(w.visited)
	return err
}

// walker visits a tree for its writers.
type walker struct {
	tree  *overlay.Tree
	epoch *overlay.Time
	visit func(*overlay.Entry) error
	ahead readAhead

	visited []*overlay.Node // to be released
	buffers sync.Pool       // of *buffers
}

// folderBatch is how many entries of a directory are read at a time.
const folderBatch = 512

// folder is a directory on its way through a walk.
type folder struct {
	node   *overlay.Node
	prefix string // its path with a slash
	state  folderState

	*buffers
	rest    []string  // names that weren't read yet
	folders []*folder // of the entries that are directories
}

// buffers are what a folder has from its loading to the end of its visit.
type buffers struct {
	names   []string
	entries []overlay.Entry // of the first names that weren't visited yet
	nodes   []*overlay.Node
}

// folder visits what is in a directory.
func (w *walker) folder(ctx context.Context, f *folder) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := w.ahead.need(f); err != nil {
		return err
	}
	for len(f.entries) > 0 {
		err := w.entries(ctx, f)
		w.release(f.nodes)
		if err != nil {
			return err
		}
		if err := w.batch(f); err != nil {
			return err
		}
	}
	w.reuse(f.buffers)
	f.buffers = nil
	return nil
}

// reuse keeps buffers for another folder, unless they are a large one's.
func (w *walker) reuse(b *buffers) {
	if cap(b.names) > folderBatch {
		return
	}
	clear(b.names)
	clear(b.entries[:cap(b.entries)])
	clear(b.nodes[:cap(b.nodes)])
	w.buffers.Put(b)
}

// entries visits those entries of a directory that are read.
func (w *walker) entries(ctx context.Context, f *folder) error {
	folders := f.folders
	for i := range f.entries {
		e := &f.entries[i]
		isDir := e.IsDir()
		if err := w.visit(e); err != nil {
			return err
		}
		if isDir {
			if err := w.folder(ctx, folders[0]); err != nil {
				return err
			}
			folders = folders[1:]
		}
	}
	return nil
}

// manyNodes is how many are released at a time: who releases waits for the
// goroutines that read.
const manyNodes = 4096

// release gives nodes back, now or later.
func (w *walker) release(nodes []*overlay.Node) {
	w.visited = append(w.visited, nodes...)
	if len(w.visited) >= manyNodes {
		w.tree.ReleaseAll(w.visited)
		w.visited = w.visited[:0]
	}
}

// load lists a directory and reads its first entries.
func (w *walker) load(f *folder) error {
	f.buffers, _ = w.buffers.Get().(*buffers)
	if f.buffers == nil {
		f.buffers = new(buffers)
	}
	f.names = f.names[:0]
	var buf [256]overlay.DirEntry
	for cookie := uint64(0); ; {
		n, err := w.tree.ReadDir(f.node, cookie, buf[:])
		if err != nil {
			return err
		}
		for _, e := range buf[:n] {
			f.names, cookie = append(f.names, e.Name), e.Cookie
		}
		if n < len(buf) {
			break
		}
	}
	if !slices.IsSorted(f.names) { // new names of a tree that is being edited
		slices.SortFunc(f.names, strings.Compare)
	}
	f.rest = f.names
	return w.batch(f)
}

// batch reads the next entries of a directory; none at the end.
func (w *walker) batch(f *folder) error {
	names := f.rest[:min(len(f.rest), folderBatch)]
	f.rest = f.rest[len(names):]
	f.nodes, f.folders = f.nodes[:0], nil
	f.entries = slices.Grow(f.entries[:0], len(names))[:len(names)]
	for i, name := range names {
		n, err := w.tree.Lookup(f.node, name, &f.entries[i])
		if err == nil {
			f.nodes = append(f.nodes, n)
			err = w.complete(n, &f.entries[i], f.prefix+name)
		}
		if err != nil {
			return fmt.Errorf("%s%s: %w", f.prefix, name, err)
		}
		if f.entries[i].IsDir() {
			f.folders = append(f.folders, &folder{node: n, prefix: f.prefix + name + "/"})
		}
	}
	return nil
}

// complete adds to an entry what Lookup leaves out.
func (w *walker) complete(n *overlay.Node, e *overlay.Entry, path string) (err error) {
	e.Path = path
	if e.IsRegular() {
		e.Content = w.tree.Content(n)
	}
	if e.IsSymlink() {
		if e.Target, err = w.tree.Readlink(n); err != nil {
			return err
		}
	}
	if e.Xattrs, err = w.tree.Xattrs(n); err != nil {
		return err
	}
	if w.epoch != nil {
		for _, t := range []*overlay.Time{&e.Atime, &e.Mtime, &e.Ctime} {
			if w.epoch.Before(*t) {
				*t = *w.epoch
			}
		}
	}
	return nil
}
