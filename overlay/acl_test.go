package overlay

import (
	"errors"
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
