package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// whiteoutPrefix begins the name of an entry that takes away what layers below
// have (OCI image specification, layer.md, "Whiteouts").
const whiteoutPrefix = ".wh."

// notWhiteout is an error if an entry of an image's layer would be taken for a
// whiteout.
func notWhiteout(e *overlay.Entry) error {
	if !strings.HasPrefix(path.Base(e.Path), whiteoutPrefix) {
		return nil
	}
	return fmt.Errorf("%s: an image's layer can't hold a name that begins with %s; rename or remove it, or write a tar or a disk image, which can",
		e.Path, whiteoutPrefix)
}

// layerDiff finds what a layer must have to make one tree out of another, and
// gives it to a writer: changed entries after the directories that they are in
// (without which programs that unpack layers invent attributes), and a
// whiteout for each name that is gone. Files with hard links among changed
// ones come with all their names. Sockets are left out, as tars can't hold
// them.
type layerDiff struct {
	add          func(*overlay.Entry) error
	lower, upper treeNames
	entries      int // given to add

	parents []*overlay.Entry // directories of upper around the place at hand
	written int              // how many of them the layer has
}

// treeNames are the entries of a tree. Without a tree there are none.
type treeNames struct {
	tree  *overlay.Tree
	links map[string]string // path → all names of the file, for those with several
}

// namesOf reads the hard links of a tree. What can't be in a layer is told to
// warn.
func namesOf(ctx context.Context, t *overlay.Tree, warn *slog.Logger) (treeNames, error) {
	names := treeNames{tree: t, links: make(map[string]string)}
	byInode := make(map[uint64][]string)
	err := Walk(ctx, t, nil, func(e *overlay.Entry) error {
		if e.Mode&unix.S_IFMT == unix.S_IFSOCK {
			warn.Warn("socket left out: a layer cannot hold one", "path", e.Path)
		} else if e.Nlink > 1 && !e.IsDir() {
			byInode[e.Ino] = append(byInode[e.Ino], e.Path)
		}
		return nil
	})
	for _, paths := range byInode {
		for _, p := range paths {
			names.links[p] = strings.Join(paths, "\x00")
		}
	}
	return names, err
}

// cursor walks the tree, without its sockets.
func (n treeNames) cursor(ctx context.Context, epoch *overlay.Time) *cursor {
	if n.tree == nil {
		return &cursor{next: func() (*overlay.Entry, bool) { return nil, false }, stop: func() {}}
	}
	return newCursor(ctx, withoutSockets{TreeSide{n.tree, epoch}})
}

type withoutSockets struct{ TreeSide }

// Walk implements [Side].
func (s withoutSockets) Walk(ctx context.Context, visit func(*overlay.Entry) error) error {
	return s.TreeSide.Walk(ctx, func(e *overlay.Entry) error {
		if e.Mode&unix.S_IFMT == unix.S_IFSOCK {
			return nil
		}
		return visit(e)
	})
}

// run compares the trees.
func (d *layerDiff) run(ctx context.Context, epoch *overlay.Time) error {
	lower, upper := d.lower.cursor(ctx, epoch), d.upper.cursor(ctx, epoch)
	defer lower.stop()
	defer upper.stop()
	err := errors.Join(lower.advance(""), upper.advance(""))
	for err == nil && (lower.entry != nil || upper.entry != nil) {
		l, u := lower.entry, upper.entry
		switch {
		case u == nil || l != nil && compareWalked(l.Path, u.Path) < 0:
			err = d.remove(l)
			err = errors.Join(err, lower.advance(l.Path))
		case l == nil || compareWalked(l.Path, u.Path) > 0:
			err = d.put(u, false)
			err = errors.Join(err, upper.advance(""))
		default:
			err = d.both(l, u)
			skip := ""
			if !u.IsDir() {
				skip = l.Path // what was in it goes without whiteouts
			}
			err = errors.Join(err, lower.advance(skip), upper.advance(""))
		}
	}
	return err
}

