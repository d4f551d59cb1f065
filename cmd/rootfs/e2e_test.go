package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

// The whole job through the program itself: processes, a mount, ordinary
// programs that edit, other people's programs that read the outputs.

// sampleProject copies the sample project and builds its packages.
func sampleProject(t *testing.T) string {
	t.Helper()
	need(t, "fuse", "busybox", "cc")
	dir := filepath.Join(t.TempDir(), "project")
	shAsRoot(t, ".", `cp -a ../../testdata/sample "$1"
		cp "$(command -v busybox)" "$1/user/apps/busybox"
		mkdir "$1/mnt"; rootfs -q -C "$1" build`, dir)
	return dir
}

// mountProject mounts the project on its folder mnt until the test ends or
// the returned function is called.
func mountProject(t *testing.T, project string, opts ...string) (mnt string, umount func()) {
	t.Helper()
	mnt = filepath.Join(project, "mnt")
	rootfs(t, project, append([]string{"mount", "mnt"}, opts...)...)
	mounted := true
	umount = func() {
		t.Helper()
		if mounted {
			mounted = false
			rootfs(t, project, "umount", "mnt")
		}
	}
	t.Cleanup(func() {
		if mounted && t.Failed() {
			_ = unix.Unmount(mnt, unix.MNT_DETACH)
			return
		}
		umount()
	})
	return mnt, umount
}

// rootfs runs the program in a project and returns what it prints.
func rootfs(t *testing.T, project string, args ...string) string {
	t.Helper()
	return output(t, exec.Command("rootfs", append([]string{"-C", project}, args...)...))
}

// sh runs a shell script in a folder; args are its $1, $2, …
func sh(t *testing.T, dir, script string, args ...string) string {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-euc", script, "sh"}, args...)...)
	cmd.Dir = dir
	return output(t, cmd)
}

// commandLimit is how long any one command may take: a filesystem that hangs
// must not hang the tests.
const commandLimit = time.Minute

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(cmd.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Credential: testUser()}
	cmd.WaitDelay = time.Second // for children that keep the pipes
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(commandLimit, func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	defer timer.Stop()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(cmd.Args, " "), err, out.String(), errs.String())
	}
	return out.String()
}

// editEach makes an edit of each kind, as root.
const editEach = `
	echo appended >>etc/motd
	mkdir -p var/lib/a/deep/path && echo new >var/lib/a/deep/path/file
	rm etc/os-release
	rm -r usr/share/greetings/zh
	mv usr/share/greetings usr/share/hello
	ln etc/profile etc/profile.link
	chmod 4711 usr/bin/hello
	chown 1000:70000 home/demo etc/group
	setfattr -n user.note -v edited etc/fstab
	setfattr -n trusted.note -v edited etc/fstab
	ln -s ../usr/bin/hello bin/hi
	mknod dev/zero c 1 5
	mknod dev/disk b 259 300000
	mknod var/lib/pipe p
	truncate -s 1M var/lib/sparse && printf end | dd of=var/lib/sparse bs=1 seek=700000 conv=notrunc status=none
	touch -d '1969-12-31 23:59:58.123456789 UTC' etc/hostname
	touch -h -d '2105-02-03 04:05:06.7 UTC' bin/hi
	touch etc/inittab
`

func TestEditsReachEveryOutput(t *testing.T) {
	need(t, "root", "loop", "xattr")
	project := sampleProject(t)
	before := describe(t, filepath.Join(project, "user"), withCtime)
	mnt, umount := mountProject(t, project)
	sh(t, mnt, editEach)

	shown := describe(t, mnt, plain)
	for _, want := range []string{
		"bin/hi l0777 0:0 ",
		"dev/disk b0644 0:0 259:300000 ",
		"dev/zero c0644 0:0 1:5 ",
		"etc/fstab -0644 0:0 ",
		"etc/group -0644 1000:70000 ",
		"etc/hostname -0644 0:0 7 -2.123456789 ", // counted from the second before
		"home/demo d0755 1000:70000 ",
		"usr/bin/hello -4711 0:0 ",
		"usr/share/hello/en/short -0644 0:0 ",
		"var/lib/a/deep/path/file -0644 0:0 4 ",
		"var/lib/pipe p0644 0:0 ",
		"var/lib/sparse -0644 0:0 1048576 ",
	} {
		if !slices.ContainsFunc(shown, func(line string) bool { return strings.HasPrefix(line, want) }) {
			t.Errorf("the mount doesn't show %q", want)
		}
	}
	for _, gone := range []string{"etc/os-release ", "usr/share/greetings ", "usr/share/hello/zh ", "usr/share/doc "} {
		if slices.ContainsFunc(shown, func(line string) bool { return strings.HasPrefix(line, gone) }) {
			t.Errorf("the mount still shows %q", gone)
		}
	}

	rootfs(t, project, "export", "--img", "bin/disk.img", "--tar", "bin/layer.tar", "--docker", "bin/image.tar", "--oci", "bin/oci")
	out := filepath.Join(project, "bin")
	t.Run("tar", func(t *testing.T) { same(t, shown, describe(t, untar(t, out+"/layer.tar"), plain)) })
	t.Run("docker", func(t *testing.T) {
		dir := t.TempDir()
		sh(t, dir, `tar -xf "$1"; mv $(sed 's/.*"Layers":\["\([^"]*\)"\].*/\1/' manifest.json) layer`, out+"/image.tar")
		same(t, shown, describe(t, untar(t, dir+"/layer"), plain))
	})
	t.Run("docker by skopeo", func(t *testing.T) {
		need(t, "skopeo")
		sh(t, out, `skopeo copy --quiet --insecure-policy docker-archive:image.tar oci:copied:latest`)
	})
	t.Run("image", func(t *testing.T) {
		same(t, shown, describe(t, loopMount(t, out+"/disk.img", 1<<20), plain))
	})
	umount()

	t.Run("unmounted", func(t *testing.T) {
		rootfs(t, project, "export", "--img", "bin/again.img", "--tar", "bin/again.tar")
		sh(t, out, `cmp layer.tar again.tar; cmp disk.img again.img`)
	})
	t.Run("layers untouched", func(t *testing.T) {
		same(t, before, describe(t, filepath.Join(project, "user"), withCtime))
	})
}

