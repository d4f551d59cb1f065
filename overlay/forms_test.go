package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// plant makes files (and the folders they are in) below dir. A name that ends
// in "/" is a folder, "a -> b" a symlink.
func plant(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		link, target, isLink := strings.Cut(name, " -> ")
		full := filepath.Join(dir, link)
		var err error
		switch {
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(full, 0o755)
		default:
			err = os.MkdirAll(filepath.Dir(full), 0o755)
			if err == nil && isLink {
				err = os.Symlink(target, full)
			} else if err == nil {
				err = os.WriteFile(full, nil, 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestPackagesRecognisesEachForm(t *testing.T) {
	kinds := map[pkgKind]string{pkgTree: "tree", pkgResult: "result", pkgArchive: "archive", pkgRecipe: "recipe"}
	for name, c := range map[string]struct {
		have           []string
		order, exclude []string
		want           []string
	}{
		"tree":                 {have: []string{"a/usr/bin/x", "a/init"}, want: []string{"tree a: a"}},
		"busybox install":      {have: []string{"b/bin/busybox", "b/linuxrc -> bin/busybox", "b/sbin/"}, want: []string{"tree b: b"}},
		"result":               {have: []string{"store/usr/", "apps/../n/default.nix", "n/result -> ../store"}, exclude: []string{"store", "apps"}, want: []string{"result n: n/result"}},
		"result over tree":     {have: []string{"n/usr/", "n/result/bin/"}, want: []string{"result n: n/result"}},
		"recipe":               {have: []string{"r/package.toml", "r/usr/x"}, want: []string{"recipe r: r"}},
		"recipe and result":    {have: []string{"r/package.toml", "r/result/bin/"}, want: []string{"recipe r: r"}},
		"archives":             {have: []string{"a.tar", "b.tar.gz", "c.tar.xz", "d.tar.zst"}, want: []string{"archive a: a.tar", "archive b: b.tar.gz", "archive c: c.tar.xz", "archive d: d.tar.zst"}},
		"dots in names":        {have: []string{"libc-2.36.tar.gz", "gcc-12.2/usr/"}, want: []string{"tree gcc-12.2: gcc-12.2", "archive libc-2.36: libc-2.36.tar.gz"}},
		"by name, not file":    {have: []string{"a.tar.gz", "a-b.tar"}, want: []string{"archive a: a.tar.gz", "archive a-b: a-b.tar"}},
		"link to a folder":     {have: []string{"real/usr/", "b -> real"}, exclude: []string{"real"}, want: []string{"tree b: b"}},
		"hidden, companions":   {have: []string{".git/x", ".x.tar", "README.md", "Makefile", "LICENSE", "a/etc/"}, want: []string{"tree a: a"}},
		"order first":          {have: []string{"a/usr/", "b/usr/", "c.tar", "d/usr/"}, order: []string{"c", "b"}, want: []string{"archive c: c.tar", "tree b: b", "tree a: a", "tree d: d"}},
		"exclude":              {have: []string{"a/usr/", "tests/x.c", "old-1/y", "old-2.tar"}, exclude: []string{"tests/*", "old-*"}, want: []string{"tree a: a"}},
		"exclude by file name": {have: []string{"a/usr/", "a.tar"}, exclude: []string{"*.tar"}, want: []string{"tree a: a"}},
		"ordered and excluded": {have: []string{"a/usr/", "b/usr/"}, order: []string{"b"}, exclude: []string{"b"}, want: []string{"tree a: a"}},
		"nothing":              {},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			plant(t, dir, c.have...)
			found, err := packages(dir, c.order, c.exclude)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range found {
				rel, err := filepath.Rel(dir, p.path)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, fmt.Sprintf("%s %s: %s", kinds[p.kind], p.name, rel))
			}
			if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestPackagesSaysWhatElseItCouldBe(t *testing.T) {
	for name, c := range map[string]struct {
		have           []string
		order, exclude []string
		want           []string // each in the error
	}{
		"source":          {have: []string{"a/Makefile", "a/main.c"}, want: []string{"/a:", "looks like source code", "package.toml", `"a"`}},
		"nix, not built":  {have: []string{"a/default.nix", "a/main.c"}, want: []string{"run nix build"}},
		"tree and more":   {have: []string{"a/usr/", "a/notes", "a/zeta"}, want: []string{"looks like an install tree", `"notes", "zeta"`}},
		"unknown":         {have: []string{"a/1", "a/2", "a/3", "a/4", "a/5"}, want: []string{`"1", "2", "3" and 2 more`, "make it one of these"}},
		"empty":           {have: []string{"a/"}, want: []string{"it is empty"}},
		"dangling result": {have: []string{"a/usr/", "a/result -> /nix/store/gone"}, want: []string{`a/result: points to "/nix/store/gone"`, "build package"}},
		"file as result":  {have: []string{"a/result"}, want: []string{"must be a link to a built tree"}},
		"dangling link":   {have: []string{"a -> gone"}, want: []string{`package "a"`, "no such file"}},
		"other archive":   {have: []string{"a.zip"}, want: []string{"a.zip:", "NAME.tar.gz"}},
		"folder.tar":      {have: []string{"a.tar/x"}, want: []string{"a.tar:", `"x"`}},
		"two of a name":   {have: []string{"a/usr/", "a.tar"}, want: []string{`/a and `, `/a.tar are both package "a"`}},
		"every bad one":   {have: []string{"a/x", "b/y", "c/usr/"}, want: []string{"/a:", "/b:"}},
		"order unknown":   {have: []string{"a/usr/"}, order: []string{"b"}, want: []string{`apps.order: there is no package "b"`}},
		"order twice":     {have: []string{"a/usr/"}, order: []string{"a", "a"}, want: []string{`"a" is named twice`}},
		"bad pattern":     {have: []string{"a/usr/"}, exclude: []string{"[a"}, want: []string{`apps.exclude: pattern "[a"`}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			plant(t, dir, c.have...)
			found, err := packages(dir, c.order, c.exclude)
			if err == nil {
				t.Fatalf("no error, found %v", found)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error lacks %q: %v", want, err)
				}
			}
		})
	}
	if _, err := packages(filepath.Join(t.TempDir(), "none"), nil, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a folder: %v, want fs.ErrNotExist", err)
	}
}
