package fusefs

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCreation(t *testing.T) {
	m := sample(t, Options{})
	old := unix.Umask(0o027)
	defer unix.Umask(old)

	f, err := os.OpenFile(m.path("etc/new"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o666)
	check(t, "create", err)
	check(t, "close", f.Close())
	_, err = os.OpenFile(m.path("etc/new"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o666)
	wantErrno(t, "create again", err, unix.EEXIST)
	check(t, "mkdir", unix.Mkdir(m.path("etc/dir"), 0o777))
	wantErrno(t, "mkdir again", unix.Mkdir(m.path("etc/dir"), 0o777), unix.EEXIST)
	check(t, "symlink", os.Symlink("dir/über", m.path("etc/link")))
	check(t, "mkfifo", unix.Mkfifo(m.path("etc/fifo"), 0o666))
	check(t, "socket", unix.Mknod(m.path("etc/socket"), unix.S_IFSOCK|0o666, 0))
	check(t, "mknod of a file", unix.Mknod(m.path("etc/plain"), unix.S_IFREG|0o666, 0))
	for name, mode := range map[string]uint32{
		"new": 0o100640, "dir": 0o40750, "fifo": 0o10640, "socket": 0o140640, "plain": 0o100640, "link": 0o120777,
	} {
		if st := lstat(t, m.path("etc/"+name)); st.Mode != mode {
			t.Errorf("%s: mode %o, want %o", name, st.Mode, mode)
		}
	}
	wantErrno(t, "a name of 256 bytes", os.Mkdir(m.path(strings.Repeat("n", 256)), 0o755), unix.ENAMETOOLONG)
	check(t, "a name of 255 bytes", os.Mkdir(m.path(strings.Repeat("n", 255)), 0o755))
	wantErrno(t, "in no directory", os.Mkdir(m.path("etc/new/x"), 0o755), unix.ENOTDIR)
}

func TestDeviceNodes(t *testing.T) {
	need(t, "root")
	m := sample(t, Options{})
	for name, dev := range map[string]uint64{"tty": unix.Mkdev(5, 0), "large": unix.Mkdev(300, 70000)} {
		check(t, "mknod", unix.Mknod(m.path(name), unix.S_IFCHR|0o600, int(dev)))
		if st := lstat(t, m.path(name)); st.Rdev != dev || st.Mode != 0o20600 {
			t.Errorf("%s: device %x, mode %o; want %x", name, st.Rdev, st.Mode, dev)
		}
	}
}

func TestTmpfileGetsAName(t *testing.T) {
	m := sample(t, Options{})
	fd, err := unix.Open(m.path("etc"), unix.O_TMPFILE|unix.O_RDWR, 0o600)
	check(t, "O_TMPFILE", err)
	closeLater(t, os.NewFile(uintptr(fd), "anonymous"))
	_, err = unix.Write(fd, []byte("anonymous"))
	check(t, "write", err)
	wantNames(t, m.path("etc"), "empty", "group", "passwd")
	check(t, "linkat", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, m.path("etc/named"), unix.AT_SYMLINK_FOLLOW))
	wantContent(t, m.path("etc/named"), "anonymous")
}

func TestHardLinks(t *testing.T) {
	m := sample(t, Options{})
	check(t, "link", os.Link(m.path("etc/passwd"), m.path("bin/passwd")))
	a, b := lstat(t, m.path("etc/passwd")), lstat(t, m.path("bin/passwd"))
	if a.Ino != b.Ino || a.Nlink != 2 {
		t.Errorf("inodes %d and %d, %d links", a.Ino, b.Ino, a.Nlink)
	}
	check(t, "write", os.WriteFile(m.path("bin/passwd"), []byte("both"), 0o644))
	wantContent(t, m.path("etc/passwd"), "both")
	wantErrno(t, "link over a name", os.Link(m.path("etc/passwd"), m.path("etc/group")), unix.EEXIST)
	wantErrno(t, "link a directory", os.Link(m.path("etc"), m.path("etc2")), unix.EPERM)
	check(t, "unlink", os.Remove(m.path("etc/passwd")))
	if st := lstat(t, m.path("bin/passwd")); st.Nlink != 1 {
		t.Errorf("%d links after unlink", st.Nlink)
	}
}

func TestRemoval(t *testing.T) {
	m := sample(t, Options{})
	f, err := os.Open(m.path("etc/passwd"))
	check(t, "open", err)
	closeLater(t, f)
	check(t, "unlink", unix.Unlink(m.path("etc/passwd")))
	var st unix.Stat_t
	check(t, "fstat", unix.Fstat(int(f.Fd()), &st))
	buf := make([]byte, 4)
	_, err = f.ReadAt(buf, 0)
	check(t, "read the deleted", err)
	if st.Nlink != 0 || string(buf) != "root" {
		t.Errorf("%d links, content %q", st.Nlink, buf)
	}
	_, err = os.Stat(m.path("etc/passwd"))
	wantErrno(t, "stat", err, unix.ENOENT)
	wantNames(t, m.path("etc"), "empty", "group")
	wantErrno(t, "unlink a directory", unix.Unlink(m.path("etc/empty")), unix.EISDIR)
	wantErrno(t, "rmdir a file", unix.Rmdir(m.path("etc/group")), unix.ENOTDIR)
	wantErrno(t, "rmdir a full directory", unix.Rmdir(m.path("etc")), unix.ENOTEMPTY)
	check(t, "rmdir", unix.Rmdir(m.path("etc/empty")))
	check(t, "remove all", os.RemoveAll(m.path("usr")))
	wantNames(t, m.dir, "bin", "etc", "lib")
	check(t, "create again", os.WriteFile(m.path("etc/passwd"), []byte("again"), 0o644))
	wantContent(t, m.path("etc/passwd"), "again")
}

func TestRenames(t *testing.T) {
	m := sample(t, Options{})
	rename := func(from, to string, flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, m.path(from), unix.AT_FDCWD, m.path(to), flags)
	}
	check(t, "over a file", rename("etc/passwd", "etc/group", 0))
	wantContent(t, m.path("etc/group"), "root:x:0:0\n")
	wantErrno(t, "NOREPLACE", rename("etc/group", "bin/sh", unix.RENAME_NOREPLACE), unix.EEXIST)
	check(t, "EXCHANGE", rename("etc/group", "bin/sh", unix.RENAME_EXCHANGE))
	wantContent(t, m.path("etc/group"), "#!\n")
	check(t, "EXCHANGE of a file and a directory", rename("etc/group", "etc/empty", unix.RENAME_EXCHANGE))
	wantContent(t, m.path("etc/empty"), "#!\n")
	check(t, "a lower directory", rename("usr", "opt", unix.RENAME_NOREPLACE))
	wantContent(t, m.path("opt/lib/libc.so"), strings.Repeat("libc", 3000))
	wantErrno(t, "over a full directory", rename("opt", "etc", 0), unix.ENOTEMPTY)
	wantErrno(t, "into itself", rename("opt", "opt/lib/opt", 0), unix.EINVAL)
	wantErrno(t, "of nothing", rename("none", "some", 0), unix.ENOENT)
	wantNames(t, m.dir, "bin", "etc", "lib", "opt")
}
