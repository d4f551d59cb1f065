package overlay

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Use says what becomes of a layer's entry in the merged tree.
type Use string

// The uses of an [Origin].
const (
	Shown   Use = "shown"
	Merged  Use = "merged"  // a directory, together with the shown one
	Hidden  Use = "hidden"  // by one above
	Removes Use = "removes" // takes away what is below
)

// Origin is one layer's part of a path.
type Origin struct {
	Layer string
	Host  string // where the layer has it
	Use   Use
}

// Which lists what the layers and the edits have at a path, topmost first.
// Symlinks on the way to it are followed, the last name isn't. The error is
// ENOENT when nothing has the path.
func (t *Tree) Which(path string) ([]Origin, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	names := splitAll(filepath.Clean("/" + path))
	root := withAttached(t.stackBelow(len(t.layers)))
	if len(names) == 0 {
		return merging(root), nil
	}
	dir, name := splitPath(filepath.Join(names...))
	stack, _, err := t.follow(root, dir, nil)
	if err != nil {
		return nil, err
	}
	f, err := step(stack, name)
	if err != nil {
		return nil, err
	}
	all := merging(f.dirs)
	seen := make(map[string]bool)
	for _, o := range all {
		seen[o.Host] = true
	}
	for _, d := range stack {
		var st unix.Stat_t
		ok, err := d.stat(name, &st)
		if err != nil {
			return nil, err
		}
		o := Origin{Layer: d.layer.Name, Host: filepath.Join(d.hostPath(), name), Use: Hidden}
		switch {
		case !ok || seen[o.Host] || d.hides(name):
			continue
		case d.layer.isWhiteout(&st):
			o.Use = Removes
		case d == f.dir:
			o.Use = Shown
		}
		all = append(all, o)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("/%s: %w", path, unix.ENOENT)
	}
	return all, nil
}

// merging lists the parts of a directory.
func merging(stack []*hostDir) []Origin {
	all := make([]Origin, len(stack))
	for i, d := range stack {
		all[i] = Origin{Layer: d.layer.Name, Host: d.hostPath(), Use: Merged}
	}
	if len(all) > 0 {
		all[0].Use = Shown
	}
	return all
}
