package overlay

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Filesystems that are mounted in a layer have the same inode numbers.
func TestMountsInALayerHoldFilesOfTheirOwn(t *testing.T) {
	p := project(t, "user/sysconfig/a/", "user/sysconfig/b/")
	for _, name := range []string{"a", "b", "a/in"} {
		dir := filepath.Join(p.Root, "user/sysconfig", name)
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			t.Skipf("SKIPPED, needs to mount: %v", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		in(t, p, `cd user/sysconfig/`+name+`; printf `+name+` >f; ln f g; mkdir in`)
	}
	tree, _ := watched(t, p)
	numbers := make(map[uint64]string)
	for _, name := range []string{"a", "b", "a/in", "a/f", "b/f", "a/in/f"} {
		var e Entry
		n := at(t, tree, name)
		must(t, tree.Stat(n, &e))
		if other := numbers[e.Ino]; other != "" {
			t.Errorf("%s and %s have the inode number %d", name, other, e.Ino)
		}
		numbers[e.Ino] = name
		if n.dir == nil && (n != at(t, tree, filepath.Dir(name)+"/g") || !reads(tree, n, filepath.Dir(name))()) {
			t.Errorf("%s isn't what it is on the host", name)
		}
	}
	in(t, p, `echo >>user/sysconfig/b/g`)
	within(t, "written to", reads(tree, at(t, tree, "b/f"), "b\n"))
}
