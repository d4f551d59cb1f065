package ext4

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	upstream "github.com/diskfs/go-diskfs/filesystem/ext4"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// openReader opens an image in a file.
func openReader(t tb, image string) *Reader {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if c, ok := t.(testing.TB); ok {
		c.Cleanup(func() { _ = f.Close() })
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatalf("%v", err)
	}
	r, err := NewReader(f, st.Size())
	if err != nil {
		t.Fatalf("open %s: %v", image, err)
	}
	return r
}

// readerLines describes what a reader finds as [mountLines] does a mounted
// filesystem. Contents are copied into files of a folder first.
func readerLines(t tb, r *Reader, folder string, ownLostFound bool) []string {
	var lines []string
	var visit func(number uint64, path string)
	visit = func(number uint64, path string) {
		var e overlay.Entry
		if err := r.Stat(number, &e); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		e.Path = path
		xattrs := make(map[string]string)
		for _, x := range e.Xattrs {
			xattrs[x.Name] = string(x.Value)
		}
		nlink := e.Nlink
		if path == "." && !ownLostFound && nlink != 1 {
			nlink-- // lost+found
		}
		host := ""
		if e.IsRegular() {
			host = filepath.Join(folder, fmt.Sprint(number))
			copyOut(t, r, &e, host)
		}
		lines = append(lines, line(t, &e, nlink, xattrs, host))
		if !e.IsDir() {
			return
		}
		err := r.ReadDir(number, func(name string, child uint64) error {
			if full := filepath.Join(path, name); full != lostFound || ownLostFound {
				visit(child, full)
			}
			return nil
		})
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	visit(r.Root(), ".")
	slices.Sort(lines)
	return lines
}

func copyOut(t tb, r *Reader, e *overlay.Entry, host string) {
	f, err := os.Create(host)
	if err == nil {
		err = f.Truncate(e.Size)
	}
	if err != nil {
		t.Fatalf("%v", err)
	}
	err = r.Extents(e.Ino, func(file, image, length int64) error {
		for length > 0 {
			b := make([]byte, min(length, 1<<20))
			if err := readFull(r.src, b, image); err != nil {
				return err
			}
			if _, err := f.WriteAt(b, file); err != nil {
				return err
			}
			n := int64(len(b))
			file, image, length = file+n, image+n, length-n
		}
		return nil
	})
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatalf("%s: %v", e.Path, err)
	}
}

// problems returns what a check reports.
func problems(t tb, r *Reader) []string {
	var list []string
	err := r.Check(context.Background(), func(p string) error {
		list = append(list, p)
		return nil
	})
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	return list
}

// What this package writes is read back as it was given, and found right.
func TestReadBack(t *testing.T) {
	for _, opts := range []Options{{}, {Size: 64 << 20}, {Size: 300 << 20, NoJournal: true}, {Size: 4 << 20}} {
		t.Run(fmt.Sprintf("size=%d", opts.Size), func(t *testing.T) {
			tr := everything(t)
			r := openReader(t, writeImage(t, t.TempDir(), tr.mustPlan(opts)))
			same(t, readerLines(t, r, t.TempDir(), false), tr.lines())
			if list := problems(t, r); len(list) > 0 {
				t.Errorf("check reports: %q", list)
			}
			if r.Format() != "ext4" {
				t.Errorf("format is %s", r.Format())
			}
		})
	}
}

