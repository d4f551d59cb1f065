package overlay

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

// The cache of unpacked archives:
//
//	layers/NAME/format    archiveFormat
//	layers/NAME/implicit  directories that the archive has no entry for
//	layers/NAME/root/     the recorded layer
//	layers/.tmp-*/        being unpacked; stale when nobody holds lock
//	archives/HEX.json     which layers an archive came to (archiveRecord)
//	lock                  held shared by those who unpack
//	gc.lock               held alone by who removes (hold.go)
//	projects/             what projects use (uses.go)
//
// NAME of an image's layer is sha256- and the chain id of the OCI image
// specification (config.md, "Layer ChainID"), since how a layer unpacks depends
// on those below it. That of a rootfs tar is tar- and its digest; earlier
// versions had sha256- there, too, and their records may still refer to that.
const (
	archiveFormat   = "rootfs layer 1\n"
	archiveRootDir  = "root"
	archiveImplicit = "implicit"
)

// archiveRecord remembers what an archive came to, so that a mount needn't
// read a gigabyte to know. The file is the same while none of the fields has
// changed; the inode change time catches a rewrite that sets the others back.
type archiveRecord struct {
	Path  string // or an image's digest, which says it all
	Size  int64
	Mtime Time
	Ctime Time
	Ino   uint64
	Arch  string

	Layers []string // names in the folder layers, bottom to top
}

// unpackArchive makes the archive at path available as recorded layers below
// cache and returns their directories, bottom to top: one for a rootfs tar,
// one for each layer of a docker archive, an OCI layout or a tar of one. What
// is there already is not unpacked again. From an image for several
// architectures it takes the one for arch (a name as in rootfs.toml; "" where
// there is no choice).
//
// Two processes may do so at once. The error has the path of the archive and
// the entry; nothing of a failed archive stays in the cache.
func unpackArchive(ctx context.Context, path, cache, arch string, log *slog.Logger) ([]string, error) {
	rec, err := identifyArchive(path, arch)
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	c := archiveCache{dir: cache}
	if err := c.recall(rec); err == nil {
		return c.layerDirs(rec.Layers)
	}
	log.Info("unpacking", "archive", path)
	err = c.unpack(ctx, rec, func(tmp string) (*openedArchive, error) {
		return openArchive(ctx, rec.Path, rec.Arch, tmp, log)
	}, log)
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", path, err)
	}
	again, err := identifyArchive(path, arch)
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	if again.key() != rec.key() {
		return nil, fmt.Errorf("archive %s: changed while it was read; try again", path)
	}
	if err := c.remember(rec); err != nil {
		return nil, fmt.Errorf("archive %s: %w", path, err)
	}
	return c.layerDirs(rec.Layers)
}

// implicitDirs returns the directories of the unpacked layer at dir (as
// unpackArchive returns it) that its archive has no entry for, "." among them
// when that is one: their attributes are those of what is below.
func implicitDirs(dir string) (map[string]bool, error) {
	list, err := os.ReadFile(filepath.Join(filepath.Dir(dir), archiveImplicit))
	if err != nil {
		return nil, err
	}
	dirs := map[string]bool{}
	for name := range strings.SplitSeq(string(list), "\x00") {
		if name != "" {
			dirs[name] = true
		}
	}
	return dirs, nil
}

// identifyArchive fills all but the layers. An OCI layout directory is the
// same while its index is: the rest is named by content.
func identifyArchive(path, arch string) (*archiveRecord, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		index := filepath.Join(path, ociIndex)
		if err := unix.Stat(index, &st); err != nil {
			return nil, fmt.Errorf("%s: not an OCI layout: %w", path, &fs.PathError{Op: "open", Path: index, Err: err})
		}
	} else if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%s: neither a file nor a directory", path)
	}
	return &archiveRecord{
		Path: path, Size: st.Size, Mtime: TimeOf(st.Mtim), Ctime: TimeOf(st.Ctim), Ino: st.Ino, Arch: arch,
	}, nil
}

// key names the file that holds the record.
func (r *archiveRecord) key() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %d %d %d %d %d %d %q", r.Path, r.Size,
		r.Mtime.Sec, r.Mtime.Nsec, r.Ctime.Sec, r.Ctime.Nsec, r.Ino, r.Arch))
	return hex.EncodeToString(sum[:])
}

type archiveCache struct{ dir string }

func (c archiveCache) layersDir() string { return filepath.Join(c.dir, "layers") }
func (c archiveCache) recordFile(key string) string {
	return filepath.Join(c.dir, "archives", key+".json")
}

// recall fills in the layers of an archive that was unpacked before.
func (c archiveCache) recall(rec *archiveRecord) error {
	var old archiveRecord
	if err := c.load(rec.key(), &old); err != nil {
		return err
	}
	rec.Layers = old.Layers
	return nil
}

// load reads the record of an archive all of whose layers are there.
func (c archiveCache) load(key string, rec *archiveRecord) error {
	b, err := os.ReadFile(c.recordFile(key))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, rec); err != nil {
		return err
	}
	for _, name := range rec.Layers {
		if !c.has(name) {
			return fs.ErrNotExist
		}
	}
	return nil
}

