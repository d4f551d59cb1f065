package fusefs

import "testing"

func TestOwnersAreSwapped(t *testing.T) {
	user := ownersOf(1000, 100)
	for _, c := range []struct{ tree, uid, gid uint32 }{
		{0, 1000, 100}, {1000, 0, 1000}, {100, 100, 0}, {5, 5, 5}, {4294967294, 4294967294, 4294967294},
	} {
		if uid, gid := user.user(c.tree), user.group(c.tree); uid != c.uid || gid != c.gid {
			t.Errorf("%d is shown as %d:%d, want %d:%d", c.tree, uid, gid, c.uid, c.gid)
		}
		if user.user(user.user(c.tree)) != c.tree || user.group(user.group(c.tree)) != c.tree {
			t.Errorf("%d doesn't come back", c.tree)
		}
	}
	if root := ownersOf(0, 0); root.user(0) != 0 || root.user(1000) != 1000 || root.group(0) != 0 {
		t.Error("root's view is another than the tree's")
	}
}
