package fusefs

import (
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAttributes(t *testing.T) {
	need(t, "root")
	m := sample(t, Options{})
	sh := m.path("bin/sh")
	check(t, "chmod", unix.Chmod(sh, 0o6755))
	if st := lstat(t, sh); st.Mode != 0o106755 {
		t.Errorf("mode %o", st.Mode)
	}
	check(t, "chown", unix.Chown(sh, 1000, 70000))
	if st := lstat(t, sh); st.Uid != 1000 || st.Gid != 70000 || st.Mode != 0o100755 {
		t.Errorf("%d:%d, mode %o: chown clears set-id bits", st.Uid, st.Gid, st.Mode)
	}
	times := []unix.Timespec{{Sec: -1 << 30, Nsec: 1}, {Sec: 5e9, Nsec: 999_999_999}}
	check(t, "utimensat", unix.UtimesNanoAt(unix.AT_FDCWD, m.path("lib"), times, unix.AT_SYMLINK_NOFOLLOW))
	if st := lstat(t, m.path("lib")); st.Atim != times[0] || st.Mtim != times[1] {
		t.Errorf("times %v %v", st.Atim, st.Mtim)
	}
	times = []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}}
	before := lstat(t, sh)
	check(t, "utimensat", unix.UtimesNanoAt(unix.AT_FDCWD, sh, times, 0))
	if st := lstat(t, sh); st.Atim != before.Atim || st.Mtim.Sec < before.Ctim.Sec {
		t.Errorf("omitted atime %v → %v, mtime now %v", before.Atim, st.Atim, st.Mtim)
	}
	wantErrno(t, "access X of 0644", unix.Access(m.path("etc/passwd"), unix.X_OK), unix.EACCES)
	check(t, "access X of 0755", unix.Access(sh, unix.X_OK))

	var fs unix.Statfs_t
	check(t, "statfs", unix.Statfs(m.dir, &fs))
	if fs.Namelen != 255 || fs.Blocks == 0 || fs.Bavail == 0 {
		t.Errorf("%+v", fs)
	}
}

func TestWritesByOthersClearSetID(t *testing.T) {
	need(t, "root")
	m := sample(t, Options{AllowOther: true})
	for _, how := range []string{`printf x >> "$1"`, `: > "$1"`, `truncate -s 9 "$1"`} {
		sh := m.path("bin/sh")
		check(t, "chmod", unix.Chmod(sh, 0o6777))
		cmd := exec.Command("sh", "-c", how, "sh", sh)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		check(t, how+string(out), err)
		if st := lstat(t, sh); st.Mode != 0o100777 {
			t.Errorf("%s: mode %o", how, st.Mode)
		}
	}
}

func TestPermissionsHoldForOthers(t *testing.T) {
	need(t, "root")
	m := sample(t, Options{AllowOther: true})
	check(t, "chmod", unix.Chmod(m.path("etc/empty"), 0o777))
	script := `cd "$1" && cat etc/passwd >/dev/null && ! rm etc/passwd 2>/dev/null && ! cp etc/passwd etc/group 2>/dev/null &&
		: > etc/empty/mine && stat -c '%u:%g' etc/empty/mine`
	cmd := exec.Command("sh", "-c", script, "sh", m.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 5678}}
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "1234:5678\n" {
		t.Errorf("%v: %s", err, out)
	}
}

func TestPermissionsFollowTheAccessList(t *testing.T) {
	need(t, "root")
	m := sample(t, Options{AllowOther: true})
	passwd := m.path("etc/passwd")
	read := func() error {
		cmd := exec.Command("cat", passwd)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 5678}}
		return cmd.Run()
	}
	check(t, "read", read())
	// A posix_acl_xattr_header and entries (linux/posix_acl_xattr.h): 0640.
	list := []byte("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x04\x00\x04\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff")
	check(t, "set the list", unix.Setxattr(passwd, accessList, list, 0))
	if read() == nil {
		t.Error("others may still read what the list closes to them")
	}
	if st := lstat(t, passwd); st.Mode != 0o100640 {
		t.Errorf("mode %o", st.Mode)
	}
}

func TestExtendedAttributes(t *testing.T) {
	m := sample(t, Options{})
	sh := m.path("bin/sh")
	_, err := unix.Getxattr(sh, "user.colour", nil)
	wantErrno(t, "get none", err, unix.ENODATA)
	check(t, "set", unix.Setxattr(sh, "user.colour", []byte("blue"), unix.XATTR_CREATE))
	wantErrno(t, "create twice", unix.Setxattr(sh, "user.colour", nil, unix.XATTR_CREATE), unix.EEXIST)
	wantErrno(t, "replace none", unix.Setxattr(sh, "user.shape", nil, unix.XATTR_REPLACE), unix.ENODATA)
	check(t, "set empty", unix.Setxattr(sh, "user.shape", nil, 0))
	buf := make([]byte, 100)
	n, err := unix.Getxattr(sh, "user.colour", buf)
	check(t, "get", err)
	if string(buf[:n]) != "blue" {
		t.Errorf("got %q", buf[:n])
	}
	_, err = unix.Getxattr(sh, "user.colour", buf[:2])
	wantErrno(t, "small buffer", err, unix.ERANGE)
	n, err = unix.Listxattr(sh, buf)
	check(t, "list", err)
	if string(buf[:n]) != "user.colour\x00user.shape\x00" {
		t.Errorf("listed %q", buf[:n])
	}
	check(t, "remove", unix.Removexattr(sh, "user.colour"))
	wantErrno(t, "remove twice", unix.Removexattr(sh, "user.colour"), unix.ENODATA)
}
