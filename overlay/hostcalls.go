package overlay

import (
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What is asked of the host for each entry of a tree. Package unix allocates a
// copy of the name for each call; here it is on the stack.

// cName is the name of an entry with the NUL that ends it for a system call.
type cName [unix.NAME_MAX + 1]byte

// set returns the name's address; nil for what is longer than a name or holds
// a NUL itself.
func (c *cName) set(name string) unsafe.Pointer {
	if len(name) >= len(c) || strings.IndexByte(name, 0) >= 0 {
		return nil
	}
	copy(c[:], name)
	return unsafe.Pointer(c)
}

// fstatat is lstat of name in a directory, again when a signal interrupts it.
func fstatat(dirfd int, name string, st *unix.Stat_t) error {
	var c cName
	p := c.set(name)
	if p == nil {
		return retry(func() error { return unix.Fstatat(dirfd, name, st, unix.AT_SYMLINK_NOFOLLOW) })
	}
	for {
		_, _, err := unix.Syscall6(unix.SYS_NEWFSTATAT, uintptr(dirfd), uintptr(p),
			uintptr(unsafe.Pointer(st)), unix.AT_SYMLINK_NOFOLLOW, 0, 0)
		switch err {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return err
		}
	}
}

// openRetry is openat, again when a signal interrupts it, as on FUSE and NFS
// hosts.
func openRetry(dirfd int, name string, flags int, mode uint32) (fd int, err error) {
	flags |= unix.O_CLOEXEC
	var c cName
	p := c.set(name)
	if p == nil {
		err = retry(func() error { fd, err = unix.Openat(dirfd, name, flags, mode); return err })
		return fd, err
	}
	for {
		fd, _, err := unix.Syscall6(unix.SYS_OPENAT, uintptr(dirfd), uintptr(p), uintptr(flags), uintptr(mode), 0, 0)
		switch err {
		case 0:
			return int(fd), nil
		case unix.EINTR:
		default:
			return -1, err
		}
	}
}

// llistxattrat is llistxattr of name in a directory (listxattrat(2), Linux 6.13).
func llistxattrat(dirfd int, name string, buf []byte) (int, error) {
	var c cName
	p := c.set(name)
	if p == nil {
		return 0, unix.ENAMETOOLONG
	}
	n, _, err := unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(dirfd), uintptr(p), unix.AT_SYMLINK_NOFOLLOW,
		uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)), 0)
	if err != 0 {
		return 0, err
	}
	return int(n), nil
}
