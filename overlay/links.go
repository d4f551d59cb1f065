package overlay

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// linkPackages finds the directories of packages that lie over a symlink to a
// directory in the layers below, and makes them part of the link's target: a
// package with bin/sh on a base with /bin -> usr/bin lands in usr/bin, and the
// link stays. Otherwise installing one program would take the base's away.
//
// Links in the root and in its directories are looked at (/bin, /usr/sbin,
// /var/run), which is where distributions have them; so opening costs the same
// for any size of tree.
func (t *Tree) linkPackages() error {
	links := make(map[string]bool) // what is a symlink in the layers so far
	for _, l := range t.layers {
		if l.writable() {
			break
		}
		if err := t.linkLayer(l, links); err != nil {
			return fmt.Errorf("layer %s: %w", l.Name, err)
		}
	}
	return nil
}

// linkLayer takes one more layer into account.
func (t *Tree) linkLayer(l *Layer, links map[string]bool) error {
	return l.shallow(func(d *hostDir, name string, typ uint8) error {
		path := join(d.path(), name)
		switch {
		case typ == unix.DT_LNK:
			links[path] = true
			return nil
		case !links[path]:
			return nil
		case typ == unix.DT_DIR && l.pkg:
			target, err := t.follow(t.stackBelow(l.rank), path)
			if err != nil {
				return err
			}
			if target != nil {
				l.attachTo(target[0], d, name)
				return nil
			}
		}
		delete(links, path)
		return nil
	})
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

// shallow visits the entries of the layer's root and of its directories, with
// the types that they are shown with.
func (l *Layer) shallow(visit func(d *hostDir, name string, typ uint8) error) error {
	var below []*hostDir
	dirs := []*hostDir{l.root}
	for depth := 0; depth < 2; depth++ {
		for _, d := range dirs {
			names, err := readNames(d)
			if err != nil {
				return err
			}
			for _, h := range names {
				typ := h.typ
				if l.recorded && typ == unix.DT_REG {
					var a attrs
					if _, err := d.look(h.name, &a); err != nil {
						return err
					}
					typ = uint8(a.m.mode & unix.S_IFMT >> 12)
				}
				if err := visit(d, h.name, typ); err != nil {
					return err
				}
				if typ == unix.DT_DIR && depth == 0 {
					below = append(below, &hostDir{layer: l, parent: d, name: h.name})
				}
			}
			if depth > 0 {
				l.tree.dirs.drop(&d.h) // it is no node's
			}
		}
		dirs = below
	}
	return nil
}

// maxLinks is how many symlinks a path may go through, as in the kernel.
const maxLinks = 40

// follow resolves path as the merged tree of the stack would, symlinks
// included. It returns the stack of a directory, nil for anything else.
func (t *Tree) follow(root []*hostDir, path string) ([]*hostDir, error) {
	trail := [][]*hostDir{root} // the directories above, for ".."
	todo := strings.Split(path, "/")
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			trail = trail[:max(1, len(trail)-1)]
			continue
		}
		f, err := step(trail[len(trail)-1], name)
		switch {
		case err != nil:
			return nil, err
		case f.dirs != nil:
			trail = append(trail, f.dirs)
			continue
		case f.dir == nil:
			return nil, nil
		}
		target, err := f.dir.readlink(name)
		if links++; err != nil || target == "" || links > maxLinks {
			return nil, err
		}
		if strings.HasPrefix(target, "/") {
			trail = trail[:1]
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return trail[len(trail)-1], nil
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
