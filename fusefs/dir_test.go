package fusefs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWalk(t *testing.T) {
	m := sample(t, Options{})
	var got []string
	check(t, "walk", filepath.WalkDir(m.dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st := lstat(t, path)
		size := st.Size
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			size = 0
		}
		got = append(got, fmt.Sprintf("%s %o %d:%d %d", strings.TrimPrefix(path, m.dir), st.Mode, st.Uid, st.Gid, size))
		return nil
	}))
	want := []string{
		" 40755 0:0 0", "/bin 40755 0:0 0", "/bin/sh 100644 0:0 3",
		"/etc 40755 0:0 0", "/etc/empty 40755 0:0 0", "/etc/group 100644 0:0 10", "/etc/passwd 100644 0:0 11",
		"/lib 120777 0:0 7", "/usr 40755 0:0 0", "/usr/lib 40755 0:0 0", "/usr/lib/libc.so 100644 0:0 12000",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	target, err := os.Readlink(m.path("lib"))
	check(t, "readlink", err)
	if target != "usr/lib" {
		t.Errorf("lib -> %s", target)
	}
	wantContent(t, m.path("usr/lib/libc.so"), strings.Repeat("libc", 3000))
}

func TestListingsHaveDotsAndInodeNumbers(t *testing.T) {
	m := sample(t, Options{})
	out, err := exec.Command("ls", "-aif", m.path("etc")).Output()
	check(t, "ls", err)
	ino := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 2 {
			ino[f[1]] = f[0]
		}
	}
	for _, name := range []string{".", "..", "passwd", "group", "empty"} {
		if ino[name] == "" {
			t.Errorf("%s is not listed: %s", name, out)
		}
	}
	if st := lstat(t, m.path("etc/passwd")); ino["passwd"] != fmt.Sprint(st.Ino) {
		t.Errorf("listed with inode %s, stat says %d", ino["passwd"], st.Ino)
	}
}

func TestAbsentNamesAppear(t *testing.T) {
	m := sample(t, Options{})
	for range 2 {
		_, err := os.Stat(m.path("etc/later"))
		wantErrno(t, "stat", err, unix.ENOENT)
	}
	check(t, "mkdir", os.Mkdir(m.path("etc/later"), 0o755))
	_, err := os.Stat(m.path("etc/later"))
	check(t, "stat", err)
}

func TestListingWhileRemoving(t *testing.T) {
	m := sample(t, Options{})
	const count = 3000
	var want []string
	check(t, "mkdir", os.Mkdir(m.path("many"), 0o755))
	for i := range count {
		name := fmt.Sprintf("entry-%04d", i)
		want = append(want, name)
		check(t, "create", os.WriteFile(m.path("many/"+name), nil, 0o644))
	}
	dir, err := os.Open(m.path("many"))
	check(t, "open", err)
	closeLater(t, dir)
	var got []string
	for {
		names, err := dir.Readdirnames(100)
		if len(names) == 0 {
			break
		}
		check(t, "readdir", err)
		got = append(got, names...)
		for _, name := range names {
			check(t, "unlink", os.Remove(m.path("many/"+name)))
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("listed %d names of %d", len(got), count)
	}
	check(t, "fsync of a directory", dir.Sync())
	check(t, "rmdir", os.Remove(m.path("many")))
}
