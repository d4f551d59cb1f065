package overlay

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"maps"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Names by which layers of images say what they take away (OCI image
// specification, layer.md, "Representing Changes").
const (
	ociWhiteout = ".wh."
	ociOpaque   = ".wh..wh..opq"
	aufsPrefix  = ".wh..wh." // other files and folders of aufs's own housekeeping
)

// unpack makes dir, with the layer recorded in it, and returns the digest of
// the uncompressed tar. below are the roots of the layers under it.
func (l *archiveLayer) unpack(ctx context.Context, dir string, below []string, log *slog.Logger) (diffID string, err error) {
	root := filepath.Join(dir, archiveRootDir)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	w, err := newLayerWriter(root, below, l.image, log)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	diffID, err = l.stream(ctx, w)
	if err != nil {
		return "", err
	}
	implicit, err := w.finish()
	if err != nil {
		return "", err
	}
	err = os.WriteFile(filepath.Join(dir, archiveImplicit), []byte(implicit), 0o644)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "format"), []byte(archiveFormat), 0o644)
	}
	return diffID, err
}

// stream gives w all entries of the layer and checks the digests.
func (l *archiveLayer) stream(ctx context.Context, w *layerWriter) (diffID string, err error) {
	src, err := l.open()
	if err != nil {
		return "", err
	}
	defer closeRead(src)
	blob := &countingHash{Hash: sha256.New()}
	var raw io.Reader = src
	if l.blob != "" {
		raw = io.TeeReader(src, blob)
	}
	plain, err := decompress(raw)
	if err != nil {
		return "", err
	}
	defer closeRead(plain)
	digest := sha256.New()
	ahead := startReadAhead(ctx, plain, digest)
	defer ahead.Close()
	err = w.all(ctx, ahead, l.diffID == "")
	if err == nil {
		// The digest is of everything, and so is a decompressor's check sum.
		_, err = io.Copy(io.Discard, ahead)
	}
	if err != nil {
		return "", err
	}
	diffID = hex.EncodeToString(digest.Sum(nil))
	if l.diffID != "" && diffID != l.diffID {
		return "", fmt.Errorf("damaged: its content has the digest sha256:%s, not sha256:%s", diffID, l.diffID)
	}
	if l.blob == "" {
		return diffID, nil
	}
	closeRead(plain) // it may read ahead in a goroutine of its own
	if _, err := io.Copy(io.Discard, raw); err != nil {
		return "", err
	}
	if got := hex.EncodeToString(blob.Sum(nil)); got != l.blob || blob.size != l.size {
		return "", fmt.Errorf("damaged: its %d bytes have the digest sha256:%s", blob.size, got)
	}
	return diffID, nil
}

type countingHash struct {
	hash.Hash
	size int64
}

func (h *countingHash) Write(p []byte) (int, error) {
	h.size += int64(len(p))
	return h.Hash.Write(p)
}

// layerWriter unpacks the entries of one tar. The layer has no symlinks on
// the host (they are placeholder files), so that a path in it stays in it.
type layerWriter struct {
	path  string   // the root of the layer on the host
	fd    int      // the same, opened
	root  *os.Root // the same, to remove whole subtrees
	below []string // roots of the layers below, bottom to top
	image bool     // whiteouts are told by name
	log   *slog.Logger

	dirs map[string]dirEntry // all directories so far, by cleaned name

	global map[string]string // PAX records for all entries that follow

	parent   string // the directory of the last entry …
	parentFd int    // … opened; -1 for none

	buf []byte
}

// dirEntry is what is left to do about a directory.
type dirEntry struct {
	explicit bool          // the tar has an entry for it
	opaque   bool          // nothing below merges into it
	mtime    unix.Timespec // set when nothing comes into it any more
}

// slot is where an entry goes.
type slot struct {
	dir  string // cleaned name of the directory it is in
	fd   int    // the same, opened
	base string
}

func (p slot) name() string { return path.Join(p.dir, p.base) }

func newLayerWriter(root string, below []string, image bool, log *slog.Logger) (*layerWriter, error) {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	w := &layerWriter{
		path: root, fd: fd, root: r, below: below, image: image, log: log,
		dirs: map[string]dirEntry{".": {}}, parentFd: -1, buf: make([]byte, 256<<10),
	}
	if err := w.implyDir("."); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *layerWriter) close() error {
	w.forgetParent()
	return errors.Join(unix.Close(w.fd), w.root.Close())
}

