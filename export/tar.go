package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// TarOptions is how a [TarWriter] works.
type TarOptions struct {
	// Log gets a warning for each socket, which a tar cannot hold. Nil: none.
	Log *slog.Logger

	// Progress, if not nil, is called with the number of bytes written since
	// the last call, in a goroutine other than Add's, one call at a time.
	Progress func(n int64)

	// Digest makes Close return the SHA-256 of the tar.
	Digest bool
}

// TarSum is what a finished tar is known by.
type TarSum struct {
	Size   int64    // in bytes
	SHA256 [32]byte // zero without TarOptions.Digest
}

// TarWriter writes a layer tar: POSIX pax with names "./…", numeric owners
// without names, hard links to the first name, sparse files as GNU tar's PAX
// format 1.0, extended attributes as SCHILY.xattr records. What a ustar block
// can hold has no extended header. Access and change times are left out: a
// checkout's are not reproducible. The same entries make the same bytes.
//
// It is for one goroutine; reading, writing and hashing overlap all the same.
type TarWriter struct {
	out   *batchWriter
	log   *slog.Logger
	links map[uint64]*firstName // by inode, while more names may come
	buf   []byte                // header, reused
	err   error                 // first failure of Add
}

// firstName is the name in the tar that further links of a file refer to.
type firstName struct {
	name string
	left uint32 // links not yet seen
}

// NewTarWriter starts a tar on w. Once ctx is done, Add and Close return its
// error. Close must be called, also after an error of Add.
func NewTarWriter(ctx context.Context, w io.Writer, opts TarOptions) *TarWriter {
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &TarWriter{
		out:   newBatchWriter(ctx, w, opts.Digest, opts.Progress),
		log:   log,
		links: map[uint64]*firstName{},
	}
}

// Add writes an entry. Entries come parents first. An error names the entry's
// path; after one, the tar cannot be finished.
func (t *TarWriter) Add(e *overlay.Entry) error {
	if t.err != nil {
		return t.err
	}
	if e.Mode&unix.S_IFMT == unix.S_IFSOCK {
		t.log.Warn("socket left out: a tar cannot hold one", "path", e.Path)
		return nil
	}
	err := t.add(e)
	if failed := t.out.failed(); failed != nil {
		t.err = fmt.Errorf("tar: %w", failed) // not this entry's fault
	} else if err != nil {
		t.err = fmt.Errorf("tar: %s: %w", e.Path, err)
	}
	return t.err
}

func (t *TarWriter) add(e *overlay.Entry) error {
	h := tarHeader{
		name:  tarName(e),
		mode:  e.Mode & 0o7777,
		uid:   e.UID,
		gid:   e.GID,
		mtime: e.Mtime,
	}
	if first := t.linkTo(e, h.name); first != "" {
		h.typ, h.link = typeLink, first
		return t.header(&h)
	}
	for _, x := range e.Xattrs {
		h.extra = append(h.extra, paxRecord{xattrKey(x.Name), string(x.Value)})
	}
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.typ, h.size = typeFile, e.Size
		return t.file(e, &h)
	case unix.S_IFDIR:
		h.typ = typeDir
	case unix.S_IFLNK:
		h.typ, h.link = typeSymlink, e.Target
	case unix.S_IFIFO:
		h.typ = typeFIFO
	case unix.S_IFCHR:
		h.typ, h.major, h.minor = typeChar, unix.Major(e.Rdev), unix.Minor(e.Rdev)
	case unix.S_IFBLK:
		h.typ, h.major, h.minor = typeBlock, unix.Major(e.Rdev), unix.Minor(e.Rdev)
	default:
		return fmt.Errorf("file type %#o is unknown", e.Mode&unix.S_IFMT)
	}
	return t.header(&h)
}

// tarName returns "./path", with a slash after a directory's.
func tarName(e *overlay.Entry) string {
	switch {
	case e.Path == ".":
		return "./"
	case e.IsDir():
		return "./" + e.Path + "/"
	}
	return "./" + e.Path
}

// linkTo returns the name under which e's file is in the tar already; "" if
// it is not.
func (t *TarWriter) linkTo(e *overlay.Entry, name string) string {
	if e.Nlink < 2 || e.IsDir() {
		return ""
	}
	first, ok := t.links[e.Ino]
	if !ok {
		t.links[e.Ino] = &firstName{name, e.Nlink - 1}
		return ""
	}
	if first.left--; first.left == 0 {
		delete(t.links, e.Ino)
	}
	return first.name
}

func (t *TarWriter) header(h *tarHeader) (err error) {
	if t.buf, err = h.appendTo(t.buf[:0]); err != nil {
		return err
	}
	_, err = t.out.Write(t.buf)
	return err
}

// file writes a regular file: its header, and its data without the holes.
func (t *TarWriter) file(e *overlay.Entry, h *tarHeader) (err error) {
	if e.Content == nil {
		if e.Size != 0 {
			return errors.New("file has no content")
		}
		return t.header(h)
	}
	f, err := e.Content.Open()
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // opened for reading: nothing to lose
	if err := checkSize(f, e.Size); err != nil {
		return err
	}
	ranges, err := dataRanges(f, e.Size)
	if err != nil {
		return err
	}
	var sparseMap []byte
	if e.Size > 0 && (len(ranges) != 1 || ranges[0].Len != e.Size) {
		dir, base := path.Split(h.name)
		sparseMap = sparseHeader(h, path.Clean(dir), base, ranges)
	}
	if err := t.header(h); err != nil {
		return err
	}
	if _, err := t.out.Write(sparseMap); err != nil {
		return err
	}
	for _, r := range ranges {
		if err := t.out.readFrom(f, r.Off, r.Len); err != nil {
			return err
		}
	}
	if err := t.out.pad(padding(h.size)); err != nil {
		return err
	}
	return checkSize(f, e.Size)
}

// checkSize returns an error if f is not of the size that its entry has.
func checkSize(f *overlay.File, size int64) error {
	now, err := f.Size()
	if err != nil {
		return err
	}
	if now != size {
		return fmt.Errorf("content has %d bytes instead of %d: it changed while being read", now, size)
	}
	return nil
}

// Close writes the end of the tar and waits until everything is written. It
// does not close the underlying writer.
func (t *TarWriter) Close() (TarSum, error) {
	err := t.err
	if err == nil {
		err = t.out.pad(2 * tarBlock)
	}
	if cerr := t.out.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("tar: %w", cerr)
	}
	if err != nil {
		return TarSum{}, err
	}
	sum := TarSum{Size: t.out.size}
	if t.out.sum != nil {
		t.out.sum.Sum(sum.SHA256[:0])
	}
	return sum, nil
}
