package plan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/DragonOS-Community/rootfs/overlay"
	"golang.org/x/sys/unix"
)

// hostFile is a file's content by its path.
type hostFile string

func (h hostFile) Open() (*overlay.File, error) {
	fd, err := unix.Open(string(h), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return overlay.NewFile(fd, string(h)), err
}

// named is content that has a name of its own.
type named struct {
	hostFile
	name string
}

func (n named) String() string { return n.name }

func source(t testing.TB, content []byte) hostFile {
	t.Helper()
	name := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return hostFile(name)
}

func output(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func build(t testing.TB, b *Builder, size int64) *Plan {
	t.Helper()
	p, err := b.Build(size)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func noise(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// mixed is a plan with segments of each kind and length, and what it should
// read as.
func mixed(t testing.TB) (*Plan, []byte) {
	const size = 64<<20 + 123
	want := make([]byte, size)
	content := noise(20 << 20)
	src := source(t, content)
	var b Builder
	place := func(off int64, data []byte) { copy(want[off:], data) }

	b.Put(1024, content[:1000])
	place(1024, content[:1000])
	b.Generate(4096, 5000, bytes.NewReader(content), 77)
	place(4096, content[77:5077])
	// One after the other, with small gaps and large ones.
	off := int64(16384)
	for i, n := range []int{1, 4095, 4096, 4097, 100_000, 1, 2, batchSize - 1, batchSize, batchSize + 1, 20 << 20, 12} {
		b.Copy(off, int64(n), src, 0)
		place(off, content[:n])
		off = (off + int64(n) + 4095) &^ 4095
		if i%3 == 2 {
			off += 1 << 20
		}
	}
	b.Copy(size-5, 5, src, 1000)
	place(size-5, content[1000:1005])
	return build(t, &b, size), want
}

func TestReadAt(t *testing.T) {
	p, want := mixed(t)
	r := rand.New(rand.NewPCG(2, 3))
	for range 300 {
		off := r.Int64N(p.Size())
		got := make([]byte, min(r.Int64N(1<<r.IntN(24)), p.Size()-off))
		if _, err := p.ReadAt(got, off); err != nil || !bytes.Equal(got, want[off:off+int64(len(got))]) {
			t.Fatalf("%d bytes at %d read differently (%v)", len(got), off, err)
		}
	}
	if n, err := p.ReadAt(make([]byte, 10), p.Size()-4); n != 4 || !errors.Is(err, io.EOF) {
		t.Errorf("read over the end: %d, %v", n, err)
	}
	if _, err := p.ReadAt(make([]byte, 1), -1); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("read before the start: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestWriteFile(t *testing.T) {
	p, want := mixed(t)
	f := output(t)
	if _, err := f.WriteAt(noise(len(want)+1000), 0); err != nil { // has to go
		t.Fatal(err)
	}
	var sum int64
	if err := p.WriteFile(context.Background(), f, func(n int64) { sum += n }); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(f.Name())
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("written image differs (%v)", err)
	}
	if sum != p.DataSize() {
		t.Errorf("progress of %d bytes, want %d", sum, p.DataSize())
	}
}

func TestHolesStay(t *testing.T) {
	var b Builder
	b.Put(0, []byte("start"))
	b.Put(1<<40, []byte("end"))
	f := output(t)
	if err := build(t, &b, 1<<41).WriteFile(context.Background(), f, nil); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != 1<<41 || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes, %d of them allocated", st.Size, st.Blocks*512)
	}
	ranges, err := DataRanges(overlay.NewFile(int(f.Fd()), f.Name()), st.Size)
	if want := []Range{{0, 4096}, {1 << 40, 4096}}; err != nil || !slices.Equal(ranges, want) {
		t.Errorf("data at %v (%v), want %v", ranges, err, want)
	}
}

func TestEmbed(t *testing.T) {
	inner, want := mixed(t)
	size, data := inner.Size(), inner.DataSize()
	var b Builder
	b.Put(0, []byte("table"))
	b.Embed(1<<20, inner)
	p := build(t, &b, 1<<20+size+4096)
	got := make([]byte, size)
	if _, err := p.ReadAt(got, 1<<20); err != nil || !bytes.Equal(got, want) {
		t.Errorf("embedded plan reads differently (%v)", err)
	}
	if p.DataSize() != data+5 {
		t.Errorf("%d bytes of data, want %d", p.DataSize(), data+5)
	}
	if inner.Size() != 0 || inner.DataSize() != 0 {
		t.Errorf("%d bytes are left of what was embedded", inner.Size())
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, fill := range map[string]func(b *Builder){
		"overlap": func(b *Builder) { b.Put(10, make([]byte, 10)); b.Put(0, make([]byte, 11)) },
		"same":    func(b *Builder) { b.Put(10, make([]byte, 1)); b.Put(10, make([]byte, 1)) },
		"behind":  func(b *Builder) { b.Put(95, make([]byte, 6)) },
		"before":  func(b *Builder) { b.Put(-1, make([]byte, 6)) },
		"less":    func(b *Builder) { b.Copy(0, -1, hostFile(""), 0) },
		"huge":    func(b *Builder) { b.Copy(50, 1<<63-1, hostFile(""), 0) },
	} {
		var b Builder
		fill(&b)
		if _, err := b.Build(100); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestSourceErrors: errors name the source, by its own name if it has one.
func TestSourceErrors(t *testing.T) {
	short := source(t, []byte("short"))
	for _, c := range []struct {
		content interface{ Open() (*overlay.File, error) }
		want    string
		is      error
	}{
		{short, string(short) + ": ends at byte 5", io.ErrUnexpectedEOF},
		{named{short, "etc/motd"}, "etc/motd: ends at byte 5", io.ErrUnexpectedEOF},
		{named{"/nonexistent", "etc/motd"}, "etc/motd: no such file or directory", os.ErrNotExist},
	} {
		var b Builder
		b.Copy(0, 6, c.content, 0)
		p := build(t, &b, 100)
		_, readErr := p.ReadAt(make([]byte, 100), 0)
		writeErr := p.WriteFile(context.Background(), output(t), nil)
		for _, err := range []error{readErr, writeErr} {
			if !errors.Is(err, c.is) || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got %v, want %s…", err, c.want)
			}
		}
	}
}

func TestCancel(t *testing.T) {
	p, _ := mixed(t)
	reason := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(context.Background())
	err := p.WriteFile(ctx, output(t), func(int64) { cancel(reason) })
	if !errors.Is(err, reason) {
		t.Errorf("got %v, want %v", err, reason)
	}
}

// TestFewDescriptors: the number of sources is not limited by descriptors.
func TestFewDescriptors(t *testing.T) {
	folder := t.TempDir()
	var b Builder
	for i := range 2000 {
		name := filepath.Join(folder, fmt.Sprint(i))
		if err := os.WriteFile(name, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		b.Copy(int64(i)*4096, int64(len(name)), hostFile(name), 0)
	}
	p := build(t, &b, 2000*4096)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	f := output(t)
	t.Cleanup(func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) })
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 40, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	if err := p.WriteFile(context.Background(), f, nil); err != nil {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, io.NewSectionReader(p, 0, p.Size())); err != nil {
		t.Error(err)
	}
}
