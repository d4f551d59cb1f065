package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

// Directories are what a tree is made of where there is no project: the
// directories that the mount options of the kernel's overlayfs name. What is
// in Lower belongs to whom it belongs on the host. See docs/adr/0006.
type Directories struct {
	Lower []string // topmost first
	Upper string   // takes the changes; "" for a tree that is only read
	Work  string   // on the filesystem of Upper, for its work and index; "" without one

	// SquashToRoot shows all that is in Lower as owned by root.
	SquashToRoot bool
}

// xattrFormat is on the root of an Upper, and holds editsFormat.
const xattrFormat = xattrPrefix + "format"

// upperFile, in the state directory, holds the inode number of the Upper.
const upperFile = "upper"

// Project checks the directories, apart from what is in them, and returns the
// project that has them for layers and edits.
func (d Directories) Project() (*Project, error) {
	if len(d.Lower) == 0 {
		return nil, errors.New("lowerdir is missing: name one directory or more, the topmost first")
	}
	if (d.Upper == "") != (d.Work == "") {
		return nil, errors.New("upperdir and workdir go together: name both, or none to mount read-only")
	}
	d.Lower = slices.Clone(d.Lower)
	slices.Reverse(d.Lower)
	for i := range d.Lower {
		if err := realDir("lowerdir", &d.Lower[i]); err != nil {
			return nil, err
		}
	}
	p := &Project{Root: d.Lower[0], Manifest: defaultManifest(), directories: &d}
	if d.Upper == "" {
		return p, nil
	}
	if err := errors.Join(realDir("upperdir", &d.Upper), realDir("workdir", &d.Work)); err != nil {
		return nil, err
	}
	p.Root = d.Work
	return p, d.checkUpper()
}

// realDir makes dir an absolute path without symlinks.
func realDir(option string, dir *string) error {
	path, err := filepath.Abs(*dir)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err == nil && !isDir(path) {
		err = &fs.PathError{Op: "open", Path: *dir, Err: unix.ENOTDIR}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", option, err)
	}
	*dir = path
	return nil
}

func (d *Directories) checkUpper() error {
	for _, lower := range d.Lower {
		if overlap(lower, d.Upper) || overlap(lower, d.Work) {
			return fmt.Errorf("lowerdir %s: overlaps what takes the changes, upperdir %s or workdir %s: give these beside it", lower, d.Upper, d.Work)
		}
	}
	if overlap(d.Upper, d.Work) {
		return fmt.Errorf("upperdir %s and workdir %s overlap: give two directories side by side", d.Upper, d.Work)
	}
	upper, err := mountID(d.Upper)
	if err != nil {
		return err
	}
	work, err := mountID(d.Work)
	if err == nil && work != upper {
		err = fmt.Errorf("workdir %s: must be in the same mount as upperdir %s: files move from one to the other", d.Work, d.Upper)
	}
	return err
}

// mountID tells mounts apart; statx(2).
func mountID(path string) (uint64, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &st)
	if err != nil {
		return 0, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	return st.Mnt_id, nil
}

// cloneDir returns a directory whose clone as a mount has both the upper and
// the work directory in it; "" where none has.
func (d *Directories) cloneDir() string {
	dir := d.Upper
	for !inside(d.Work, dir) {
		dir = filepath.Dir(dir)
	}
	upper, err := mountID(d.Upper)
	if above, aboveErr := mountID(dir); err != nil || aboveErr != nil || above != upper {
		return ""
	}
	return dir
}

// openCloned opens the directory dir: where it may, in a clone of the mount at
// above, a directory above it, as the kernel's overlayfs does. So the tree keeps
// nobody from unmounting where its layers are, and other mounts there don't
// show. No clone is tried for an empty above.
func openCloned(above, dir string) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY
	if above != "" {
		if fd, err := unix.OpenTree(unix.AT_FDCWD, above, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC); err == nil {
			defer unix.Close(fd) //nolint:errcheck // only a way to the directory
			return openRetry(fd, "./"+strings.TrimPrefix(dir, above), flags, 0)
		} // not root, or a kernel or a container that doesn't
	}
	return openRetry(unix.AT_FDCWD, dir, flags, 0)
}

