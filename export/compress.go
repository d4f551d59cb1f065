package export

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// Compression is how an archive is packed.
type Compression int

// The compressions of archives.
const (
	Uncompressed Compression = iota
	Gzip
	Zstd
)

// CompressionOf tells the compression that a file name's ending asks for:
// .gz, .tgz, .zst and .zstd, or none.
func CompressionOf(name string) Compression {
	switch filepath.Ext(name) {
	case ".gz", ".tgz":
		return Gzip
	case ".zst", ".zstd":
		return Zstd
	}
	return Uncompressed
}

// compressTo calls write with a writer that compresses to w. The compressed
// bytes depend on nothing but the bytes written.
func compressTo(w io.Writer, c Compression, write func(io.Writer) error) error {
	var packer io.WriteCloser
	switch c {
	case Gzip:
		packer = newGzipWriter(w)
	case Zstd:
		z, err := zstd.NewWriter(w)
		if err != nil {
			return err
		}
		packer = z
	default:
		return write(w)
	}
	err := write(packer)
	if cerr := packer.Close(); err == nil {
		err = cerr
	}
	return err
}

// copyChunk is how much is copied between two looks at a context.
const copyChunk = 16 << 20

// copyFile copies the first n bytes of f to w: by copy_file_range if w is a
// file too. Progress, if not nil, is told the bytes since its last call.
func copyFile(ctx context.Context, w io.Writer, f *os.File, n int64, progress func(n int64)) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		c, err := io.CopyBuffer(w, io.LimitReader(f, min(n, copyChunk)), buf)
		if err == nil && c == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		n -= c
		if progress != nil {
			progress(c)
		}
	}
	return nil
}

// A gzipWriter's blocks are compressed apart, each with the end of the one
// before as its dictionary. Their size is part of the output, so it doesn't
// depend on the machine.
const (
	gzipBlock  = 1 << 20
	gzipWindow = 32 << 10 // RFC 1951, section 2
)

// gzipWriter compresses to one gzip member on all processors. Close must be
// called, also after an error.
type gzipWriter struct {
	block, dict []byte
	crc, size   uint32 // RFC 1952: CRC32, ISIZE
	queue       chan chan []byte
	done        sync.WaitGroup
	mu          sync.Mutex
	err         error // of the underlying writer
}

func newGzipWriter(w io.Writer) *gzipWriter {
	z := &gzipWriter{
		block: make([]byte, 0, gzipBlock),
		queue: make(chan chan []byte, runtime.GOMAXPROCS(0)),
	}
	z.done.Go(func() {
		// RFC 1952, section 2.3: no name, no time, unknown system.
		_, err := w.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255})
		z.fail(err)
		for packed := range z.queue {
			p := <-packed
			if z.failed() == nil {
				_, err := w.Write(p)
				z.fail(err)
			}
		}
	})
	return z
}

func (z *gzipWriter) fail(err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.err == nil {
		z.err = err
	}
}

func (z *gzipWriter) failed() error {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.err
}

// Write implements [io.Writer].
func (z *gzipWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		if err := z.failed(); err != nil {
			return n, err
		}
		c := min(len(p)-n, gzipBlock-len(z.block))
		z.block = append(z.block, p[n:n+c]...)
		n += c
		if len(z.block) == gzipBlock {
			z.pack(false)
		}
	}
	return n, nil
}

// pack starts the compression of the block and begins the next. The queue
// bounds how many are under way.
func (z *gzipWriter) pack(last bool) {
	block, dict := z.block, z.dict
	z.crc = crc32.Update(z.crc, crc32.IEEETable, block)
	z.size += uint32(len(block)) // modulo 2^32, says RFC 1952
	packed := make(chan []byte, 1)
	z.queue <- packed
	go func() { packed <- deflate(block, dict, last) }()
	z.block = make([]byte, 0, gzipBlock)
	z.dict = block[max(0, len(block)-gzipWindow):]
}

// deflate compresses a block to whole bytes. A compressor is not used twice:
// what is in its tables from another block could change what it writes.
func deflate(block, dict []byte, last bool) []byte {
	var out bytes.Buffer
	// Errors are of the level, which is right, or of the buffer, which has none.
	w, _ := flate.NewWriterDict(&out, flate.DefaultCompression, dict)
	_, _ = w.Write(block)
	if last {
		_ = w.Close()
	} else {
		_ = w.Flush()
	}
	return out.Bytes()
}

// Close writes what is left and the trailer.
func (z *gzipWriter) Close() error {
	z.pack(true)
	trailer := make(chan []byte, 1)
	t := binary.LittleEndian.AppendUint32(nil, z.crc)
	trailer <- binary.LittleEndian.AppendUint32(t, z.size)
	z.queue <- trailer
	close(z.queue)
	z.done.Wait()
	return z.failed()
}
