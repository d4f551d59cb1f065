package overlay

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

func acl(t *testing.T, text string) []byte {
	t.Helper()
	value, err := parseACL(text)
	must(t, err)
	return []byte(value)
}

func modeOf(t *testing.T, tree *Tree, path string) uint32 {
	t.Helper()
	var e Entry
	must(t, tree.Stat(at(t, tree, path), &e))
	return e.Mode
}

// A list that says no more than the permission bits is those bits.
func TestMinimalACLIsTheMode(t *testing.T) {
	tree := open(t, editProject(t))
	conf := at(t, tree, "etc/conf")
	must(t, tree.SetXattr(conf, xattrACLAccess, acl(t, "u::rwx,g::r-x,o::---"), 0))
	if mode := modeOf(t, tree, "etc/conf"); mode != unix.S_IFREG|0o750 {
		t.Errorf("mode %o", mode)
	}
	if _, err := tree.GetXattr(conf, xattrACLAccess); !errors.Is(err, unix.ENODATA) {
		t.Errorf("the list is still there: %v", err)
	}
}

// The group's bits are the mask of a longer list, whichever is changed.
func TestACLAgreesWithTheMode(t *testing.T) {
	tree := open(t, editProject(t))
	conf := at(t, tree, "etc/conf")
	must(t, tree.SetXattr(conf, xattrACLAccess, acl(t, "u::rw-,u:7:rwx,g::r--,m::rwx,o::r--"), 0))
	if mode := modeOf(t, tree, "etc/conf"); mode != unix.S_IFREG|0o674 {
		t.Errorf("mode %o after setfacl", mode)
	}
	mode := uint32(0o2710)
	must(t, tree.SetAttr(conf, &Change{Mode: &mode}))
	got, err := tree.GetXattr(conf, xattrACLAccess)
	must(t, err)
	if want := acl(t, "u::rwx,u:7:rwx,g::r--,m::--x,o::---"); string(got) != string(want) {
		t.Errorf("the list after chmod is\n%q, want\n%q", got, want)
	}
	must(t, tree.SetXattr(conf, xattrACLAccess, acl(t, "u::r--,g::r--,o::r--"), 0))
	if mode := modeOf(t, tree, "etc/conf"); mode != unix.S_IFREG|0o2444 {
		t.Errorf("mode %o after setfacl -b", mode)
	}
}

// A list and the permission bits change both or not at all, also where the host has
// room for one of them.
func TestACLWithoutRoomForTheMode(t *testing.T) {
	tree := open(t, editProject(t))
	etc := at(t, tree, "etc")
	list := acl(t, "u::r--,u:7:rwx,g::r--,m::rwx,o::r--")
	for size := 4096; size > 3500; size -= 4 {
		n, err := tree.Mknod(etc, fmt.Sprint(size), 0o644, 0, Owner{}, nil)
		must(t, err)
		must(t, tree.SetXattr(n, "user.small", make([]byte, 50), 0)) // ext4 has it in the inode
		if tree.SetXattr(n, "user.large", make([]byte, size), 0) != nil {
			continue // the host holds less
		}
		if tree.SetXattr(n, xattrACLAccess, list, 0) == nil {
			return
		}
		if _, err := tree.GetXattr(n, xattrACLAccess); !errors.Is(err, unix.ENODATA) {
			t.Errorf("beside %d bytes: it failed, and the list is there: %v", size, err)
		}
		if mode := modeOf(t, tree, "etc/"+fmt.Sprint(size)); mode != unix.S_IFREG|0o644 {
			t.Errorf("beside %d bytes: it failed, and the mode is %o", size, mode)
		}
	}
}

