package fusefs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

const deviceFile = "/dev/fuse"

func isRoot() bool { return os.Geteuid() == 0 }

// attach mounts a connection to the kernel on dir and returns its descriptor:
// root by mount(2), others by fusermount3, which is set-uid.
func attach(dir string, w *words) (int, error) {
	if _, err := os.Stat(deviceFile); err != nil {
		return -1, fmt.Errorf("%w: load the kernel's fuse module, or give the container %s", err, deviceFile)
	}
	if !isRoot() {
		return attachByHelper(dir, w)
	}
	fd, err := attachDirectly(dir, w)
	if err == nil {
		return fd, nil
	}
	if fd, helperErr := attachByHelper(dir, w); helperErr == nil {
		return fd, nil
	}
	return -1, err
}

func attachDirectly(dir string, w *words) (int, error) {
	fd, err := unix.Open(deviceFile, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", deviceFile, err)
	}
	data := append(w.data(), fmt.Sprintf("fd=%d", fd), fmt.Sprintf("rootmode=%o", unix.S_IFDIR),
		fmt.Sprintf("user_id=%d", os.Geteuid()), fmt.Sprintf("group_id=%d", os.Getegid()))
	if err := unix.Mount(w.source, dir, "fuse."+fsType, w.flags, strings.Join(data, ",")); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// attachByHelper runs fusermount3, which sends the descriptor back through a
// socket that it finds in _FUSE_COMMFD (fusermount3(1), libfuse lib/mount.c).
func attachByHelper(dir string, w *words) (fd int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socketpair: %w", err)
	}
	defer unix.Close(pair[0]) //nolint:errcheck // nothing was written
	theirs := os.NewFile(uintptr(pair[1]), "fusermount3")
	err = runHelper([]*os.File{theirs}, "-o", w.helper(), "--", dir)
	if err := errors.Join(err, theirs.Close()); err != nil {
		return -1, err
	}
	return receiveDescriptor(pair[0])
}

// receiveDescriptor reads one descriptor from a socket.
func receiveDescriptor(socket int) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("receive from fusermount3: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, errors.New("fusermount3 sent no descriptor")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.New("fusermount3 sent no descriptor")
	}
	return fds[0], nil
}

// runHelper runs fusermount3 with the first of files as descriptor 3.
func runHelper(files []*os.File, args ...string) error {
	bin, err := exec.LookPath("fusermount3")
	if err != nil {
		return errors.New("fusermount3 not found (apt install fuse3)")
	}
	var stderr bytes.Buffer
	cmd := exec.Command(bin, args...)
	cmd.Stderr = &stderr
	cmd.ExtraFiles = files
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	if err := cmd.Run(); err != nil {
		if said := strings.TrimSpace(stderr.String()); said != "" {
			return errors.New(said)
		}
		return fmt.Errorf("fusermount3: %w", err)
	}
	return nil
}

// detach unmounts dir; lazily also while it is in use.
func detach(dir string, lazily bool) error {
	if isRoot() {
		flags := unix.UMOUNT_NOFOLLOW
		if lazily {
			flags |= unix.MNT_DETACH
		}
		if err := unix.Unmount(dir, flags); !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	args := []string{"-u", "--", dir}
	if lazily {
		args = append([]string{"-z"}, args...)
	}
	return runHelper(nil, args...)
}
