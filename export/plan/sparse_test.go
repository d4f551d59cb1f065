package plan

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// What is a hole doesn't depend on who has read the file before: space that was
// reserved and not written to isn't.
func TestReservedSpaceIsData(t *testing.T) {
	const mib = 1 << 20
	name := filepath.Join(t.TempDir(), "file")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	// Data, a hole, and reserved space in several pieces.
	if _, err := f.Write(noise(4096)); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(8 * mib); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, mib, 2*mib); err != nil {
		t.Skipf("SKIPPED: no space can be reserved here: %v", err)
	}
	if _, err := f.WriteAt([]byte("x"), 2*mib); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	ranges := func() []Range {
		src, err := hostFile(name).Open()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = src.Close() }()
		ranges, err := DataRanges(src, 8*mib)
		if err != nil {
			t.Fatal(err)
		}
		return ranges
	}
	unread := ranges()
	if _, err := io.Copy(io.Discard, io.NewSectionReader(f, 0, 8*mib)); err != nil {
		t.Fatal(err)
	}
	if read := ranges(); !slices.Equal(read, unread) {
		t.Errorf("data before the file was read: %v, and after: %v", unread, read)
	}
	if hole := (Range{4096, mib - 4096}); unread[0] != (Range{0, hole.Off}) || unread[1].Off < hole.Off+hole.Len {
		t.Errorf("data in %v, but %v is a hole", unread, hole)
	}
}
