package overlay

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Conflict is a path that layers have different things for.
type Conflict struct {
	Path   string
	Layers []string // that have it, the one that wins first
}

// Conflicts calls yield with each path for which base, packages and the
// manifest's further layers hold different types or contents, in the order of
// a walk. What sysconfig or the manifest decides is none: they are there to
// override. It looks only into directories that several layers share.
func (t *Tree) Conflicts(yield func(Conflict) error) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	edits := slices.IndexFunc(t.layers, func(l *Layer) bool { return l.edit })
	if edits < 0 {
		edits = len(t.layers)
	}
	return conflictsIn(withAttached(t.stackBelow(edits)), "", yield)
}

func conflictsIn(stack []*hostDir, path string, yield func(Conflict) error) error {
	names, err := sharedNames(stack)
	if err != nil {
		return err
	}
	for _, name := range names {
		f, err := step(stack, name)
		if err != nil {
			return err
		}
		if f.dir == nil || f.dirs == nil && f.dir.layer.decides {
			continue // removed, or overridden
		}
		c, err := compareParts(stack, name)
		if err != nil {
			return err
		}
		if c != nil {
			if err := yield(Conflict{join(path, name), c}); err != nil {
				return err
			}
		}
		if f.dirs != nil {
			if err := conflictsIn(f.dirs, join(path, name), yield); err != nil {
				return err
			}
		}
	}
	return nil
}

// joined tells whether directories from elsewhere merge into the directory name
// of d, or below it (links.go).
func (d *hostDir) joined(name string) bool {
	path := join(d.path(), name)
	for target := range d.layer.attach {
		if target == path || strings.HasPrefix(target, path+"/") {
			return true
		}
	}
	return false
}

// sharedNames lists the names that several layers of a stack have, but for
// those that decide, sorted. The layers of one image count as one: they have
// the image's name.
func sharedNames(stack []*hostDir) ([]string, error) {
	count := make(map[string]int)
	above := make(map[string]string) // name → the last layer that has it
	for _, d := range stack {
		if d.layer.decides {
			continue
		}
		names, err := readNames(d)
		if ignoreMissing(err) != nil {
			return nil, err
		}
		for _, n := range names {
			if (n.typ != unix.DT_DIR || !d.hides(n.name)) && above[n.name] != d.layer.Name {
				count[n.name]++
				above[n.name] = d.layer.Name
			}
			if n.typ == unix.DT_DIR && d.joined(n.name) {
				count[n.name]++
			}
		}
	}
	var shared []string
	for name, n := range count {
		if n > 1 {
			shared = append(shared, name)
		}
	}
	slices.Sort(shared)
	return shared, nil
}

// compareParts returns the layers that have name, when what they have differs
// in type or content.
func compareParts(stack []*hostDir, name string) (layers []string, err error) {
	var first *hostDir
	var a attrs
	differ := false
	for _, d := range stack {
		if d.layer.decides || d.hides(name) {
			continue
		}
		var b attrs
		ok, err := d.look(name, &b)
		switch {
		case err != nil:
			return nil, err
		case !ok:
			continue
		case d.layer.isWhiteout(&b.st):
			return conflicting(layers, differ), nil
		}
		if len(layers) > 0 && layers[len(layers)-1] == d.layer.Name {
			continue
		}
		layers = append(layers, d.layer.Name)
		if first == nil {
			first, a = d, b
			continue
		}
		same, err := sameParts(place{first, name}, place{d, name}, &a, &b)
		if err != nil {
			return nil, err
		}
		differ = differ || !same
	}
	return conflicting(layers, differ), nil
}

func conflicting(layers []string, differ bool) []string {
	if !differ {
		return nil
	}
	return layers
}

// sameParts tells whether two layers' entries have the same type and content.
func sameParts(p, q place, a, b *attrs) (bool, error) {
	typ := a.m.mode & unix.S_IFMT
	switch {
	case typ != b.m.mode&unix.S_IFMT:
		return false, nil
	case typ == unix.S_IFLNK:
		x, err := p.dir.readlink(p.name)
		if err != nil {
			return false, err
		}
		y, err := q.dir.readlink(q.name)
		return x == y, err
	case typ != unix.S_IFREG:
		return a.m.rdev == b.m.rdev, nil
	case a.st.Size != b.st.Size:
		return false, nil
	}
	return sameFiles(&p, &q)
}

func sameFiles(p, q *place) (same bool, err error) {
	x, err := p.Open()
	if err != nil {
		return false, err
	}
	defer x.Close() //nolint:errcheck // only read
	y, err := q.Open()
	if err != nil {
		return false, err
	}
	defer y.Close() //nolint:errcheck // only read
	const step = 64 << 10
	a, b := make([]byte, step), make([]byte, step)
	for off := int64(0); ; off += step {
		i, err := x.ReadAt(a, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		j, err := y.ReadAt(b, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if i != j || !bytes.Equal(a[:i], b[:j]) || i < step {
			return i == j && bytes.Equal(a[:i], b[:j]), nil
		}
	}
}
