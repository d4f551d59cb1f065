package overlay

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// directories makes the directories low, up and work, with files "path content".
func directories(t *testing.T, lines ...string) Directories {
	t.Helper()
	root := project(t, lines...).Root
	d := Directories{Lower: []string{filepath.Join(root, "low")}, Upper: filepath.Join(root, "up"), Work: filepath.Join(root, "work")}
	for _, dir := range []string{d.Lower[0], d.Upper, d.Work} {
		must(t, os.MkdirAll(dir, 0o755))
	}
	return d
}

func openDirectories(t *testing.T, d Directories) *Tree {
	t.Helper()
	p, err := d.Project()
	must(t, err)
	return open(t, p)
}

// hostOwner is how files are shown that the test makes.
var hostOwner = strconv.Itoa(os.Geteuid()) + ":" + strconv.Itoa(os.Getegid())

func TestDirectoriesKeepTheHostsOwners(t *testing.T) {
	d := directories(t, "user/apps/", "low/f f", "low/dir/g g", "low/link ->f")
	must(t, unix.Chmod(filepath.Join(d.Lower[0], "f"), 0o666))
	must(t, unix.Chmod(filepath.Join(d.Lower[0], "dir"), 0o1777))
	tree := openDirectories(t, d)
	all := []string{
		"dir 41777 " + hostOwner, `dir/g 100644 ` + hostOwner + ` "g"`,
		`f 100666 ` + hostOwner + ` "f"`, "link 120777 " + hostOwner + " ->f",
	}
	expect(t, tree, all...)
	// A change keeps them too, and the root shows what the upper was.
	now := &SetTime{Now: true}
	for _, path := range []string{"f", "dir", "link"} {
		must(t, tree.SetAttr(at(t, tree, path), &Change{Mtime: now}))
	}
	expect(t, tree, all...)
	must(t, tree.Close())
	expect(t, openDirectories(t, d), all...)
}

func TestDirectoriesSquashed(t *testing.T) {
	d := directories(t, "user/apps/", "low/f f")
	if os.Geteuid() == 0 {
		must(t, os.Chown(filepath.Join(d.Lower[0], "f"), 1000, 1000))
	}
	d.SquashToRoot = true
	expect(t, openDirectories(t, d), `f 100644 0:0 "f"`)
}

func TestUpperBecomesLower(t *testing.T) {
	d := directories(t, "user/apps/", "low/a one", "low/dir/f f", "low/gone gone")
	tree := openDirectories(t, d)
	root := tree.Root()
	_, err := tree.Write(at(t, tree, "a"), []byte("two"), 0)
	must(t, err)
	uid := uint32(1234)
	must(t, tree.SetAttr(at(t, tree, "a"), &Change{UID: &uid}))
	must(t, tree.Unlink(root, "gone"))
	must(t, tree.Rename(root, "dir", root, "moved", 0))
	_, err = tree.Symlink(root, "link", "a", Owner{}, nil)
	must(t, err)
	_, err = tree.Mknod(root, "null", unix.S_IFCHR|0o666, unix.Mkdev(1, 3), Owner{}, nil)
	must(t, err)
	ino := inoOf(t, tree, "a")
	must(t, tree.Close())
	tree = openDirectories(t, d)
	want := dump(t, tree)
	must(t, tree.Close())

	base := filepath.Dir(d.Upper)
	next := Directories{Lower: []string{d.Upper, d.Lower[0]}, Upper: filepath.Join(base, "up2"), Work: filepath.Join(base, "work2")}
	must(t, errors.Join(os.Mkdir(next.Upper, 0o755), os.Mkdir(next.Work, 0o755)))
	before := hostDump(t, d.Upper)
	tree = openDirectories(t, next)
	if got := dump(t, tree); got != want || !strings.Contains(got, "1234") {
		t.Errorf("below another:\n%s\nwas\n%s", got, want)
	}
	if got := inoOf(t, tree, "a"); got != ino {
		t.Errorf("inode %d, was %d", got, ino)
	}
	_, err = tree.Write(at(t, tree, "moved/f"), []byte("F"), 0)
	must(t, err)
	if after := hostDump(t, d.Upper); after != before {
		t.Errorf("the lower one changed:\n%s\nwas\n%s", after, before)
	}
}

