package export

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"sync"
	"sync/atomic"
)

// Buffers of a batchWriter: big enough that system calls don't count, few
// enough to stay in the processor's cache.
const (
	batchSize  = 1 << 20
	batchCount = 4
)

// batchWriter gathers small writes into batches, and writes and hashes these
// in goroutines of their own, while the next batch is being filled. It is for
// one goroutine. Close must be called, also after an error.
//
// There is no copy_file_range for large files: a digest rules it out, and
// without one it showed no gain on real trees that stood out of the noise.
type batchWriter struct {
	ctx     context.Context
	sum     hash.Hash // nil: no digest
	written func(n int64)
	size    int64

	cur   []byte // the batch being filled
	free  chan []byte
	write chan []byte
	hash  chan []byte
	done  sync.WaitGroup
	err   atomic.Pointer[error] // first error of a write
}

// newBatchWriter writes to w. If digest is set, it computes the SHA-256 of
// what is written; written, if not nil, is called with the length of each
// batch that was written, in another goroutine, one call at a time.
func newBatchWriter(ctx context.Context, w io.Writer, digest bool, written func(n int64)) *batchWriter {
	b := &batchWriter{
		ctx:     ctx,
		written: written,
		free:    make(chan []byte, batchCount),
		write:   make(chan []byte, batchCount),
		hash:    make(chan []byte, batchCount),
	}
	for range batchCount {
		b.free <- make([]byte, 0, batchSize)
	}
	b.cur = <-b.free
	if digest {
		b.sum = sha256.New()
	}
	b.done.Go(func() { b.writeBatches(w) })
	b.done.Go(b.hashBatches)
	return b
}

// writeBatches goes on after an error, without writing, so that the filling
// side never waits for a buffer in vain.
func (b *batchWriter) writeBatches(w io.Writer) {
	defer close(b.hash)
	for batch := range b.write {
		if b.err.Load() == nil {
			if _, err := w.Write(batch); err != nil {
				b.err.Store(&err)
			} else if b.written != nil {
				b.written(int64(len(batch)))
			}
		}
		b.hash <- batch
	}
}

func (b *batchWriter) hashBatches() {
	for batch := range b.hash {
		if b.sum != nil {
			b.sum.Write(batch)
		}
		b.free <- batch[:0]
	}
}

// space returns room for at least one byte at the end of the batch; what is
// put there is added by advance.
func (b *batchWriter) space() ([]byte, error) {
	if len(b.cur) == cap(b.cur) {
		if err := b.flush(); err != nil {
			return nil, err
		}
	}
	return b.cur[len(b.cur):cap(b.cur)], nil
}

func (b *batchWriter) advance(n int) {
	b.cur = b.cur[:len(b.cur)+n]
	b.size += int64(n)
}

func (b *batchWriter) flush() error {
	if err := b.failed(); err != nil {
		return err
	}
	b.write <- b.cur
	b.cur = <-b.free
	return nil
}

func (b *batchWriter) failed() error {
	if err := b.err.Load(); err != nil {
		return *err
	}
	return b.ctx.Err()
}

// Write implements [io.Writer].
func (b *batchWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		room, err := b.space()
		if err != nil {
			return n, err
		}
		c := copy(room, p[n:])
		b.advance(c)
		n += c
	}
	return n, nil
}

// pad writes n zeros.
func (b *batchWriter) pad(n int64) error {
	_, err := b.Write(make([]byte, n))
	return err
}

// readFrom writes n bytes of r from the offset off, reading them right into
// the batch. It returns [io.ErrUnexpectedEOF] if r ends before.
func (b *batchWriter) readFrom(r io.ReaderAt, off, n int64) error {
	for n > 0 {
		room, err := b.space()
		if err != nil {
			return err
		}
		c, err := r.ReadAt(room[:min(int64(len(room)), n)], off)
		b.advance(c)
		off, n = off+int64(c), n-int64(c)
		switch {
		case errors.Is(err, io.EOF) && n > 0:
			return io.ErrUnexpectedEOF
		case err != nil && !errors.Is(err, io.EOF):
			return err
		}
	}
	return nil
}

// Close writes what is left and ends the goroutines. The size and the sum are
// right if it returns nil.
func (b *batchWriter) Close() error {
	err := b.failed()
	if err == nil {
		b.write <- b.cur
	}
	close(b.write)
	b.done.Wait()
	if err != nil {
		return err
	}
	return b.failed()
}