func (c archiveCache) remember(rec *archiveRecord) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	file := c.recordFile(rec.key())
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return writeFileAtomically(file, b)
}

func writeFileAtomically(file string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".tmp-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// has tells whether the layer is there, whole: it appeared by a rename, and nobody
// has cleaned the cache by hand since.
func (c archiveCache) has(name string) bool {
	dir := filepath.Join(c.layersDir(), name)
	return exists(filepath.Join(dir, "format")) && exists(filepath.Join(dir, archiveImplicit)) && exists(filepath.Join(dir, archiveRootDir))
}

// layerDirs returns the roots of layers, all of which are there.
func (c archiveCache) layerDirs(names []string) ([]string, error) {
	dirs := make([]string, len(names))
	for i, name := range names {
		dir := filepath.Join(c.layersDir(), name)
		format, err := os.ReadFile(filepath.Join(dir, "format"))
		if err != nil {
			return nil, err
		}
		if string(format) != archiveFormat {
			return nil, fmt.Errorf("%s: format %q is of another version of this program; remove the directory", dir, format)
		}
		dirs[i] = filepath.Join(dir, archiveRootDir)
	}
	return dirs, nil
}

// opener opens an archive; tmp is a directory for what must be kept meanwhile.
type opener func(tmp string) (*openedArchive, error)

// unpack fills in the layers of rec, having unpacked those that weren't there.
func (c archiveCache) unpack(ctx context.Context, rec *archiveRecord, open opener, log *slog.Logger) error {
	if err := os.MkdirAll(c.layersDir(), 0o755); err != nil {
		return err
	}
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	tmp, err := os.MkdirTemp(c.layersDir(), ".tmp-*")
	if err != nil {
		return err
	}
	err = c.unpackIn(ctx, tmp, rec, open, log)
	return errors.Join(err, os.RemoveAll(tmp))
}

func (c archiveCache) unpackIn(ctx context.Context, tmp string, rec *archiveRecord, open opener, log *slog.Logger) error {
	src, err := open(tmp)
	if err != nil {
		return err
	}
	defer closeRead(src.closer)
	fresh := map[string]string{} // name → where it was unpacked
	var below []string
	var chain string
	add := func(name, dir string) error {
		chain = name
		root := filepath.Join(dir, archiveRootDir)
		// A root that hides what is below leaves nothing of it.
		opaque, err := xattr.LGet(root, xattrOpaque)
		if len(opaque) > 0 {
			rec.Layers, below = nil, nil
		}
		rec.Layers = append(rec.Layers, name)
		below = append(below, root)
		if errors.Is(err, xattr.ENOATTR) {
			return nil
		}
		return err
	}
	for i, layer := range src.layers {
		if layer.diffID != "" {
			// Known beforehand: an image that shares layers has them already.
			name := layer.cacheName(chain, layer.diffID)
			if dir := filepath.Join(c.layersDir(), name); c.has(name) {
				if err := add(name, dir); err != nil {
					return err
				}
				continue
			}
		}
		dir := filepath.Join(tmp, fmt.Sprint(i))
		diffID, err := layer.unpack(ctx, dir, below, log)
		if err != nil {
			return layer.wrap(err)
		}
		name := layer.cacheName(chain, diffID)
		fresh[name] = dir
		if err := add(name, dir); err != nil {
			return err
		}
	}
	return c.publish(fresh)
}

// cacheName is the name in the cache of the layer, whose digest is diffID, on
// top of the layer named below, "" for none. A tar by itself has another than
// the same as an image's layer, where names say what is gone.
func (l *archiveLayer) cacheName(below, diffID string) string {
	if !l.image {
		return "tar-" + diffID
	}
	if below == "" {
		return "sha256-" + diffID
	}
	sum := sha256.Sum256([]byte("sha256:" + strings.TrimPrefix(below, "sha256-") + " sha256:" + diffID))
	return "sha256-" + hex.EncodeToString(sum[:])
}

// publish moves unpacked layers to their names, once the disk has them.
func (c archiveCache) publish(fresh map[string]string) error {
	dir, err := os.Open(c.layersDir())
	if err != nil {
		return err
	}
	defer closeRead(dir)
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("sync the cache: %w", err)
	}
	for name, tmp := range fresh {
		place := filepath.Join(c.layersDir(), name)
		err := unix.Rename(tmp, place)
		if err != nil && !c.has(name) {
			if _, err = removeUnheld(place, filepath.Join(place, archiveRootDir), false); err == nil {
				err = unix.Rename(tmp, place)
			}
		}
		// Somebody else was faster with the same content.
		if err != nil && !c.has(name) {
			return fmt.Errorf("rename to %s: %w", place, err)
		}
	}
	return dir.Sync()
}

// lock keeps others from taking our temporary directories for stale ones, and
// clears those that are.
func (c archiveCache) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(c.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if flock(f, unix.LOCK_EX|unix.LOCK_NB) == nil {
		stale, _ := filepath.Glob(filepath.Join(c.layersDir(), ".tmp-*"))
		for _, dir := range stale {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}
	if err == nil {
		err = flock(f, unix.LOCK_SH)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

func ignoringEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