// all unpacks the tar that src has. mustEnd says that no digest will tell
// whether it is complete, so that it has to end as tars do.
func (w *layerWriter) all(ctx context.Context, src *readAhead, mustEnd bool) error {
	r := tar.NewReader(src)
	last := "its start"
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			if mustEnd && src.drained {
				return fmt.Errorf("truncated: it stops after %s, without the mark that ends a tar", last)
			}
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return fmt.Errorf("after %s: %w", last, eofIsEarly(err))
		}
		last = fmt.Sprintf("entry %.4096q", h.Name)
		if err := w.entry(ctx, h, r); err != nil {
			return fmt.Errorf("%s: %w", last, err)
		}
	}
}

func eofIsEarly(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// isNoEntry tells whether a member is about the archive as a whole.
func isNoEntry(h *tar.Header) bool {
	const gnuVolumeLabel = 'V' // GNU tar manual, "Basic Tar Format"
	return h.Typeflag == tar.TypeXGlobalHeader || h.Typeflag == gnuVolumeLabel
}

// entry unpacks one member of the tar. Where two have the same name, the
// later one counts.
func (w *layerWriter) entry(ctx context.Context, h *tar.Header, content io.Reader) error {
	if isNoEntry(h) {
		return w.forAll(h)
	}
	if err := w.inherit(h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeReg && strings.HasSuffix(h.Name, "/") {
		h.Typeflag = tar.TypeDir // as before POSIX
	}
	name := cleanName(h.Name)
	m, err := headerMeta(h)
	if err != nil {
		return err
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return errors.New("is the root, but not a directory")
		}
		return w.describeDir(name, m, h)
	}
	if w.image && strings.Contains("/"+name, "/"+aufsPrefix) && path.Base(name) != ociOpaque {
		return nil
	}
	p, err := w.place(name)
	if err != nil {
		return err
	}
	if w.image && strings.HasPrefix(p.base, ociWhiteout) {
		return w.whiteout(p)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := w.makeDir(p); err != nil {
			return err
		}
		return w.describeDir(p.name(), m, h)
	case tar.TypeLink:
		return w.link(p, h.Linkname)
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) >= unix.PathMax {
			return fmt.Errorf("symlink target of %d bytes", len(h.Linkname))
		}
		return w.file(p, m, h, func(f *os.File) error {
			_, err := f.WriteString(h.Linkname)
			return err
		})
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return w.file(p, m, h, func(f *os.File) error { return copySparse(ctx, f, content, h.Size, w.buf) })
	}
	return w.file(p, m, h, func(*os.File) error { return nil })
}

var headerTypes = map[byte]uint32{
	tar.TypeReg: unix.S_IFREG, tar.TypeCont: unix.S_IFREG, tar.TypeGNUSparse: unix.S_IFREG,
	tar.TypeLink: unix.S_IFREG, tar.TypeDir: unix.S_IFDIR, tar.TypeSymlink: unix.S_IFLNK,
	tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO,
}

// headerMeta converts what the header says.
func headerMeta(h *tar.Header) (meta, error) {
	typ, ok := headerTypes[h.Typeflag]
	if !ok {
		return meta{}, fmt.Errorf("type %q is not supported", h.Typeflag)
	}
	m := meta{mode: typ | uint32(h.Mode)&0o7777}
	if typ == unix.S_IFLNK {
		m.mode = unix.S_IFLNK | 0o777
	}
	// The highest id stands for "no change" in chown(2) and is no owner.
	if h.Uid < 0 || h.Uid >= math.MaxUint32 || h.Gid < 0 || h.Gid >= math.MaxUint32 {
		return meta{}, fmt.Errorf("owner %d:%d is out of range", h.Uid, h.Gid)
	}
	m.uid, m.gid = uint32(h.Uid), uint32(h.Gid)
	if typ == unix.S_IFCHR || typ == unix.S_IFBLK {
		if h.Devmajor < 0 || h.Devmajor > maxMajor || h.Devminor < 0 || h.Devminor > maxMinor {
			return meta{}, fmt.Errorf("device %d:%d is out of range", h.Devmajor, h.Devminor)
		}
		m.rdev = unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	}
	return m, nil
}

func headerMtime(h *tar.Header) unix.Timespec {
	return unix.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}
}

// file makes a host file for anything but a directory.
func (w *layerWriter) file(p slot, m meta, h *tar.Header, fill func(*os.File) error) error {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := openRetry(p.fd, p.base, flags, 0o600)
	if errors.Is(err, unix.EEXIST) {
		if err = w.remove(p); err == nil {
			fd, err = openRetry(p.fd, p.base, flags, 0o600)
		}
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), p.name())
	err = fill(f)
	if err == nil {
		err = w.setXattrs(fd, h)
	}
	if err == nil {
		err = recordFd(fd, m, 0)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	mtime := headerMtime(h)
	return unix.UtimesNanoAt(p.fd, p.base, []unix.Timespec{mtime, mtime}, unix.AT_SYMLINK_NOFOLLOW)
}

