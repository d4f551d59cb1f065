package export

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// walker visits a tree for its writers.
type walker struct {
	tree  *overlay.Tree
	epoch *overlay.Time
	visit func(*overlay.Entry) error
	entry overlay.Entry
}

// Walk calls visit with every entry of the tree: the root, ".", first, each
// directory before what is in it, names in bytewise order. Times later than
// epoch become epoch, unless that is nil (reproducible-builds.org,
// SOURCE_DATE_EPOCH). The entry is used again for the next one; what it refers
// to stays.
func Walk(ctx context.Context, t *overlay.Tree, epoch *overlay.Time, visit func(*overlay.Entry) error) error {
	w := &walker{tree: t, epoch: epoch, visit: visit}
	if err := t.Stat(t.Root(), &w.entry); err != nil {
		return err
	}
	if err := w.give(t.Root(), "."); err != nil {
		return err
	}
	return w.dir(ctx, t.Root(), "")
}

// dir visits what is in a directory; prefix is its path with a slash.
func (w *walker) dir(ctx context.Context, dir *overlay.Node, prefix string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	names, err := w.names(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		n, err := w.tree.Lookup(dir, name, &w.entry)
		if err != nil {
			return fmt.Errorf("%s%s: %w", prefix, name, err)
		}
		isDir := w.entry.IsDir()
		err = w.give(n, prefix+name)
		if err == nil && isDir {
			err = w.dir(ctx, n, prefix+name+"/")
		}
		w.tree.Release(n, 1)
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) names(dir *overlay.Node) ([]string, error) {
	var names []string
	var buf [256]overlay.DirEntry
	for cookie := uint64(0); ; {
		n, err := w.tree.ReadDir(dir, cookie, buf[:])
		if err != nil {
			return nil, err
		}
		for _, e := range buf[:n] {
			names, cookie = append(names, e.Name), e.Cookie
		}
		if n < len(buf) {
			break
		}
	}
	if !slices.IsSorted(names) { // new names of a tree that is being edited
		slices.SortFunc(names, strings.Compare)
	}
	return names, nil
}

// give completes the entry and hands it over.
func (w *walker) give(n *overlay.Node, path string) error {
	e := &w.entry
	e.Path = path
	var err error
	if e.Mode&unix.S_IFMT == unix.S_IFLNK {
		if e.Target, err = w.tree.Readlink(n); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if e.Xattrs, err = w.tree.Xattrs(n); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if w.epoch != nil {
		for _, t := range []*overlay.Time{&e.Atime, &e.Mtime, &e.Ctime} {
			if w.epoch.Before(*t) {
				*t = *w.epoch
			}
		}
	}
	return w.visit(e)
}
