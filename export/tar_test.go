package export

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/DragonOS-Community/rootfs/export/plan"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// everyKind is a tree with at least one entry of everything that a tar holds.
func everyKind(t testing.TB) *tree {
	tr := newTree(t)
	long := strings.Repeat("long-", 50) // 250 bytes
	tr.entries[0].Mtime = overlay.Time{Sec: 1_600_000_000, Nsec: 5}
	tr.add(overlay.Entry{Path: "block", Mode: unix.S_IFBLK | 0o660, GID: 6, Rdev: unix.Mkdev(4095, 1048575)})
	tr.add(overlay.Entry{Path: "char", Mode: unix.S_IFCHR | 0o600, Rdev: unix.Mkdev(5, 1)})
	tr.add(overlay.Entry{Path: "dir", Mode: unix.S_IFDIR | 0o1777, UID: 1000, GID: 2000, Xattrs: []overlay.Xattr{
		{Name: "user.note", Value: []byte("a\nb\x00c=d")},
	}})
	tr.file(overlay.Entry{Path: "dir/" + long, UID: 4294967294, GID: 2097152}, []byte("long"))
	tr.add(overlay.Entry{Path: "dir/" + long + "2", Mode: unix.S_IFLNK | 0o777, Target: long + "/" + long})
	tr.file(overlay.Entry{Path: "empty"})
	tr.add(overlay.Entry{Path: "fifo", Mode: unix.S_IFIFO | 0o644})
	tr.file(overlay.Entry{Path: "hard1", Ino: 9000, Nlink: 3}, []byte("one file"))
	linked := tr.entries[len(tr.entries)-1]
	for _, p := range []string{"hard2", "hard3"} {
		linked.Path = p
		tr.add(linked)
	}
	tr.file(overlay.Entry{Path: "holes"}, nil, []byte(strings.Repeat("x", 5000)), nil, []byte("end"))
	tr.file(overlay.Entry{Path: "holes-" + long[:200]}, []byte(strings.Repeat("x", 5000)), nil)
	tr.file(overlay.Entry{Path: "holes-only"}, nil, nil)
	tr.file(overlay.Entry{Path: "name\n\t\\ '\"*é"}, []byte("x"))
	tr.file(overlay.Entry{Path: "name\xff\xfe"}, []byte("x"))
	tr.file(overlay.Entry{Path: strings.Repeat("n", 98)}, []byte("100 bytes with ./"))
	tr.file(overlay.Entry{Path: strings.Repeat("n", 99)}, []byte("101 bytes with ./"))
	tr.file(overlay.Entry{Path: "setuid", Mode: 0o6755, Xattrs: []overlay.Xattr{
		// VFS_CAP_REVISION_2, effective, cap_net_raw (linux/capability.h)
		{Name: "security.capability", Value: []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")},
	}}, bytes.Repeat([]byte("0123456789"), 300_000))
	tr.file(overlay.Entry{Path: "time-1901", Mtime: overlay.Time{Sec: -2147483648}})
	tr.file(overlay.Entry{Path: "time-1969", Mtime: overlay.Time{Sec: -1, Nsec: 999_999_999}})
	tr.file(overlay.Entry{Path: "time-1969b", Mtime: overlay.Time{Sec: -2, Nsec: 500_000_000}})
	tr.file(overlay.Entry{Path: "time-2446", Mtime: overlay.Time{Sec: 15032385534, Nsec: 1}})
	tr.file(overlay.Entry{Path: "xattrs", Xattrs: []overlay.Xattr{
		{Name: "user.a%25b", Value: []byte("1")},
		{Name: "user.a%3Db", Value: []byte("2")},
		{Name: "user.a%b", Value: []byte("3")},
		{Name: "user.a=b", Value: []byte("4")},
		{Name: "user.big", Value: bytes.Repeat([]byte("v"), 2000)},
	}})
	return tr
}

// writeTar writes the entries to a file and returns its name.
func writeTar(t testing.TB, entries []overlay.Entry, opts TarOptions) (string, TarSum) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "layer.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, f)
	w := NewTarWriter(t.Context(), f, opts)
	for i := range entries {
		e := entries[i]
		if err := w.Add(&e); err != nil {
			t.Error(err)
		}
		e = overlay.Entry{} // the caller's to reuse
	}
	sum, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return name, sum
}