// inside tells whether path is dir or lies in it.
func inside(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

func overlap(a, b string) bool { return inside(a, b) || inside(b, a) }

// layers makes the layers of Lower, bottom to top: what was an Upper before is
// recorded, everything else is shown as the host has it.
func (d *Directories) layers() ([]*Layer, error) {
	var all []*Layer
	for _, dir := range d.Lower {
		ours, err := isUpper(dir)
		if err != nil {
			return nil, err
		}
		all = append(all, &Layer{Name: dir, Dir: dir, recorded: ours, asIs: !ours, squash: d.SquashToRoot, clone: dir})
	}
	return all, nil
}

// isUpper tells whether dir has been an Upper. The mark counts if the person
// who mounts, or root, made it: whoever owns such a directory says what is
// set-uid in it.
func isUpper(dir string) (bool, error) {
	format, err := xattr.Get(dir, xattrFormat)
	if errors.Is(err, xattr.ENOATTR) || errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return false, err
	}
	if st.Uid != 0 && st.Uid != uint32(os.Geteuid()) {
		return false, nil
	}
	if string(format) != editsFormat {
		return false, fmt.Errorf("%s: an upperdir of format %q, and this program knows %q: use the program that made it", dir, format, editsFormat)
	}
	return true, nil
}

// openUpper puts the upper on top of the layers. A new one that isn't to be
// written to counts as empty.
func (t *Tree) openUpper(d *Directories, writable bool) error {
	if d.Upper == "" {
		return nil
	}
	dir := t.project.StateDir()
	if writable {
		if err := t.prepareUpper(d, dir); err != nil {
			return err
		}
	} else if ours, err := isUpper(d.Upper); !ours || err != nil {
		return err
	}
	beside, err := filepath.Rel(d.Upper, dir)
	if err != nil {
		return err
	}
	t.pushEdits(editsLayer(d.Upper), beside)
	t.edits.clone = d.cloneDir()
	return nil
}

// prepareUpper takes the lock of the state in dir and makes all ready to write.
func (t *Tree) prepareUpper(d *Directories, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	fd, err := openCloned(d.cloneDir(), dir)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	t.project.state = os.NewFile(uintptr(fd), dir)
	if err := t.lockState(); err != nil {
		return err
	}
	if err := setAside(filepath.Join(dir, "work")); err != nil {
		return err
	}
	return d.takeUpper(dir)
}

