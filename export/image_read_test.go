package export

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/partition/gpt"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/export/ext4"
	"github.com/DragonOS-Community/rootfs/export/fat32"
	"github.com/DragonOS-Community/rootfs/export/plan"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// sampleTree has an entry of each kind.
func sampleTree(t testing.TB) *tree {
	tr := newTree(t)
	old := overlay.Time{Sec: 1_500_000_000, Nsec: 123_456_789}
	tr.add(overlay.Entry{Path: "bin", Mode: unix.S_IFDIR | 0o755})
	tr.file(overlay.Entry{Path: "bin/sh", Mode: 0o4755, Mtime: old, Xattrs: []overlay.Xattr{{Name: "user.a", Value: []byte("1")}}}, bytes.Repeat([]byte("sh"), 40_000))
	tr.add(overlay.Entry{Path: "dev", Mode: unix.S_IFDIR | 0o755})
	tr.add(overlay.Entry{Path: "dev/null", Mode: unix.S_IFCHR | 0o666, Rdev: unix.Mkdev(1, 3)})
	tr.add(overlay.Entry{Path: "dev/sock", Mode: unix.S_IFSOCK | 0o600})
	tr.add(overlay.Entry{Path: "etc", Mode: unix.S_IFDIR | 0o700, UID: 1000})
	tr.add(overlay.Entry{Path: "etc/link", Mode: unix.S_IFLNK | 0o777, Target: "../bin/sh"})
	tr.file(overlay.Entry{Path: "etc/passwd", Ino: 1000, Nlink: 2}, []byte("root:x:0:0::/root:/bin/sh\n"))
	hard := tr.entries[len(tr.entries)-1]
	hard.Path = "etc/passwd-"
	tr.add(hard)
	tr.add(overlay.Entry{Path: "etc-dash", Mode: unix.S_IFDIR | 0o755})
	tr.file(overlay.Entry{Path: "hole", UID: 5}, []byte("a"), nil, nil, []byte("b"))
	return tr
}

// edit returns a tree with one entry changed.
func (tr *tree) edit(path string, change func(e *overlay.Entry)) *tree {
	c := *tr
	c.entries = slices.Clone(tr.entries)
	for i := range c.entries {
		if c.entries[i].Path == path {
			change(&c.entries[i])
		}
	}
	return &c
}

// without returns a tree without some paths.
func (tr *tree) without(paths ...string) *tree {
	c := *tr
	c.entries = slices.DeleteFunc(slices.Clone(tr.entries), func(e overlay.Entry) bool { return slices.Contains(paths, e.Path) })
	return &c
}

