package overlay

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

// Unpack makes the tree of a tar in the empty directory dir, as files of the
// host that belong to the caller, with their modes, times, holes, hard links
// and extended attributes. The tar must be as this program writes them: each
// name once, and each directory, the root too, before what is in it. So nothing
// is ever made through a symlink. src is read to its end. The error names the entry; dir is
// then to be removed.
func Unpack(ctx context.Context, src io.Reader, dir string) error {
	u := &unpacker{dir: dir, dirs: map[string]*tar.Header{}, files: map[string]bool{}, buf: make([]byte, 256<<10)}
	r := tar.NewReader(src)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return err
		}
		if err := u.entry(ctx, h, r); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
	// What is in a directory before the directory, whose mode may shut it.
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(u.dirs))) {
		if err := u.describe(name, u.dirs[name]); err != nil {
			return fmt.Errorf("entry %q: %w", name, err)
		}
	}
	_, err := io.Copy(io.Discard, src)
	return err
}

// unpacker makes plain files.
type unpacker struct {
	dir   string
	dirs  map[string]*tar.Header // by cleaned name; described at the end
	files map[string]bool        // all else
	buf   []byte
}

func (u *unpacker) entry(ctx context.Context, h *tar.Header, content io.Reader) error {
	name := cleanName(h.Name)
	if name != "." && u.dirs[path.Dir(name)] == nil {
		return errors.New("its directory doesn't come before it")
	}
	m, err := headerMeta(h)
	if err != nil {
		return err
	}
	host := filepath.Join(u.dir, name)
	switch h.Typeflag {
	case tar.TypeDir:
		if name != "." {
			err = os.Mkdir(host, 0o700)
		}
		u.dirs[name] = h
		return err
	case tar.TypeLink:
		if first := cleanName(h.Linkname); u.files[first] {
			return os.Link(filepath.Join(u.dir, first), host)
		}
		return fmt.Errorf("hard link to %q, which is no file before it", h.Linkname)
	case tar.TypeSymlink:
		err = os.Symlink(h.Linkname, host)
	case tar.TypeReg, tar.TypeGNUSparse:
		err = u.file(ctx, host, content, h.Size)
	default:
		err = unix.Mknod(host, m.mode&unix.S_IFMT|0o600, int(m.rdev))
	}
	if err != nil {
		return err
	}
	u.files[name] = true
	return u.describe(name, h)
}

func (u *unpacker) file(ctx context.Context, host string, content io.Reader, size int64) error {
	f, err := os.OpenFile(host, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(copySparse(ctx, f, content, size, u.buf), f.Close())
}

// describe sets what the header says of a file that is whole.
func (u *unpacker) describe(name string, h *tar.Header) error {
	host := filepath.Join(u.dir, name)
	attrs, err := headerXattrs(h)
	if err != nil {
		return err
	}
	for _, attr := range slices.Sorted(maps.Keys(attrs)) {
		if strings.HasPrefix(attr, xattrPrefix) || attr == "security.selinux" {
			continue // they say nothing on another host
		}
		if err := xattr.LSet(host, attr, []byte(attrs[attr])); err != nil {
			return fmt.Errorf("set attribute %s: %w", attr, errors.Unwrap(err))
		}
	}
	if h.Typeflag != tar.TypeSymlink { // last, as it may forbid the others
		if err := unix.Chmod(host, uint32(h.Mode)&0o7777); err != nil {
			return fmt.Errorf("set its mode: %w", err)
		}
	}
	mtime := headerMtime(h)
	return unix.UtimesNanoAt(unix.AT_FDCWD, host, []unix.Timespec{mtime, mtime}, unix.AT_SYMLINK_NOFOLLOW)
}