// link makes p another name of target.
func (w *layerWriter) link(p slot, target string) error {
	from, err := w.place(cleanName(target))
	if err != nil {
		return fmt.Errorf("hard link to %.4096q: %w", target, err)
	}
	var st unix.Stat_t
	switch err := fstatat(from.fd, from.base, &st); {
	case errors.Is(err, unix.ENOENT) || err == nil && isWhiteout(st.Mode):
		return fmt.Errorf("hard link to %.4096q, which is not in the archive before it", target)
	case err != nil:
		return fmt.Errorf("hard link to %.4096q: %w", target, err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return fmt.Errorf("hard link to %.4096q, which is a directory", target)
	case from.name() == p.name():
		return nil
	}
	// p's directory may have been closed when the target's was opened.
	p, err = w.place(p.name())
	if err != nil {
		return err
	}
	err = unix.Linkat(w.fd, from.name(), p.fd, p.base, 0)
	if errors.Is(err, unix.EEXIST) {
		if err = w.remove(p); err == nil {
			err = unix.Linkat(w.fd, from.name(), p.fd, p.base, 0)
		}
	}
	if err != nil {
		return fmt.Errorf("hard link to %.4096q: %w", target, err)
	}
	return nil
}

// whiteout records that p.base, without its prefix, is gone from the layers
// below. What the layer itself has there stays.
func (w *layerWriter) whiteout(p slot) error {
	if p.base == ociOpaque {
		return w.makeOpaque(p.dir)
	}
	p.base = strings.TrimPrefix(p.base, ociWhiteout)
	if p.base == "" || p.base == "." || p.base == ".." {
		return fmt.Errorf("whiteout of %q", p.base)
	}
	err := ignoringEINTR(func() error { return unix.Mknodat(p.fd, p.base, unix.S_IFCHR, 0) })
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if _, isDir := w.dirs[p.name()]; isDir {
		return w.makeOpaque(p.name())
	}
	return nil
}

// remove makes room at p.
func (w *layerWriter) remove(p slot) error {
	name := p.name()
	if _, isDir := w.dirs[name]; !isDir {
		return unix.Unlinkat(p.fd, p.base, 0)
	}
	maps.DeleteFunc(w.dirs, func(dir string, _ dirEntry) bool {
		return dir == name || strings.HasPrefix(dir, name+"/")
	})
	return w.root.RemoveAll(name)
}

// finish sets what could not be set before and returns the implicit
// directories, each ended by a NUL.
func (w *layerWriter) finish() (implicit string, err error) {
	var list strings.Builder
	for _, name := range slices.Sorted(maps.Keys(w.dirs)) {
		d := w.dirs[name]
		if !d.explicit {
			list.WriteString(name + "\x00")
		}
		err := unix.UtimesNanoAt(w.fd, name, []unix.Timespec{d.mtime, d.mtime}, unix.AT_SYMLINK_NOFOLLOW)
		if err != nil {
			return "", fmt.Errorf("directory %q: set times: %w", name, err)
		}
	}
	return list.String(), nil
}

// zeros is the unit in which holes are found, as file systems have them.
var zeros [4096]byte

// copySparse writes size bytes of src to f, which is new, and leaves blocks of
// zeros unwritten. It reads into buf, whose size is a multiple of theirs.
func copySparse(ctx context.Context, f *os.File, src io.Reader, size int64, buf []byte) error {
	if size >= int64(len(zeros)) {
		// Holes at the end need it; and a size that the host can't hold
		// fails now.
		if err := f.Truncate(size); err != nil {
			return err
		}
	}
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := fill(src, buf[:min(int64(len(buf)), size-off)])
		if err := writeData(f, buf[:n], off); err != nil {
			return err
		}
		off += int64(n)
		if err != nil && off < size {
			return eofIsEarly(err)
		}
	}
	return nil
}

// writeData writes the blocks of p that aren't zero, off being a multiple of
// their size.
func writeData(f *os.File, p []byte, off int64) error {
	for len(p) > 0 {
		hole := 0
		for len(p)-hole >= len(zeros) && [4096]byte(p[hole:]) == zeros {
			hole += len(zeros)
		}
		data := hole
		for data < len(p) && (len(p)-data < len(zeros) || [4096]byte(p[data:]) != zeros) {
			data += min(len(zeros), len(p)-data)
		}
		if _, err := f.WriteAt(p[hole:data], off+int64(hole)); err != nil {
			return err
		}
		p, off = p[data:], off+int64(data)
	}
	return nil
}
