package overlay

import (
	"fmt"
	"hash/fnv"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Layer is one tree of the stack.
type Layer struct {
	Name string // as people know it: "user/apps/busybox"
	Dir  string // where it is on the host

	tree     *Tree
	rank     int    // position in the stack, 0 at the bottom
	recorded bool   // entries carry their own metadata (record.go)
	base     bool   // of the manifest's base
	pkg      bool   // a package: its directories merge through symlinks below
	edit     bool   // the edits or a checkpoint of them
	decides  bool   // it is there to override what is below (conflicts.go)
	asIs     bool   // not recorded, and owners, modes and whiteouts are the host's
	squash   bool   // asIs, but all belongs to root
	clone    string // where it is reached from; see openCloned
	root     *hostDir
	rootID   [2]uint64 // device and inode number of root
	inoBase  uint64    // the high bits of its inode numbers

	// implicit are directories that stand only for what is in them: their
	// attributes come from below, where something is below. nil for most.
	implicit map[string]bool

	// mtime is shown for all entries in place of the host's, where set.
	mtime *Time

	// hidden and attach say which directories merge elsewhere (links.go), by
	// path in this layer. nil for most.
	hidden map[string]bool
	attach map[string][]*hostDir
}

// open finds the layer's directory and prepares it for tree.
func (l *Layer) open(t *Tree, rank int) error {
	l.tree, l.rank = t, rank
	l.Dir = filepath.Clean(l.Dir) // what is in it is named by adding to that
	if l.root == nil {
		l.root = &hostDir{layer: l}
	}
	fd, err := l.root.open()
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err != nil {
		return fmt.Errorf("layer %s: %s: %w", l.Name, l.Dir, err)
	}
	l.rootID = [2]uint64{st.Dev, st.Ino}
	// Not given back: a layer's root stays open, since it alone is found by a
	// path, which another program may rename.
	return nil
}

// close gives the root of an open layer back. Who still has a file of the layer
// finds it as long as the layer's path leads there.
func (l *Layer) close() {
	l.tree.dirs.retire(&l.root.h)
	l.root.close()
}

// closeLayers closes layers but those in keep.
func closeLayers(layers, keep []*Layer) {
	for _, l := range layers {
		if !slices.Contains(keep, l) {
			l.close()
		}
	}
}

// openRoot opens the layer's root by its path. Once it was open, nothing else is
// taken for it.
func (l *Layer) openRoot() (int, error) {
	fd, err := openCloned(l.clone, l.Dir)
	if err != nil || l.rootID == [2]uint64{} {
		return fd, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && l.rootID != [2]uint64{st.Dev, st.Ino} {
		err = unix.ESTALE
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// writable tells whether the layer takes the tree's changes.
func (l *Layer) writable() bool { return l == l.tree.edits }

// inoBits is the part of an inode number that is the host's. The rest tells
// the layers apart, as overlayfs xino does.
const inoBits = 40

// numberLayers gives each layer its own range of inode numbers, which depends
// on names alone, so that numbers stay when a layer comes or goes. The edits
// keep the host's numbers.
func numberLayers(layers []*Layer) {
	taken := map[uint64]bool{0: true}
	for _, l := range layers {
		if l.edit {
			continue
		}
		h := fnv.New32a()
		_, _ = h.Write([]byte(l.Name))
		n := uint64(h.Sum32()) & (1<<(63-inoBits) - 1)
		for taken[n] {
			n = (n + 1) & (1<<(63-inoBits) - 1)
		}
		taken[n] = true
		l.inoBase = n << inoBits
	}
}

// ino makes an inode number of one of the host's.
func (l *Layer) ino(st *unix.Stat_t) uint64 { return l.inoBase ^ l.hostIno(st) }

// hostIno is the host's inode number, and another one where the layer has a
// filesystem mounted in it, which has the same numbers for other files.
func (l *Layer) hostIno(st *unix.Stat_t) uint64 {
	if l.edit || st.Dev == l.rootID[0] {
		return st.Ino
	}
	const spread = 0x9E3779B97F4A7C15 // 2^64 through the golden ratio
	return st.Ino ^ st.Dev*spread>>(1+inoBits)<<inoBits
}

// attrs is what the host says of an entry, with the metadata that counts.
type attrs struct {
	st unix.Stat_t
	m  meta
}

// look reads the attributes of name in d; ok is false when there is none.
func (d *hostDir) look(name string, a *attrs) (ok bool, err error) {
	fd, err := d.open()
	if err != nil {
		return false, ignoreMissing(err)
	}
	defer d.close()
	if err := fstatat(fd, name, &a.st); err != nil {
		return false, ignoreMissing(err)
	}
	if !d.layer.recorded {
		a.m = d.layer.plainMeta(&a.st)
		return true, nil
	}
	if a.st.Mode&metaFlag == 0 {
		a.m = meta{mode: a.st.Mode}
		return true, nil
	}
	if a.m, err = metaAt(procPath(fd, name), &a.st); err != nil {
		return false, fmt.Errorf("%s/%s/%s: %w", d.layer.Dir, d.path(), name, err)
	}
	return true, nil
}

// plainMeta says how an entry of a plain layer is shown: owned by root, with
// [PlainMode]; as it is, where the layer says so.
func (l *Layer) plainMeta(st *unix.Stat_t) meta {
	m := meta{mode: st.Mode, rdev: st.Rdev}
	switch {
	case l.squash:
	case l.asIs:
		m.uid, m.gid = st.Uid, st.Gid
	default:
		m.mode = PlainMode(st.Mode)
	}
	return m
}

// PlainMode is how the mode of an entry of a plain layer is shown, as in
// st_mode: but for sticky directories writable by the owner alone, whoever made
// it with whatever umask.
func PlainMode(mode uint32) uint32 {
	switch {
	case mode&unix.S_IFMT == unix.S_IFLNK:
		return unix.S_IFLNK | 0o777
	case mode&(unix.S_IFMT|unix.S_ISVTX) == unix.S_IFDIR|unix.S_ISVTX:
		// No umask and no git makes a directory sticky: somebody means it to be
		// another /tmp.
		return mode
	}
	return mode &^ 0o022
}

// isWhiteout tells whether an entry only hides its name.
func (l *Layer) isWhiteout(st *unix.Stat_t) bool {
	return isWhiteout(st.Mode) && (l.recorded || l.asIs && st.Rdev == 0)
}
