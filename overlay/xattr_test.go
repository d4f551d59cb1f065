package overlay

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// A new file has no attribute without the host's being asked, until it gets one.
func TestXattrsOfANewFile(t *testing.T) {
	tree := open(t, editProject(t))
	etc := at(t, tree, "etc")
	n, err := tree.Mknod(etc, "new", 0o644, 0, Owner{}, nil)
	must(t, err)
	for _, name := range []string{"security.capability", "user.x"} {
		if v, err := tree.GetXattr(n, name); !errors.Is(err, unix.ENODATA) {
			t.Errorf("%s of a new file: %q, %v", name, v, err)
		}
		must(t, tree.SetXattr(n, name, []byte("value"), 0))
		if v, err := tree.GetXattr(n, name); string(v) != "value" {
			t.Errorf("%s after it was set: %q, %v", name, v, err)
		}
	}
	must(t, tree.RemoveXattr(n, "user.x"))
	names, err := tree.ListXattr(n)
	if want := []string{"security.capability"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("attributes: %q (%v), want %q", names, err, want)
	}
}
