package fat32

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// benchFolder makes a folder of 9,000 files, 27 MB, on the host.
func benchFolder(b *testing.B) string {
	b.Helper()
	root := b.TempDir()
	content := make([]byte, 6000)
	for i := range 9000 {
		dir := filepath.Join(root, fmt.Sprintf("directory%03d", i/30))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(fmt.Sprintf("%s/file of some name %04d", dir, i), content[:i%6000], 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return root
}

// walkFolder calls add with the entries of a folder.
func walkFolder(root string, add func(e *overlay.Entry) error) error {
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
		e := overlay.Entry{Path: rel, Mode: st.Mode, Mtime: overlay.TimeOf(st.Mtim)}
		if e.IsRegular() {
			e.Size, e.Blocks, e.Content = st.Size, st.Blocks, hostFile(name)
		}
		return add(&e)
	})
}

// BenchmarkExport walks a folder of 9,000 files and writes an image of it.
func BenchmarkExport(b *testing.B) {
	root, out := benchFolder(b), b.TempDir()+"/image"
	for b.Loop() {
		p, err := New(Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := walkFolder(root, p.Add); err != nil {
			b.Fatal(err)
		}
		pl, err := p.Plan()
		if err != nil {
			b.Fatal(err)
		}
		f, err := os.Create(out)
		if err != nil {
			b.Fatal(err)
		}
		if err := pl.WriteFile(context.Background(), f, nil); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		remove(b, out)
	}
}

// BenchmarkTools makes an image of the same folder with mkfs.vfat and mcopy.
func BenchmarkTools(b *testing.B) {
	need(b, "fsckfat")
	need(b, "mtools")
	root, out := benchFolder(b), b.TempDir()+"/image"
	for b.Loop() {
		if err := os.WriteFile(out, nil, 0o600); err != nil {
			b.Fatal(err)
		}
		if err := os.Truncate(out, 1100<<20); err != nil {
			b.Fatal(err)
		}
		tool(b, "mkfs.vfat", "-F", "32", out)
		tool(b, "sh", "-c", "mcopy -s -m -i '"+out+"' '"+root+"'/* ::")
		remove(b, out)
	}
}

func remove(b *testing.B, name string) {
	b.Helper()
	b.StopTimer()
	if err := os.Remove(name); err != nil {
		b.Fatal(err)
	}
	b.StartTimer()
}

// BenchmarkPlan plans directories of 30 files, or one directory of all, and
// reports what an entry costs.
func BenchmarkPlan(b *testing.B) {
	for _, c := range []struct {
		entries, perDir int
		name            string // short ones, where long ones would not fit a directory
	}{
		{1_000, 30, "file-of-some-name-%07d"},
		{10_000, 30, "file-of-some-name-%07d"},
		{100_000, 30, "file-of-some-name-%07d"},
		{1_000_000, 30, "file-of-some-name-%07d"},
		{20_000, 20_000, "file-of-some-name-%07d"},
		{60_000, 60_000, "F%07d"},
	} {
		b.Run(fmt.Sprintf("%d by %d", c.entries, c.perDir), func(b *testing.B) {
			entries := makeEntries(c.entries, c.perDir, c.name)
			b.ReportAllocs()
			for b.Loop() {
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				p, err := New(Options{})
				if err != nil {
					b.Fatal(err)
				}
				for i := range entries {
					if err := p.Add(&entries[i]); err != nil {
						b.Fatal(err)
					}
				}
				pl, err := p.Plan()
				if err != nil {
					b.Fatal(err)
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(c.entries), "B/entry")
				runtime.KeepAlive(pl)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(c.entries), "ns/entry")
		})
	}
}

func makeEntries(n, perDir int, name string) []overlay.Entry {
	entries := []overlay.Entry{{Path: ".", Mode: unix.S_IFDIR | 0o755}}
	for d := 0; len(entries) < n; d++ {
		dir := fmt.Sprintf("dir%08d", d)
		entries = append(entries, overlay.Entry{Path: dir, Mode: unix.S_IFDIR | 0o755})
		for f := 0; f < perDir && len(entries) < n; f++ {
			entries = append(entries, overlay.Entry{
				Path: dir + "/" + fmt.Sprintf(name, f),
				Mode: unix.S_IFREG | 0o644, Size: 5000, Blocks: 16, Content: hostFile("/dev/null"),
			})
		}
	}
	return entries
}
