package overlay

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

// place finds the directory of a cleaned name, which isn't ".", and opens it.
// The slot is valid until the next call.
func (w *layerWriter) place(name string) (slot, error) {
	if name == "." {
		return slot{}, errors.New("is the root")
	}
	if len(name) >= unix.PathMax {
		return slot{}, unix.ENAMETOOLONG // now, not when all its directories are made
	}
	links := 0
	dir, err := w.resolveDir(path.Dir(name), &links)
	if err != nil {
		return slot{}, err
	}
	p := slot{dir: dir, base: path.Base(name)}
	if w.parentFd < 0 || w.parent != dir {
		w.forgetParent()
		fd, err := w.openDir(dir, unix.O_PATH)
		if err != nil {
			return slot{}, err
		}
		w.parent, w.parentFd = dir, fd
	}
	p.fd = w.parentFd
	return p, nil
}

func (w *layerWriter) forgetParent() {
	if w.parentFd >= 0 {
		closeDir(w.parentFd)
		w.parentFd = -1
	}
}

func (w *layerWriter) openDir(name string, flags uint64) (int, error) {
	return unix.Openat2(w.fd, name, &unix.OpenHow{
		Flags:   flags | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// closeDir closes a directory, which has nothing left to write.
func closeDir(fd int) { _ = unix.Close(fd) }

// resolveDir returns the directory that dir leads to, following symlinks of
// this layer and those below within the root, as every program that unpacks
// layers onto each other does: "bin/sh" goes to usr/bin where bin is a link.
// What is missing is made.
func (w *layerWriter) resolveDir(dir string, links *int) (string, error) {
	if _, ok := w.dirs[dir]; ok {
		return dir, nil
	}
	parent, err := w.resolveDir(path.Dir(dir), links)
	if err != nil {
		return "", err
	}
	name := path.Join(parent, path.Base(dir))
	if _, ok := w.dirs[name]; ok {
		return name, nil
	}
	host, m, err := w.look(name)
	if err != nil {
		return "", err
	}
	if m.mode&unix.S_IFMT == unix.S_IFLNK {
		if *links++; *links > maxLinks {
			return "", fmt.Errorf("%q: %w", name, unix.ELOOP)
		}
		target, err := os.ReadFile(host)
		if err != nil {
			return "", err
		}
		to := string(target)
		if !path.IsAbs(to) {
			to = parent + "/" + to
		}
		return w.resolveDir(cleanName(to), links)
	}
	return name, w.implyDir(name)
}

// look finds what the merged tree has at name so far, and where on the host.
// A zero meta says that there is nothing. name's directory is in this layer.
func (w *layerWriter) look(name string) (host string, m meta, err error) {
	host = filepath.Join(w.path, name)
	m, err = recordedAt(host)
	if err != nil || m.mode != 0 || w.hides(name) {
		return host, m, err
	}
	for i := len(w.below) - 1; i >= 0; i-- {
		host, m, hidden, err := lookIn(w.below[i], name)
		if err != nil || m.mode != 0 || hidden {
			return host, m, err
		}
	}
	return "", meta{}, nil
}

// hides tells whether a directory of this layer above name is opaque.
func (w *layerWriter) hides(name string) bool {
	for name != "." {
		if name = path.Dir(name); w.dirs[name].opaque {
			return true
		}
	}
	return false
}

// lookIn finds what the recorded layer at root has at name. hidden tells
// whether it hides what is below.
func lookIn(root, name string) (host string, m meta, hidden bool, err error) {
	host = root
	for {
		opaque, err := xattr.LGet(host, xattrOpaque)
		if err != nil && !errors.Is(err, xattr.ENOATTR) {
			return "", meta{}, false, err
		}
		hidden = hidden || len(opaque) > 0
		part, rest, more := strings.Cut(name, "/")
		host = filepath.Join(host, part)
		m, err := recordedAt(host)
		switch {
		case err != nil || m.mode == 0:
			return "", meta{}, hidden, err
		case !more:
			return host, m, true, nil
		case m.mode&unix.S_IFMT != unix.S_IFDIR:
			return "", meta{}, true, nil
		}
		name = rest
	}
}

// recordedAt reads the metadata at a host path of a recorded layer; the mode
// is 0 where there is nothing.
func recordedAt(host string) (meta, error) {
	var st unix.Stat_t
	err := unix.Lstat(host, &st)
	if errors.Is(err, unix.ENOENT) {
		return meta{}, nil
	}
	if err != nil {
		return meta{}, &fs.PathError{Op: "lstat", Path: host, Err: err}
	}
	return metaAt(host, &st)
}

// implyDir makes a directory that the tar has no entry for, at least not yet.
func (w *layerWriter) implyDir(name string) error {
	if name != "." {
		parent, err := w.openDir(path.Dir(name), unix.O_PATH)
		if err != nil {
			return err
		}
		defer closeDir(parent)
		p := slot{dir: path.Dir(name), fd: parent, base: path.Base(name)}
		var st unix.Stat_t
		switch err := fstatat(p.fd, p.base, &st); {
		case err == nil && !isWhiteout(st.Mode):
			return fmt.Errorf("%q is not a directory", name)
		case err != nil && !errors.Is(err, unix.ENOENT):
			return err
		}
		if err := w.makeDir(p); err != nil {
			return err
		}
	}
	return w.recordDir(name, meta{mode: unix.S_IFDIR | 0o755}, nil)
}

// makeDir makes the directory p unless there is one. A whiteout that it
// replaces makes it opaque.
func (w *layerWriter) makeDir(p slot) error {
	if _, ok := w.dirs[p.name()]; ok {
		return nil
	}
	err := unix.Mkdirat(p.fd, p.base, 0o700)
	if err == nil {
		w.dirs[p.name()] = dirEntry{}
		return nil
	}
	var st unix.Stat_t
	if !errors.Is(err, unix.EEXIST) || fstatat(p.fd, p.base, &st) != nil {
		return err
	}
	if err := unix.Unlinkat(p.fd, p.base, 0); err != nil {
		return err
	}
	if err := unix.Mkdirat(p.fd, p.base, 0o700); err != nil {
		return err
	}
	w.dirs[p.name()] = dirEntry{}
	if isWhiteout(st.Mode) {
		return w.makeOpaque(p.name())
	}
	return nil
}

// describeDir gives the directory name what its header says.
func (w *layerWriter) describeDir(name string, m meta, h *tar.Header) error {
	w.dirs[name] = dirEntry{explicit: true, opaque: w.dirs[name].opaque, mtime: headerMtime(h)}
	return w.recordDir(name, m, h)
}

// recordDir records m, and the xattrs of h unless it is nil.
func (w *layerWriter) recordDir(name string, m meta, h *tar.Header) error {
	fd, err := w.openDir(name, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer closeDir(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if h != nil {
		if err := w.setXattrs(fd, h); err != nil {
			return err
		}
	}
	return recordFd(fd, m, st.Mode)
}

// makeOpaque hides what the layers below have in the directory name.
func (w *layerWriter) makeOpaque(name string) error {
	fd, err := w.openDir(name, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer closeDir(fd)
	if err := setMark(fd, xattrOpaque, "y"); err != nil {
		return fmt.Errorf("record an opaque directory: %w", err)
	}
	d := w.dirs[name]
	d.opaque = true
	w.dirs[name] = d
	return nil
}
