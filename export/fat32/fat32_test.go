package fat32

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// TestTree reads back files and directories of all sorts of names.
func TestTree(t *testing.T) {
	need(t, "fsckfat")
	need(t, "mtools")
	tr := newTree(t, t.TempDir())
	var want []string
	dir := func(name string) {
		tr.dir(name)
		want = append(want, name+"/")
	}
	file := func(name, content string) {
		tr.file(name, content)
		want = append(want, line(name, false, mtime-1, content))
	}
	dir("bin")
	for _, size := range []int{0, 1, 511, 512, 513, 4095, 4096, 4097, 1 << 20} {
		file(fmt.Sprintf("bin/file%d", size), strings.Repeat("x", size))
	}
	dir("bin/empty")
	dir("bin/deep")
	dir("bin/deep/deeper")
	file("bin/deep/deeper/README", "a name that is short")
	dir("names")
	for _, name := range []string{
		"README.TXT", "readme.md", "Mixed.c", "UPPER", "lower", ".profile", "..twodots", "two.dots.c", "a+b", "a b", "a=b,c;d[e]",
		"12345678.123", "123456789.123", "12345678.1234", "$%'-_@~", "`!(){}^#&", "größe", "ДОС", "日本語.txt", "tab-less\u00a0space",
		"CON", "aux.c", "~1", "x~1", "name with a very long tail that needs several records.text", strings.Repeat("n", 255), "\x7f",
	} {
		file("names/"+name, name)
	}
	for n := 1; n < 60; n++ { // each number of characters in a long name's last record
		file("names/"+strings.Repeat("l", n)+"+", "")
	}
	image, losses := tr.image(t.TempDir(), Options{Size: 64 << 20, Label: "Test disk"})
	fsck(t, image)
	same(t, listed(losses), nil)
	same(t, lines(t, image, t.TempDir()), sorted(want))
}

// TestNumberedAliases: names that begin alike get short names of their own,
// which are none that a file really has.
func TestNumberedAliases(t *testing.T) {
	need(t, "fsckfat")
	need(t, "mtools")
	tr := newTree(t, t.TempDir())
	var want []string
	for _, name := range []string{"LONGNA~1.TXT", "longna~3.txt", "LONGN~11.TXT"} {
		want = append(want, line(tr.file(name, name).Path, false, mtime-1, name))
	}
	for i := range 300 {
		name := fmt.Sprintf("long name %03d.text", i)
		want = append(want, line(tr.file(name, name).Path, false, mtime-1, name))
	}
	image, _ := tr.image(t.TempDir(), Options{Size: 64 << 20})
	fsck(t, image)
	same(t, lines(t, image, t.TempDir()), sorted(want))
	short := make(map[string]bool)
	for line := range strings.Lines(tool(t, "mdir", "-a", "-i", image, "::")) {
		if len(line) > 12 && line[8] == ' ' && strings.Contains(line, "2023-11-14") {
			short[line[:12]] = true
		}
	}
	if len(short) != len(want) {
		t.Errorf("%d short names for %d files", len(short), len(want))
	}
	for _, name := range []string{"LONGNA~1 TXT", "LONGNA~3 TXT", "longna~3 txt"} {
		delete(short, name)
	}
	for _, name := range []string{"LONGNA~2 TEX", "LONGN~11 TEX", "LONG~100 TEX"} {
		if !short[name] {
			t.Errorf("no short name %q", name)
		}
	}
}

// TestLongNameRecords: a name of 14 UTF-16 units, one pair of them in two
// records, in the order and the places that the specification says.
func TestLongNameRecords(t *testing.T) {
	tr := newTree(t, t.TempDir())
	tr.file("abcdefghijkl😀", "")
	p, err := tr.planner(Options{Size: 64 << 20}).Plan()
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4*recordSize)
	if _, err := p.ReadAt(got, rootOffset(t, p)); err != nil {
		t.Fatal(err)
	}
	const sum = "\xca" // of ABCDEF~1
	want := "\x42\x00\xde\x00\x00" + strings.Repeat("\xff", 6) + "\x0f\x00" + sum + strings.Repeat("\xff", 12) + "\x00\x00" + "\xff\xff\xff\xff" +
		"\x01a\x00b\x00c\x00d\x00e\x00\x0f\x00" + sum + "f\x00g\x00h\x00i\x00j\x00k\x00" + "\x00\x00" + "l\x00\x3d\xd8" +
		"ABCDEF~1   \x20"
	if !strings.HasPrefix(string(got), want) {
		t.Errorf("got\n%q, want\n%q", got[:len(want)], want)
	}
}

