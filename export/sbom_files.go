package export

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // SPDX demands it
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// digests are of one content; a file's other names share them.
type digests struct {
	sha1   [sha1.Size]byte
	sha256 [sha256.Size]byte
	binary bool // an ELF file
	err    error
	done   chan struct{} // closed when they are known
}

// hashing is a file on its way into the list.
type hashing struct {
	entry overlay.Entry
	sums  *digests
}

// waitingFiles bounds the files that are read ahead of the one to be written.
const waitingFiles = 256

// writeFiles lists the files: read by several goroutines, written in order.
func (s *sbom) writeFiles(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ordered, work := make(chan hashing, waitingFiles), make(chan hashing, waitingFiles)
	var readers, writer sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		readers.Go(func() {
			buf := make([]byte, 256<<10)
			for h := range work {
				h.sums.err = h.sums.read(ctx, &h.entry, buf, s.request.Progress.Add)
				close(h.sums.done)
			}
		})
	}
	s.spdx.list("files")
	writer.Go(func() {
		for h := range ordered {
			<-h.sums.done
			if err := s.writeFile(&h); err != nil {
				cancel(err) // the rest goes by quickly
			}
		}
	})
	links := make(map[uint64]*digests)
	err := Walk(ctx, s.tree, s.request.Epoch, func(e *overlay.Entry) error {
		if err := ctx.Err(); err != nil || e.IsDir() {
			return err
		}
		s.request.machines.watch(e)
		h := hashing{entry: *e, sums: links[e.Ino]}
		if h.sums == nil || e.Nlink < 2 {
			h.sums = &digests{done: make(chan struct{})}
			work <- h
		}
		if e.Nlink > 1 {
			links[e.Ino] = h.sums
		}
		ordered <- h
		return nil
	})
	close(work)
	close(ordered)
	readers.Wait()
	writer.Wait()
	s.spdx.endList()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func (s *sbom) writeFile(h *hashing) error {
	e, sums := &h.entry, h.sums
	if sums.err != nil {
		return fmt.Errorf("%s: %w", e.Path, sums.err)
	}
	file := sbomFile{layer: uint16(s.byLayer[e.Layer]), sha1: sums.sha1}
	id := sha256.Sum256([]byte(e.Path))
	copy(file.id[:], id[:])
	s.files = append(s.files, file)
	line := spdxFile{
		Name: "./" + e.Path, ID: file.id.String(), Comment: nature(e),
		Checksums: []spdxChecksum{
			{"SHA1", hex.EncodeToString(sums.sha1[:])},
			{"SHA256", hex.EncodeToString(sums.sha256[:])},
		},
	}
	switch {
	case !e.IsRegular():
		line.Types = []string{"OTHER"}
	case sums.binary:
		line.Types = []string{"BINARY"}
	}
	if !utf8.ValidString(e.Path) {
		line.Comment = strings.TrimSuffix("the name is "+strconv.Quote(e.Path)+"; "+line.Comment, "; ")
	}
	s.spdx.add(&line)
	return s.spdx.err
}

// nature says what a file is that isn't regular.
func nature(e *overlay.Entry) string {
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		return "symbolic link to " + strconv.Quote(e.Target)
	case unix.S_IFCHR:
		return fmt.Sprintf("character device %d:%d", unix.Major(e.Rdev), unix.Minor(e.Rdev))
	case unix.S_IFBLK:
		return fmt.Sprintf("block device %d:%d", unix.Major(e.Rdev), unix.Minor(e.Rdev))
	case unix.S_IFIFO:
		return "named pipe"
	case unix.S_IFSOCK:
		return "socket"
	}
	return ""
}

// read computes the digests of a file's bytes, of a symlink's target, and of
// nothing for other types.
func (d *digests) read(ctx context.Context, e *overlay.Entry, buf []byte, progress func(int64)) error {
	one, two := sha1.New(), sha256.New() //nolint:gosec // SPDX demands it
	if e.IsSymlink() {
		_, _ = io.WriteString(io.MultiWriter(one, two), e.Target)
	}
	if e.IsRegular() {
		f, err := e.Content.Open()
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // only read
		for off := int64(0); ctx.Err() == nil; {
			n, err := f.ReadAt(buf, off)
			if off == 0 {
				d.binary = bytes.HasPrefix(buf[:n], []byte(elf.ELFMAG))
			}
			_, _ = one.Write(buf[:n])
			_, _ = two.Write(buf[:n])
			progress(int64(n))
			off += int64(n)
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if n < len(buf) {
				break
			}
		}
		if err := checkSize(f, e.Size); err != nil {
			return err
		}
	}
	one.Sum(d.sha1[:0])
	two.Sum(d.sha256[:0])
	return ctx.Err()
}
