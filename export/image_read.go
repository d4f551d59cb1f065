package export

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/export/plan"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// Filesystem is the inside of an image, whatever its format: files by their
// numbers.
type Filesystem interface {
	// Format names the format, as "ext4" or "tar".
	Format() string

	// Root returns the number of the root directory.
	Root() uint64

	// Stat fills e with all that is known of a file but its Path and Content.
	// Ino is the number. A directory that the image only implies has no links.
	Stat(number uint64, e *overlay.Entry) error

	// ReadDir calls yield with each name in a directory, in any order, without
	// "." and "..".
	ReadDir(number uint64, yield func(name string, number uint64) error) error

	// Extents calls yield with each part of a file's content that isn't a
	// hole, in order: its offset in the file, in the filesystem, and its
	// length, in bytes.
	Extents(number uint64, yield func(file, image, length int64) error) error

	// Check reports everything in the filesystem that contradicts itself, a
	// line each. An error of report ends it.
	Check(ctx context.Context, report func(problem string) error) error
}

const (
	maxDirectory = 1 << 23 // names that a directory may have, so that a damaged one can't fill the memory
	maxExtents   = 1 << 22 // parts of a file, likewise
	maxFollowed  = 40      // symlinks that are followed for one path, as Linux does
	maxDepth     = 10_000  // directories in each other
)

// dirName is a name in a directory.
type dirName struct {
	name   string
	number uint64
}

// names reads a directory, sorted by name.
func (im *Image) names(dir uint64) ([]dirName, error) {
	var names []dirName
	err := im.ReadDir(dir, func(name string, number uint64) error {
		if len(names) == maxDirectory {
			return fmt.Errorf("more than %d names", maxDirectory)
		}
		names = append(names, dirName{name, number})
		return nil
	})
	slices.SortFunc(names, func(a, b dirName) int { return strings.Compare(a.name, b.name) })
	return names, err
}

// Name implements [Side].
func (im *Image) Name() string { return im.Path }

// Walk calls visit with every entry: the root, ".", first, each directory
// before what is in it, names in bytewise order. The entry is used again for
// the next one. An error tells the path.
func (im *Image) Walk(ctx context.Context, visit func(*overlay.Entry) error) error {
	w := &imageWalk{im: im, visit: visit, entered: make(map[uint64]bool)}
	return w.walk(ctx, im.Root(), ".", 0)
}

// imageWalk is a walk under way. Entering no directory twice, it ends whatever
// the image holds.
type imageWalk struct {
	im      *Image
	visit   func(*overlay.Entry) error
	entry   overlay.Entry
	entered map[uint64]bool
}

