package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// As fsx(8) does: random changes of files, by every way in which a program can
// make them, each followed in memory; what is read must be what memory has.
// ROOTFS_FSX says for how long (10m, say); otherwise it is the same few rounds
// each time.

const (
	fsxFiles      = 6
	fsxLayerSize  = 100_000 // of the files as their layer has them
	fsxMostBytes  = 300_000
	fsxRounds     = 40  // of one file after the other
	fsxOperations = 150 // a round
)

// exerciser changes one file.
type exerciser struct {
	rnd  *rand.Rand
	path string
	want []byte
	fd   int
	done []string // the last operations, for the report
}

func TestFilesKeepWhatIsWrittenInEveryWay(t *testing.T) {
	need(t, "fuse")
	project := layProject(t, "-- user/sysconfig/etc/passwd --\n")
	var files []*exerciser
	for i := range fsxFiles {
		name := fmt.Sprintf("f%d", i)
		want := bytes.Repeat([]byte(name+" of a layer\n"), fsxLayerSize/16)
		if err := os.WriteFile(filepath.Join(project, "user/sysconfig", name), want, 0o644); err != nil {
			t.Fatal(err)
		}
		files = append(files, &exerciser{path: filepath.Join(project, "mnt", name), want: want})
	}
	_, umount := mountProject(t, project)
	seed, end := uint64(1), time.Time{}
	if long := os.Getenv("ROOTFS_FSX"); long != "" {
		d, err := time.ParseDuration(long)
		if err != nil {
			t.Fatalf("ROOTFS_FSX: %v", err)
		}
		seed, end = rand.Uint64(), time.Now().Add(d)
	}
	rnd := rand.New(rand.NewPCG(seed, 0))
	rounds := 0
	for ; rounds < fsxRounds || time.Now().Before(end); rounds++ {
		x := files[rnd.IntN(len(files))]
		x.rnd, x.done = rnd, nil
		if err := x.round(); err != nil {
			t.Fatalf("seed %d, round %d, %s: %v\n%s", seed, rounds, x.path, err, strings.Join(x.done, "\n"))
		}
		switch rnd.IntN(20) {
		case 0:
			rootfs(t, project, "checkpoint")
		case 1:
			umount()
			rootfs(t, project, "gc", "--all")
			_, umount = mountProject(t, project)
		}
	}
	umount()
	_, umount = mountProject(t, project)
	defer umount()
	for _, x := range files {
		if got, err := os.ReadFile(x.path); err != nil || !bytes.Equal(got, x.want) {
			t.Errorf("seed %d, mounted again: %s: %v, %s", seed, x.path, err, firstDifference(got, x.want))
		}
	}
	t.Logf("seed %d: %d rounds of %d operations", seed, rounds, fsxOperations)
}

// round opens the file, works on it and reads all of it.
func (x *exerciser) round() (err error) {
	if err := x.open(); err != nil {
		return err
	}
	defer func() { err = errorsFirst(err, unix.Close(x.fd)) }()
	for range fsxOperations {
		o := fsxOperationList[x.rnd.IntN(len(fsxOperationList))]
		off, length := x.span()
		if len(x.done) > 30 {
			x.done = slices.Delete(x.done, 0, 1)
		}
		x.done = append(x.done, fmt.Sprintf("%s at %d length %d, size %d", o.name, off, length, len(x.want)))
		if err := o.do(x, off, length); err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(x.fd, &st); err != nil || st.Size != int64(len(x.want)) {
			return fmt.Errorf("%s: fstat: %w, size %d", o.name, err, st.Size)
		}
	}
	return x.read(0, fsxMostBytes)
}

