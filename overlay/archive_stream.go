package overlay

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// decompressors are told by the first bytes: RFC 1952 §2.3.1, the .xz file
// format §2.1.1.1 and RFC 8878 §3.1.1 and, of a skippable frame, with which
// pzstd begins, §3.1.2.
var decompressors = []struct {
	magic string
	open  func(io.Reader) (io.ReadCloser, error)
}{
	{"\x1f\x8b", func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }},
	{"\xfd7zXZ\x00", func(r io.Reader) (io.ReadCloser, error) {
		x, err := xz.NewReader(r)
		return io.NopCloser(x), err
	}},
	{"\x28\xb5\x2f\xfd", openZstd},
	{"\x50\x2a\x4d\x18", openZstd},
}

func openZstd(r io.Reader) (io.ReadCloser, error) {
	z, err := zstd.NewReader(r)
	if err != nil {
		return nil, err
	}
	return z.IOReadCloser(), nil
}

// decompress returns the content of r, whatever it is compressed with, or r
// itself where it isn't.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	// An error shows again when the content is read.
	start, _ := br.Peek(8)
	for _, d := range decompressors {
		if bytes.HasPrefix(start, []byte(d.magic)) {
			z, err := d.open(br)
			if err != nil {
				return nil, fmt.Errorf("decompress: %w", err)
			}
			return z, nil
		}
	}
	return io.NopCloser(br), nil
}

// isCompressed tells whether start, the first bytes of a file, says so.
func isCompressed(start []byte) bool {
	for _, d := range decompressors {
		if bytes.HasPrefix(start, []byte(d.magic)) {
			return true
		}
	}
	return false
}

// closeRead closes what was only read: an error has shown by then.
func closeRead(c io.Closer) { _ = c.Close() }

// readAhead reads a source in a goroutine of its own, which also computes its
// digest, so that decompressing and hashing go on beside the unpacking.
type readAhead struct {
	chunks, free chan []byte
	chunk, rest  []byte // what Read takes from: rest is the end of chunk
	err          error  // why chunks was closed; io.EOF at the end
	digest       io.Writer
	cancel       context.CancelFunc
	done         chan struct{}
	drained      bool // Read has reported io.EOF
}

const (
	readAheadChunk = 512 << 10
	readAheadCount = 6
)

// startReadAhead starts reading src; digest takes each byte. Close must be
// called before src is closed.
func startReadAhead(ctx context.Context, src io.Reader, digest io.Writer) *readAhead {
	ctx, cancel := context.WithCancel(ctx)
	a := &readAhead{
		chunks: make(chan []byte, readAheadCount),
		free:   make(chan []byte, readAheadCount),
		digest: digest,
		cancel: cancel,
		done:   make(chan struct{}),
	}
	for range readAheadCount {
		a.free <- nil
	}
	go a.run(ctx, src)
	return a
}

func (a *readAhead) run(ctx context.Context, src io.Reader) {
	defer close(a.done)
	defer close(a.chunks)
	for {
		var buf []byte
		select {
		case buf = <-a.free:
		case <-ctx.Done():
			a.err = context.Cause(ctx)
			return
		}
		if buf == nil {
			// Made when wanted: most layers of images are small.
			buf = make([]byte, readAheadChunk)
		}
		n, err := fill(src, buf)
		if n > 0 {
			_, _ = a.digest.Write(buf[:n]) // a hash: never fails
			a.chunks <- buf[:n]            // has room for all there are
		}
		if err != nil {
			a.err = err
			return
		}
	}
}

// fill reads until buf is full or src has no more. Unlike [io.ReadFull] it
// returns the error of src itself, in which a truncated compressed stream
// (io.ErrUnexpectedEOF) and the end differ.
func fill(src io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = src.Read(buf[n:])
		n += m
	}
	return n, err
}

func (a *readAhead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.chunk != nil {
			a.free <- a.chunk[:cap(a.chunk)]
			a.chunk = nil
		}
		chunk, ok := <-a.chunks
		if !ok {
			a.drained = a.drained || errors.Is(a.err, io.EOF)
			return 0, a.err
		}
		a.chunk, a.rest = chunk, chunk
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close stops the reading and waits until src is no longer used.
func (a *readAhead) Close() {
	a.cancel()
	<-a.done
}