func (w *imageWalk) walk(ctx context.Context, number uint64, full string, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := w.im.Stat(number, &w.entry); err != nil {
		return fmt.Errorf("%s: %w", full, err)
	}
	w.entry.Path = full
	isDir := w.entry.IsDir()
	if err := w.visit(&w.entry); err != nil || !isDir {
		return err
	}
	if w.entered[number] {
		return fmt.Errorf("%s: the directory has several names", full)
	}
	if depth == maxDepth {
		return fmt.Errorf("%.100s…: more than %d directories in each other", full, maxDepth)
	}
	w.entered[number] = true
	names, err := w.im.names(number)
	if err != nil {
		return fmt.Errorf("%s: %w", full, err)
	}
	for _, n := range names {
		if err := w.walk(ctx, n.number, path.Join(full, n.name), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// Lookup returns the entry at a path, absolute or from the root. Symlinks on
// the way are followed within the image, the last one only if asked for. The
// entry's Path has no symlinks. Errors wrap a syscall.Errno where the image is
// not to blame.
func (im *Image) Lookup(name string, follow bool) (*overlay.Entry, error) {
	e := &overlay.Entry{}
	if err := im.Stat(im.Root(), e); err != nil {
		return nil, err
	}
	e.Path = "."
	dirs := []*overlay.Entry{e} // from the root to where the path has led
	todo := strings.Split(name, "/")
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		last := dirs[len(dirs)-1]
		switch {
		case !last.IsDir():
			return nil, fmt.Errorf("%s: %w", name, unix.ENOTDIR)
		case part == "" || part == ".":
			continue
		case part == "..":
			dirs = dirs[:max(len(dirs)-1, 1)]
			continue
		}
		child, err := im.child(last, part)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if child.IsSymlink() && (follow || len(todo) > 0) {
			if links++; links > maxFollowed {
				return nil, fmt.Errorf("%s: %w", name, unix.ELOOP)
			}
			if strings.HasPrefix(child.Target, "/") {
				dirs = dirs[:1]
			}
			todo = append(strings.Split(child.Target, "/"), todo...)
			continue
		}
		dirs = append(dirs, child)
	}
	return dirs[len(dirs)-1], nil
}

// child returns an entry of a directory.
func (im *Image) child(dir *overlay.Entry, name string) (*overlay.Entry, error) {
	number := uint64(0)
	err := im.ReadDir(dir.Ino, func(n string, i uint64) error {
		if n == name {
			number = i
		}
		return nil
	})
	if err == nil && number == 0 {
		err = unix.ENOENT
	}
	if err != nil {
		return nil, err
	}
	e := &overlay.Entry{}
	if err := im.Stat(number, e); err != nil {
		return nil, err
	}
	e.Path = path.Join(dir.Path, name)
	return e, nil
}

// List calls visit with what is in a directory, in bytewise order of the names.
func (im *Image) List(dir *overlay.Entry, visit func(*overlay.Entry) error) error {
	names, err := im.names(dir.Ino)
	if err != nil {
		return fmt.Errorf("%s: %w", dir.Path, err)
	}
	for _, n := range names {
		var e overlay.Entry
		if err := im.Stat(n.number, &e); err != nil {
			return fmt.Errorf("%s: %w", path.Join(dir.Path, n.name), err)
		}
		e.Path = path.Join(dir.Path, n.name)
		if err := visit(&e); err != nil {
			return err
		}
	}
	return nil
}

// Content reads a regular file's bytes; holes are zeros. It has its size.
type Content interface {
	io.ReaderAt
	io.Closer
	// Data lists the parts that aren't holes, in order.
	Data() []plan.Range
}

// Content returns the bytes of a regular file. They end with the image.
func (im *Image) Content(e *overlay.Entry) (Content, error) {
	c := &imageContent{src: im.src, size: e.Size}
	err := im.Extents(e.Ino, func(file, image, length int64) error {
		if len(c.extents) == maxExtents {
			return fmt.Errorf("more than %d parts", maxExtents)
		}
		c.extents = append(c.extents, extent{file, image, length})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Path, err)
	}
	return c, nil
}

// imageContent is a file in an image.
type imageContent struct {
	src     io.ReaderAt
	size    int64
	extents []extent
}

// Close implements [io.Closer].
func (c *imageContent) Close() error { return nil }

// Data implements [Content].
func (c *imageContent) Data() []plan.Range {
	ranges := make([]plan.Range, len(c.extents))
	for i, x := range c.extents {
		ranges[i] = plan.Range{Off: x.file, Len: x.length}
	}
	return ranges
}

// ReadAt implements [io.ReaderAt].
func (c *imageContent) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off >= c.size {
		return 0, io.EOF
	}
	short := int64(len(b)) > c.size-off
	b = b[:min(int64(len(b)), c.size-off)]
	i := sort.Search(len(c.extents), func(i int) bool { return c.extents[i].file+c.extents[i].length > off })
	for done := 0; done < len(b); {
		rest, at := b[done:], off+int64(done)
		if i == len(c.extents) || at < c.extents[i].file {
			n := len(rest)
			if i < len(c.extents) {
				n = int(min(int64(n), c.extents[i].file-at))
			}
			clear(rest[:n])
			done += n
			continue
		}
		x := c.extents[i]
		rest = rest[:min(int64(len(rest)), x.file+x.length-at)]
		if n, err := c.src.ReadAt(rest, x.image+at-x.file); n < len(rest) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return done + n, err
		}
		done, i = done+len(rest), i+1
	}
	if short {
		return len(b), io.EOF
	}
	return len(b), nil
}
