package export

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Output is a file that appears under its name whole, or not at all. Until
// Commit the old file, if there is one, stays as it is.
//
//	out, err := CreateOutput(path)
//	…
//	defer out.Discard()
//	… write to out.File …
//	return out.Commit()
type Output struct {
	// File is open for reading and writing.
	File *os.File

	target string   // where it will appear, links followed
	temp   string   // its name until then; "" while it has none (O_TMPFILE)
	made   []string // directories created for it, deepest first
}

// CreateOutput starts an output of the given name. Missing directories above
// it are created; a symlink is written through, as programs that open a file
// for writing do. The mode is 0666 less the umask, or that of the file to be
// replaced. A directory, a device or another special file is refused.
//
// Where the filesystem can, the file has no name until Commit, so that even
// SIGKILL leaves nothing behind.
func CreateOutput(path string) (*Output, error) {
	target, err := followLinks(path)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(target, "/") {
		return nil, fmt.Errorf("output %s names a directory", path)
	}
	mode, replaced := fs.FileMode(0), false
	// By the path as it was given: the links of /proc, to which /dev/stdout leads,
	// have no target that could be looked at.
	switch st, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case st.IsDir():
		return nil, fmt.Errorf("output %s is a directory", path)
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("output %s is a device or another special file; write to a file and copy it there", path)
	default:
		if err := notMountPoint(path, target); err != nil {
			return nil, err
		}
		mode, replaced = st.Mode().Perm(), true
	}
	made, err := makeParents(target)
	if err != nil {
		return nil, err
	}
	o := &Output{target: target, made: made}
	if o.File, o.temp, err = openTemp(dirOf(target)); err != nil {
		removeDirs(made)
		return nil, fmt.Errorf("output %s: %w", path, err)
	}
	if replaced {
		if err := keepMode(o.File, mode); err != nil {
			o.Discard()
			return nil, err
		}
	}
	return o, nil
}

// keepMode gives f the permissions of the file that it replaces. Where they
// are so already nothing is set: FAT, for one, refuses that.
func keepMode(f *os.File, mode fs.FileMode) error {
	st, err := f.Stat()
	if err != nil || st.Mode().Perm() == mode {
		return err
	}
	return f.Chmod(mode)
}

// Commit makes the output durable, gives it its name and closes File. After
// an error the output is discarded.
func (o *Output) Commit() (err error) {
	defer func() {
		if err != nil {
			o.Discard()
		}
	}()
	if err := o.sync(); err != nil {
		return err
	}
	if o.temp == "" {
		if o.temp, err = linkTemp(o.File, dirOf(o.target)); err != nil {
			return fmt.Errorf("write %s: %w", o.target, err)
		}
	}
	if err := os.Rename(o.temp, o.target); err != nil {
		return err
	}
	o.temp, o.made = "", nil
	return errors.Join(o.File.Close(), syncDir(dirOf(o.target)))
}

// sync brings the content to the disk, which may be full.
func (o *Output) sync() error {
	if err := o.File.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", o.target, err)
	}
	return nil
}

// Discard drops an output that was not committed, and the directories made
// for it. After Commit it does nothing, so it can be deferred.
func (o *Output) Discard() {
	_ = o.File.Close() // what it held is of no use any more
	if o.temp != "" {
		_ = os.Remove(o.temp)
	}
	removeDirs(o.made)
	o.temp, o.made = "", nil
}

// OutputDir is a directory that appears under its name whole, or not at all.
type OutputDir struct {
	// Path is where to write until Commit.
	Path string

	target string
	made   []string
}

// CreateOutputDir starts an output directory of the given name. If there is
// one already, mayReplace decides whether it may go, by returning nil.
func CreateOutputDir(path string, mayReplace func(dir string) error) (*OutputDir, error) {
	// "layout/" is "layout", but "/" is itself.
	if trimmed := strings.TrimRight(path, "/"); trimmed != "" {
		path = trimmed
	}
	target, err := followLinks(path)
	if err != nil {
		return nil, err
	}
	switch target[strings.LastIndexByte(target, '/')+1:] {
	case "", ".", "..":
		return nil, fmt.Errorf("output %s: give the directory by its name, since it is to be replaced", path)
	}
	switch st, err := os.Lstat(target); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case !st.IsDir():
		return nil, fmt.Errorf("output %s exists and is not a directory", path)
	default:
		if err := notMountPoint(path, target); err != nil {
			return nil, err
		}
		if err := mayReplace(target); err != nil {
			return nil, err
		}
	}
	made, err := makeParents(target)
	if err != nil {
		return nil, err
	}
	temp, err := newName(dirOf(target), func(name string) error { return os.Mkdir(name, 0o777) })
	if err != nil {
		removeDirs(made)
		return nil, err
	}
	return &OutputDir{Path: temp, target: target, made: made}, nil
}

