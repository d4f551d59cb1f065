package overlay

import "testing"

// What nobody refers to keeps nothing open but the layers' roots, nor does
// opening the tree.
func TestForgottenDirectoriesAreClosed(t *testing.T) {
	p := project(t, "user/apps/a/usr/lib/x x", "user/sysconfig/usr/lib/y y", "user/sysconfig/etc/z z")
	tree := open(t, p)
	opened := func() int {
		tree.dirs.mu.Lock()
		defer tree.dirs.mu.Unlock()
		return tree.dirs.open
	}
	if n := opened(); n != len(tree.layers) {
		t.Errorf("%d directories open after opening %d layers", n, len(tree.layers))
	}
	seen := visit(tree, tree.Root())
	if n := opened(); n <= len(tree.layers) {
		t.Errorf("%d directories open after a walk", n)
	}
	tree.ReleaseAll(seen)
	if n := opened(); n != len(tree.layers) {
		t.Errorf("%d directories open after all was forgotten, and %d layers", n, len(tree.layers))
	}
}
