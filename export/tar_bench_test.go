package export

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// BenchmarkTar writes a real tree, named by ROOTFS_BENCH_TREE, to a file
// beside it.
func BenchmarkTar(b *testing.B) {
	entries := benchTree(b)
	for name, digest := range map[string]bool{"plain": false, "digest": true} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				f, err := Scratch(filepath.Dir(os.Getenv("ROOTFS_BENCH_TREE")))
				if err != nil {
					b.Fatal(err)
				}
				w := NewTarWriter(b.Context(), f, TarOptions{Digest: digest})
				for i := range entries {
					if err := w.Add(&entries[i]); err != nil {
						b.Fatal(err)
					}
				}
				sum, err := w.Close()
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(sum.Size)
				if err := f.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkImages copies a layer of a real tree into each kind of image.
func BenchmarkImages(b *testing.B) {
	entries := benchTree(b)
	dir := filepath.Dir(os.Getenv("ROOTFS_BENCH_TREE"))
	f, err := Scratch(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer closeFile(b, f)
	w := NewTarWriter(b.Context(), f, TarOptions{Digest: true})
	for i := range entries {
		if err := w.Add(&entries[i]); err != nil {
			b.Fatal(err)
		}
	}
	sum, err := w.Close()
	if err != nil {
		b.Fatal(err)
	}
	for _, ending := range []string{"tar", "tar.gz", "tar.zst"} {
		b.Run(ending, func(b *testing.B) {
			b.SetBytes(sum.Size)
			for b.Loop() {
				o, err := Scratch(dir)
				if err != nil {
					b.Fatal(err)
				}
				if err := WriteDocker(b.Context(), o, CompressionOf(ending), Layer{f, sum}, testImage); err != nil {
					b.Fatal(err)
				}
				st, err := o.Stat()
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(st.Size())/float64(sum.Size), "ratio")
				if err := o.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// benchTree lists the tree to export in a benchmark.
func benchTree(b *testing.B) []overlay.Entry {
	root := os.Getenv("ROOTFS_BENCH_TREE")
	if root == "" {
		b.Skip("SKIPPED: set ROOTFS_BENCH_TREE to a tree to export")
	}
	var entries []overlay.Entry
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		e := overlay.Entry{
			Mode: st.Mode, Size: st.Size, Blocks: st.Blocks, Ino: st.Ino, Nlink: uint32(st.Nlink),
			Rdev: st.Rdev, Mtime: overlay.Time{Sec: st.Mtim.Sec},
		}
		if e.Path, err = filepath.Rel(root, path); err != nil {
			return err
		}
		switch {
		case e.IsSymlink():
			e.Target, err = os.Readlink(path)
		case e.IsRegular():
			e.Content = hostFile(path)
		}
		entries = append(entries, e)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return entries
}