// A directory's default list grants what the umask would take, and passes on.
func TestDefaultACLIsInherited(t *testing.T) {
	tree := open(t, editProject(t))
	etc := at(t, tree, "etc")
	maker := Owner{Umask: 0o077}
	made := func(path string, n *Node, err error, mode uint32, list string) {
		t.Helper()
		must(t, err)
		if got := modeOf(t, tree, path); got != mode {
			t.Errorf("%s: mode %o, want %o", path, got, mode)
		}
		got, err := tree.GetXattr(n, xattrACLAccess)
		switch {
		case list == "" && !errors.Is(err, unix.ENODATA):
			t.Errorf("%s: the list %q (%v), want none", path, got, err)
		case list != "" && string(got) != string(acl(t, list)):
			t.Errorf("%s: the list is\n%q (%v), want\n%q", path, got, err, acl(t, list))
		}
	}
	n, err := tree.Mknod(etc, "before", 0o666, 0, maker, nil)
	made("etc/before", n, err, unix.S_IFREG|0o600, "")

	const list = "u::rwx,u:7:r-x,g::r-x,m::rwx,o::r-x"
	must(t, tree.SetXattr(etc, xattrACLDefault, acl(t, list), 0))
	n, err = tree.Mknod(etc, "file", 0o664, 0, maker, nil)
	made("etc/file", n, err, unix.S_IFREG|0o664, "u::rw-,u:7:r-x,g::r-x,m::rw-,o::r--")
	n, err = tree.Mknod(etc, "null", unix.S_IFCHR|0o600, unix.Mkdev(1, 3), maker, nil)
	made("etc/null", n, err, unix.S_IFCHR|0o600, "u::rw-,u:7:r-x,g::r-x,m::---,o::---")
	n, err = tree.Symlink(etc, "link", "file", maker, nil)
	made("etc/link", n, err, unix.S_IFLNK|0o777, "")
	n, err = tree.Mkdir(etc, "dir", 0o750, maker, nil)
	made("etc/dir", n, err, unix.S_IFDIR|0o750, "u::rwx,u:7:r-x,g::r-x,m::r-x,o::---")
	n, err = tree.Mknod(n, "deep", 0o666, 0, maker, nil)
	made("etc/dir/deep", n, err, unix.S_IFREG|0o664, "u::rw-,u:7:r-x,g::r-x,m::rw-,o::r--")

	must(t, tree.SetXattr(etc, xattrACLDefault, acl(t, "u::rwx,g::r-x,o::---"), 0))
	n, err = tree.Mknod(etc, "minimal", 0o666, 0, maker, nil)
	made("etc/minimal", n, err, unix.S_IFREG|0o640, "")
	must(t, tree.RemoveXattr(etc, xattrACLDefault))
	n, err = tree.Mknod(etc, "after", 0o666, 0, maker, nil)
	made("etc/after", n, err, unix.S_IFREG|0o600, "")
	if err := tree.SetXattr(n, xattrACLDefault, acl(t, list), 0); !errors.Is(err, unix.EACCES) {
		t.Errorf("a default list of a file: %v", err)
	}
}

func TestBadACL(t *testing.T) {
	tree := open(t, editProject(t))
	conf := at(t, tree, "etc/conf")
	for _, value := range [][]byte{nil, {2, 0, 0}, {1, 0, 0, 0}, acl(t, "u::rwx,g::rwx"), append(acl(t, "u::r--,g::r--,o::r--"), 0)} {
		if err := tree.SetXattr(conf, xattrACLAccess, value, 0); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%q: %v", value, err)
		}
	}
	if mode := modeOf(t, tree, "etc/conf"); mode != unix.S_IFREG|0o644 {
		t.Errorf("mode %o", mode)
	}
}

// A directory's group is passed on as long as the directory says so.
func TestSetGIDIsInherited(t *testing.T) {
	tree := open(t, editProject(t))
	etc := at(t, tree, "etc")
	set := func(mode, gid uint32) { must(t, tree.SetAttr(etc, &Change{Mode: &mode, GID: &gid})) }
	for i, want := range []struct{ mode, dirGID, gid uint32 }{{0o755, 7, 5}, {0o2755, 7, 7}, {0o2755, 8, 8}, {0o755, 8, 5}} {
		set(want.mode, want.dirGID)
		for range 2 { // the second time by memory
			var e Entry
			name := fmt.Sprint("dir", i)
			n, err := tree.Mkdir(etc, name, 0o755, Owner{GID: 5}, &e)
			must(t, err)
			if mode := unix.S_IFDIR | 0o755 | want.mode&unix.S_ISGID; e.GID != want.gid || e.Mode != mode {
				t.Errorf("in a directory %o of group %d: %o of group %d, want %o of %d", want.mode, want.dirGID, e.Mode, e.GID, mode, want.gid)
			}
			tree.Release(n, 1)
			must(t, tree.Rmdir(etc, name))
		}
	}
}

// What the host hands down in the project's directory isn't the tree's.
func TestNothingIsInheritedFromTheHost(t *testing.T) {
	p := project(t, "user/sysconfig/d/")
	must(t, unix.Chmod(p.Root, 0o2755))
	if err := unix.Setxattr(p.Root, xattrACLDefault, acl(t, "u::rwx,g::r-x,o::---"), 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatal(err)
	}
	tree := open(t, p)
	must(t, tree.Rmdir(tree.Root(), "d"))
	_, err := tree.Mkdir(tree.Root(), "d", 0o755, Owner{}, nil)
	must(t, err)
	_, err = tree.Mknod(tree.Root(), "f", 0o644, 0, Owner{}, nil)
	must(t, err)
	must(t, tree.Close())
	expect(t, open(t, p), `d 40755 0:0`, `f 100644 0:0 ""`)
}

// Whether or not the directory is part of the edits already.
func TestManifestsGroupIsInherited(t *testing.T) {
	p := project(t, "user/sysconfig/d/f text", "rootfs.toml [[file]]|path = \"/d\"|mode = \"2775\"|gid = 7")
	tree := open(t, p)
	d := at(t, tree, "d")
	for range 2 {
		var unnamed, named Entry
		_, err := tree.Tmpfile(d, 0o644, Owner{}, &unnamed)
		must(t, err)
		if unnamed.GID != 7 {
			t.Errorf("without a name, it belongs to group %d", unnamed.GID)
		}
		_, err = tree.Mknod(d, "new", 0o644, 0, Owner{}, &named)
		must(t, err)
		if named.GID != 7 {
			t.Errorf("it belongs to group %d", named.GID)
		}
		must(t, tree.Unlink(d, "new"))
	}
}
