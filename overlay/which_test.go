package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWhichLayersHaveAPath(t *testing.T) {
	p := project(t,
		"rootfs.toml remove = [\"/usr/doc\"]|[base]|source = \"base\"",
		"base/usr/bin/prog base", "base/usr/doc/x x", "base/bin ->usr/bin", "base/etc/conf base",
		"user/apps/a/bin/prog a", "user/apps/a/opt/a a",
		"user/apps/b/opt/b b", "user/apps/b/etc/conf/sub s",
		"user/sysconfig/etc/conf c")
	tree := open(t, p)
	must(t, tree.Unlink(at(t, tree, "opt"), "a"))
	for path, want := range map[string]string{
		"usr/bin/prog": "user/apps/a shown bin/prog, base hidden usr/bin/prog",
		"/bin/prog":    "user/apps/a shown bin/prog, base hidden usr/bin/prog",
		"bin":          "base shown bin",
		"etc/conf":     "user/sysconfig shown etc/conf, user/apps/b hidden etc/conf, base hidden etc/conf",
		"opt":          "edits shown opt, user/apps/b merged opt, user/apps/a merged opt",
		"opt/a":        "edits removes opt/a, user/apps/a hidden opt/a",
		"usr/doc":      "rootfs.toml removes usr/doc, base hidden usr/doc",
		"opt/b":        "user/apps/b shown opt/b",
	} {
		got, err := tree.Which(path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		var words []string
		for _, o := range got {
			for _, l := range tree.layers {
				if rel, err := filepath.Rel(l.Dir, o.Host); err == nil && l.Name == o.Layer && !strings.HasPrefix(rel, "..") {
					words = append(words, fmt.Sprintf("%s %s %s", o.Layer, o.Use, rel))
				}
			}
		}
		if strings.Join(words, ", ") != want {
			t.Errorf("%s: %s\nwant %s", path, strings.Join(words, ", "), want)
		}
	}
	for _, path := range []string{"none", "none/below", "usr/bin/prog/below", "bin/none"} {
		if got, err := tree.Which(path); !errors.Is(err, unix.ENOENT) {
			t.Errorf("%s: %v, %v", path, got, err)
		}
	}
	if got, err := tree.Which("/"); err != nil || len(got) < 5 {
		t.Errorf("the root: %v, %v", got, err)
	}
}

func TestConflictsAreWhatLayersDisagreeOn(t *testing.T) {
	p := project(t,
		"rootfs.toml remove = [\"/opt/removed\"]|[base]|source = \"base\"",
		"base/bin ->usr/bin", "base/usr/bin/prog base", "base/etc/conf base", "base/opt/same/file same", "base/opt/link ->x", "base/opt/removed/f base",
		"user/apps/a/bin/prog a", "user/apps/a/etc/conf a", "user/apps/a/opt/same/file same", "user/apps/a/opt/link ->y", "user/apps/a/opt/removed/f a",
		"user/apps/a/opt/kind/file f", "user/apps/a/opt/size 1", "user/apps/a/opt/tail 1234",
		"user/apps/b/opt/same/file same", "user/apps/b/opt/kind k", "user/apps/b/opt/size 12", "user/apps/b/opt/tail 1235", "user/apps/b/usr/lib/own o",
		"user/sysconfig/etc/conf decided")
	tree := open(t, p)
	must(t, os.MkdirAll(filepath.Join(p.Root, "user/apps/a/usr/lib"), 0o755))
	_, err := tree.Write(at(t, tree, "opt/same/file"), []byte("an edit is none"), 0)
	must(t, err)
	var got []string
	must(t, tree.Conflicts(func(c Conflict) error {
		got = append(got, c.Path+": "+strings.Join(c.Layers, " "))
		return nil
	}))
	want := []string{
		"opt/kind: user/apps/b user/apps/a",
		"opt/link: user/apps/a base",
		"opt/size: user/apps/b user/apps/a",
		"opt/tail: user/apps/b user/apps/a",
		"usr/bin/prog: user/apps/a base",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	stop := errors.New("stop")
	if err := tree.Conflicts(func(Conflict) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped: %v", err)
	}
}
