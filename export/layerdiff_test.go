package export

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// configTree opens a tree of lines "path content": a directory with a slash, a
// symlink with "->target", a hard link with "=path".
func configTree(t *testing.T, lines ...string) *overlay.Tree {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "user/sysconfig")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(dir, 0o755))
	for _, line := range lines {
		name, content, _ := strings.Cut(line, " ")
		host := filepath.Join(dir, name)
		must(os.MkdirAll(filepath.Dir(host), 0o755))
		switch {
		case strings.HasSuffix(name, "/"):
			must(os.MkdirAll(host, 0o755))
		case strings.HasPrefix(content, "->"):
			must(os.Symlink(content[2:], host))
		case strings.HasPrefix(content, "="):
			must(os.Link(filepath.Join(dir, content[1:]), host))
		case content == "socket":
			must(unix.Mknod(host, unix.S_IFSOCK|0o644, 0))
		default:
			must(os.WriteFile(host, []byte(content), 0o644))
		}
	}
	p, err := overlay.Find(root, "")
	must(err)
	tree, err := overlay.Open(p, overlay.Options{ReadOnly: true})
	must(err)
	t.Cleanup(func() { must(tree.Close()) })
	return tree
}

// diffOf makes the layer between two trees and lists what is in it.
func diffOf(t *testing.T, lower, upper *overlay.Tree) ([]string, error) {
	t.Helper()
	ctx, log := context.Background(), slog.New(slog.DiscardHandler)
	d := &layerDiff{}
	var err error
	if d.lower, err = namesOf(ctx, lower, log); err != nil {
		t.Fatal(err)
	}
	if d.upper, err = namesOf(ctx, upper, log); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := NewTarWriter(ctx, &b, TarOptions{})
	d.add = w.Add
	// All times are the same.
	err = d.run(ctx, &overlay.Time{Sec: 1})
	if _, cerr := w.Close(); err != nil || cerr != nil {
		return nil, errors.Join(err, cerr)
	}
	var lines []string
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		line := strings.TrimPrefix(h.Name, "./")
		switch {
		case h.Typeflag == tar.TypeSymlink:
			line += " ->" + h.Linkname
		case h.Typeflag == tar.TypeLink:
			line += " =" + strings.TrimPrefix(h.Linkname, "./")
		case len(content) > 0:
			line += " " + string(content)
		}
		lines = append(lines, line)
	}
}

// A layer has what makes the upper tree out of the lower, the directories
// around it, and nothing else. The root directory's line is "".
func TestLayerDiff(t *testing.T) {
	for name, c := range map[string]struct{ lower, upper, want []string }{
		"nothing changed":           {[]string{"a/b 1", "c ->a"}, []string{"a/b 1", "c ->a"}, nil},
		"a new file":                {[]string{"a/b 1"}, []string{"a/b 1", "a/c 2"}, []string{"", "a/", "a/c 2"}},
		"another content":           {[]string{"a/b 1", "d 1"}, []string{"a/b 2", "d 1"}, []string{"", "a/", "a/b 2"}},
		"another target":            {[]string{"a ->b"}, []string{"a ->c"}, []string{"", "a ->c"}},
		"a file is gone":            {[]string{"a/b 1", "a/c 1"}, []string{"a/c 1"}, []string{"", "a/", "a/.wh.b"}},
		"a directory is gone":       {[]string{"a/b/c 1", "a/b/d 1", "a/z 1"}, []string{"a/z 1"}, []string{"", "a/", "a/.wh.b"}},
		"the last of a directory":   {[]string{"a/b 1", "c 1"}, []string{"a/", "c 1"}, []string{"", "a/", "a/.wh.b"}},
		"gone beside what stays":    {[]string{"a/b 1", "c 1"}, []string{"a/b 1"}, []string{"", ".wh.c"}},
		"a file for a directory":    {[]string{"a/b 1", "a/c/d 1"}, []string{"a 1"}, []string{"", "a 1"}},
		"a directory for a file":    {[]string{"a 1"}, []string{"a/b 1"}, []string{"", "a/", "a/b 1"}},
		"a symlink for a directory": {[]string{"a/b 1", "c/"}, []string{"a ->c", "c/"}, []string{"", "a ->c"}},
		"names that sort around a slash": {
			[]string{"a/b 1", "a-b 1", "a.b 1", "a0 1"},
			[]string{"a/c 1", "a-c 1", "a.b 2", "a0 1"},
			[]string{"", "a/", "a/.wh.b", "a/c 1", ".wh.a-b", "a-c 1", "a.b 2"},
		},
		"a further name for a file": {[]string{"a/b 1", "d 1"}, []string{"a/b 1", "a/c =a/b", "d 1"}, []string{"", "a/", "a/b 1", "a/c =a/b"}},
		"a name fewer for a file":   {[]string{"a/b 1", "a/c =a/b"}, []string{"a/b 1"}, []string{"", "a/", "a/b 1", "a/.wh.c"}},
		"links that stay":           {[]string{"a/b 1", "a/c =a/b"}, []string{"a/b 1", "a/c =a/b"}, nil},
		"another socket":            {[]string{"a 1"}, []string{"a 1", "s socket"}, nil},
		"a socket for a file":       {[]string{"a 1"}, []string{"a socket"}, []string{"", ".wh.a"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := diffOf(t, configTree(t, c.lower...), configTree(t, c.upper...))
			if err != nil {
				t.Fatal(err)
			}
			if a, b := strings.Join(got, "\n"), strings.Join(c.want, "\n"); a != b {
				t.Errorf("the layer has\n%s\nwant\n%s", a, b)
			}
		})
	}
}

