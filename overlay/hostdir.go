package overlay

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

// hostDir is one directory of one layer. It is opened relative to its parent,
// one component at a time and never through a symlink, so that no access
// leaves the layer's root and no path is too long.
type hostDir struct {
	layer  *Layer
	parent *hostDir // nil for the layer's root
	name   string
	h      handle
}

// open returns an O_PATH descriptor of the directory; close gives it back.
func (d *hostDir) open() (int, error) {
	dirs := d.layer.tree.dirs
	if fd, ok := dirs.get(&d.h); ok {
		return fd, nil
	}
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	var fd int
	var err error
	if d.parent == nil {
		fd, err = d.layer.openRoot()
	} else {
		var up int
		if up, err = d.parent.open(); err != nil {
			return -1, err
		}
		fd, err = openRetry(up, d.name, flags|unix.O_NOFOLLOW, 0)
		d.parent.close()
	}
	if err != nil {
		return -1, err
	}
	return dirs.install(&d.h, fd), nil
}

// openToList returns a descriptor for getdents, at the directory's start; done
// gives it back. One that had to be opened is then the one that open returns.
func (d *hostDir) openToList() (fd int, done func(), err error) {
	dirs := d.layer.tree.dirs
	const flags = unix.O_RDONLY | unix.O_DIRECTORY
	if fd, ok := dirs.get(&d.h); ok || d.parent == nil {
		if !ok {
			if fd, err = d.open(); err != nil {
				return -1, nil, err
			}
		}
		defer d.close()
		fd, err = openRetry(fd, ".", flags, 0)
		return fd, func() { _ = unix.Close(fd) }, err
	}
	up, err := d.parent.open()
	if err != nil {
		return -1, nil, err
	}
	defer d.parent.close()
	fd, err = openRetry(up, d.name, flags|unix.O_NOFOLLOW, 0)
	return fd, func() { dirs.install(&d.h, fd); d.close() }, err
}

// openBoth opens two directories; done gives both back.
func openBoth(a, b *hostDir) (fdA, fdB int, done func(), err error) {
	if fdA, err = a.open(); err != nil {
		return 0, 0, nil, err
	}
	if fdB, err = b.open(); err != nil {
		a.close()
		return 0, 0, nil, err
	}
	return fdA, fdB, func() { a.close(); b.close() }, nil
}

func (d *hostDir) close() { d.layer.tree.dirs.put(&d.h) }

// path is the directory's path in its layer, "." for the root.
func (d *hostDir) path() string {
	if d.parent == nil {
		return "."
	}
	var buf [256]byte
	return string(d.appendPath(buf[:0]))
}

// hostPath is the directory's path on the host.
func (d *hostDir) hostPath() string {
	if d.parent == nil {
		return d.layer.Dir
	}
	var buf [256]byte
	b := append(buf[:0], d.layer.Dir...)
	if d.layer.Dir != "/" {
		b = append(b, '/')
	}
	return string(d.appendPath(b))
}

// appendPath adds the path in the layer of a directory that isn't its root.
func (d *hostDir) appendPath(b []byte) []byte {
	if d.parent.parent != nil {
		b = append(d.parent.appendPath(b), '/')
	}
	return append(b, d.name...)
}

// stat is lstat of name in the directory; ok is false when there is none.
func (d *hostDir) stat(name string, st *unix.Stat_t) (ok bool, err error) {
	fd, err := d.open()
	if err != nil {
		return false, ignoreMissing(err)
	}
	defer d.close()
	if err := fstatat(fd, name, st); err != nil {
		return false, ignoreMissing(err)
	}
	return true, nil
}

// statSelf reads the attributes of the directory itself.
func (d *hostDir) statSelf(st *unix.Stat_t) error {
	fd, err := d.open()
	if err != nil {
		return err
	}
	defer d.close()
	return unix.Fstat(fd, st)
}

// ignoreMissing makes nothing of the errors that say that a name isn't there.
func ignoreMissing(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}

// procPath names what dirfd and name point to for the calls that take only
// paths. The L variants of those calls don't follow a symlink at its end.
func procPath(dirfd int, name string) string {
	b := make([]byte, 0, 32+len(name))
	b = append(b, "/proc/self/fd/"...)
	b = strconv.AppendInt(b, int64(dirfd), 10)
	if name != "" {
		b = append(b, '/')
		b = append(b, name...)
	}
	return string(b)
}

// syncHost brings the filesystem that a directory is on to the disk.
func syncHost(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// allXattrs returns all attributes of the directory as one text, to compare.
func (d *hostDir) allXattrs() (string, error) {
	fd, err := d.open()
	if err != nil {
		return "", err
	}
	defer d.close()
	path := procPath(fd, ".")
	names, err := xattr.LList(path)
	if err != nil {
		return "", err
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		v, err := xattr.LGet(path, name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%q=%q\n", name, v)
	}
	return b.String(), nil
}
