// Package plan describes a disk image before it exists.
//
// A filesystem writer computes where everything goes and returns a [Plan]:
// metadata as bytes, file contents as ranges of the host's files, holes as
// nothing. A Plan has a known size and is an [io.ReaderAt], so it can be
// verified, embedded in a larger plan (a partition in a disk), served, or
// written out by [Plan.WriteFile], which copies in parallel and leaves holes.
//
// A Plan is immutable once built and safe for concurrent use.
package plan

import (
	"fmt"
	"io"
	"os"
	"sort"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Plan is an image of known size: segments, sorted and apart, with holes
// between them that read as zeros. The zero Plan is an empty image.
type Plan struct {
	size     int64
	segments []segment
	files    fileCache
}

// segment is a range of the image that has a source. There is one for each
// file, so its size is what an image of a million files costs in memory.
type segment struct {
	off, length int64
	srcOff      int64
	src         any // overlay.Content or io.ReaderAt
}

func (s *segment) end() int64 { return s.off + s.length }

// Size returns the image's length in bytes.
func (p *Plan) Size() int64 { return p.size }

// DataSize returns how many bytes of the image aren't holes, which is what
// [Plan.WriteFile] reports as progress when it is done.
func (p *Plan) DataSize() int64 {
	var n int64
	for i := range p.segments {
		n += p.segments[i].length
	}
	return n
}

// from returns the index of the first segment that ends after off.
func (p *Plan) from(off int64) int {
	return sort.Search(len(p.segments), func(i int) bool { return p.segments[i].end() > off })
}

// ReadAt implements [io.ReaderAt]. Holes read as zeros. A source that can't be
// opened or is shorter than planned is an error that names it.
func (p *Plan) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read image at %d: %w", off, os.ErrInvalid)
	}
	if off >= p.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), p.size-off))
	err := p.fill(b[:n], off)
	if err != nil {
		return 0, err
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// fill reads the range of the image that begins at off, which must lie inside.
func (p *Plan) fill(b []byte, off int64) error {
	end := off + int64(len(b))
	for i := p.from(off); i < len(p.segments) && p.segments[i].off < end; i++ {
		s := &p.segments[i]
		if gap := s.off - off; gap > 0 {
			clear(b[:gap])
			b, off = b[gap:], s.off
		}
		n := min(s.end(), end) - off
		if err := p.read(s, b[:n], off-s.off); err != nil {
			return err
		}
		b, off = b[n:], off+n
	}
	clear(b)
	return nil
}

// read fills b from the segment's source, off bytes into the segment.
func (p *Plan) read(s *segment, b []byte, off int64) error {
	c, ok := s.src.(overlay.Content)
	if !ok {
		return readFull(s.src.(io.ReaderAt), b, s.srcOff+off)
	}
	f, err := p.files.take(c)
	if err != nil {
		return err
	}
	err = readFull(f, b, s.srcOff+off)
	if err != nil {
		err = fmt.Errorf("%s: %w", sourceName(c, f), err)
	}
	p.files.give(c, f)
	return err
}

// readFull is ReadAt where the end of the source is an error.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF || err == nil {
		return fmt.Errorf("ends at byte %d, shorter than when the image was planned: %w",
			off+int64(n), io.ErrUnexpectedEOF)
	}
	return err
}

// open opens a source for reading.
func open(c overlay.Content) (*overlay.File, error) {
	f, err := c.Open()
	if err != nil && isNamed(c) {
		return nil, fmt.Errorf("%s: %w", sourceName(c, nil), err)
	}
	return f, err
}

func isNamed(c overlay.Content) bool {
	_, ok := c.(fmt.Stringer)
	return ok
}

// sourceName is what errors call a source: its own name when it has one, or
// that of the host's file.
func sourceName(c overlay.Content, f *overlay.File) string {
	if s, ok := c.(fmt.Stringer); ok {
		return s.String()
	}
	return f.Name()
}