// Commit gives the directory its name and removes the one it replaces. The
// files in it are the caller's to sync; the directories are synced here.
// After an error the output is discarded.
func (o *OutputDir) Commit() (err error) {
	defer o.Discard() // after an exchange, Path is the old directory
	err = filepath.WalkDir(o.Path, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return syncDir(path)
	})
	if err != nil {
		return err
	}
	if err := replaceDir(o.Path, o.target); err != nil {
		return err
	}
	o.made = nil
	return syncDir(dirOf(o.target))
}

// Discard drops a directory that was not committed. After Commit it does
// nothing, so it can be deferred.
func (o *OutputDir) Discard() {
	if o.Path == "" {
		return
	}
	_ = os.RemoveAll(o.Path)
	removeDirs(o.made)
	o.Path, o.made = "", nil
}

// notMountPoint is an error if something is mounted on an output's name, which
// nothing else can get then (rename(2), EBUSY).
func notMountPoint(path, target string) error {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, target, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	if err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return fmt.Errorf("output %s is a mount point, which can't be replaced; choose another name", path)
	}
	return nil
}

// What some filesystems can't do; variables, so that tests can be such a one.
var (
	openNameless = func(dir string) (*os.File, error) {
		return os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o666)
	}
	exchangeNames = func(a, b string) error {
		err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
		if err != nil {
			return &os.LinkError{Op: "exchange", Old: a, New: b, Err: err}
		}
		return nil
	}
)

// replaceDir gives temp the name target; a directory of that name gets the
// name temp, in the same step where the filesystem can.
func replaceDir(temp, target string) error {
	switch err := exchangeNames(temp, target); {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return os.Rename(temp, target)
	case !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS):
		return err
	}
	old := temp + ".old"
	if err := os.Rename(target, old); err != nil {
		return err
	}
	if err := os.Rename(temp, target); err != nil {
		return errors.Join(err, os.Rename(old, target))
	}
	return os.Rename(old, temp)
}

// Scratch opens a file without a name in the directory dir, which must exist.
// Closing it frees it.
func Scratch(dir string) (*os.File, error) {
	f, name, err := openTemp(dir)
	if err != nil {
		return nil, err
	}
	if name != "" {
		if err := os.Remove(name); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

// openTemp opens a new file in dir, and returns its name if it has one.
func openTemp(dir string) (f *os.File, name string, err error) {
	// Without /proc a nameless file cannot be given a name (linkat(2)).
	if _, err := os.Stat("/proc/self/fd"); err == nil {
		f, err := openNameless(dir)
		// EISDIR and ENOENT: kernels that don't know the flag (open(2)).
		if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.ENOENT) {
			return f, "", err
		}
	}
	name, err = newName(dir, func(name string) (err error) {
		f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
		return err
	})
	return f, name, err
}

// linkTemp gives a nameless file a temporary name in dir: linkat cannot
// replace a file, rename can.
func linkTemp(f *os.File, dir string) (string, error) {
	fd := "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	return newName(dir, func(name string) error {
		err := unix.Linkat(unix.AT_FDCWD, fd, unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW)
		if err != nil {
			return &os.LinkError{Op: "linkat", Old: fd, New: name, Err: err}
		}
		return nil
	})
}

// newName calls create with hidden names in dir until one is new.
func newName(dir string, create func(name string) error) (string, error) {
	for {
		name := fmt.Sprintf("%s/.rootfs-%016x.tmp", dir, rand.Uint64())
		if err := create(name); !errors.Is(err, fs.ErrExist) {
			return name, err
		}
	}
}

// maxLinks is how many symlinks the kernel follows in one path
// (path_resolution(7)).
const maxLinks = 40

// followLinks returns the name that opening path for writing would create or
// replace.
func followLinks(path string) (string, error) {
	if path == "" {
		return "", errors.New("output has an empty name")
	}
	name := path
	for range maxLinks {
		link, err := os.Readlink(name)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrNotExist) {
			return name, nil
		}
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(link) {
			link = dirOf(name) + "/" + link
		}
		name = link
	}
	return "", &fs.PathError{Op: "open", Path: path, Err: unix.ELOOP}
}

// dirOf returns the directory that a name is in. Unlike [filepath.Dir] it
// leaves the path as it is: in "a/../b", a may be a link to elsewhere.
func dirOf(name string) string {
	switch i := strings.LastIndexByte(name, '/'); i {
	case -1:
		return "."
	case 0:
		return "/"
	default:
		return name[:i]
	}
}

// makeParents makes the directories above target and returns those that
// were missing, deepest first.
func makeParents(target string) (made []string, err error) {
	dir := dirOf(target)
	for d := dir; ; d = dirOf(d) {
		if _, err := os.Stat(d); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		made = append(made, d)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		removeDirs(made)
		return nil, err
	}
	return made, nil
}

// removeDirs removes those of dirs that are empty.
func removeDirs(dirs []string) {
	for _, d := range dirs {
		_ = os.Remove(d) // someone else may use it by now
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