func TestLayerDiffRefusesNamesOfWhiteouts(t *testing.T) {
	_, err := diffOf(t, configTree(t, "a 1"), configTree(t, "a 1", "d/.wh.a 1"))
	if err == nil || !strings.HasPrefix(err.Error(), "d/.wh.a: an image's layer can't hold") {
		t.Errorf("error %v", err)
	}
}

// A tag that no image can have is told before the work, and of a dry run.
func TestExportRefusesTagFirst(t *testing.T) {
	tree := configTree(t, "d/.wh.a 1") // what reading the tree would stumble over
	dir := t.TempDir()
	r := &Request{OCI: filepath.Join(dir, "oci"), Tag: "Upper:Case"}
	for run, export := range map[string]func(context.Context, *overlay.Tree, *Request) (*Report, error){
		"run": Run, "dry run": DryRun,
	} {
		if _, err := export(t.Context(), tree, r); err == nil || !strings.Contains(err.Error(), `image tag "Upper:Case"`) {
			t.Errorf("%s: error %v", run, err)
		}
	}
	if left := litter(t, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// A container image is refused as well, and nothing is left of it. A tar and a
// disk image may have such names.
func TestExportRefusesNamesOfWhiteouts(t *testing.T) {
	tree := configTree(t, "a 1", "d/.wh.a 1")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, r := range map[string]Request{
		"docker": {Docker: at("docker.tar"), Tar: at("layer.tar"), Arch: "x86_64"},
		"OCI":    {OCI: at("oci"), Arch: "x86_64"},
	} {
		for run, export := range map[string]func(context.Context, *overlay.Tree, *Request) (*Report, error){
			"run": Run, "dry run": DryRun,
		} {
			_, err := export(t.Context(), tree, &r)
			if err == nil || !strings.HasPrefix(err.Error(), "d/.wh.a: an image's layer can't hold") {
				t.Errorf("%s, %s: error %v", name, run, err)
			}
		}
	}
	if left := litter(t, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if _, err := Run(t.Context(), tree, &Request{
		Tar: at("layer.tar"), Img: at("disk.img"), Filesystem: "ext4", Partition: "none", Size: "16MiB",
	}); err != nil {
		t.Error(err)
	}
	if got := contents(t, openImage(t, at("layer.tar"))); got != "./ a=1 d/ d/.wh.a=1" {
		t.Errorf("the tar has %s", got)
	}
}
