package fat32

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/DragonOS-Community/rootfs/overlay"
)

func openReader(t testing.TB, image string) *Reader {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewReader(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// readerLines describes what a reader finds as [lines] does what mtools find.
func readerLines(t testing.TB, r *Reader) []string {
	var all []string
	var visit func(number uint64, path string)
	visit = func(number uint64, path string) {
		err := r.ReadDir(number, func(name string, child uint64) error {
			var e overlay.Entry
			if err := r.Stat(child, &e); err != nil {
				return err
			}
			full := filepath.Join(path, name)
			content := make([]byte, e.Size)
			if !e.IsDir() {
				if err := r.Extents(child, func(file, image, length int64) error {
					return readFull(r.src, content[file:file+length], image)
				}); err != nil {
					return err
				}
			}
			all = append(all, line(full, e.IsDir(), e.Mtime.Sec, string(content)))
			if e.IsDir() {
				visit(child, full)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	visit(r.Root(), "")
	return sorted(all)
}

func problems(t testing.TB, r *Reader) []string {
	var list []string
	err := r.Check(context.Background(), func(p string) error {
		list = append(list, p)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// names are some that are hard to keep.
var names = []string{
	"README.TXT", "readme.md", "Mixed.c", "UPPER", "lower", ".profile", "..twodots", "two.dots.c", "a b", "a=b,c;d[e]",
	"12345678.1234", "größe", "ДОС", "日本語.txt", "𝄞 clef", strings.Repeat("n", 255), strings.Repeat("m", 247), "thirteen-long",
}

// What this package writes is read back as it was given, and found right.
func TestReadBack(t *testing.T) {
	tr := newTree(t, t.TempDir())
	var want []string
	for _, dir := range []string{"d", "d/e"} {
		tr.dir(dir)
		want = append(want, dir+"/")
	}
	for _, name := range names {
		for _, dir := range []string{"", "d/e/"} {
			tr.file(dir+name, name)
			want = append(want, line(dir+name, false, mtime-1, name))
		}
	}
	for _, size := range []int{0, 1, 511, 512, 513, 100_000} {
		content := strings.Repeat("x", size)
		tr.file(fmt.Sprint("size", size), content)
		want = append(want, line(fmt.Sprint("size", size), false, mtime-1, content))
	}
	for _, size := range []int64{64 << 20, 0} {
		image, _ := tr.image(t.TempDir(), Options{Size: size, Label: "Test disk"})
		r := openReader(t, image)
		same(t, readerLines(t, r), sorted(want))
		same(t, problems(t, r), nil)
	}
}

// foreignImage is a filesystem of mkfs.vfat that mtools have filled. Some files
// are in pieces.
func foreignImage(t testing.TB, size int64, options ...string) string {
	t.Helper()
	need(t, "fsckfat")
	need(t, "mtools")
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	tool(t, "mkfs.vfat", slices.Concat([]string{"-F", "32"}, options, []string{image})...)
	folder := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(folder, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Unix(mtime-1, 0)
		if err := os.Chtimes(filepath.Join(folder, name), when, when); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		if name != "größe" { // a short name, of which mtools show only some letters small
			write("dir/"+name, name)
		}
	}
	for i := range 100 {
		write(fmt.Sprintf("dir/many/file number %d", i), fmt.Sprint(i))
	}
	write("a", strings.Repeat("a", 5000))
	write("hole", strings.Repeat("hole", 5000))
	write("big", strings.Repeat("big", 30_000))
	put := func(name string) { tool(t, "mcopy", "-s", "-m", "-i", image, filepath.Join(folder, name), "::") }
	put("a")
	put("hole")
	put("dir")
	tool(t, "mdel", "-i", image, "::hole")
	put("big")
	return image
}

// Filesystems of mkfs.vfat, filled by mtools, are read as mtools read them, and
// neither fsck.fat nor the check finds anything.
func TestReadForeign(t *testing.T) {
	for _, c := range []struct {
		name    string
		size    int64
		options []string
	}{
		{"default", 300 << 20, nil},
		{"label", 64 << 20, []string{"-n", "LABEL"}},
		{"one FAT", 64 << 20, []string{"-f", "1"}},
		{"large sectors", 300 << 20, []string{"-S", "4096"}},
		{"large clusters", 300 << 20, []string{"-s", "8"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := foreignImage(t, c.size, c.options...)
			fsck(t, image)
			r := openReader(t, image)
			same(t, readerLines(t, r), lines(t, image, t.TempDir()))
			same(t, problems(t, r), nil)
		})
	}
}

func TestReadRefused(t *testing.T) {
	need(t, "fsckfat")
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "mkfs.vfat", "-F", "16", image)
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewReader(bytes.NewReader(b), 16<<20); err == nil || !strings.Contains(err.Error(), "FAT16") {
		t.Errorf("FAT16: %v", err)
	}
	pl, err := newTree(t, t.TempDir()).planner(Options{Size: 64 << 20}).Plan()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewReader(pl, 32<<20); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("a short image: %v", err)
	}
}

// The check finds what fsck.fat finds.
func TestCheckFinds(t *testing.T) {
	pristine, err := os.ReadFile(foreignImage(t, 64<<20))
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewReader(bytes.NewReader(pristine), int64(len(pristine)))
	if err != nil {
		t.Fatal(err)
	}
	numbers := map[string]uint64{}
	if err := r.ReadDir(rootNumber, func(name string, number uint64) error {
		numbers[name] = number
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	at := func(name string) int64 { return int64(numbers[name]) * recordSize }
	rec, err := r.record(numbers["big"])
	if err != nil {
		t.Fatal(err)
	}
	fat := func(cluster uint32) int64 { return r.fat + int64(cluster)*4 }
	for _, c := range []struct {
		name string
		at   int64
		b    []byte
		want string
	}{
		{"boot copy", 6*512 + 100, []byte{1}, "copy in sector 6 differ"},
		{"free count", 512 + 488, []byte{1, 0, 0, 0}, "FSInfo: "},
		{"FATs differ", r.fat + r.fatSize + 40, []byte{9, 9}, "FAT 2 differs from the first at cluster 10"},
		{"lost cluster", fat(100_000), []byte{0xff, 0xff, 0xff, 0x0f}, "1 clusters belong to no file, the first is 100000"},
		{"chain to nowhere", fat(rec.start()), []byte{0xf0, 0xff, 0xff, 0x07}, "is outside the filesystem"},
		{"chain too short", fat(rec.start()), []byte{0xff, 0xff, 0xff, 0x0f}, "its clusters end at"},
		{"chain too long", at("big") + 28, []byte{1, 0, 0, 0}, "clusters too many"},
		{"shared", at("a") + 26, []byte{byte(rec.start()), byte(rec.start() >> 8)}, "is in use twice"},
		{"directory's size", at("dir") + 28, []byte{1}, "a directory with a size"},
		{"short name", at("a"), []byte("*"), "can't be a short name"},
		{"unclean", fat(1), []byte{0xff, 0xff, 0xff, 0x07}, "not unmounted cleanly"},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			b := bytes.Clone(pristine)
			copy(b[c.at:], c.b)
			if err := os.WriteFile(image, b, 0o600); err != nil {
				t.Fatal(err)
			}
			out := toolOutput("fsck.fat", "-n", image)
			if len(strings.Split(strings.TrimSpace(out), "\n")) < 3 {
				t.Errorf("fsck.fat finds nothing: %s", out)
			}
			list := problems(t, openReader(t, image))
			if !strings.Contains(strings.Join(list, "\n"), c.want) {
				t.Errorf("check reports %q, not %q; fsck.fat: %s", list, c.want, out)
			}
		})
	}
}

// FuzzReader changes an image: bytes of the patches are put at offsets, and the
// image is cut. Neither reading nor checking it panics, or takes for ever.
func FuzzReader(f *testing.F) {
	image := smallImage(f)
	f.Add(uint32(0), []byte{}, uint32(0), []byte{}, uint32(0))
	f.Add(uint32(11), []byte{0, 2, 1, 0x20}, uint32(512*32+8), []byte{3, 0, 0, 0}, uint32(0))
	f.Add(uint32(512*40), bytes.Repeat([]byte{0x0f}, 64), uint32(60_000), []byte{7}, uint32(10_000))
	f.Fuzz(func(t *testing.T, at1 uint32, patch1 []byte, at2 uint32, patch2 []byte, cut uint32) {
		start := time.Now()
		b := bytes.Clone(image)
		copy(b[int(at1)%len(b):], patch1)
		copy(b[int(at2)%len(b):], patch2)
		size := int64(len(b))
		r, err := NewReader(bytes.NewReader(b[:len(b)-int(cut)%len(b)]), size)
		if err != nil {
			return
		}
		readAll(r)
		count := 0
		_ = r.Check(context.Background(), func(p string) error {
			if strings.ContainsAny(p, "\n") {
				t.Errorf("a problem of two lines: %s", p)
			}
			if count++; count > 1000 {
				return io.EOF
			}
			return nil
		})
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// readAll reads everything in a filesystem, as far as it goes.
func readAll(r *Reader) {
	seen := make(map[uint64]bool)
	var visit func(number uint64)
	visit = func(number uint64) {
		var e overlay.Entry
		if seen[number] || r.Stat(number, &e) != nil {
			return
		}
		seen[number] = true
		b := make([]byte, 4096)
		_ = r.Extents(number, func(_, image, length int64) error {
			return readFull(r.src, b[:min(length, int64(len(b)))], image)
		})
		if e.IsDir() && len(seen) < 10_000 {
			_ = r.ReadDir(number, func(_ string, child uint64) error {
				visit(child)
				return nil
			})
		}
	}
	visit(r.Root())
}

// smallImage is a filesystem of fewer clusters than Windows would take: the
// start of each part of one of the least size, as its boot sector then says.
func smallImage(f *testing.F) []byte {
	tr := newTree(f, f.TempDir())
	tr.dir("dir")
	tr.dir("dir/sub")
	tr.file("dir/sub/file", strings.Repeat("f", 2000))
	tr.file("file with a long name", strings.Repeat("x", 3000))
	pl, err := tr.planner(Options{Size: 64 << 20}).Plan()
	if err != nil {
		f.Fatal(err)
	}
	r, err := NewReader(pl, pl.Size())
	if err != nil {
		f.Fatal(err)
	}
	const fat, data = 512, 48 << 10
	b := make([]byte, r.fat+fat+data)
	err = errors.Join(readFull(pl, b[:r.fat+fat], 0), readFull(pl, b[r.fat+fat:], r.data))
	if err != nil {
		f.Fatal(err)
	}
	b[16] = 1 // FATs
	le.PutUint32(b[32:], uint32(len(b)/sectorSize))
	le.PutUint32(b[36:], fat/sectorSize)
	copy(b[backupSector*sectorSize:], b[:sectorSize])
	r, err = NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		f.Fatal(err)
	}
	le.PutUint32(b[fsInfoSector*sectorSize+488:], r.clusters-13)
	if list := problems(f, r); len(list) > 0 {
		f.Fatalf("to begin with: %q", list)
	}
	return b
}

// toolOutput runs a tool that may fail and returns what it prints.
func toolOutput(name string, args ...string) string {
	out, _ := exec.Command(name, args...).CombinedOutput()
	return string(out)
}