func TestGNUTarRestoresEveryKind(t *testing.T) {
	needRoot(t)
	tr := everyKind(t)
	name, _ := writeTar(t, tr.entries, TarOptions{})
	dir := t.TempDir()
	flags := []string{"--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", dir}
	// A time before 1970 or after the present is reported, and restored.
	for _, l := range strings.Split(run(t, "tar", append(flags, "-xpf", name)...), "\n") {
		if l != "" && !strings.Contains(l, "time stamp") {
			t.Errorf("GNU tar says: %s", l)
		}
	}
	equalLines(t, "extracted tree", tr.lines(), linesOf(t, dir))
	if out := run(t, "tar", append(flags, "-df", name)...); out != "" {
		t.Errorf("tar -d finds differences: %s", out)
	}
}

func TestComparisonFindsDifferences(t *testing.T) {
	needRoot(t)
	tr := newTree(t)
	tr.file(overlay.Entry{Path: "f"}, []byte("data"))
	name, _ := writeTar(t, tr.entries, TarOptions{})
	for what, change := range map[string]func(path string) error{
		"mode":    func(p string) error { return os.Chmod(p, 0o600) },
		"owner":   func(p string) error { return os.Chown(p, 1, 0) },
		"xattr":   func(p string) error { return unix.Setxattr(p, "user.x", []byte("1"), 0) },
		"link":    func(p string) error { return os.Link(p, p+"2") },
		"content": func(p string) error { return os.WriteFile(p, []byte("dada"), 0) },
	} {
		dir := t.TempDir()
		run(t, "tar", "-C", dir, "-xpf", name)
		if err := change(filepath.Join(dir, "f")); err != nil {
			t.Fatal(err)
		}
		if want, got := strings.Join(tr.lines(), "\n"), strings.Join(linesOf(t, dir), "\n"); want == got {
			t.Errorf("a change of the %s is not seen", what)
		}
	}
}

// What bsdtar (libarchive 3.6) can't: attribute names with '=', which only GNU
// tar escapes; fractions of seconds before 1970; the root's own time.
func TestBsdtarRestoresEveryKind(t *testing.T) {
	needRoot(t)
	needTool(t, "bsdtar")
	tr := everyKind(t)
	tr.entries = slices.DeleteFunc(tr.entries, func(e overlay.Entry) bool {
		return e.Path == "xattrs" || e.Mtime.Sec < 0 && e.Mtime.Nsec > 0
	})
	name, _ := writeTar(t, tr.entries, TarOptions{})
	dir := t.TempDir()
	if out := run(t, "bsdtar", "--xattrs", "--numeric-owner", "-C", dir, "-xpf", name); out != "" {
		t.Errorf("bsdtar says: %s", out)
	}
	if err := os.Chtimes(dir, tr.entries[0].Mtime.Time(), tr.entries[0].Mtime.Time()); err != nil {
		t.Fatal(err)
	}
	equalLines(t, "extracted tree", tr.lines(), linesOf(t, dir))
}

func TestPythonAndGoReadEveryKind(t *testing.T) {
	needTool(t, "python3")
	tr := everyKind(t)
	name, _ := writeTar(t, tr.entries, TarOptions{})
	var want []string
	for _, e := range tr.entries {
		want = append(want, strings.TrimSuffix(tarName(&e), "/"))
	}
	script := `import sys, tarfile
for m in tarfile.open(sys.argv[1]): sys.stdout.buffer.write(m.name.encode("utf-8", "surrogateescape") + b"\0")`
	got := strings.Split(strings.TrimSuffix(run(t, "python3", "-c", script, name), "\x00"), "\x00")
	got[0] = "." // Python strips the slash and Go's loop below too
	equalLines(t, "python's listing", want, got)

	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, f)
	got = nil
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.TrimSuffix(h.Name, "/"))
		if e := tr.entries[len(got)-1]; h.Typeflag == tar.TypeReg {
			src, err := os.ReadFile(string(e.Content.(hostFile)))
			if err != nil {
				t.Fatal(err)
			}
			if data, err := io.ReadAll(r); err != nil || !bytes.Equal(data, src) {
				t.Errorf("%q: content differs, error %v", e.Path, err)
			}
		}
	}
	equalLines(t, "Go's listing", want, got)
}

