package export

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Change is an entry that differs between two trees.
type Change struct {
	Path   string
	A, B   *overlay.Entry // nil where there is none
	Fields []Difference
}

// DiffTrees compares two trees of one project at path, "." for the root, and below.
// It reports each entry that differs, a directory before what is in it, and also
// what is in one that only one of them has. It reads only what was edited between
// the two; all names, where that has several. Left out are times of access and
// change, those of directories, which follow their names, and of files that differ
// otherwise.
func DiffTrees(ctx context.Context, a, b *overlay.Tree, path string, report func(*Change) error) error {
	d := &treeDiffer{ctx: ctx, report: report}
	d.differ = differ{report: d.note, same: make(map[[2]uint64]bool)}
	var err error
	if d.sameCopies, err = a.SameCopies(b); err != nil {
		return err
	}
	at := found{a.Root(), b.Root()}
	for i, tree := range []*overlay.Tree{a, b} {
		d.walkers[i] = walker{tree: tree}
		d.sides[i] = &cursor{Side: TreeSide{Tree: tree}}
	}
	for name := range strings.SplitSeq(path, "/") {
		if name == "." {
			continue
		}
		next, err := d.lookup(at, name)
		defer d.release(next)
		if err != nil {
			return fmt.Errorf("/%s: %w", path, err)
		}
		if at = next; at == (found{}) {
			return fmt.Errorf("/%s: %w", path, unix.ENOENT)
		}
	}
	return d.compare(at, path)
}

type treeDiffer struct {
	differ
	ctx     context.Context
	walkers [2]walker
	changes []Difference // of the entry that is being compared

	sameCopies bool // so what is made of the same parts need not be looked at

	report func(*Change) error
}

// found is what a name is in each of the trees, nil where there is none.
type found [2]*overlay.Node

func (d *treeDiffer) note(x Difference) error {
	d.changes = append(d.changes, x)
	return nil
}

func (d *treeDiffer) lookup(dirs found, name string) (at found, err error) {
	for i, dir := range dirs {
		if dir == nil || dir.Type() != unix.S_IFDIR {
			continue
		}
		at[i], err = d.walkers[i].tree.Lookup(dir, name, nil)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return at, err
		}
	}
	return at, nil
}

func (d *treeDiffer) release(at found) {
	for i, n := range at {
		if n != nil {
			d.walkers[i].tree.Release(n, 1)
		}
	}
}

// compare compares what is at path, and below.
func (d *treeDiffer) compare(at found, path string) error {
	if err := d.ctx.Err(); err != nil {
		return err
	}
	if at == (found{}) {
		return nil // it went since its name was read
	}
	same := at[0] != nil && at[1] != nil && at[0].SameParts(at[1])
	if same && (d.sameCopies || at[0].Type() != unix.S_IFDIR) {
		return nil
	}
	if !same {
		if err := d.entry(at, path); err != nil {
			return fmt.Errorf("/%s: %w", path, err)
		}
	}
	names, err := d.names(at)
	if err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	for _, name := range names {
		below, err := d.lookup(at, name)
		if err == nil {
			err = d.compare(below, strings.TrimPrefix(path+"/"+name, "./"))
		}
		d.release(below)
		if err != nil {
			return err
		}
	}
	return nil
}

// names returns what is in either directory, sorted.
func (d *treeDiffer) names(at found) ([]string, error) {
	all := make(map[string]bool)
	for i, n := range at {
		if n == nil || n.Type() != unix.S_IFDIR {
			continue
		}
		p := &part{node: n, buffers: new(buffers)}
		if err := d.walkers[i].list(p); err != nil {
			return nil, err
		}
		for _, name := range p.listed {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// entry compares what is at path.
func (d *treeDiffer) entry(at found, path string) error {
	var sides [2]*overlay.Entry
	for i, n := range at {
		if n == nil {
			continue
		}
		e := new(overlay.Entry)
		if err := errors.Join(d.walkers[i].tree.Stat(n, e), d.walkers[i].complete(n, e, path)); err != nil {
			return err
		}
		sides[i] = e
	}
	c := &Change{Path: path, A: sides[0], B: sides[1]}
	d.changes = nil
	clear(d.same) // each name of a file has its own changes
	var err error
	switch {
	case c.A == nil:
		err = d.field(path, "entry", "", KindText(c.B))
	case c.B == nil:
		err = d.field(path, "entry", KindText(c.A), "")
	case (c.A.Mode^c.B.Mode)&unix.S_IFMT != 0:
		err = d.field(path, "type", KindText(c.A), KindText(c.B))
	default:
		err = d.fields(c.A, c.B)
	}
	if err != nil {
		return err
	}
	c.Fields = slices.DeleteFunc(d.changes, func(x Difference) bool {
		return x.Field == "mtime" && (len(d.changes) > 1 || c.A.IsDir())
	})
	if len(c.Fields) == 0 {
		return nil
	}
	return d.report(c)
}
