package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// nobody is the ordinary user of the tests.
const nobody = 65534

// testUserEnv says by number who runs the commands of a test; root, or
// whoever runs the tests, when it isn't set. Tests that set it can't run in
// parallel to others, which t.Setenv sees to.
const testUserEnv = "ROOTFS_TEST_USER"

// asEachUser runs a test as whoever runs the tests and, where that is root, as
// an ordinary user too.
func asEachUser(t *testing.T, test func(t *testing.T)) {
	test(t)
	t.Run("nobody", func(t *testing.T) {
		becomeNobody(t)
		test(t)
	})
}

// becomeNobody makes an ordinary user the one who runs the commands of a test.
func becomeNobody(t *testing.T) {
	t.Helper()
	need(t, "root", "fuse", "fuseusers")
	program, err := exec.LookPath("rootfs")
	if err != nil {
		t.Fatal(err)
	}
	reachable(t, program)
	t.Setenv(testUserEnv, strconv.Itoa(nobody))
	t.Setenv("HOME", t.TempDir())
}

// reachable opens the temporary directories that path is in.
func reachable(t *testing.T, path string) {
	t.Helper()
	for dir := filepath.Dir(path); len(dir) > len("/tmp"); dir = filepath.Dir(dir) {
		if st, err := os.Stat(dir); err == nil && st.Mode()&0o1 == 0 {
			shAsRoot(t, ".", `chmod a+x "$1"`, dir)
		}
	}
}

// testUser is the identity of a test's commands; nil for that of the tests.
func testUser() *syscall.Credential {
	uid, err := strconv.Atoi(os.Getenv(testUserEnv))
	if err != nil {
		return nil
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
}

// giveAway gives a project to the user of the test.
func giveAway(t *testing.T, project string) {
	t.Helper()
	if u := testUser(); u != nil {
		reachable(t, project)
		reachable(t, os.Getenv("HOME"))
		shAsRoot(t, ".", `chown -hR "$2" "$1" "$3" "$HOME"`, project, fmt.Sprintf("%d:%d", u.Uid, u.Gid), filepath.Dir(project))
		if cache := os.Getenv("XDG_CACHE_HOME"); cache != "" {
			shAsRoot(t, ".", `mkdir -p "$1" && chown -R "$2" "$1"`, cache, fmt.Sprint(u.Uid))
		}
	}
}

// mknodOfUser is shell code for a mknod that a user can call in the mount.
func mknodOfUser(project string) string {
	if testUser() == nil {
		return ""
	}
	return fmt.Sprintf("mknod() { rootfs -C %q node -m 644 \"$@\"; }\n", project)
}

// shAsRoot is sh for what the user of a test can't do.
func shAsRoot(t *testing.T, dir, script string, args ...string) {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-euc", script, "sh"}, args...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

var ownersInLine = regexp.MustCompile(`^([^ ]* [^ ]* )(\d+):(\d+) `)

// asTestUser calls do with the identity of the user of the test.
func asTestUser(t *testing.T, do func()) {
	t.Helper()
	u := testUser()
	if u == nil {
		do()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread ends with its identity. FUSE asks for
		// the real, effective and saved ids.
		runtime.LockOSThread()
		id := uintptr(u.Uid)
		_, _, errGroup := unix.RawSyscall(unix.SYS_SETRESGID, id, id, id)
		_, _, errUser := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id)
		if errGroup != 0 || errUser != 0 {
			t.Errorf("become user %d: %v, %v", u.Uid, errGroup, errUser)
			return
		}
		do()
	}()
	<-done
}

// describeAsUser describes a mount as its user sees it, in the owners of the
// tree: root's entries are shown to a user as his own.
func describeAsUser(t *testing.T, root string) (lines []string) {
	t.Helper()
	asTestUser(t, func() { lines = describe(t, root, plain) })
	u := testUser()
	if u == nil {
		return lines
	}
	own := map[string]string{"0": fmt.Sprint(u.Uid), fmt.Sprint(u.Uid): "0"}
	for i, line := range lines {
		f := ownersInLine.FindStringSubmatch(line)
		for j, id := range f[2:] {
			if other, ok := own[id]; ok {
				f[2+j] = other
			}
		}
		lines[i] = f[1] + f[2] + ":" + f[3] + " " + line[len(ownersInLine.FindString(line)):]
	}
	return lines
}

// Root ends what users have mounted, though it can't look into that.
func TestRootEndsTheMountOfAUser(t *testing.T) {
	for _, alive := range []bool{true, false} {
		project := layProject(t, "-- user/sysconfig/etc/passwd --\n")
		becomeNobody(t)
		giveAway(t, project)
		rootfs(t, project, "mount", "mnt")
		t.Setenv(testUserEnv, "")
		if !alive {
			if err := killDaemon(project); err != nil {
				t.Fatal(err)
			}
		}
		rootfs(t, project, "umount", "mnt")
		if m, err := mountAt(filepath.Join(project, "mnt")); m != nil || err != nil {
			t.Errorf("alive %v: still mounted: %v, %v", alive, m, err)
		}
	}
}

// A project that root has used is still its owner's to use, and the other way
// round.
func TestRootAndOwnerInTurn(t *testing.T) {
	becomeNobody(t)
	project := layProject(t, `
-- user/sysconfig/etc/conf --
0
-- user/sysconfig/etc/other --
0
-- user/sysconfig/usr/lib/a --
a
`)
	giveAway(t, project)
	for turn, user := range []string{"", strconv.Itoa(nobody), "", strconv.Itoa(nobody)} {
		t.Setenv(testUserEnv, user)
		mnt, umount := mountProject(t, project)
		sh(t, mnt, `
			grep -qx "$1" etc/conf etc/other
			echo $(($1 + 1)) >etc/conf
			echo $(($1 + 1)) >next; chmod 4711 next; mv next etc/other
			rm -rf usr/lib; mkdir -p "usr/lib/$1"; ln etc/conf "usr/lib/$1/conf"; ln -s x "usr/lib/$1/link"`, strconv.Itoa(turn))
		rootfs(t, project, "checkpoint", "before")
		sh(t, mnt, `echo >etc/conf; rm etc/other`)
		rootfs(t, project, "restore", "before", "/etc/conf", "/etc/other")
		umount()
		rootfs(t, project, "export", "-q", "--tar", "out.tar", "--img", "disk.img")
		rootfs(t, project, "gc")
		shAsRoot(t, project, `test -z "$(find . ! -user nobody)" || { find . ! -user nobody; false; }`)
	}
}
