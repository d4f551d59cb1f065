package fusefs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// mountLine returns the fields of the mount's line in /proc/self/mounts.
func mountLine(t *testing.T, dir string) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[1] == dir {
			return f
		}
	}
	t.Fatalf("%s is not mounted", dir)
	return nil
}

func TestTheMountIsOfTypeRootfs(t *testing.T) {
	m := serve(t, project(t, map[string]string{"etc/hostname": "box\n"}), Options{}, nil)
	f := mountLine(t, m.dir)
	if f[0] != testSource || f[2] != "fuse.rootfs" {
		t.Errorf("source %s, type %s", f[0], f[2])
	}
	for _, want := range []string{"nosuid", "nodev", "rw"} {
		if !slices.Contains(strings.Split(f[3], ","), want) {
			t.Errorf("options %s: no %s", f[3], want)
		}
	}
}

func TestOptionsReachTheKernel(t *testing.T) {
	need(t, "root")
	o := Options{AllowOther: true, Extra: []string{"dev", "suid", "ro", "noatime"}}
	m := serve(t, project(t, map[string]string{"etc/hostname": "box\n"}), o, nil)
	got := strings.Split(mountLine(t, m.dir)[3], ",")
	for _, want := range []string{"ro", "noatime", "allow_other", "default_permissions"} {
		if !slices.Contains(got, want) {
			t.Errorf("options %v: no %s", got, want)
		}
	}
	for _, dont := range []string{"nodev", "nosuid", "rw"} {
		if slices.Contains(got, dont) {
			t.Errorf("options %v: %s", got, dont)
		}
	}
	if err := os.WriteFile(m.path("new"), nil, 0o644); !is(err, unix.EROFS) {
		t.Errorf("write to a read-only mount: %v", err)
	}
}

func TestUnmountingByOthersEndsTheServer(t *testing.T) {
	for name, command := range map[string][]string{
		"umount":         {"umount"},
		"umount lazily":  {"umount", "-l"},
		"fusermount3 -u": {"fusermount3", "-u"},
	} {
		t.Run(name, func(t *testing.T) {
			need(t, "root")
			need(t, "fusermount3")
			m := serve(t, project(t, map[string]string{"etc/hostname": "box\n"}), Options{}, nil)
			if out, err := exec.Command(command[0], append(command[1:], m.dir)...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			m.waitEnd()
		})
	}
}

func TestMountSaysWhatIsWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		dir  string
		o    Options
		want string
	}{
		"no such directory": {"/no/such/dir", Options{}, "mount /no/such/dir: no such file or directory"},
		"not a directory":   {file, Options{}, "mount " + file + ": not a directory"},
		"unknown option":    {"/", Options{Extra: []string{"rw", "bogus=1"}}, `mount /: unknown option "bogus=1"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Mount(nil, c.dir, c.o)
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestWordsForTheHelper(t *testing.T) {
	w, err := parseOptions(&Options{FSName: `a,b\c`, Extra: []string{"ro", "rw", "noexec", "suid"}})
	if err != nil {
		t.Fatal(err)
	}
	got := w.helper()
	for _, want := range []string{`fsname=a\,b\\c`, "subtype=rootfs", "noexec", "suid", "max_read=1048576"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s: no %s", got, want)
		}
	}
	for _, dont := range []string{"ro,", ",dev", "sync"} {
		if strings.Contains(got, dont) {
			t.Errorf("%s: has %s", got, dont)
		}
	}
}

// A user mounts by fusermount3, may edit what root owns, and what they make
// belongs to root.
func TestAnOrdinaryUserIsRootInside(t *testing.T) {
	need(t, "root")
	need(t, "fusermount3")
	const nobody = 65534
	dir := project(t, map[string]string{"etc/passwd": "root:x:0:0::/:/bin/sh\n", "bin/tool": "x"})
	as := &syscall.Credential{Uid: nobody, Gid: nobody}
	handOver(t, dir, nobody)
	m := serve(t, dir, Options{}, as)
	script := `set -e; cd "$1"; umask 077
		echo nobody >> etc/passwd; mkdir made; : > made/file; chown 12:34 made/file; chmod 4711 made/file
		test -x bin && ! test -x bin/tool
		stat -c '%n %u:%g %a' etc/passwd made made/file`
	cmd := exec.Command("sh", "-c", script, "sh", m.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := "etc/passwd 65534:65534 644\nmade 65534:65534 700\nmade/file 12:34 4711\n" // root's are shown as his own
	if string(out) != want {
		t.Errorf("got:\n%swant:\n%s", out, want)
	}
}

// handOver gives a project to another user.
func handOver(t *testing.T, dir string, uid int) {
	t.Helper()
	check(t, "chown", filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, uid, uid))
	}))
}

// What is visited as soon as there is a mount is watched from then on, too.
func TestChangesRightAfterTheMountAreSeen(t *testing.T) {
	dir := project(t, map[string]string{"etc/hostname": "box\n"})
	for i := range 100 { // which takes a while to watch
		check(t, "mkdir", os.MkdirAll(filepath.Join(dir, fmt.Sprintf("user/apps/p%d/opt/p%d", i, i)), 0o755))
	}
	for i := range 10 {
		name := fmt.Sprintf("etc/new%d", i)
		changed := make(chan error)
		go func() {
			for len(testMounts()) == 0 {
			}
			_ = unix.Access(filepath.Join(testMounts()[0], "etc/none"), unix.F_OK)
			changed <- os.WriteFile(filepath.Join(dir, "user/apps/base", name), nil, 0o644)
		}()
		m := serve(t, dir, Options{}, nil)
		check(t, "change the layer", <-changed)
		within(t, name+" is shown", func() bool { return unix.Access(m.path(name), unix.F_OK) == nil })
		m.stop()
	}
}