// foreign are filesystems that mke2fs makes, one feature after the other.
var foreign = []struct{ name, options string }{
	{"default", "-t ext4"},
	{"block4k", "-t ext4 -b 4096"},
	{"block2k", "-t ext4 -b 2048"},
	{"block1k", "-t ext4 -b 1024"},
	{"inline", "-t ext4 -O inline_data -I 256"},
	{"inline1k", "-t ext4 -O inline_data -I 1024 -b 1024"},
	{"noextents", "-t ext4 -O ^extents,^64bit"},
	{"noextents4k", "-t ext4 -O ^extents,^64bit -b 4096"},
	{"small-inodes", "-t ext4 -I 128"},
	{"no-sums", "-t ext4 -O ^metadata_csum"},
	{"group-sums", "-t ext4 -O ^metadata_csum,uninit_bg"},
	{"sum-seed", "-t ext4 -O metadata_csum_seed"},
	{"no-64bit", "-t ext4 -O ^64bit,^resize_inode"},
	{"meta-bg", "-t ext4 -O meta_bg,^resize_inode -b 1024"},
	{"sparse-super2", "-t ext4 -O sparse_super2,^resize_inode -b 1024"},
	{"ea-inode", "-t ext4 -O ea_inode"},
	{"no-flex", "-t ext4 -O ^flex_bg"},
	{"no-filetype", "-t ext4 -O ^filetype"},
	{"bigalloc", "-t ext4 -O bigalloc -b 4096 -C 8192"},
	{"bigalloc-1k", "-t ext4 -O bigalloc -b 1024 -C 16384"},
	{"ext3", "-t ext3"},
	{"ext2", "-t ext2"},
	{"ext2-1k", "-t ext2 -b 1024 -O ^sparse_super,^resize_inode"},
}

// fillForeign makes files of all kinds in a mounted filesystem.
func fillForeign(t *testing.T, root string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(root, name) }
	check(os.MkdirAll(at("dir/deep/er"), 0o750))
	for _, size := range []int{0, 1, 59, 60, 61, 100, 160, 1024, 4096, 5000, 300_000} {
		check(os.WriteFile(at(fmt.Sprintf("size%d", size)), bytes.Repeat([]byte{byte(size)}, size), 0o640))
	}
	check(os.Mkdir(at("many"), 0o755)) // enough for an index of names
	for i := range 2500 {
		check(os.WriteFile(at(fmt.Sprintf("many/%03d-%s", i, strings.Repeat("n", i%200))), nil, 0o644))
	}
	check(os.Mkdir(at("few"), 0o755)) // inline, in part in the attribute
	for i := range 5 {
		check(os.WriteFile(at(fmt.Sprintf("few/file-number-%d", i)), nil, 0o644))
	}
	pieces, err := os.Create(at("pieces"))
	check(err)
	for i := range int64(1500) { // extents in two levels; all levels of a block map
		_, err := pieces.WriteAt([]byte("piece"), i*3*4096)
		check(err)
	}
	_, err = pieces.WriteAt([]byte("end"), 1<<30+70_000_000)
	check(err)
	check(pieces.Close())
	prealloc, err := os.Create(at("prealloc"))
	check(err)
	if err := unix.Fallocate(int(prealloc.Fd()), 0, 0, 1<<20); !errors.Is(err, unix.EOPNOTSUPP) {
		check(err)
		check(unix.Fallocate(int(prealloc.Fd()), unix.FALLOC_FL_KEEP_SIZE, 1<<20, 1<<20))
	}
	_, err = prealloc.WriteAt([]byte("x"), 500_000)
	check(err)
	check(prealloc.Close())
	for _, n := range []int{1, 59, 60, 61, 200, 1000} {
		check(os.Symlink(strings.Repeat("t", n), at(fmt.Sprintf("link%d", n))))
	}
	check(unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	check(unix.Mknod(at("big"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 70_000))))
	check(unix.Mknod(at("fifo"), unix.S_IFIFO|0o600, 0))
	check(unix.Mknod(at("sock"), unix.S_IFSOCK|0o600, 0))
	check(os.Link(at("size60"), at("dir/hard")))
	check(os.Chown(at("dir/deep"), 70_000, 80_000))
	check(unix.Setxattr(at("size100"), "user.short", []byte("value"), 0))
	check(unix.Setxattr(at("size100"), "user.long", bytes.Repeat([]byte("v"), 600), 0))
	check(unix.Setxattr(at("size100"), "system.posix_acl_access",
		acl([3]uint32{1, 6, noID}, [3]uint32{2, 4, 70_000}, [3]uint32{4, 4, noID}, [3]uint32{16, 6, noID}, [3]uint32{32, 4, noID}), 0))
	check(unix.Setxattr(at("dir"), "trusted.t", nil, 0))
	if err := unix.Setxattr(at("size1024"), "user.huge", bytes.Repeat([]byte("h"), 20_000), 0); err == nil {
		t.Log("has a value in an inode of its own")
	}
	for i, sec := range []int64{-1 << 31, -1, 1<<31 - 1, 1 << 32, maxTime} {
		name := at(fmt.Sprintf("time%d", i))
		check(os.WriteFile(name, nil, 0o4755))
		check(unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{{}, {Sec: sec, Nsec: 987_654_321}}, 0))
	}
}

