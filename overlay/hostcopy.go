package overlay

import (
	"fmt"
	"strings"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

// What a squash makes on the host out of what is there.

// linkHostEntry gives an entry of one host directory a name in another.
func linkHostEntry(from *hostDir, name string, to *hostDir, newName string) error {
	a, b, done, err := openBoth(from, to)
	if err != nil {
		return err
	}
	defer done()
	if err := unix.Linkat(a, name, b, newName, 0); err != nil {
		return fmt.Errorf("%s/%s/%s: %w", from.layer.Dir, from.path(), name, err)
	}
	return nil
}

func makeHostDir(parent *hostDir, name string) (*hostDir, error) {
	up, err := parent.open()
	if err != nil {
		return nil, err
	}
	defer parent.close()
	return &hostDir{layer: parent.layer, parent: parent, name: name}, unix.Mkdirat(up, name, 0o700)
}

// copyHostDir gives a directory the mode, times and attributes of another, but
// not its marks of where it merges.
func copyHostDir(from, to *hostDir) error {
	return copyDirAttrs(from, to, func(name string) bool { return name != xattrOpaque && name != xattrRedirect })
}

// copyMarks is copyHostDir with the marks.
func copyMarks(from, to *hostDir) error {
	return copyDirAttrs(from, to, func(string) bool { return true })
}

// copyDirAttrs copies mode, times and those attributes that keep says.
func copyDirAttrs(from, to *hostDir, keep func(name string) bool) error {
	a, b, done, err := openBoth(from, to)
	if err != nil {
		return err
	}
	defer done()
	names, err := xattr.LList(procPath(a, "."))
	if err != nil {
		return err
	}
	return withDirFd(b, ".", func(fd int) error {
		for _, name := range names {
			if !strings.HasPrefix(name, "user.") || !keep(name) {
				continue // the host's own
			}
			value, err := xattr.LGet(procPath(a, "."), name)
			if err == nil {
				err = unix.Fsetxattr(fd, name, value, 0)
			}
			if err != nil {
				return fmt.Errorf("extended attribute %s: %w", name, err)
			}
		}
		var st unix.Stat_t
		if err := unix.Fstat(a, &st); err != nil {
			return err
		}
		if err := unix.Fchmod(fd, st.Mode&0o7777); err != nil {
			return err
		}
		return unix.UtimesNanoAt(fd, "", []unix.Timespec{st.Atim, st.Mtim}, unix.AT_EMPTY_PATH)
	})
}