func TestSameEntriesMakeSameBytes(t *testing.T) {
	tr := everyKind(t)
	first, sum := writeTar(t, tr.entries, TarOptions{Digest: true})
	second, _ := writeTar(t, tr.entries, TarOptions{})
	a, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(second)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("two tars of the same entries differ")
	}
	if sum.Size != int64(len(a)) || sum.SHA256 != sha256.Sum256(a) {
		t.Errorf("Close returns %d bytes, sum %x; the file has %d, %x", sum.Size, sum.SHA256, len(a), sha256.Sum256(a))
	}
}

// A tar of ordinary files has one block of header each, and nothing that
// depends on who wrote it.
func TestPlainEntryHasPlainHeader(t *testing.T) {
	tr := newTree(t)
	tr.file(overlay.Entry{Path: "f"}, []byte("data"))
	name, sum := writeTar(t, tr.entries, TarOptions{})
	if want := int64(tarBlock * (1 + 2 + 2)); sum.Size != want {
		t.Errorf("the tar has %d bytes, want %d", sum.Size, want)
	}
	want := "drwxr-xr-x 0/0               0 2020-09-13 12:26 ./\n-rw-r--r-- 0/0               4 2020-09-13 12:26 ./f\n"
	t.Setenv("TZ", "UTC")
	if got := run(t, "tar", "-tvf", name); got != want {
		t.Errorf("tar -tv:\n%swant:\n%s", got, want)
	}
}

func TestSparseFileTakesOnlyItsData(t *testing.T) {
	tr := newTree(t)
	e := tr.file(overlay.Entry{Path: "sparse"}, []byte("start"))
	e.Size = 1 << 40
	if err := os.Truncate(string(e.Content.(hostFile)), e.Size); err != nil {
		t.Skipf("this filesystem has no files of 1 TiB: %v", err)
	}
	if _, sum := writeTar(t, tr.entries, TarOptions{}); sum.Size > 16<<10 {
		t.Errorf("the tar of a terabyte of hole has %d bytes", sum.Size)
	}
}

// Go's readers, docker among them, take a map of no more than 1 MiB.
func TestMapOfManyHolesStaysReadable(t *testing.T) {
	const far = 1 << 60
	var exact []plan.Range
	for i := range int64(100_000) {
		exact = append(exact, plan.Range{Off: far + i*3*holeUnit, Len: 1 + i%holeUnit})
	}
	size := far + int64(len(exact))*3*holeUnit
	ranges := inUnits(slices.Clone(exact), size)
	h := tarHeader{name: "./f", size: size}
	if m := sparseHeader(&h, ".", "f", ranges); len(m) > 1<<20 {
		t.Errorf("%d ranges became %d, with a map of %d bytes", len(exact), len(ranges), len(m))
	}
	if h.size > size/4 {
		t.Errorf("%d ranges became %d of %d bytes", len(exact), len(ranges), h.size)
	}
	for _, r := range exact {
		for ranges[0].Off+ranges[0].Len <= r.Off {
			ranges = ranges[1:]
		}
		if ranges[0].Off > r.Off || ranges[0].Off+ranges[0].Len < r.Off+r.Len {
			t.Fatalf("%v isn't in %v", r, ranges[0])
		}
	}
}

func TestFilesOf8GiBHaveTheirSize(t *testing.T) {
	h := tarHeader{typ: typeFile, name: "./big", size: 8 << 30}
	b, err := h.appendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := tar.NewReader(bytes.NewReader(b)).Next()
	if err != nil || got.Size != 8<<30 {
		t.Errorf("size %d, error %v", got.Size, err)
	}
}