func (x *exerciser) open() (err error) {
	x.fd, err = unix.Open(x.path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	return err
}

// span draws a range: small ones mostly, at the edges of pages often.
func (x *exerciser) span() (off, length int) {
	off = x.rnd.IntN(fsxMostBytes * 9 / 10)
	length = 1 + x.rnd.IntN(1<<(4+x.rnd.IntN(13)))
	if x.rnd.IntN(4) == 0 {
		off &^= 4095
	}
	if x.rnd.IntN(4) == 0 {
		length = (length + 4095) &^ 4095
	}
	return off, min(length, fsxMostBytes-off)
}

var fsxOperationList = []struct {
	name string
	do   func(x *exerciser, off, length int) error
}{
	{"read", (*exerciser).read},
	{"read", (*exerciser).read},
	{"write", (*exerciser).write},
	{"write", (*exerciser).write},
	{"write", (*exerciser).write},
	{"mapped read", (*exerciser).mappedRead},
	{"mapped write", (*exerciser).mappedWrite},
	{"mapped write", (*exerciser).mappedWrite},
	{"append", (*exerciser).append},
	{"truncate", (*exerciser).truncate},
	{"copy", (*exerciser).copy},
	{"seek", (*exerciser).seek},
	{"fallocate", allocates(0)},
	{"fallocate keep size", allocates(unix.FALLOC_FL_KEEP_SIZE)},
	{"punch", allocates(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)},
	{"zero", allocates(unix.FALLOC_FL_ZERO_RANGE)},
	{"zero keep size", allocates(unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE)},
	{"reopen", func(x *exerciser, _, _ int) error { return errorsFirst(unix.Close(x.fd), x.open()) }},
	{"sync", func(x *exerciser, _, _ int) error { return unix.Fsync(x.fd) }},
	{"drop cache", func(x *exerciser, off, length int) error {
		return unix.Fadvise(x.fd, int64(off), int64(length), unix.FADV_DONTNEED)
	}},
}

// grow makes what memory has at least size long.
func (x *exerciser) grow(size int) {
	if size > len(x.want) {
		x.want = append(x.want, make([]byte, size-len(x.want))...)
	}
}

func (x *exerciser) read(off, length int) error {
	buf := make([]byte, length)
	n, err := unix.Pread(x.fd, buf, int64(off))
	if err != nil {
		return err
	}
	return x.compare(off, length, buf[:n])
}

// compare tells what is wrong with what was read.
func (x *exerciser) compare(off, length int, got []byte) error {
	off = min(off, len(x.want))
	want := x.want[off:min(off+length, len(x.want))]
	if !bytes.Equal(got, want) {
		return fmt.Errorf("read at %d length %d: %s", off, length, firstDifference(got, want))
	}
	return nil
}

func firstDifference(got, want []byte) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("byte %d is %#x, want %#x", i, got[i], want[i])
		}
	}
	return fmt.Sprintf("%d bytes, want %d", len(got), len(want))
}

// text is what an operation writes: no two the same.
func (x *exerciser) text(length int) []byte {
	b := make([]byte, length)
	for i, stamp := 0, x.rnd.Uint32(); i < length; i++ {
		b[i] = byte(stamp>>(i%4*8)) + byte(i>>8)
	}
	return b
}

func (x *exerciser) write(off, length int) error {
	text := x.text(length)
	x.grow(off + length)
	copy(x.want[off:], text)
	n, err := unix.Pwrite(x.fd, text, int64(off))
	return whole(n, length, err)
}

func whole(n, want int, err error) error {
	if err == nil && n != want {
		err = fmt.Errorf("%d bytes of %d", n, want)
	}
	return err
}

func (x *exerciser) append(_, length int) error {
	if len(x.want)+length > fsxMostBytes {
		return nil
	}
	f, err := os.OpenFile(x.path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	text := x.text(length)
	x.want = append(x.want, text...)
	_, err = f.Write(text)
	return errorsFirst(err, f.Close())
}

func (x *exerciser) truncate(off, _ int) error {
	x.grow(off)
	x.want = x.want[:off]
	if off%2 == 0 {
		return os.Truncate(x.path, int64(off))
	}
	return unix.Ftruncate(x.fd, int64(off))
}

// mapped maps the part of the file that a range has, and gives it to do.
func (x *exerciser) mapped(off, length int, do func(part []byte) error) error {
	page := off &^ 4095
	end := min(off+length, len(x.want))
	if end <= off {
		return nil
	}
	m, err := unix.Mmap(x.fd, int64(page), end-page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	return errorsFirst(do(m[off-page:]), unix.Munmap(m))
}

func (x *exerciser) mappedRead(off, length int) error {
	return x.mapped(off, length, func(part []byte) error { return x.compare(off, length, part) })
}

func (x *exerciser) mappedWrite(off, length int) error {
	return x.mapped(off, length, func(part []byte) error {
		copy(part, x.text(len(part)))
		copy(x.want[off:], part)
		return nil
	})
}

func (x *exerciser) copy(off, length int) error {
	to, _ := x.span()
	length = min(length, fsxMostBytes-to, len(x.want)-off)
	if length <= 0 || to < off+length && off < to+length {
		return nil // nothing, or onto itself, which is refused
	}
	text := bytes.Clone(x.want[off : off+length])
	x.grow(to + length)
	copy(x.want[to:], text)
	for in, out := int64(off), int64(to); length > 0; {
		n, err := unix.CopyFileRange(x.fd, &in, x.fd, &out, length, 0)
		if err != nil || n == 0 {
			return whole(n, length, err)
		}
		length -= n
	}
	return nil
}

// allocates is fallocate in a mode.
func allocates(mode uint32) func(x *exerciser, off, length int) error {
	return func(x *exerciser, off, length int) error {
		if mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
			x.grow(off + length)
		}
		if end := min(off+length, len(x.want)); mode&^unix.FALLOC_FL_KEEP_SIZE != 0 && off < end {
			clear(x.want[off:end])
		}
		return unix.Fallocate(x.fd, mode, int64(off), int64(length))
	}
}

// seek looks for the next data, before which there must be nothing but zeros.
func (x *exerciser) seek(off, _ int) error {
	if off >= len(x.want) {
		return nil
	}
	data, err := unix.Seek(x.fd, int64(off), unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		data, err = int64(len(x.want)), nil
	}
	if err == nil && len(bytes.Trim(x.want[off:data], "\x00")) > 0 {
		err = fmt.Errorf("data before %d counts as a hole", data)
	}
	return err
}