// both deals with a name that both trees have.
func (d *layerDiff) both(l, u *overlay.Entry) error {
	same, err := d.same(l, u)
	if err != nil {
		return fmt.Errorf("%s: %w", u.Path, err)
	}
	return d.put(u, same)
}

// put deals with an entry of the upper tree.
func (d *layerDiff) put(u *overlay.Entry, same bool) error {
	d.around(u.Path)
	if !same {
		if err := notWhiteout(u); err != nil {
			return err
		}
		if err := d.write(u); err != nil {
			return err
		}
	}
	if u.IsDir() {
		d.parents = append(d.parents, u)
		if !same {
			d.written = len(d.parents)
		}
	}
	return nil
}

// remove writes a whiteout for a name that only the lower tree has.
func (d *layerDiff) remove(l *overlay.Entry) error {
	d.around(l.Path)
	dir, base := path.Split(l.Path)
	return d.write(&overlay.Entry{Path: dir + whiteoutPrefix + base, Mode: unix.S_IFREG, Nlink: 1})
}

// around forgets the directories that name isn't in.
func (d *layerDiff) around(name string) {
	for len(d.parents) > 0 && !inside(d.parents[len(d.parents)-1].Path, name) {
		d.parents = d.parents[:len(d.parents)-1]
	}
	d.written = min(d.written, len(d.parents))
}

// write gives an entry to the writer, after the directories around it.
func (d *layerDiff) write(e *overlay.Entry) error {
	for ; d.written < len(d.parents); d.written++ {
		d.entries++
		if err := d.add(d.parents[d.written]); err != nil {
			return err
		}
	}
	d.entries++
	return d.add(e)
}

// inside tells whether name is below the directory.
func inside(dir, name string) bool {
	return dir == "." && name != "." || strings.HasPrefix(name, dir) && len(name) > len(dir) && name[len(dir)] == '/'
}

// same tells whether the entries of one path need no new entry in a layer.
func (d *layerDiff) same(l, u *overlay.Entry) (bool, error) {
	if l.Mode != u.Mode || l.UID != u.UID || l.GID != u.GID || l.Rdev != u.Rdev || l.Size != u.Size ||
		l.Mtime != u.Mtime || l.Target != u.Target || d.lower.links[l.Path] != d.upper.links[u.Path] {
		return false, nil
	}
	sameXattr := func(a, b overlay.Xattr) bool { return a.Name == b.Name && bytes.Equal(a.Value, b.Value) }
	if !slices.EqualFunc(l.Xattrs, u.Xattrs, sameXattr) {
		return false, nil
	}
	if l.Content == nil || u.Content == nil || l.Size == 0 {
		return true, nil
	}
	return sameContent(l.Content, u.Content, l.Size)
}

// sameContent compares files of one size. Most are one and the same file of
// the host, which isn't read.
func sameContent(a, b overlay.Content, size int64) (same bool, err error) {
	fa, err := a.Open()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, fa.Close()) }()
	fb, err := b.Open()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, fb.Close()) }()
	var sa, sb unix.Stat_t
	if err := errors.Join(unix.Fstat(fa.Fd(), &sa), unix.Fstat(fb.Fd(), &sb)); err != nil {
		return false, err
	}
	if sa.Dev == sb.Dev && sa.Ino == sb.Ino {
		return true, nil
	}
	bufA, bufB := make([]byte, 256<<10), make([]byte, 256<<10)
	for off := int64(0); off < size; off += int64(len(bufA)) {
		n := min(size-off, int64(len(bufA)))
		_, errA := fa.ReadAt(bufA[:n], off)
		_, errB := fb.ReadAt(bufB[:n], off)
		for _, err := range []error{errA, errB} {
			if err != nil && !errors.Is(err, io.EOF) {
				return false, err
			}
		}
		if !bytes.Equal(bufA[:n], bufB[:n]) {
			return false, nil
		}
	}
	return true, nil
}