// Filesystems of mke2fs, written by the kernel, are read as the kernel reads
// them, and neither e2fsck nor the check finds anything.
func TestReadForeign(t *testing.T) {
	need(t, "fsck")
	need(t, "root")
	for _, f := range foreign {
		t.Run(f.name, func(t *testing.T) {
			image := foreignImage(t, f.options)
			mounted(t, image, "rw", func(root string) { fillForeign(t, root) })
			fsck(t, image)
			r := openReader(t, image)
			got := readerLines(t, r, t.TempDir(), true)
			mounted(t, image, "ro", func(root string) { same(t, got, mountLines(t, root, true)) })
			if strings.HasPrefix(f.name, "bigalloc") {
				if err := r.Check(t.Context(), nil); err == nil {
					t.Error("bigalloc is checked, as if there were no clusters")
				}
				return
			}
			if list := problems(t, r); len(list) > 0 {
				t.Errorf("check reports: %q", list)
			}
		})
	}
}

func foreignImage(t testing.TB, options string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 96<<20); err != nil {
		t.Fatal(err)
	}
	runTool(t, "mke2fs", slices.Concat([]string{"-q", "-F"}, strings.Fields(options), []string{image})...)
	return image
}

// Inodes and blocks that features of mke2fs have for themselves are nobody's
// loss. A block of theirs that can't be is told.
func TestCheckForeign(t *testing.T) {
	need(t, "fsck")
	for _, c := range []struct {
		options string
		at      int64 // of the number of the block
	}{{"-t ext4 -O quota,project", 0}, {"-t ext4 -O mmp,^metadata_csum", superOffset + 0x168}} {
		t.Run(c.options, func(t *testing.T) {
			image := foreignImage(t, c.options)
			fsck(t, image)
			if list := problems(t, openReader(t, image)); len(list) > 0 {
				t.Errorf("check reports: %q", list)
			}
			if c.at == 0 {
				return
			}
			for block, want := range map[uint64]string{
				1 << 40: "superblock: block of mmp: block 1099511627776 is outside the filesystem",
				1:       "superblock: block of mmp: block 1 is in use twice",
			} {
				f, err := os.OpenFile(image, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				_, err = f.WriteAt(binary.LittleEndian.AppendUint64(nil, block), c.at)
				if err = errors.Join(err, f.Close()); err != nil {
					t.Fatal(err)
				}
				if list := problems(t, openReader(t, image)); !slices.Contains(list, want) {
					t.Errorf("check reports %q, not %q", list, want)
				}
			}
		})
	}
}

// What can't be read says so when it is opened.
func TestReadRefused(t *testing.T) {
	need(t, "fsck")
	for _, c := range []struct{ name, options, want string }{
		{"encrypt", "-t ext4 -O encrypt", "features: encrypt"},
		{"journal", "-O journal_dev -b 4096", "features: journal_dev"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := os.Open(foreignImage(t, c.options))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close() //nolint:errcheck // only read
			if _, err = NewReader(f, 96<<20); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	tr := newTree(t, t.TempDir())
	p := tr.mustPlan(Options{Size: 16 << 20})
	if _, err := NewReader(p, 16<<20-1); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("a short image: %v", err)
	}
	if _, err := NewReader(bytes.NewReader(make([]byte, 4096)), 4096); err == nil {
		t.Error("zeros are no filesystem")
	}
}

// The check finds what e2fsck finds.
func TestCheckFinds(t *testing.T) {
	need(t, "fsck")
	for _, c := range []struct{ name, command, want string }{
		{"links", "set_inode_field /bin/su links_count 7", "it has 3 links, not 7"},
		{"clear", "clri /bin/su", "which is not in use"},
		{"free", "freeb 1200 1", "of 1 in use that they are free"},
		{"taken", "setb 5000 1", "of 1 free that they are in use"},
		{"inode-free", "freei /bin/su", "the inode bitmap says of 1 in use"},
		{"unlinked", "unlink /bin/file1", "it has no name in any directory"},
		{"size", "set_inode_field /bin size 9000", "a directory of 9000 bytes has 1 blocks"},
		{"sectors", "set_inode_field /bin/file4097 blocks 2", "it takes 16 sectors, not 2"},
		{"twice", "set_inode_field /bin/file4096 block[2] 100000", "in use twice"},
		{"group", "set_bg 0 free_blocks_count 1", "free blocks"},
		{"inode-checksum", "set_inode_field /bin/su checksum 1", "the checksum is wrong"},
		{"deleted", "set_inode_field /bin/su dtime 20200101", "it is in use, but has a time of deletion"},
		{"beyond", "set_inode_field /bin/file4097 size 1", "it has data at byte 4096, beyond its end at 1"},
		{"dir-hole", "punch /lost+found 1 1\nset_inode_field /lost+found blocks 24", "of the 4 blocks of a directory, only 3 are there"},
		{"target", "set_inode_field /attr/longer size 250", "a symlink without a target, or one that has a NUL byte"},
		{"parent", "unlink /bin/..\nlink <2> /bin/...", "directory inode"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := everything(t)
			image := writeImage(t, t.TempDir(), tr.mustPlan(Options{Size: 64 << 20, NoJournal: true}))
			if c.name == "twice" {
				shareBlock(t, image)
			} else {
				commands := filepath.Join(t.TempDir(), "commands")
				if err := os.WriteFile(commands, []byte(c.command+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				out := runTool(t, "debugfs", "-w", "-f", commands, image)
				t.Log(out)
			}
			if err := e2fsck(image); err == nil {
				t.Error("e2fsck finds nothing")
			}
			list := problems(t, openReader(t, image))
			if !strings.Contains(strings.Join(list, "\n"), c.want) {
				t.Errorf("check reports %q, not %q", list, c.want)
			}
		})
	}
}

// Nor does the check miss what no checksum tells.
func TestCheckFindsForeign(t *testing.T) {
	need(t, "fsck")
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "small"), []byte("small"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, options, command, want string }{
		{"parent-type", "-O ^metadata_csum", "zap_block -f / -o 19 -l 1 -p 1 0", `".." has the type 1`},
		{"inline-size", "-O inline_data", "set_inode_field /small size 20000000000", "which has room for"},
		{"inline-sectors", "-O inline_data", "set_inode_field /small blocks 8", "it takes 0 sectors, not 8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := foreignImage(t, "-t ext4 "+c.options+" -d "+folder)
			runTool(t, "debugfs", "-w", "-R", c.command, image)
			if err := e2fsck(image); err == nil {
				t.Error("e2fsck finds nothing")
			}
			if list := problems(t, openReader(t, image)); !strings.Contains(strings.Join(list, "\n"), c.want) {
				t.Errorf("check reports %q, not %q", list, c.want)
			}
		})
	}
}

// What e2fsck would silently put right is told, too.
func TestCheckFindsSuper(t *testing.T) {
	p := everything(t).mustPlan(Options{Size: 300 << 20})
	for _, c := range []struct {
		name string
		at   int64
		b    []byte
		want string
	}{
		{"counts", 1024 + 0x0c, []byte{9, 9, 0, 0}, "superblock: there are"},
		{"state", 1024 + 0x3a, []byte{0, 0}, "not unmounted cleanly"},
		{"errors", 1024 + 0x3a, []byte{3, 0}, "the kernel has found errors"},
		{"orphan", 1024 + 0xe8, []byte{13, 0, 0, 0}, "list of orphans"},
		{"replay", 1024 + 0x60, []byte{0xc6, 2, 0, 0}, "journal must be replayed"},
		{"copy", 32768*4096 + 0x68, []byte{1, 2, 3}, "group 1: the copy of the superblock differs at byte 0x68"},
		{"copied descriptors", 32769*4096 + 8, []byte{1, 2, 3}, "group 1: its copy of the descriptor of group 0 differs"},
		{"descriptor", 4096 + 0x1e, []byte{1, 2}, "group 0: descriptor: the checksum is wrong"},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := writeImage(t, t.TempDir(), p)
			f, err := os.OpenFile(image, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			super := make([]byte, superSize)
			_, err1 := f.WriteAt(c.b, c.at)
			_, err2 := f.ReadAt(super, superOffset)
			binary.LittleEndian.PutUint32(super[superSize-4:], uint32(newChecksum.add(super[:superSize-4])))
			_, err3 := f.WriteAt(super, superOffset)
			if err := errors.Join(err1, err2, err3, f.Close()); err != nil {
				t.Fatal(err)
			}
			if list := problems(t, openReader(t, image)); len(list) != 1 || !strings.Contains(list[0], c.want) {
				t.Errorf("check reports %q, not %q", list, c.want)
			}
		})
	}
}

