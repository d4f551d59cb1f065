package ext4

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// e2fsck returns an error if e2fsck finds something.
func e2fsck(image string) error { return exec.Command("e2fsck", "-fn", image).Run() }

// shareBlock lets a file use the block of another.
func shareBlock(t *testing.T, image string) {
	t.Helper()
	r := openReader(t, image)
	find := func(name string) *node {
		var bin, number uint64
		lookup := func(dir uint64, name string) (found uint64) {
			if err := r.ReadDir(dir, func(n string, i uint64) error {
				if n == name {
					found = i
				}
				return nil
			}); err != nil || found == 0 {
				t.Fatalf("%s: %d %v", name, found, err)
			}
			return found
		}
		bin = lookup(r.Root(), "bin")
		number = lookup(bin, name)
		n, err := r.node(number)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	from, to := find("file4096"), find("file4095")
	copy(to.pointers(), from.pointers())
	sealInode(to.raw, to.number, r.seed)
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(to.raw, to.at)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// readAll reads everything in a filesystem, as far as it goes.
func readAll(r *Reader) {
	seen := make(map[uint64]bool)
	var visit func(number uint64)
	visit = func(number uint64) {
		if seen[number] {
			return
		}
		seen[number] = true
		var e overlay.Entry
		if r.Stat(number, &e) != nil {
			return
		}
		b := make([]byte, 4096)
		_ = r.Extents(number, func(_, image, length int64) error {
			return readFull(r.src, b[:min(length, int64(len(b)))], image)
		})
		if e.IsDir() {
			_ = r.ReadDir(number, func(_ string, child uint64) error {
				visit(child)
				return nil
			})
		}
	}
	visit(r.Root())
}

// FuzzReader changes an image: bytes of the patch are put at an offset, and the
// image is cut. Neither reading nor checking it panics, or takes for ever. The
// images have no checksums, which would keep the changes from being looked at.
func FuzzReader(f *testing.F) {
	images := fuzzImages(f)
	for i := range images {
		f.Add(uint8(i), uint32(1024), []byte{}, uint32(0), []byte{}, uint32(0))
		f.Add(uint8(i), uint32(2048), []byte{0xff, 0xff}, uint32(4096), []byte{1, 2, 3}, uint32(0))
		f.Add(uint8(i), uint32(40_000), bytes.Repeat([]byte{0xf3}, 64), uint32(9000), []byte{7}, uint32(100_000))
	}
	f.Fuzz(func(t *testing.T, image uint8, at1 uint32, patch1 []byte, at2 uint32, patch2 []byte, cut uint32) {
		start := time.Now()
		b := bytes.Clone(images[int(image)%len(images)])
		copy(b[int(at1)%len(b):], patch1)
		copy(b[int(at2)%len(b):], patch2)
		size := int64(len(b))
		b = b[:len(b)-int(cut)%len(b)]
		r, err := NewReader(bytes.NewReader(b), size)
		if err != nil {
			return
		}
		readAll(r)
		count := 0
		_ = r.Check(context.Background(), func(p string) error {
			if strings.ContainsAny(p, "\n") {
				panic("a problem of two lines: " + p)
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

// fuzzImages are small filesystems of several kinds.
func fuzzImages(f *testing.F) (images [][]byte) {
	need(f, "fsck")
	folder := f.TempDir()
	for name, content := range map[string]string{
		"a": "hello", "b": strings.Repeat("b", 70), "c": strings.Repeat("c", 9000),
	} {
		if err := os.WriteFile(folder+"/"+name, []byte(content), 0o600); err != nil {
			f.Fatal(err)
		}
	}
	if err := errors.Join(
		os.Mkdir(folder+"/d", 0o755), os.WriteFile(folder+"/d/e", []byte("e"), 0o644),
		os.Symlink(strings.Repeat("l", 100), folder+"/l"),
		os.Link(folder+"/a", folder+"/d/a"),
	); err != nil {
		f.Fatal(err)
	}
	for _, options := range []string{
		"-t ext4 -b 1024 -O ^metadata_csum,^has_journal -N 32",
		"-t ext2 -b 1024 -N 32",
		"-t ext4 -b 1024 -O inline_data,^metadata_csum,^has_journal -I 256 -N 32",
		"-t ext4 -b 1024 -O ^has_journal -N 32",
	} {
		image := f.TempDir() + "/image"
		if err := os.WriteFile(image, make([]byte, 256<<10), 0o600); err != nil {
			f.Fatal(err)
		}
		runTool(f, "mke2fs", append([]string{"-q", "-F", "-d", folder}, append(strings.Fields(options), image)...)...)
		b, err := os.ReadFile(image)
		if err != nil {
			f.Fatal(err)
		}
		images = append(images, b)
	}
	return images
}
