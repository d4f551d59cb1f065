package overlay

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

func TestUnpackMakesPlainFiles(t *testing.T) {
	dir := t.TempDir()
	shut := aDir("./shut")
	shut.Mode = 0o500
	text := aFile("./shut/text", "content").with("user.note", "n")
	text.Mode, text.ModTime = 0o4444, testTime
	err := Unpack(t.Context(), bytes.NewReader(tarOf(t, aDir("."), shut.with("user.note", "d"), text,
		aHardLink("./shut/again", "./shut/text"), aLink("./link", "/nowhere"), aHardLink("./link2", "./link"))), dir)
	if err != nil {
		t.Fatal(err)
	}
	var first, again, link unix.Stat_t
	for name, st := range map[string]*unix.Stat_t{"shut/text": &first, "shut/again": &again, "link2": &link} {
		if err := unix.Lstat(filepath.Join(dir, name), st); err != nil {
			t.Fatal(err)
		}
	}
	if first.Ino != again.Ino || first.Mode != unix.S_IFREG|0o4444 || first.Mtim.Nano() != testTime.UnixNano() {
		t.Errorf("the file is %+v, its other name %+v", first, again)
	}
	if target, err := os.Readlink(filepath.Join(dir, "link2")); target != "/nowhere" || link.Nlink != 2 {
		t.Errorf("the link leads to %q (%v) and has %d names", target, err, link.Nlink)
	}
	for name, want := range map[string]string{"shut": "d", "shut/text": "n"} {
		if got, err := xattr.LGet(filepath.Join(dir, name), "user.note"); string(got) != want {
			t.Errorf("%s: attribute %q, %v; want %q", name, got, err, want)
		}
	}
}

// No tar leads out of the directory, or leaves open what is meant.
func TestUnpackIsStrict(t *testing.T) {
	damaged := tarOf(t, aDir("."), aFile("f", strings.Repeat("x", 4096)))
	for name, c := range map[string]struct {
		tar  []byte
		want string
	}{
		"a path through a link":     {tarOf(t, aDir("."), aLink("out", "/tmp"), aFile("out/f", "")), "its directory doesn't come before it"},
		"a path through a file":     {tarOf(t, aDir("."), aFile("f", ""), aFile("f/g", "")), "its directory doesn't come before it"},
		"no root":                   {tarOf(t, aFile("f", "")), "its directory doesn't come before it"},
		"a root that is a link":     {tarOf(t, aLink(".", "/tmp")), "file exists"},
		"a name twice":              {tarOf(t, aDir("."), aFile("f", ""), aFile("f", "")), "file exists"},
		"a directory over a link":   {tarOf(t, aDir("."), aLink("l", "/tmp"), aDir("l")), "file exists"},
		"a hard link to a folder":   {tarOf(t, aDir("."), aDir("d"), aHardLink("l", "d")), `hard link to "d", which is no file before it`},
		"a hard link to the host's": {tarOf(t, aDir("."), aHardLink("l", "/etc/passwd")), "which is no file before it"},
		"another type":              {tarOf(t, aDir("."), tarEntry{tar.Header{Typeflag: 'S' + 1, Name: "x"}, ""}), "is not supported"},
		"an end too early":          {damaged[:2048], "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Unpack(t.Context(), bytes.NewReader(c.tar), t.TempDir())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
		})
	}
}

// What leads up stays beneath.
func TestUnpackKeepsPathsBeneath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Unpack(t.Context(), bytes.NewReader(tarOf(t, aDir("."), aFile("../../f", ""))), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "f")); err != nil {
		t.Error(err)
	}
}