// A last group of one block has no place for the descriptors that it should
// hold: the check tells it, and ends.
func TestCheckTinyMetaGroup(t *testing.T) {
	const blocks = 258
	b := make([]byte, blocks*1024)
	s := b[superOffset:]
	le := binary.LittleEndian
	for at, v := range map[int]uint32{
		0x00: 32, 0x04: blocks, 0x14: 1, 0x20: 256, 0x24: 256, 0x28: 16, 0x4c: 1, 0x54: 11, 0x60: incompatMetaBG, 0x64: roCompatSparseSuper,
	} {
		le.PutUint32(s[at:], v)
	}
	le.PutUint16(s[0x38:], 0xef53)
	le.PutUint16(s[0x58:], 128)
	r, err := NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var list []string
	done := make(chan error, 1)
	go func() {
		done <- r.Check(ctx, func(p string) error {
			list = append(list, p)
			return nil
		})
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-ctx.Done():
		t.Fatal("the check doesn't end")
	}
	if want := "group 1: its descriptors: block 258 is outside the filesystem"; !slices.Contains(list, want) {
		t.Errorf("check reports %q, not %q", list, want)
	}
}

// Values of attributes that lie in each other are refused: a block of them would
// take thousands of times its size.
func TestReadOverlappingXattrs(t *testing.T) {
	const size = 4096
	block := func(values ...[2]int) []byte { // offset and size
		b := make([]byte, size)
		for i, v := range values {
			e := b[xattrBlockHeader+i*pad4(xattrEntryHeader+1):]
			e[0], e[1], e[xattrEntryHeader] = 1, 1, byte('a'+i)
			binary.LittleEndian.PutUint16(e[2:], uint16(v[0]))
			binary.LittleEndian.PutUint32(e[8:], uint32(v[1]))
		}
		return b
	}
	list, err := xattrList(block([2]int{size - 8, 8}, [2]int{size - 1008, 1000}, [2]int{0, 0}), xattrBlockHeader, 0)
	if err != nil || len(list) != 3 {
		t.Errorf("%d attributes: %v", len(list), err)
	}
	_, err = xattrList(block([2]int{0, size}, [2]int{size - 4, 4}), xattrBlockHeader, 0)
	if err == nil || err.Error() != `extended attribute "b": its value overlaps others` {
		t.Errorf("values of more than a block: %v", err)
	}
}