// takeUpper makes sure that the upper and the state in dir belong together,
// and makes both ready when the upper is new. The mark on the upper comes
// last, and says that they are.
func (d *Directories) takeUpper(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(d.Upper, &st); err != nil {
		return err
	}
	ours, err := isUpper(d.Upper)
	if err != nil {
		return err
	}
	self := strconv.FormatUint(st.Ino, 10)
	file := filepath.Join(dir, upperFile)
	was, err := os.ReadFile(file)
	switch {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	case ours && err == nil && string(was) != self:
		return fmt.Errorf("workdir %s: belongs to another upperdir than %s: give an empty one", d.Work, d.Upper)
	case !ours:
		if err := checkFresh(d.Upper); err != nil {
			return err
		}
		// What another upper left there.
		if err := setAside(filepath.Join(dir, "index")); err != nil {
			return err
		}
	}
	for _, sub := range []string{"work", "index"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	if err := writeWhole(file, []byte(self)); err != nil || ours {
		return err
	}
	return markUpper(d.Upper, &st)
}

// markUpper records the owner and mode of a new upper, which are those of the
// tree's root, and that the upper is ours.
func markUpper(dir string, st *unix.Stat_t) error {
	err := withDirFd(unix.AT_FDCWD, dir, func(fd int) error {
		if _, err := unix.Fgetxattr(fd, xattrMeta, nil); err == nil && st.Mode&metaFlag != 0 {
			// A crash came when only the mark was missing.
			return unix.Fsetxattr(fd, xattrFormat, []byte(editsFormat), 0)
		}
		if err := unix.Fsetxattr(fd, xattrMeta, meta{mode: st.Mode, uid: st.Uid, gid: st.Gid}.encode(), 0); err != nil {
			return err
		}
		if err := unix.Fchmod(fd, st.Mode&0o777|0o700|metaFlag); err != nil {
			return err
		}
		return unix.Fsetxattr(fd, xattrFormat, []byte(editsFormat), 0)
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("upperdir %s: this filesystem keeps no extended attributes (%w): use ext4, xfs, btrfs or a recent tmpfs", dir, err)
	}
	if err != nil {
		return fmt.Errorf("upperdir %s: %w", dir, err)
	}
	return nil
}

// checkFresh refuses an upper that another program has filled with what reads
// differently in a recorded layer: all but plain files and directories of
// root, and whiteouts.
func checkFresh(upper string) error {
	return filepath.WalkDir(upper, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		why, err := unfit(path, path == upper)
		if err != nil || why == "" {
			return err
		}
		return fmt.Errorf("upperdir %s: %s %s, so another program has filled it: give it as the first of lowerdir, and an empty upperdir", upper, path, why)
	})
}

// unfit says what is wrong with an entry of a new upper, "" if nothing is.
func unfit(path string, root bool) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	m := meta{mode: st.Mode}
	switch {
	case isWhiteout(st.Mode) && st.Rdev == 0:
		return "", nil
	case root:
	case st.Uid != 0 || st.Gid != 0:
		return fmt.Sprintf("belongs to %d:%d", st.Uid, st.Gid), nil
	case !m.implied():
		return fmt.Sprintf("is of the type and mode %o", st.Mode), nil
	}
	names, err := xattr.LList(path)
	for _, name := range names {
		if foreignMark(name) != "" || shownXattr(name) && shownName(name) == "" {
			return "has the attribute " + name, nil
		}
	}
	return "", err
}

// foreignMark returns what an attribute of another overlay filesystem means:
// "opaque", "redirect", …; "" for other attributes. Kernel:
// Documentation/filesystems/overlayfs.rst; fuse-overlayfs(1).
func foreignMark(name string) string {
	for _, prefix := range []string{"trusted.overlay.", "user.overlay.", "user.fuseoverlayfs."} {
		if mark, ok := strings.CutPrefix(name, prefix); ok {
			return mark
		}
	}
	return ""
}

// foreignMarks looks for the marks of another overlay filesystem on a directory
// of a layer that is shown as it is; opaque when nothing below merges into it.
func (d *hostDir) foreignMarks() (opaque bool, err error) {
	fd, err := d.open()
	if err != nil {
		return false, err
	}
	defer d.close()
	path := procPath(fd, ".")
	names, err := xattr.LList(path)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	for _, name := range names {
		switch foreignMark(name) {
		case "opaque":
			v, err := xattr.LGet(path, name)
			if err != nil {
				return false, err
			}
			opaque = opaque || string(v) == "y" // "x" only announces other whiteouts
		case "redirect":
			return false, fmt.Errorf("%s/%s: moved here by another overlay filesystem (%s), which this one doesn't follow: %w",
				d.layer.Dir, d.path(), name, unix.EIO)
		}
	}
	return opaque, err
}

// checkData refuses the open file of a layer that is shown as it is, when
// another overlay filesystem has copied only its metadata there: it would read
// as zeros.
func checkData(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Blocks != 0 || st.Size == 0 {
		return err
	}
	for _, name := range []string{"trusted.overlay.metacopy", "user.overlay.metacopy"} {
		if _, err := unix.Fgetxattr(fd, name, nil); err == nil {
			return fmt.Errorf("its content is elsewhere (%s), where this filesystem doesn't look: %w", name, unix.EIO)
		}
	}
	return nil
}