func TestBoot(t *testing.T) {
	need(t, "mtools")
	tr := newTree(t, t.TempDir())
	image, _ := tr.image(t.TempDir(), Options{Size: 300 << 20, Label: "rootfs", VolumeID: 0x1234abcd, Hidden: 2048})
	info := tool(t, "minfo", "-i", image, "::")
	for _, want := range []string{"hidden sectors: 2048", "cluster size: 8 sectors", "reserved (boot) sectors: 32", "fats: 2", "1234ABCD", `disk label="ROOTFS     "`, "backup boot sector=6", "Infosector:\nsignature=0x41615252"} {
		if !strings.Contains(info, want) {
			t.Errorf("minfo doesn't show %q:\n%s", want, info)
		}
	}
	if got := tool(t, "mlabel", "-s", "-i", image, "::"); !strings.Contains(got, "ROOTFS") {
		t.Errorf("label of the root: %s", got)
	}
	for _, label := range []string{"twelve bytes", "a.b", "größe", " lead", "a*b"} {
		if _, err := New(Options{Label: label}); err == nil || !strings.Contains(err.Error(), "label") {
			t.Errorf("label %q: %v", label, err)
		}
	}
}

// TestReadOnly: as Linux maps modes, a file that nobody may write is read-only
// and a directory isn't.
func TestReadOnly(t *testing.T) {
	need(t, "mtools")
	tr := newTree(t, t.TempDir())
	tr.file("OWNER", "").Mode = unix.S_IFREG | 0o200
	tr.file("GROUP", "").Mode = unix.S_IFREG | 0o020
	tr.file("OTHER", "").Mode = unix.S_IFREG | 0o002
	tr.file("NOBODY", "").Mode = unix.S_IFREG | 0o555
	tr.dir("DIR").Mode = unix.S_IFDIR | 0o555
	image, _ := tr.image(t.TempDir(), Options{Size: 64 << 20})
	for name, want := range map[string]bool{"OWNER": false, "GROUP": false, "OTHER": false, "NOBODY": true, "DIR": false} {
		out := tool(t, "mattrib", "-i", image, "::"+name)
		attributes, _, _ := strings.Cut(out, ":")
		if strings.Contains(attributes, "R") != want {
			t.Errorf("%s is read-only: %t, want %t (%s)", name, !want, want, out)
		}
	}
}

func TestTimes(t *testing.T) {
	for _, c := range []struct {
		sec  int64
		nsec uint32
		want timestamp
	}{
		{-1 << 31, 5e8, timestamp{1<<5 | 1, 0, 0}},
		{minTime, 0, timestamp{1<<5 | 1, 0, 0}},
		{minTime + 3, 999_999_999, timestamp{1<<5 | 1, 1, 199}},
		{1709251199, 120_000_000, timestamp{44<<9 | 2<<5 | 29, 23<<11 | 59<<5 | 29, 112}},
		{maxTime, 0, timestamp{127<<9 | 12<<5 | 31, 23<<11 | 59<<5 | 29, 100}},
		{1 << 33, 1, timestamp{127<<9 | 12<<5 | 31, 23<<11 | 59<<5 | 29, 100}},
	} {
		if got := timestampOf(overlay.Time{Sec: c.sec, Nsec: c.nsec}); got != c.want {
			t.Errorf("%d.%09d is %x, want %x", c.sec, c.nsec, got, c.want)
		}
	}
}