// These images have gaps in go-diskfs 1.9.4, which this package's reader
// fills: the test fails when that library reads one of them right, and then
// this reader may have become unnecessary.
func TestUpstreamGaps(t *testing.T) {
	need(t, "fsck")
	read := func(image, name string) (content string, err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v", p)
			}
		}()
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close() //nolint:errcheck // only read
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		fs, err := upstream.Read(file.New(f, true), st.Size(), 0, 512)
		if err != nil {
			return "", err
		}
		b, err := fs.ReadFile(name)
		return string(b), err
	}
	long := strings.Repeat("n", 248)
	folder := t.TempDir()
	for _, name := range []string{"hello", long} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte("hello"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ gap, options, name string }{
		{"names of 248 bytes", "-t ext4", long},
		{"block maps", "-t ext4 -O ^extents,^64bit", "hello"},
		{"ext2", "-t ext2", "hello"},
		{"inodes of 128 bytes", "-t ext4 -I 128", "hello"},
		{"no checksums", "-t ext4 -O ^metadata_csum", "hello"},
	} {
		t.Run(c.gap, func(t *testing.T) {
			image := foreignImage(t, c.options+" -d "+folder)
			if content, err := read(image, c.name); err == nil && content == "hello" {
				t.Errorf("go-diskfs reads it right now: %s", c.gap)
			} else {
				t.Logf("go-diskfs: %v", err)
			}
		})
	}
}
