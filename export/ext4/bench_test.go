package ext4

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// benchTree is the folder that benchmarks export, such as an unpacked
// linux-source-6.1.
func benchTree(b *testing.B) string {
	dir := os.Getenv("ROOTFS_BENCH_TREE")
	if dir == "" {
		b.Skip("SKIPPED: set ROOTFS_BENCH_TREE to a folder")
	}
	return dir
}

// walkFolder calls add with the entries of a folder.
func walkFolder(root string, add func(e *overlay.Entry) error) error {
	var e overlay.Entry
	return filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		e = overlay.Entry{
			Path: rel, Mode: st.Mode, Rdev: st.Rdev, Mtime: overlay.TimeOf(st.Mtim),
			Ino: st.Ino, Nlink: uint32(st.Nlink),
		}
		switch {
		case e.IsRegular():
			e.Size, e.Blocks, e.Content = st.Size, st.Blocks, hostFile(name)
		case e.IsSymlink():
			e.Target, err = os.Readlink(name)
		}
		if err != nil {
			return err
		}
		return add(&e)
	})
}

// BenchmarkExport walks a folder and writes an image of it.
func BenchmarkExport(b *testing.B) {
	root, out := benchTree(b), b.TempDir()+"/image"
	for b.Loop() {
		p, err := New(Options{})
		if err == nil {
			err = walkFolder(root, p.Add)
		}
		if err != nil {
			b.Fatal(err)
		}
		plan, err := p.Plan()
		if err != nil {
			b.Fatal(err)
		}
		f, err := os.Create(out)
		if err != nil {
			b.Fatal(err)
		}
		if err := plan.WriteFile(context.Background(), f, nil); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(plan.DataSize())/1e6, "MB")
		b.StopTimer()
		_ = os.Remove(out)
		b.StartTimer()
	}
}

// BenchmarkFloor reads the same files and writes them one behind the other
// into one, by two threads: what no export can be faster than by much.
func BenchmarkFloor(b *testing.B) {
	root, out := benchTree(b), b.TempDir()+"/image"
	type piece struct {
		name string
		off  int64
		size int64
	}
	for b.Loop() {
		var files []piece
		var end int64
		err := walkFolder(root, func(e *overlay.Entry) error {
			if e.IsRegular() {
				files = append(files, piece{string(e.Content.(hostFile)), end, e.Size})
				end += (e.Size + blockSize - 1) &^ (blockSize - 1)
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		f, err := os.Create(out)
		if err != nil {
			b.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				buf := make([]byte, 64<<20)
				for _, p := range files[len(files)*i/2 : len(files)*(i+1)/2] {
					fd, err := unix.Open(p.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
					if err != nil {
						b.Error(err)
						return
					}
					n, err := unix.Pread(fd, buf, 0)
					if err == nil && n > 0 {
						_, err = unix.Pwrite(int(f.Fd()), buf[:n], p.off)
					}
					_ = unix.Close(fd)
					if err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = os.Remove(out)
		b.StartTimer()
	}
}

// BenchmarkPlan plans a tree of empty directories and files of a block each,
// and reports what an entry costs in memory.
func BenchmarkPlan(b *testing.B) {
	for _, entries := range []int{1_000, 10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(entries), func(b *testing.B) {
			paths := makePaths(entries)
			b.ReportAllocs()
			for b.Loop() {
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				p, err := New(Options{})
				if err != nil {
					b.Fatal(err)
				}
				for i := range paths {
					if err := p.Add(&paths[i]); err != nil {
						b.Fatal(err)
					}
				}
				plan, err := p.Plan()
				if err != nil {
					b.Fatal(err)
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(entries), "B/entry")
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(entries), "ns/entry")
				runtime.KeepAlive(plan)
			}
		})
	}
}

// makePaths makes a tree of folders of 30 files.
func makePaths(n int) []overlay.Entry {
	entries := []overlay.Entry{{Path: ".", Mode: unix.S_IFDIR | 0o755}}
	content := hostFile("/dev/null")
	for d := 0; len(entries) < n; d++ {
		dir := fmt.Sprintf("dir%08d", d)
		entries = append(entries, overlay.Entry{Path: dir, Mode: unix.S_IFDIR | 0o755})
		for f := 0; f < 30 && len(entries) < n; f++ {
			entries = append(entries, overlay.Entry{
				Path: fmt.Sprintf("%s/file-of-some-name-%02d", dir, f),
				Mode: unix.S_IFREG | 0o644, Size: 5000, Blocks: 16, Content: content,
			})
		}
	}
	return entries
}
