package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Cache keeps outputs for all who build the same, here or on another machine.
// Its methods are called from several goroutines.
type Cache interface {
	// Get finds the output with a key, and calls unpack with its tree as a tar.
	// It returns what Put was told of its content. The error is
	// [fs.ErrNotExist] for one that isn't there.
	Get(ctx context.Context, key string, unpack func(tar io.Reader) error) (content string, err error)

	// Put keeps the tree in dir.
	Put(ctx context.Context, o Output, dir string) error
}

// Output says what a package was built to, and of what.
type Output struct {
	Package, Arch string

	// Key is the hash of all that decides what the package is built to, in
	// hexadecimal. It is the same for everybody, wherever the project is.
	Key string

	Content string // hash of what is in it, in hexadecimal
}

// sharing is a run's use of a cache. A nil one has none.
type sharing struct {
	Cache
	readOnly bool
	gone     atomic.Bool // it has failed, and isn't asked again
}

// newSharing returns nil where there is nothing to share with.
func newSharing(o *Options) *sharing {
	if o.Cache == nil {
		return nil
	}
	return &sharing{Cache: o.Cache, readOnly: o.CacheReadOnly}
}

func (s *sharing) usable() bool { return s != nil && !s.gone.Load() }

// giveUp is for a cache that fails: no build does for that.
func (b *builder) giveUp(ctx context.Context, err error) {
	if ctx.Err() == nil && !b.shared.gone.Swap(true) {
		b.options.Logger.Warn(fmt.Sprintf("the cache fails, so packages are built here and not shared: %v", err))
	}
}

// sharedKey is the key by which an output is shared. Even a package that is
// built only once isn't the same as another with the same command.
func (w *work) sharedKey() string { return key(w.Recipe, w.arch(), w.tools, w.inputs, w.needs) }

// fetchOutput makes the output that the cache has for these inputs the
// package's. It returns false when it hasn't.
func (w *work) fetchOutput(ctx context.Context) (bool, error) {
	if !w.shared.usable() || w.options.Force {
		return false, nil
	}
	root := filepath.Join(w.staging(), "root")
	if err := errors.Join(overlay.RemoveTree(w.staging()), os.MkdirAll(root, 0o755)); err != nil {
		return false, err
	}
	found := false
	content, err := w.shared.Get(ctx, w.sharedKey(), func(tar io.Reader) error {
		found = true
		w.options.Logger.Info("fetching "+w.Name, "from", "the cache")
		return overlay.Unpack(ctx, tar, root)
	})
	switch {
	case errors.Is(err, fs.ErrNotExist) && !found:
		return false, overlay.RemoveTree(w.staging())
	case err != nil && !found:
		w.giveUp(ctx, err)
		return false, overlay.RemoveTree(w.staging())
	case err == nil:
		err = w.take(root, content)
	}
	if err = errors.Join(err, overlay.RemoveTree(w.staging())); err != nil {
		if ctx.Err() == nil {
			w.options.Logger.Warn(fmt.Sprintf("%s: what the cache has can't be used, so it is built here: %v", w.Name, err))
		}
		return false, ctx.Err()
	}
	w.result.State = Fetched
	return true, nil
}

// share is an output on its way to the cache.
type share struct {
	Output
	dir string
}

// shareOutput lets what has just been built be put into the cache.
func (w *work) shareOutput() {
	// A build that may not have seen its inputs is no answer to them.
	if w.shared.usable() && !w.shared.readOnly && !w.result.Disturbed {
		w.toShare <- share{Output{w.Name, w.arch(), w.sharedKey(), w.hash}, w.result.Output}
	}
}

// shareAll puts outputs into the cache, while other packages are built.
func (b *builder) shareAll(ctx context.Context) {
	for s := range b.toShare {
		if !b.shared.usable() || ctx.Err() != nil {
			continue
		}
		b.options.Logger.Info("putting " + s.Package + " into the cache")
		if err := b.shared.Put(ctx, s.Output, s.dir); err != nil {
			b.giveUp(ctx, err)
		}
	}
}
