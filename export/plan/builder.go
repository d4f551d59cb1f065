package plan

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Builder collects the segments of a [Plan], in any order. Offsets and lengths
// are in bytes; a segment of no length is ignored. Segments that overlap are
// an error of [Builder.Build], since two writers' metadata in one place means
// a broken image.
type Builder struct {
	segments []segment
}

// Put places b at off. The bytes are kept, not copied.
func (b *Builder) Put(off int64, p []byte) {
	b.Generate(off, int64(len(p)), readerAt(p), 0)
}

// Generate places length bytes at off that r makes when they are asked for,
// beginning at srcOff: metadata that is cheaper to compute twice than to hold.
// r must always give the same bytes and be safe for concurrent use.
func (b *Builder) Generate(off, length int64, r io.ReaderAt, srcOff int64) {
	b.add(segment{off: off, length: length, srcOff: srcOff, src: r})
}

// Copy places length bytes of a host file at off, beginning at srcOff of the
// file, which is opened only while it is read. If c is a [fmt.Stringer],
// errors call it by that name.
func (b *Builder) Copy(off, length int64, c overlay.Content, srcOff int64) {
	b.add(segment{off: off, length: length, srcOff: srcOff, src: c})
}

// Embed places all of p at off, as a partition in a disk. It takes p's segments
// over, since they are many: p is empty afterwards.
func (b *Builder) Embed(off int64, p *Plan) {
	for i := range p.segments {
		p.segments[i].off += off
	}
	b.segments = slices.Insert(p.segments, 0, b.segments...)
	p.size, p.segments = 0, nil
}

// Grow makes room for n more segments, and for the few of a partition table.
func (b *Builder) Grow(n int) { b.segments = slices.Grow(b.segments, n+8) }

func (b *Builder) add(s segment) {
	if s.length != 0 {
		b.segments = append(b.segments, s)
	}
}

// Build returns the plan of an image of size bytes. It is an error if segments
// overlap or don't lie inside. The builder is empty afterwards.
func (b *Builder) Build(size int64) (*Plan, error) {
	segments := b.segments
	b.segments = nil
	byOffset := func(x, y segment) int { return cmp.Compare(x.off, y.off) }
	if !slices.IsSortedFunc(segments, byOffset) {
		slices.SortFunc(segments, byOffset)
	}
	var end int64
	for i := range segments {
		s := &segments[i]
		if s.length < 0 || s.off < 0 || s.end() < s.off || s.end() > size {
			return nil, fmt.Errorf("segment of %d bytes at %d is outside an image of %d", s.length, s.off, size)
		}
		if s.off < end {
			return nil, fmt.Errorf("segment at %d begins before the one before it ends, at %d", s.off, end)
		}
		end = s.end()
	}
	return &Plan{size: size, segments: segments}, nil
}

// readerAt reads a slice; unlike [bytes.Reader] it has no position to store.
type readerAt []byte

func (r readerAt) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(r)) {
		return 0, io.EOF
	}
	n := copy(p, r[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