func TestDirectoriesKeepLinks(t *testing.T) {
	d := directories(t, "user/apps/", "low/a one")
	must(t, os.Link(filepath.Join(d.Lower[0], "a"), filepath.Join(d.Lower[0], "b")))
	for range 2 { // the second time after opening again
		tree := openDirectories(t, d)
		_, err := tree.Write(at(t, tree, "a"), []byte("two"), 0)
		must(t, err)
		expect(t, tree, `a 100644 `+hostOwner+` "two"`, `b 100644 `+hostOwner+` "two"`)
		must(t, tree.Close())
	}
}

func TestWorkBelongsToOneUpper(t *testing.T) {
	d := directories(t, "user/apps/", "low/a one", "other/x x")
	must(t, openDirectories(t, d).Close())
	other := d
	other.Upper = filepath.Join(filepath.Dir(d.Upper), "other")
	p, err := other.Project()
	must(t, err)
	// A new upper may take over a work directory, but not one that is in use
	// with another.
	tree, err := Open(p, Options{})
	must(t, err)
	must(t, tree.Close())
	if p, err = d.Project(); err == nil {
		_, err = Open(p, Options{})
	}
	if err == nil || !strings.Contains(err.Error(), "belongs to another upperdir") {
		t.Errorf("the first upper again: %v", err)
	}
}

func TestUpperIsTakenOverOnce(t *testing.T) {
	d := directories(t, "user/apps/", "low/a one")
	must(t, unix.Chmod(d.Upper, 0o710))
	must(t, openDirectories(t, d).Close())
	// As a crash leaves it, before the mark.
	must(t, unix.Removexattr(d.Upper, xattrFormat))
	tree := openDirectories(t, d)
	var e Entry
	if must(t, tree.Stat(tree.Root(), &e)); e.Mode != unix.S_IFDIR|0o710 {
		t.Errorf("the root's mode is %o", e.Mode)
	}
}

func TestForeignUpperIsRefused(t *testing.T) {
	for _, c := range []struct{ make, want string }{
		{"up/link ->x", "up/link is of the type and mode 120777"},
		{"up/dir/set s", "up/dir/set is of the type and mode 104755"},
		{"up/mark m", "up/mark has the attribute user.overlay.opaque"},
	} {
		t.Run(c.make, func(t *testing.T) {
			if os.Geteuid() != 0 {
				t.Skip("SKIPPED: files of others than root are refused first")
			}
			d := directories(t, "user/apps/", "low/a one", c.make)
			_ = os.Chmod(filepath.Join(d.Upper, "dir/set"), 0o755|os.ModeSetuid)
			_ = unix.Setxattr(filepath.Join(d.Upper, "mark"), "user.overlay.opaque", []byte("y"), 0)
			before := hostDump(t, d.Upper)
			p, err := d.Project()
			if err == nil {
				_, err = Open(p, Options{})
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v; want %s", err, c.want)
			}
			if after := hostDump(t, d.Upper); after != before {
				t.Errorf("it changed:\n%s\nwas\n%s", after, before)
			}
		})
	}
}

func TestForeignMarksInLower(t *testing.T) {
	d := directories(t, "user/apps/", "low/opaque/hidden h", "low/data 123456", "top/opaque/seen s", "top/moved/m m", "top/data ")
	top := filepath.Join(filepath.Dir(d.Upper), "top")
	d.Lower = append([]string{top}, d.Lower...)
	for path, mark := range map[string]string{"opaque": "opaque", "moved": "redirect", "data": "metacopy"} {
		must(t, unix.Setxattr(filepath.Join(top, path), "user.overlay."+mark, []byte("y"), 0))
	}
	must(t, os.Truncate(filepath.Join(top, "data"), 6))
	tree := openDirectories(t, d)
	if _, err := find(tree, "opaque/seen"); err != nil {
		t.Error(err)
	}
	if _, err := find(tree, "opaque/hidden"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("behind an opaque directory: %v", err)
	}
	if names, err := tree.ListXattr(at(t, tree, "opaque")); err != nil || len(names) > 0 {
		t.Errorf("attributes %q, %v", names, err)
	}
	if _, err := find(tree, "moved"); !errors.Is(err, unix.EIO) {
		t.Errorf("a directory that was moved: %v", err)
	}
	if _, err := tree.Read(at(t, tree, "data"), make([]byte, 6), 0); !errors.Is(err, unix.EIO) {
		t.Errorf("content that is elsewhere: %v", err)
	}
}
