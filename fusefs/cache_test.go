package fusefs

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// The point of the whole: what was read once costs no more requests.
func TestTheKernelKeepsWhatItWasTold(t *testing.T) {
	m := sample(t, Options{})
	work := func() {
		check(t, "walk", filepath.WalkDir(m.dir, func(path string, d os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if _, err := d.Info(); err != nil {
				return err
			}
			switch {
			case d.Type().IsRegular():
				_, err = os.ReadFile(path)
			case d.Type()&os.ModeSymlink != 0:
				_, err = os.Readlink(path)
			}
			return err
		}))
		_, err := os.Stat(m.path("no/such"))
		wantErrno(t, "stat", err, unix.ENOENT)
	}
	// Twice: a READ makes the kernel ask once more for the atime.
	work()
	work()
	if n := m.requests(); n["OPEN"] > 1 || n["OPENDIR"] > 1 || n["FLUSH"] > 1 || n["RELEASE"]+n["RELEASEDIR"] > 0 {
		t.Errorf("the kernel still asks to open: %v", n)
	}
	before := m.requests()
	work()
	after := m.requests()
	for name, n := range after {
		if n != before[name] && name != "FORGET" && name != "BATCH_FORGET" {
			t.Errorf("%d more %s", n-before[name], name)
		}
	}
}

// What was written stays in the kernel's cache, and a write costs one request.
func TestWritesCostOneRequestEach(t *testing.T) {
	m := sample(t, Options{})
	f, err := os.Create(m.path("file"))
	check(t, "create", err)
	closeLater(t, f)
	_, err = f.Write(make([]byte, 4096))
	check(t, "write", err)
	before := m.requests()
	for range 10 {
		_, err = f.Write(make([]byte, 4096))
		check(t, "write", err)
	}
	_, err = os.ReadFile(m.path("file"))
	check(t, "read", err)
	after := m.requests()
	if w, x, r := after["WRITE"]-before["WRITE"], after["GETXATTR"]-before["GETXATTR"], after["READ"]-before["READ"]; w != 10 || x != 0 || r != 0 {
		t.Errorf("%d WRITE, %d GETXATTR, %d READ for 10 writes and a read", w, x, r)
	}
}

// A new file costs four requests (its name is looked up, made, asked for a
// capability, written), and a name that goes costs one.
func TestRequestsOfANewFile(t *testing.T) {
	m := sample(t, Options{})
	work := func(name string) {
		check(t, "write", os.WriteFile(m.path(name), []byte("x"), 0o644))
		check(t, "remove", os.Remove(m.path(name)))
	}
	work("etc/first")
	before := m.requests()
	work("etc/second")
	want := map[string]int{"LOOKUP": 1, "MKNOD": 1, "GETXATTR": 1, "WRITE": 1, "UNLINK": 1}
	for name, n := range m.requests() {
		if n -= before[name]; n != want[name] && name != "FORGET" && name != "BATCH_FORGET" {
			t.Errorf("%d %s, want %d", n, name, want[name])
		}
	}
}