func TestSocketIsLeftOutWithWarning(t *testing.T) {
	tr := newTree(t)
	tr.add(overlay.Entry{Path: "run.sock", Mode: unix.S_IFSOCK | 0o755})
	var log bytes.Buffer
	name, _ := writeTar(t, tr.entries, TarOptions{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if got := run(t, "tar", "-tf", name); got != "./\n" {
		t.Errorf("members: %q", got)
	}
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "path=run.sock") {
		t.Errorf("log: %q", log.String())
	}
}

func TestBadEntryFailsWithItsPath(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(e *overlay.Entry)
		want   string
	}{
		"shorter": {func(e *overlay.Entry) { e.Size++ }, "tar: d/f: content has 4 bytes instead of 5"},
		"longer":  {func(e *overlay.Entry) { e.Size-- }, "tar: d/f: content has 4 bytes instead of 3"},
		"gone":    {func(e *overlay.Entry) { e.Content = hostFile("/nonexistent") }, "tar: d/f: no such file or directory"},
		"nothing": {func(e *overlay.Entry) { e.Content = nil }, "tar: d/f: file has no content"},
		"type":    {func(e *overlay.Entry) { e.Mode = 0o644 }, "tar: d/f: file type 0"},
		"device": {
			func(e *overlay.Entry) { e.Mode, e.Rdev = unix.S_IFCHR, unix.Mkdev(1<<21, 0) },
			"tar: d/f: device number 2097152:0 is too large",
		},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTree(t)
			e := *tr.file(overlay.Entry{Path: "d/f"}, []byte("data"))
			tc.change(&e)
			w := NewTarWriter(t.Context(), io.Discard, TarOptions{})
			err := w.Add(&e)
			if err == nil || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("Add: %v, want %s…", err, tc.want)
			}
			if _, cerr := w.Close(); !errors.Is(cerr, err) {
				t.Errorf("Close: %v, want the error of Add", cerr)
			}
		})
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func TestFailingWriterFailsClose(t *testing.T) {
	tr := everyKind(t)
	w := NewTarWriter(t.Context(), failingWriter{unix.ENOSPC}, TarOptions{})
	for i := range tr.entries {
		if err := w.Add(&tr.entries[i]); err != nil && strings.Contains(err.Error(), tr.entries[i].Path+":") {
			t.Errorf("error blames the entry: %v", err)
		}
	}
	if _, err := w.Close(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Close: %v, want ENOSPC", err)
	}
}

func TestCancelEndsTar(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	tr := everyKind(t)
	w := NewTarWriter(ctx, io.Discard, TarOptions{})
	if err := w.Add(&tr.entries[0]); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := w.Close(); !errors.Is(err, context.Canceled) {
		t.Errorf("Close: %v, want context.Canceled", err)
	}
}

func TestProgressCountsEveryByte(t *testing.T) {
	var n int64
	tr := everyKind(t)
	_, sum := writeTar(t, tr.entries, TarOptions{Progress: func(d int64) { n += d }})
	if n != sum.Size {
		t.Errorf("progress of %d bytes for a tar of %d", n, sum.Size)
	}
}

// Whatever a header holds, Go's reader finds it again.
func TestHeaderReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[^\x00]{1,300}`).Draw(t, "name")
		if rapid.Bool().Draw(t, "raw bytes") {
			name = string(rapid.SliceOfN(rapid.ByteRange(1, 255), 1, 300).Draw(t, "bytes"))
		}
		h := tarHeader{
			typ: typeSymlink, name: "./" + strings.TrimRight(name, "/") + "x", link: name,
			mode: rapid.Uint32Range(0, 0o7777).Draw(t, "mode"),
			uid:  rapid.Uint32().Draw(t, "uid"),
			gid:  rapid.Uint32().Draw(t, "gid"),
			mtime: overlay.Time{
				Sec:  rapid.Int64Range(-1<<40, 1<<40).Draw(t, "sec"),
				Nsec: rapid.Uint32Range(0, 999_999_999).Draw(t, "nsec"),
			},
			extra: []paxRecord{{xattrKey("user.x"), string(rapid.SliceOfN(rapid.Byte(), 0, 2000).Draw(t, "value"))}},
		}
		b, err := h.appendTo(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tar.NewReader(bytes.NewReader(b)).Next()
		if err != nil {
			t.Fatal(err)
		}
		if got.Name != h.name || got.Linkname != h.link || got.Mode != int64(h.mode) ||
			uint32(got.Uid) != h.uid || uint32(got.Gid) != h.gid || !got.ModTime.Equal(h.mtime.Time()) ||
			got.PAXRecords["SCHILY.xattr.user.x"] != h.extra[0].value {
			t.Fatalf("read back %+v", got)
		}
	})
}

// Why tarHeader is not archive/tar's. When this test fails, that may do.
func TestArchiveTarGaps(t *testing.T) {
	write := func(records map[string]string) (string, error) {
		var b bytes.Buffer
		err := tar.NewWriter(&b).WriteHeader(&tar.Header{Name: "f", Typeflag: tar.TypeReg, PAXRecords: records})
		return b.String(), err
	}
	if got, err := write(map[string]string{"GNU.sparse.major": "1"}); err == nil && strings.Contains(got, "GNU.sparse") {
		t.Error("archive/tar writes the records of a sparse file")
	}
	if _, err := write(map[string]string{"SCHILY.xattr.user.a=b": "1"}); err == nil {
		t.Error("archive/tar takes an attribute name with '='")
	}
}