// Two clones of a project, one made with another umask, give the same bytes.
func TestClonesGiveTheSameBytes(t *testing.T) {
	need(t, "git")
	project := sampleProject(t)
	dir := t.TempDir()
	sh(t, project, `rm .gitignore; git init -q; git add .; git -c user.name=a -c user.email=a@b commit -q -m sample
		(umask 022; git clone -q . "$1/a"); sleep 1; (umask 002; git clone -q . "$1/b")`, dir)
	for _, clone := range []string{"a", "b"} {
		cmd := exec.Command("rootfs", "-C", filepath.Join(dir, clone), "export",
			"--img", "disk.img", "--tar", "layer.tar", "--docker", "image.tar")
		cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	sh(t, dir, `for f in disk.img layer.tar image.tar; do cmp a/$f b/$f; done`)
}

// What people do all day works inside the mount.
func TestOrdinaryPrograms(t *testing.T) { asEachUser(t, testOrdinaryPrograms) }

func testOrdinaryPrograms(t *testing.T) {
	project := sampleProject(t)
	giveAway(t, project)
	mnt, _ := mountProject(t, project)
	for _, tc := range []struct{ name, needs, script string }{
		{"find", "", `test "$(find . -name inittab)" = ./etc/inittab
			test "$(find bin -xdev -type l -name sh -printf %l)" = busybox`},
		{"tar", "", `tar -C etc -cf tmp.tar . && mkdir tmp/x && tar -C tmp/x -xf tmp.tar && diff -r etc tmp/x && rm -r tmp.tar tmp/x`},
		{"cp -a", "", `cp -a usr tmp/usr && diff -r --no-dereference usr tmp/usr && cp -a --reflink=auto bin/busybox tmp/ && cmp bin/busybox tmp/busybox`},
		{"rsync -a", "rsync", `rsync -a etc/ tmp/etc/ && test -z "$(rsync -ain etc/ tmp/etc/)" && rsync -a --delete usr/share/ tmp/etc/ && diff -r usr/share tmp/etc`},
		{"git", "git", `mkdir tmp/repo && cd tmp/repo && git init -q && cp -r ../../etc . && git add . &&
			git -c user.name=a -c user.email=a@b commit -q -m all && echo x >>etc/motd && test "$(git diff --name-only)" = etc/motd &&
			git checkout -q . && git gc -q && git fsck && test -z "$(git status --porcelain)"`},
		{"vim", "vim", `vim.tiny -es -u NONE -c 'set backupcopy=no backup' -c '%s/hostname/HOST/e' -c '1s/^/# first\r/' -c wq etc/profile
			head -n 1 etc/profile | grep -qx '# first'`},
		{"sed -i", "", `sed -i 's/sample/live/' etc/hostname && test "$(cat etc/hostname)" = live`},
		{"make and cc", "cc", `mkdir tmp/src && cp -r "$1"/user/apps/hello tmp/src && cd tmp/src/hello && make -s CFLAGS=-O1 && ./hello | grep -q '^hello from Linux' && make -s install DESTDIR=../out`},
		{"mmap", "", `mkdir tmp/bin && cp -a bin/busybox tmp/bin && tmp/bin/busybox true`},
		{"append and truncate", "", `for i in 1 2 3; do echo $i >>tmp/log; done; test "$(wc -l <tmp/log)" = 3; : >tmp/log; test ! -s tmp/log`},
		{"rm -rf", "", `rm -rf usr/share tmp/usr && mkdir usr/share && test -z "$(ls -A usr/share)" && rmdir usr/share`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.needs != "" {
				need(t, tc.needs)
			}
			sh(t, mnt, tc.script, project)
		})
	}
}

// untar unpacks a layer with GNU tar and returns the folder.
func untar(t *testing.T, file string) string {
	t.Helper()
	dir := t.TempDir()
	shAsRoot(t, dir, `tar --numeric-owner --xattrs --xattrs-include='*' -xpf "$1"`, file)
	return dir
}