// ext4Disk writes a disk with the tree and opens it.
func (tr *tree) ext4Disk(t testing.TB, table PartitionTable) *Image {
	t.Helper()
	p, err := ext4.New(ext4.Options{Size: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return openImage(t, writeDisk(t, table, tr, p.Add, p.Plan))
}

func writeDisk(t testing.TB, table PartitionTable, tr *tree, add func(*overlay.Entry) error, finish func() (*plan.Plan, error)) string {
	t.Helper()
	for i := range tr.entries {
		if err := add(&tr.entries[i]); err != nil {
			t.Fatal(err)
		}
	}
	fs, err := finish()
	if err != nil {
		t.Fatal(err)
	}
	disk, err := NewDisk(fs, DiskOptions{Table: table})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, f)
	if err := disk.WriteFile(t.Context(), f, nil); err != nil {
		t.Fatal(err)
	}
	return name
}

// tar writes a tar of the tree and opens it.
func (tr *tree) tar(t testing.TB) *Image {
	t.Helper()
	name := filepath.Join(t.TempDir(), "tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, f)
	w := NewTarWriter(t.Context(), f, TarOptions{})
	for i := range tr.entries {
		if err := w.Add(&tr.entries[i]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return openImage(t, name)
}

// fatDisk writes a FAT32 disk with what FAT can hold of the tree.
func (tr *tree) fatDisk(t testing.TB, table PartitionTable) *Image {
	t.Helper()
	p, err := fat32.New(fat32.Options{Size: 64 << 20, Lossy: true})
	if err != nil {
		t.Fatal(err)
	}
	return openImage(t, writeDisk(t, table, tr, p.Add, p.Plan))
}

func diff(t testing.TB, a, b Side) []string {
	t.Helper()
	var list []string
	err := Diff(t.Context(), a, b, func(d Difference) error {
		list = append(list, fmt.Sprintf("%s: %s: %s → %s", d.Path, d.Field, d.A, d.B))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// The same tree is the same in every kind of image.
func TestDiffFormats(t *testing.T) {
	tr := sampleTree(t)
	tarred := tr.tar(t)
	for _, table := range []PartitionTable{PartitionNone, PartitionMBR, PartitionGPT} {
		for _, im := range []*Image{tr.ext4Disk(t, table), tr.fatDisk(t, table)} {
			what := fmt.Sprintf("%s in %s", im.Format(), table)
			if im.Table != table || (im.Offset > 0) != (table != PartitionNone) {
				t.Errorf("%s: opened as %s at %d", what, im.Table, im.Offset)
			}
			if list := diff(t, im, tarred); len(list) > 0 {
				t.Errorf("%s differs from the tar: %q", what, list)
			}
			if list := diff(t, tarred, im); len(list) > 0 {
				t.Errorf("the tar differs from %s: %q", what, list)
			}
			if list := problemsOf(t, im); len(list) > 0 {
				t.Errorf("%s: check reports %q", what, list)
			}
		}
	}
}

// Each field that differs is told, once.
func TestDiffFields(t *testing.T) {
	tr := sampleTree(t)
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, append(bytes.Repeat([]byte("sh"), 39_999), "xx"...), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		b    *tree
		want string
	}{
		{"nothing", tr, ""},
		{"mode", tr.edit("bin/sh", func(e *overlay.Entry) { e.Mode &^= 0o4000 }), "bin/sh: mode: 4755 → 0755"},
		{"owner", tr.edit("etc", func(e *overlay.Entry) { e.GID = 7 }), "etc: owner: 1000:0 → 1000:7"},
		{"nanoseconds", tr.edit("bin/sh", func(e *overlay.Entry) { e.Mtime.Nsec++ }), "bin/sh: mtime: 2017-07-14T02:40:00.123456789Z → 2017-07-14T02:40:00.12345679Z"},
		{"target", tr.edit("etc/link", func(e *overlay.Entry) { e.Target = "x" }), "etc/link: target: ../bin/sh → x"},
		{"device", tr.edit("dev/null", func(e *overlay.Entry) { e.Rdev = unix.Mkdev(1, 5) }), "dev/null: device: 1:3 → 1:5"},
		{"type", tr.edit("dev/null", func(e *overlay.Entry) { e.Mode, e.Rdev = unix.S_IFIFO|0o666, 0 }), "dev/null: type: character device → fifo"},
		{"attribute", tr.edit("bin/sh", func(e *overlay.Entry) { e.Xattrs = []overlay.Xattr{{Name: "user.b", Value: []byte("2")}} }), `bin/sh: xattr user.a: "1" →  bin/sh: xattr user.b:  → "2"`},
		{"value", tr.edit("bin/sh", func(e *overlay.Entry) { e.Xattrs = []overlay.Xattr{{Name: "user.a", Value: []byte("2")}} }), `bin/sh: xattr user.a: "1" → "2"`},
		{"content", tr.edit("bin/sh", func(e *overlay.Entry) { e.Content = hostFile(other) }), "bin/sh: content: byte 79998 is 0x73 → 0x78"},
		{"link", tr.edit("etc/passwd-", func(e *overlay.Entry) { e.Ino, e.Nlink = 2000, 1 }), "etc/passwd-: first name: etc/passwd → "},
		{"gone", tr.without("hole"), "hole: entry: file → "},
		{"a directory gone", tr.without("dev", "dev/null", "dev/sock"), "dev: entry: directory → "},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := strings.Join(diff(t, tr.ext4Disk(t, PartitionMBR), c.b.ext4Disk(t, PartitionNone)), " ")
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	if got := diff(t, tr.without("hole").tar(t), tr.tar(t)); len(got) != 1 || got[0] != "hole: entry:  → file" {
		t.Errorf("new: %q", got)
	}
}

// A path is looked up inside the image, links and all.
func TestLookup(t *testing.T) {
	im := sampleTree(t).ext4Disk(t, PartitionNone)
	for _, c := range []struct {
		path   string
		follow bool
		want   string
	}{
		{"/", false, "."},
		{"", false, "."},
		{"etc/passwd", false, "etc/passwd"},
		{"/etc/../../bin//sh", false, "bin/sh"},
		{"etc/link", false, "etc/link"},
		{"etc/link", true, "bin/sh"},
		{"none", false, "none: no such file or directory"},
		{"bin/sh/x", false, "bin/sh/x: not a directory"},
	} {
		got := ""
		if e, err := im.Lookup(c.path, c.follow); err != nil {
			got = err.Error()
		} else {
			got = e.Path
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", c.path, got, c.want)
		}
	}
}

// What is none of the formats, or damaged, is told in a line.
func TestOpenImageRefuses(t *testing.T) {
	gptDisk, err := os.ReadFile(sampleTree(t).ext4Disk(t, PartitionGPT).Path)
	if err != nil {
		t.Fatal(err)
	}
	mbrDisk, err := os.ReadFile(sampleTree(t).ext4Disk(t, PartitionMBR).Path)
	if err != nil {
		t.Fatal(err)
	}
	changed := func(b []byte, at int, with ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], with)
		return b
	}
	entry := mbrDisk[mbrEntries : mbrEntries+16]
	for _, c := range []struct {
		name  string
		image []byte
		want  string
	}{
		{"empty", nil, "empty: neither"},
		{"text", []byte("hello"), "neither a disk image"},
		{"zeros", make([]byte, 1<<20), "neither a disk image"},
		{"cut off", mbrDisk[:32<<20], "it is cut off"},
		{"no filesystem", changed(mbrDisk, partitionStart+1024+0x38, 0), "none of its 1 partitions"},
		{"two filesystems", changed(mbrDisk, mbrEntries+16, entry...), "say which with --partition"},
		{"entries of no size", withGPTSum(changed(gptDisk, 512+84, 0, 0, 0, 0)), "a GPT of 128 entries of 0 bytes"},
		{"too many entries", withGPTSum(changed(gptDisk, 512+80, 0xff, 0xff, 0xff, 0xff)), "a GPT of 4294967295 entries"},
		{"gzip of nothing", []byte("\x1f\x8b\x08\x00"), "decompress"},
	} {
		t.Run(c.name, func(t *testing.T) {
			im, err := OpenImage(writeFile(t, c.image), 0)
			if err == nil {
				_ = im.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	for _, c := range []struct {
		name  string
		image []byte
		want  string
	}{
		{"damaged GPT", changed(gptDisk, 512+16, 1, 2, 3, 4), "the first copy is damaged"},
		{"no GPT header", changed(gptDisk, 512, make([]byte, 92)...), "the first copy is damaged"},
		{"damaged backup", changed(gptDisk, len(gptDisk)-512+16, 1, 2, 3, 4), "partition table: error reading GPT"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if list := problemsOf(t, openImage(t, writeFile(t, c.image))); len(list) != 1 || !strings.Contains(list[0], c.want) {
				t.Errorf("check reports %q, not %q", list, c.want)
			}
		})
	}
}

// Of an MBR disk, partitions from 5 on are in a chain that begins in the
// extended one.
func TestLogicalPartitions(t *testing.T) {
	needTool(t, "sfdisk")
	const sectors = 64 << 20 / sectorSize
	filesystem, err := os.Open(sampleTree(t).ext4Disk(t, PartitionNone).Path)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, filesystem)
	name := filepath.Join(t.TempDir(), "disk")
	disk, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, disk)
	if err := disk.Truncate(256 << 20); err != nil {
		t.Fatal(err)
	}
	table := exec.Command("sfdisk", "-q", name)
	table.Stdin = strings.NewReader(fmt.Sprintf("label: dos\n2048,2048\n8192,,Ex\n10240,2048\n16384,%d\n%d,%d\n", sectors, 24576+sectors, sectors))
	if out, err := table.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, start := range []int64{16384, 24576 + sectors} {
		if _, err := io.Copy(io.NewOffsetWriter(disk, start*sectorSize), io.NewSectionReader(filesystem, 0, 64<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenImage(name, 0); err == nil || !strings.Contains(err.Error(), "filesystems in partitions 6 and 7") {
		t.Errorf("two filesystems: %v", err)
	}
	for n, start := range map[int]int64{6: 16384, 7: 24576 + sectors} {
		im, err := OpenImage(name, n)
		if err != nil {
			t.Fatal(err)
		}
		if im.Partition != n || im.Offset != start*sectorSize {
			t.Errorf("partition %d at %d instead of %d at %d", im.Partition, im.Offset, n, start*sectorSize)
		}
		if problems := problemsOf(t, im); len(problems) != 0 {
			t.Errorf("partition %d: %q", n, problems)
		}
		closeFile(t, im)
	}
	// The last table of the chain is damaged; what is before it is there.
	if _, err := disk.WriteAt(make([]byte, sectorSize), (24576+sectors-2048)*sectorSize); err != nil {
		t.Fatal(err)
	}
	if problems := problemsOf(t, openImage(t, name)); len(problems) != 1 || !strings.Contains(problems[0], "logical partitions") {
		t.Errorf("damaged chain: %q", problems)
	}
	// The first one leads to itself.
	if _, err := disk.WriteAt(make([]byte, 4), 8192*sectorSize+mbrEntries+16+8); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenImage(name, 0); err == nil || !strings.Contains(err.Error(), "none of its 1 partitions") {
		t.Errorf("chain without an end: %v", err)
	}
}

// withGPTSum makes a changed GPT header's checksum right.
func withGPTSum(disk []byte) []byte {
	h := disk[512 : 512+92]
	clear(h[16:20])
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h))
	return disk
}

// go-diskfs 1.9.4 takes the number and the size of entries for granted, which
// plausibleGPT checks before. This fails when that isn't needed any more.
func TestUpstreamGPTGap(t *testing.T) {
	disk, err := os.ReadFile(sampleTree(t).ext4Disk(t, PartitionGPT).Path)
	if err != nil {
		t.Fatal(err)
	}
	copy(disk[512+80:], bytes.Repeat([]byte{0xff}, 8))
	f, err := os.Open(writeFile(t, withGPTSum(disk)))
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, f)
	defer func() {
		if recover() == nil {
			t.Error("go-diskfs reads a GPT of 2^32 entries without a panic now")
		}
	}()
	_, _ = gpt.Read(f, sectorSize, sectorSize)
}

// FuzzOpenImage reads arbitrary bytes as an image, and as the start of a disk
// with a small filesystem.
func FuzzOpenImage(f *testing.F) {
	table := make([]byte, 4096)
	table[510], table[511] = 0x55, 0xaa
	copy(table[mbrEntries:], []byte{0, 0, 0, 0, 0x83, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0, 0})
	f.Add(table)
	f.Add(makeTar(f, file("manifest.json", `[{"Layers":["l"]}]`), file("l", string(makeTar(f, file("etc/.wh.a", ""))))))
	f.Add(append(make([]byte, 512), "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00"...))
	f.Add([]byte("\x28\xb5\x2f\xfd\x04\x00\x01\x00\x00\x99\xe9\xd8\x51"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		start := time.Now()
		name := filepath.Join(dir, fmt.Sprint(os.Getpid()))
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		im, err := OpenImage(name, 0)
		if err != nil {
			return
		}
		defer im.Close() //nolint:errcheck // only read
		_ = im.Walk(context.Background(), func(e *overlay.Entry) error {
			if e.IsRegular() {
				if c, err := im.Content(e); err == nil {
					_, _ = io.Copy(io.Discard, io.NewSectionReader(c, 0, min(e.Size, 1<<20)))
				}
			}
			return nil
		})
		_ = im.Check(context.Background(), func(string) error { return nil })
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
