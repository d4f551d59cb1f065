package plan

import (
	"slices"
	"sync"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// cachedFiles bounds the sources that a plan keeps open between reads: enough
// for a reader that goes forward, far below the smallest descriptor limits.
const cachedFiles = 8

// fileCache keeps the sources that were read last. A file is out of the cache
// while it is read, so nothing needs counting.
type fileCache struct {
	mu   sync.Mutex
	open []cachedFile // least recently used first
}

type cachedFile struct {
	content overlay.Content
	file    *overlay.File
}

// take returns an open file of c, to be given back.
func (fc *fileCache) take(c overlay.Content) (*overlay.File, error) {
	fc.mu.Lock()
	i := slices.IndexFunc(fc.open, func(o cachedFile) bool { return o.content == c })
	if i < 0 {
		fc.mu.Unlock()
		return open(c)
	}
	f := fc.open[i].file
	fc.open = slices.Delete(fc.open, i, i+1)
	fc.mu.Unlock()
	return f, nil
}

// give returns a file that take gave.
func (fc *fileCache) give(c overlay.Content, f *overlay.File) {
	fc.mu.Lock()
	fc.open = append(fc.open, cachedFile{c, f})
	var oldest *overlay.File
	if len(fc.open) > cachedFiles {
		oldest = fc.open[0].file
		fc.open = slices.Delete(fc.open, 0, 1)
	}
	fc.mu.Unlock()
	if oldest != nil {
		_ = oldest.Close() // it was only read
	}
}

// Close closes the sources that [Plan.ReadAt] has kept open. The plan stays
// usable.
func (p *Plan) Close() error {
	p.files.mu.Lock()
	files := p.files.open
	p.files.open = nil
	p.files.mu.Unlock()
	for _, c := range files {
		_ = c.file.Close() // it was only read
	}
	return nil
}
