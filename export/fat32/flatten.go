package fat32

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxRecords is how many a directory has: 2 MiB (fatgen103, "FAT
	// Directory Structure").
	maxRecords = 65536

	// maxCopies bounds what symlinks to directories add, since a chain of
	// directories with two links each doubles it at each step.
	maxCopies = 1 << 22
)

// directory is one of the image. A symlink to a directory makes another one of
// the same node.
type directory struct {
	node   *node
	parent *directory
	at     int    // index in the parent's entries
	slots  uint32 // records that are in use
	start  uint32 // first cluster
	files  []file // sorted by name
}

// file is a name in a directory, be it a file's or a directory's.
type file struct {
	named *node // whose name it is
	node  *node // what it is: the same, or what a symlink leads to
	short alias
	count uint8  // of its records
	slot  uint16 // the first of them
	start uint32 // first cluster; 0 of an empty file
}

func (f *file) isLong() bool { return f.count > 1 }

// path returns where a directory is in the image.
func (d *directory) path() string {
	if d.parent == nil {
		return "."
	}
	return d.parent.join(d.parent.files[d.at].named.name)
}

func (d *directory) join(name string) string {
	for ; d.parent != nil; d = d.parent {
		name = d.parent.files[d.at].named.name + "/" + name
	}
	return name
}

// within tells whether a directory is d or one that d is in, under any name.
func (d *directory) within(n *node) bool {
	for ; d != nil; d = d.parent {
		if d.node == n {
			return true
		}
	}
	return false
}

// flatten makes the image's directories and the list of losses.
func (p *Planner) flatten(root *node) error {
	p.dirs = []*directory{{node: root}}
	names := 0 // with those that are lost, which take memory too
	for i := 0; i < len(p.dirs); i++ {
		d := p.dirs[i]
		if err := p.fill(d); err != nil {
			return err
		}
		if names += len(d.node.data.(*listing).nodes); names > p.entries+maxCopies {
			return fmt.Errorf("%s: symlinks to directories copy more than %d entries; remove some of those links",
				d.path(), maxCopies)
		}
	}
	slices.SortStableFunc(p.losses, func(x, y Loss) int { return strings.Compare(x.Path, y.Path) })
	return nil
}

// fill gives a directory its files, with their short names, and appends its
// directories to those of the image.
func (p *Planner) fill(d *directory) error {
	nodes := d.node.data.(*listing).nodes
	d.files = make([]file, 0, len(nodes))
	folded := make(map[string]*node, len(nodes))
	d.slots = 2 // . and ..
	if d.parent == nil {
		d.slots = p.labelSlots()
	}
	short := aliases{taken: make(map[alias]struct{}), next: make(map[tail]uint32)}
	for _, n := range nodes {
		target, reason := p.fit(d, n, folded)
		if reason != "" {
			p.losses = append(p.losses, Loss{Path: d.join(n.name), Reason: reason})
			continue
		}
		f := file{named: n, node: target, count: records(n.name), slot: uint16(d.slots)}
		if d.slots+uint32(f.count) > maxRecords {
			reason := fmt.Sprintf("its directory is full: FAT takes %d records of %d bytes, this needs %d more", maxRecords, recordSize, f.count)
			p.losses = append(p.losses, Loss{Path: d.join(n.name), Reason: reason})
			continue
		}
		d.slots += uint32(f.count)
		folded[fold(n.name)] = n
		if b := basisOf(n.name); b.exact {
			short.taken[b.alias] = struct{}{}
		}
		if target.isDir() {
			p.dirs = append(p.dirs, &directory{node: target, parent: d, at: len(d.files)})
		}
		d.files = append(d.files, f)
	}
	return d.shorten(&short)
}

// fit returns what an entry becomes, or why it can't be in the directory.
func (p *Planner) fit(d *directory, n *node, folded map[string]*node) (target *node, reason string) {
	target = n
	if n.kind() == unix.S_IFLNK {
		if target, reason = follow(n, p.dirs[0].node); reason != "" {
			return nil, reason
		}
		if target.isDir() && d.within(target) {
			return nil, fmt.Sprintf("a symlink to %q, a directory that it is in", n.data)
		}
	}
	if reason := target.unfit(); reason != "" {
		return nil, reason
	}
	if reason := checkName(n.name); reason != "" {
		return nil, reason
	}
	if same := folded[fold(n.name)]; same != nil {
		return nil, fmt.Sprintf("its name differs only in case from %q", same.name)
	}
	return target, ""
}

// shorten chooses the short names, when those that are taken are known.
func (d *directory) shorten(short *aliases) error {
	for i := range d.files {
		f := &d.files[i]
		b := basisOf(f.named.name)
		f.short = b.alias
		if b.exact {
			continue
		}
		var err error
		if f.short, err = short.number(b); err != nil {
			return fmt.Errorf("%s: %w", d.join(f.named.name), err)
		}
	}
	return nil
}

// records counts the records of a name: a short one, and before it those of
// the long name, unless they are the same.
func records(name string) uint8 {
	if basisOf(name).upper {
		return 1
	}
	return uint8(1 + (units(name)+unitsPerRecord-1)/unitsPerRecord)
}
