package overlay

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// linkPackages finds the directories of packages and of the configuration that lie
// over a symlink to a directory in the layers below, and makes them part of the
// link's target: a package with bin/sh on a base with /bin -> usr/bin lands in
// usr/bin, and the link stays. Otherwise installing one program would take the
// base's away. So do directories that the manifest only names on the way to
// something.
//
// Links in the root and in its directories are looked at (/bin, /usr/sbin,
// /var/run), which is where distributions have them; so opening costs the same
// for any size of tree.
func (t *Tree) linkPackages() error {
	layers := t.layers
	if i := slices.IndexFunc(layers, (*Layer).writable); i >= 0 {
		layers = layers[:i]
	}
	t.followed = make(map[string]bool)
	entries := make([][]shallowEntry, len(layers))
	bad := make([]error, len(layers))
	inParallel(len(layers), func(i int) { entries[i], bad[i] = layers[i].shallow() })
	links := make(map[string]bool) // what is a symlink in the layers so far
	for i, l := range layers {
		if err := errors.Join(bad[i], t.linkLayer(l, entries[i], links)); err != nil {
			return fmt.Errorf("layer %s: %w", l.Name, err)
		}
	}
	return nil
}

// linkLayer takes one more layer into account.
func (t *Tree) linkLayer(l *Layer, entries []shallowEntry, links map[string]bool) error {
	for _, e := range entries {
		if e.typ != unix.DT_LNK && len(links) == 0 {
			continue
		}
		path := join(e.dir.path(), e.name)
		switch {
		case e.typ == unix.DT_LNK:
			links[path] = true
			continue
		case !links[path]:
			continue
		case e.typ == unix.DT_DIR && l.follows(path):
			target, _, err := t.follow(t.stackBelow(l.rank), path, t.followed)
			if err != nil {
				return err
			}
			if target != nil {
				l.attachTo(target[0], e.dir, e.name)
				continue
			}
		}
		delete(links, path)
	}
	return nil
}

// follows tells whether the layer's directory at path belongs where a link of the
// layers below leads.
func (l *Layer) follows(path string) bool {
	return l.pkg || l.decides && (!l.recorded || l.implicit[path])
}

// attachTo makes the directory name of d part of target.
func (l *Layer) attachTo(target, d *hostDir, name string) {
	if l.hidden == nil {
		l.hidden = make(map[string]bool)
	}
	l.hidden[join(d.path(), name)] = true
	if target.layer.attach == nil {
		target.layer.attach = make(map[string][]*hostDir)
	}
	at := target.path()
	target.layer.attach[at] = append(target.layer.attach[at], &hostDir{layer: l, parent: d, name: name})
}

// shallowEntry is a name in a layer's root or in a directory there.
type shallowEntry struct {
	dir  *hostDir
	name string
	typ  uint8 // DT_*, as it is shown
}

// shallow lists the layer's root and, after it, each directory there.
func (l *Layer) shallow() ([]shallowEntry, error) {
	all, err := l.entries(nil, l.root)
	if err != nil {
		return nil, err
	}
	for _, e := range all[:len(all):len(all)] {
		if e.typ != unix.DT_DIR {
			continue
		}
		d := &hostDir{layer: l, parent: e.dir, name: e.name}
		if all, err = l.entries(all, d); err != nil {
			return nil, err
		}
		l.tree.dirs.drop(&d.h) // it is no node's
	}
	return all, nil
}

// entries adds those of one directory to all.
func (l *Layer) entries(all []shallowEntry, d *hostDir) ([]shallowEntry, error) {
	names, err := readNames(d)
	if ignoreMissing(err) != nil {
		return nil, err
	} // else the layer lost the directory since
	for _, h := range names {
		typ := h.typ
		if l.recorded && typ == unix.DT_REG {
			var a attrs
			if _, err := d.look(h.name, &a); err != nil {
				return nil, err
			}
			typ = uint8(a.m.mode & unix.S_IFMT >> 12)
		}
		all = append(all, shallowEntry{d, h.name, typ})
	}
	return all, nil
}

// maxLinks is how many symlinks a path may go through, as in the kernel.
const maxLinks = 40

// follow resolves path as the merged tree of the stack would, symlinks
// included. It returns the stack of a directory and its path, nil for anything else.
// The paths that it looks at go into seen, unless that is nil.
func (t *Tree) follow(root []*hostDir, path string, seen map[string]bool) ([]*hostDir, string, error) {
	trail := [][]*hostDir{root} // the directories above, for ".."
	var at []string             // their names
	var walked []*hostDir
	defer func() { closeWalked(walked) }()
	todo := strings.Split(path, "/")
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			trail = trail[:max(1, len(trail)-1)]
			at = at[:len(trail)-1]
			continue
		}
		if seen != nil {
			seen[join(strings.Join(at, "/"), name)] = true
		}
		f, err := step(trail[len(trail)-1], name)
		switch {
		case err != nil:
			return nil, "", err
		case f.dirs != nil:
			trail, at, walked = append(trail, f.dirs), append(at, name), append(walked, f.dirs...)
			continue
		case f.dir == nil:
			return nil, "", nil
		}
		target, err := f.dir.readlink(name)
		if links++; err != nil || target == "" || links > maxLinks {
			return nil, "", err
		}
		if strings.HasPrefix(target, "/") {
			trail, at = trail[:1], nil
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return trail[len(trail)-1], strings.Join(at, "/"), nil
}

// readlink returns the target of the symlink name, "" for another thing.
func (d *hostDir) readlink(name string) (string, error) {
	var a attrs
	ok, err := d.look(name, &a)
	if err != nil || !ok || a.m.mode&unix.S_IFMT != unix.S_IFLNK {
		return "", err
	}
	dirfd, err := d.open()
	if err != nil {
		return "", err
	}
	defer d.close()
	return readTarget(dirfd, name, d.layer.recorded)
}

// readTarget reads a symlink, which a recorded layer keeps as a file.
func readTarget(dirfd int, name string, recorded bool) (string, error) {
	if !recorded {
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dirfd, name, buf)
		return string(buf[:max(n, 0)]), err
	}
	fd, err := openRetry(dirfd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd) //nolint:errcheck // read only
	return recordedTarget(fd)
}

// recordedTarget reads the target of an open placeholder.
func recordedTarget(fd int) (string, error) {
	if m, err := metaOf(fd, metaFlag); err != nil || m.target != "" {
		return m.target, err
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Pread(fd, buf, 0)
	return string(buf[:max(n, 0)]), err
}
