package fusefs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
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

// A layer may have lost a file just now and have it again before the tree hears of
// that: there would be nothing to announce.
func TestTheKernelMayNotRememberWhatALayerJustLost(t *testing.T) {
	dir := project(t, map[string]string{"etc/passwd": "root\n"})
	f := unmounted(t, dir)
	var etc fuse.EntryOut
	lookup := func(name string) (fuse.Status, bool) {
		var out fuse.EntryOut
		st := f.Lookup(nil, &fuse.InHeader{NodeId: etc.NodeId}, name, &out)
		return st, out.NodeId != 0
	}
	if st := f.Lookup(nil, &fuse.InHeader{NodeId: rootID}, "etc", &etc); st != fuse.OK {
		t.Fatal(st)
	}
	if st, there := lookup("passwd"); st != fuse.OK || !there {
		t.Fatal(st, there)
	}
	host := filepath.Join(dir, "user/apps/base/etc/passwd")
	check(t, "rename", os.Rename(host, host+".old"))
	if st, _ := lookup("passwd"); st != fuse.ENOENT {
		t.Errorf("%v, to be remembered", st)
	}
	if st, there := lookup("group"); st != fuse.OK || there {
		t.Errorf("what never was: %v %v, not to be remembered", st, there)
	}
	check(t, "rename", os.Rename(host+".old", host))
	if st, there := lookup("passwd"); st != fuse.OK || !there {
		t.Error(st, there)
	}
}