// loopMount mounts a filesystem in an image, read-only, by the kernel.
func loopMount(t *testing.T, image string, offset int64) string {
	t.Helper()
	dir := t.TempDir()
	shAsRoot(t, ".", `mount -o ro,loop,offset=$3 "$1" "$2"`, image, dir, fmt.Sprint(offset))
	t.Cleanup(func() { shAsRoot(t, ".", `umount "$1"`, dir) })
	return dir
}

type describing int

const (
	plain     describing = iota
	withCtime            // and the time of the last change, which nobody can set
)

// describe returns a line for each entry below root: path, type and mode,
// owner, size or device number, time, target or content's hash, number of
// names, xattrs. Directories have neither size nor number of names, which
// filesystems count differently, and lost+found is ext4's.
func describe(t *testing.T, root string, how describing) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if rel == "lost+found" {
			return fs.SkipDir
		}
		line, err := describeEntry(path, how)
		lines = append(lines, rel+" "+line)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func describeEntry(path string, how describing) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	var b strings.Builder
	kind := map[uint32]byte{
		unix.S_IFREG: '-', unix.S_IFDIR: 'd', unix.S_IFLNK: 'l', unix.S_IFCHR: 'c',
		unix.S_IFBLK: 'b', unix.S_IFIFO: 'p', unix.S_IFSOCK: 's',
	}[st.Mode&unix.S_IFMT]
	fmt.Fprintf(&b, "%c%04o %d:%d ", kind, st.Mode&0o7777, st.Uid, st.Gid)
	switch kind {
	case '-':
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%d %d.%09d %x names %d", st.Size, st.Mtim.Sec, st.Mtim.Nsec, sha256.Sum256(text), st.Nlink)
	case 'l':
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%d.%09d -> %q", st.Mtim.Sec, st.Mtim.Nsec, target)
	case 'c', 'b':
		fmt.Fprintf(&b, "%d:%d %d.%09d", unix.Major(st.Rdev), unix.Minor(st.Rdev), st.Mtim.Sec, st.Mtim.Nsec)
	default:
		fmt.Fprintf(&b, "%d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
	}
	if how == withCtime {
		fmt.Fprintf(&b, " ctime %d.%09d", st.Ctim.Sec, st.Ctim.Nsec)
	}
	names, err := xattr.LList(path)
	if err != nil {
		return "", err
	}
	slices.Sort(names)
	for _, name := range names {
		value, err := xattr.LGet(path, name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, " %s=%q", name, value)
	}
	return b.String(), nil
}

// same fails the test with the lines that only one of two descriptions has.
func same(t *testing.T, want, got []string) {
	t.Helper()
	if slices.Equal(want, got) {
		return
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("missing: %s", line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("unexpected: %s", line)
		}
	}
	if !t.Failed() {
		t.Error("the order differs")
	}
}

// The comparison can fail.
func TestDescribeSeesEveryField(t *testing.T) {
	need(t, "root", "xattr")
	dir := t.TempDir()
	sh(t, dir, `mkdir d; echo a >f; ln -s f l; mknod n c 1 2`)
	was := describe(t, dir, plain)
	for _, change := range []string{
		`chmod 700 d`, `chown 1 f`, `chgrp 1 l -h`, `echo b >f`, `touch -d @1.000000001 f`, `touch -h -d @1 l`,
		`ln -sf g l`, `rm n; mknod n c 1 3`, `rm n; mknod n b 1 3`, `ln f h`, `setfattr -n user.a -v b f`, `rmdir d`,
	} {
		sh(t, dir, change)
		is := describe(t, dir, plain)
		if slices.Equal(was, is) {
			t.Errorf("%s: not seen", change)
		}
		was = is
	}
}

// A full disk: one line, status 1, and nothing half written.
func TestExportToAFullDisk(t *testing.T) {
	need(t, "root")
	project := sampleProject(t)
	small := t.TempDir()
	sh(t, ".", `mount -t tmpfs -o size=1m none "$1" && echo old >"$1/old.tar"`, small)
	t.Cleanup(func() { sh(t, ".", `umount "$1"`, small) })
	for _, name := range []string{"new.tar", "old.tar", "new/image.tar"} {
		for _, kind := range []string{"--tar", "--docker", "--img"} {
			cmd := exec.Command("rootfs", "-C", project, "export", kind, filepath.Join(small, name))
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != exitFailed {
				t.Errorf("%s %s: %v, want exit status %d", kind, name, err, exitFailed)
			}
			if text := string(out); !strings.HasPrefix(text, "rootfs: export: ") ||
				!strings.HasSuffix(text, ": no space left on device\n") || strings.Count(text, "\n") != 1 {
				t.Errorf("%s %s said: %q", kind, name, text)
			}
			if left := sh(t, small, `find . -mindepth 1; cat old.tar`); left != "./old.tar\nold\n" {
				t.Errorf("%s %s left: %q", kind, name, left)
			}
		}
	}
}