// TestSymlinks: a link becomes what it leads to.
func TestSymlinks(t *testing.T) {
	need(t, "fsckfat")
	need(t, "mtools")
	tr := newTree(t, t.TempDir())
	tr.dir("usr")
	tr.dir("usr/bin")
	tr.file("usr/bin/tool", "tool")
	tr.file("usr/bin/a:b", "bad name")
	tr.symlink("bin", "usr/bin")
	tr.symlink("sbin", "bin/")
	tr.symlink("usr/bin/abs", "/usr/bin/tool")
	tr.symlink("usr/bin/again", "abs")
	tr.symlink("usr/bin/up", "../../../../../bin/./tool")
	tr.symlink("usr/bin/good", "a:b")
	tr.symlink("usr/bin/X11", ".")
	tr.symlink("usr/bin/gone", "nothing")
	tr.symlink("usr/bin/notdir", "tool/x")
	tr.symlink("usr/bin/slash", "tool/")
	tr.symlink("usr/bin/self", "self")
	tr.symlink("usr/loop", "../usr2")
	tr.symlink("usr2", "usr")
	image, losses := tr.image(t.TempDir(), Options{Size: 64 << 20, Lossy: true})
	fsck(t, image)
	var want, lost []string
	for _, dir := range []string{"bin", "sbin", "usr/bin", "usr2/bin"} {
		want = append(want, dir+"/", line(dir+"/good", false, mtime-1, "bad name"))
		for _, name := range []string{"tool", "abs", "again", "up"} {
			want = append(want, line(dir+"/"+name, false, mtime-1, "tool"))
		}
		lost = append(
			lost, dir+`/X11: a symlink to ".", a directory that it is in`,
			dir+`/a:b: its name has ':', which FAT forbids`,
			dir+`/gone: a symlink to "nothing", which the tree doesn't have`,
			dir+`/notdir: a symlink to "tool/x", which the tree doesn't have`,
			dir+`/self: a symlink to "self", over more than 40 symlinks`,
			dir+`/slash: a symlink to "tool/", which the tree doesn't have`,
		)
	}
	for _, dir := range []string{"usr", "usr2"} {
		want = append(want, dir+"/")
		lost = append(lost, dir+`/loop: a symlink to "../usr2", a directory that it is in`)
	}
	same(t, listed(losses), sorted(lost))
	same(t, lines(t, image, t.TempDir()), sorted(want))
}

// TestDeterminism: the same entries make the same bytes, others another
// identifier.
func TestDeterminism(t *testing.T) {
	dir := t.TempDir()
	read := func(change func(*tree)) string {
		tr := newTree(t, dir)
		tr.file("a", "1")
		tr.file("long name", "2")
		change(tr)
		image, _ := tr.image(t.TempDir(), Options{Size: 40 << 20})
		b, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first := read(func(*tree) {})
	if read(func(*tree) {}) != first {
		t.Error("two images of one tree differ")
	}
	id := func(image string) string { return image[67:71] }
	if id(read(func(tr *tree) { tr.entries[1].Mtime.Nsec++ })) == id(first) {
		t.Error("two trees have one identifier")
	}
}

// TestHoles: an image is sparse where its files are.
func TestHoles(t *testing.T) {
	need(t, "fsckfat")
	need(t, "mtools")
	tr := newTree(t, t.TempDir())
	e := tr.empty("sparse", 200<<20)
	f, err := os.OpenFile(string(e.Content.(hostFile)), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("middle"), 100<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	e.Blocks = 8
	// fsck.fat 4.2 counts the bytes of a chain in 32 bits, so that those of
	// 4 GiB - 1 are 0 to it.
	tr.empty("large", maxFileSize-32<<10)
	tr.file("z", "after it")
	image, _ := tr.image(t.TempDir(), Options{})
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*512 > 32<<20 {
		t.Errorf("the image takes %d bytes of the disk", st.Blocks*512)
	}
	fsck(t, image)
	if got := tool(t, "mtype", "-i", image, "::z"); got != "after it" {
		t.Errorf("read %q", got)
	}
	if out := tool(t, "sh", "-c", "mtype -i '"+image+"' ::sparse | tr -d '\\0'"); out != "middle" {
		t.Errorf("read %q", out)
	}
}
