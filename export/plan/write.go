package plan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/DragonOS-Community/rootfs/overlay"
)

const (
	// batchSize is the most that one write carries, and the buffer of one
	// worker. With 1 MiB, 1.5 GiB took a tenth more of the processors.
	batchSize = 4 << 20

	// minBatch is the most that one write carries when there is little to
	// write, so that every worker has something to do.
	minBatch = 256 << 10

	// maxGap is the longest hole that a batch writes as zeros: the unused end
	// of a file's last block. Longer ones stay holes.
	maxGap = 4096

	// copiers are so many, whatever the processors: while some wait for the
	// disk, others read. With two, both of 2 processors waited at times (the
	// writing of 1.5 GiB took 1.6 s; with 4 and with 6 it took 1.3).
	copiers = 4
)

// WriteFile writes the image to f, whose old content is dropped; holes stay
// holes. It copies in parallel and opens each source only while it copies it.
// progress, which may be nil, is called with the number of bytes written since
// its last call, by one goroutine at a time; the sum of them all is
// [Plan.DataSize]. When ctx ends, so does the copying, with its cause as the
// error. f isn't synced, and is incomplete after an error.
func (p *Plan) WriteFile(ctx context.Context, f *os.File, progress func(bytes int64)) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	if err := f.Truncate(p.size); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	w := &writer{
		plan: p, file: f, direct: openDirect(f), clones: canClone(f, p.size),
		batch: batchFor(p.DataSize()), progress: progress,
	}
	if w.direct != nil {
		defer w.direct.Close() //nolint:errcheck // f is the one that is synced
	}
	bufs, free, err := newBatches(w.batch)
	if err != nil {
		return err
	}
	defer free() //nolint:errcheck // the process's own memory
	for _, buf := range bufs {
		g.Go(func() error { return w.work(ctx, buf) })
	}
	return g.Wait()
}

// batchFor returns the batch for that many bytes: a few for each worker.
func batchFor(total int64) int64 {
	return min(max(total/(4*copiers), minBatch), batchSize) &^ (directAlign - 1)
}

// writer is one run of [Plan.WriteFile].
type writer struct {
	plan *Plan
	file *os.File

	// direct is file for writing around the page cache; nil if it can't be.
	direct *os.File

	clones bool  // whether file's filesystem can share blocks
	batch  int64 // the most that one job writes

	mu   sync.Mutex // of next and done
	next int        // first segment that no job has
	done int64      // bytes of that segment that jobs have

	progressMu sync.Mutex
	progress   func(int64)
}

// job is what a worker does at a time: segments that lie close together, or a
// part of one long segment.
type job struct {
	segments []segment
	off, end int64 // range of the image
	limit    int64 // where the next segment begins, or the image ends
	cloned   int64 // bytes before off that need no copying any more
}

// take hands out the next job; none is left when it has no segments. Clones are
// made here, one after the other: the kernel locks the image for each of them.
func (w *writer) take() job {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.plan.segments
	if w.next == len(all) {
		return job{}
	}
	first := &all[w.next]
	var cloned int64
	if w.done == 0 {
		cloned = w.clone(first)
		w.done = cloned
	}
	off := first.off + w.done
	if first.end()-off > w.batch {
		w.done += w.batch
		return job{all[w.next : w.next+1], off, off + w.batch, off + w.batch, cloned}
	}
	w.done = 0
	i, end := w.next+1, first.end()
	for i < len(all) && all[i].off-end <= maxGap && all[i].end()-off <= w.batch && !w.clonable(&all[i]) {
		end = all[i].end()
		i++
	}
	limit := w.plan.size
	if i < len(all) {
		limit = all[i].off
	}
	j := job{all[w.next:i], off, end, limit, cloned}
	w.next = i
	return j
}

func (w *writer) work(ctx context.Context, buf []byte) error {
	for {
		j := w.take()
		if len(j.segments) == 0 {
			return nil
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := w.copy(j, buf)
		if err != nil {
			return err
		}
		w.report(n)
	}
}

// copy does a job and returns how many bytes it had, clones counted and holes
// not.
func (w *writer) copy(j job, buf []byte) (int64, error) {
	n := j.cloned
	at := j.off
	for i := range j.segments {
		s := &j.segments[i]
		start, end := max(s.off, j.off), min(s.end(), j.end)
		if start == end { // all of it is cloned
			continue
		}
		clear(buf[at-j.off : start-j.off])
		if err := load(s, buf[start-j.off:end-j.off], start-s.off); err != nil {
			return 0, err
		}
		n += end - start
		at = end
	}
	if err := w.write(buf, int(j.end-j.off), j.off, j.limit); err != nil {
		return 0, err
	}
	return n, nil
}

// load fills b from the segment's source, off bytes into the segment. Unlike
// [Plan.read] it keeps nothing open, since a copy comes to each file once.
func load(s *segment, b []byte, off int64) error {
	c, ok := s.src.(overlay.Content)
	if !ok {
		return readFull(s.src.(io.ReaderAt), b, s.srcOff+off)
	}
	f, err := open(c)
	if err != nil {
		return err
	}
	err = readFull(f, b, s.srcOff+off)
	if err != nil {
		err = fmt.Errorf("%s: %w", sourceName(c, f), err)
	}
	return errors.Join(err, f.Close())
}

func (w *writer) report(n int64) {
	if w.progress == nil {
		return
	}
	w.progressMu.Lock()
	w.progress(n)
	w.progressMu.Unlock()
}
