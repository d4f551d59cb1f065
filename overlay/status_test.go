package overlay

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// statusOf lists the differences, as "R to from layer".
func statusOf(t *testing.T, tree *Tree) (lines []string) {
	t.Helper()
	must(t, tree.Status(func(d Difference) error {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %s %s", d.Kind, d.Path, d.From)))
		return nil
	}))
	return lines
}

func TestStatusOfMovedDirectories(t *testing.T) {
	move := func(t *testing.T, tree *Tree, from, to string) {
		t.Helper()
		fromDir, fromName := splitPath(from)
		toDir, toName := splitPath(to)
		must(t, tree.Rename(at(t, tree, fromDir), fromName, at(t, tree, toDir), toName, 0))
	}
	for _, tc := range []struct{ moves, want string }{
		{"d:q", "R q d"},
		{"d:q q:d", ""},
		{"d/sub:r d:q", "R q d, R r d/sub"},
		{"d:q q/sub:r", "R q d, R r d/sub"},
		{"d:q q/sub:q/new", "R q d, R q/new d/sub"},
		{"d:q q/g:g", "A g, R q d, D q/g"},
	} {
		for _, checkpoints := range []bool{false, true} {
			tree := open(t, project(t, "user/sysconfig/d/sub/f f", "user/sysconfig/d/g g"))
			for _, m := range strings.Fields(tc.moves) {
				from, to, _ := strings.Cut(m, ":")
				move(t, tree, from, to)
				if checkpoints {
					_, err := tree.Checkpoint(Checkpoint{})
					must(t, err)
				}
			}
			if got := strings.Join(statusOf(t, tree), ", "); got != tc.want {
				t.Errorf("%s (checkpoints: %v): %q, want %q", tc.moves, checkpoints, got, tc.want)
			}
		}
	}
}

// A directory that merges with what a package has over a symlink stays where it is.
func TestStatusBehindSymlinks(t *testing.T) {
	p := project(t, "base/usr/bin/d/x x", "user/apps/b/bin/e/y y", "rootfs.toml [base]|source = 'base'")
	must(t, os.Symlink("usr/bin", filepath.Join(p.Root, "base/bin")))
	tree := open(t, p)
	for _, dir := range []string{"usr/bin/d", "usr/bin/e"} {
		_, err := tree.Mknod(at(t, tree, dir), "new", 0o644, 0, Owner{}, nil)
		must(t, err)
	}
	must(t, tree.Unlink(at(t, tree, "usr/bin/e"), "y"))
	must(t, tree.Rename(at(t, tree, "usr/bin"), "e", tree.Root(), "e", 0))
	want := []string{"R e usr/bin/e", "A e/new", "D e/y", "A usr/bin/d/new"}
	if got := statusOf(t, tree); !slices.Equal(got, want) {
		t.Errorf("it is %q, want %q", got, want)
	}
}
