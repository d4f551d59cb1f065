package build

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A build that ignores DESTDIR would install into the host, for root without
// a word. Landlock (Documentation/userspace-api/landlock.rst) keeps it from
// writing elsewhere, and needs no rights.

// writes are all ways to change a filesystem that Landlock knows by its third
// version.
const writes = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR |
	unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_CHAR |
	unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
	unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO |
	unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_SYM |
	unix.LANDLOCK_ACCESS_FS_REFER | unix.LANDLOCK_ACCESS_FS_TRUNCATE

// canConfine tells whether the kernel can. The second version brought renames
// from one directory to another, the third truncation.
func canConfine() bool {
	version, _, err := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	return err == 0 && version >= 3
}

// startConfined starts a command that can write only below the given folders,
// those which exist.
func startConfined(cmd *exec.Cmd, folders []string) error {
	started := make(chan error)
	go func() {
		// The thread is confined, and its children are. It ends with this
		// goroutine, since it stays locked.
		runtime.LockOSThread()
		err := confineThread(folders)
		if err == nil {
			err = cmd.Start()
		}
		started <- err
	}()
	return <-started
}

func confineThread(folders []string) error {
	attr := unix.LandlockRulesetAttr{Handled_access_fs: writes}
	// Only the first field, which every version has.
	r, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr.Handled_access_fs), 0)
	if errno != 0 {
		return fmt.Errorf("landlock: %w", errno)
	}
	ruleset := int(r)
	defer unix.Close(ruleset) //nolint:errcheck // nothing was written
	for _, folder := range folders {
		if err := allow(ruleset, folder); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("landlock: %s: %w", folder, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(ruleset), 0, 0); errno != 0 {
		return fmt.Errorf("landlock: %w", errno)
	}
	return nil
}

func allow(ruleset int, folder string) error {
	fd, err := unix.Open(folder, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // only a way to the folder
	rule := unix.LandlockPathBeneathAttr{Allowed_access: writes, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// commonFolders are where any build may write: devices, temporary files and
// what programs keep in the home folder. One that holds the project is none,
// but for the home's hidden folders.
func commonFolders(project string) []string {
	folders := []string{"/dev", "/proc", "/tmp", "/var/tmp", "/run/user"}
	for _, name := range []string{"XDG_CACHE_HOME", "CARGO_HOME", "RUSTUP_HOME", "GOPATH", "GOCACHE", "GOMODCACHE", "CCACHE_DIR"} {
		folders = append(folders, os.Getenv(name))
	}
	if home, err := os.UserHomeDir(); err == nil {
		if real, err := filepath.EvalSymlinks(home); err == nil && strings.HasPrefix(project, real+"/") {
			// Programs make it when they first need it, which no build can there.
			_ = os.Mkdir(filepath.Join(home, ".cache"), 0o700) // who needs it, tells
		}
		folders = append(folders, home, filepath.Join(home, "go"))
		all, _ := os.ReadDir(home) // what can't be read, no build can write to
		for _, entry := range all {
			if strings.HasPrefix(entry.Name(), ".") {
				folders = append(folders, filepath.Join(home, entry.Name()))
			}
		}
	}
	var allowed []string
	for _, folder := range folders {
		real, err := filepath.EvalSymlinks(folder)
		if st, statErr := os.Stat(real); err != nil || statErr != nil || !st.IsDir() {
			continue
		}
		if project != real && !strings.HasPrefix(project, strings.TrimSuffix(real, "/")+"/") {
			allowed = append(allowed, real)
		}
	}
	return allowed
}
