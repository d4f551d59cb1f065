package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What builds and archives were made to is removed by a later build or by
// [Project.CollectCache], but not from under a tree that shows it: that holds a
// shared lock, flock(2), on each such directory. So nothing is left to be
// cleaned after a process that was killed. And while a tree finds out what it
// shows, it holds the cache as a whole, in which nothing is removed then.

// collectLock is the file in the cache that is locked as a whole.
const collectLock = "gc.lock"

// errGone is a directory that was removed since its name was read.
var errGone = errors.New("it was replaced meanwhile: try again")

// passing lists those directories of layers, and of links to outputs, that may
// be removed though the project hasn't changed.
func (p *Project) passing(layers []*Layer) (dirs []string) {
	if p.directories != nil {
		return nil
	}
	cache, outputs := p.cacheDir(), filepath.Join(p.StateDir(), outputsName)
	if real, err := filepath.EvalSymlinks(outputs); err == nil {
		outputs = real
	}
	for _, l := range layers {
		if inside(l.Dir, cache) || inside(l.Dir, outputs) {
			dirs = append(dirs, l.Dir)
		}
	}
	if isDir(p.BuiltDir()) {
		dirs = append(dirs, p.BuiltDir())
	}
	return dirs
}

// outputsName is the folder in the state directory for what packages were built
// to, by architecture.
const outputsName = "outputs"

// OutputsDir holds what packages were built to for the project's architecture.
func (p *Project) OutputsDir() string {
	return filepath.Join(p.StateDir(), outputsName, p.Manifest.Arch)
}

// findLayers lists the layers of a project, the tree's own or what it becomes,
// and holds what may be removed.
func (t *Tree) findLayers(ctx context.Context, p *Project) ([]*Layer, error) {
	if p.directories != nil {
		return p.layers(ctx, t.log)
	}
	unlock, err := p.lockCache(ctx, unix.LOCK_SH, nil)
	if err != nil {
		return nil, err
	}
	defer unlock()
	for tries := 3; ; tries-- {
		layers, err := p.layers(ctx, t.log)
		if err == nil {
			err = t.holdLayers(p, layers)
		}
		if err == nil {
			p.noteLayers(layers)
		}
		if tries == 1 || !errors.Is(err, errGone) {
			return layers, err
		}
	}
}

// holdLayers keeps what layers show, and the links that say which outputs that
// are.
func (t *Tree) holdLayers(p *Project, layers []*Layer) error {
	for _, dir := range p.passing(layers) {
		if t.held[dir] != nil {
			continue
		}
		f, err := holdDir(dir)
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		t.held[dir] = f
	}
	return nil
}

// letGo gives back all but what is in keep.
func (t *Tree) letGo(keep []string) {
	for dir, f := range t.held {
		if !slices.Contains(keep, dir) {
			_ = f.Close() // only a lock
			delete(t.held, dir)
		}
	}
}

// holdDir takes a shared lock on a directory. On a host's filesystem that has
// no locks, nothing is held.
func holdDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errGone
	}
	if err != nil {
		return nil, err
	}
	err = flock(f, unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || !isStill(f, dir) {
		return nil, errors.Join(errGone, f.Close())
	}
	return f, nil
}

// isStill tells whether f, a directory, has its name.
func isStill(f *os.File, dir string) bool {
	var is, was unix.Stat_t
	return unix.Fstat(int(f.Fd()), &was) == nil && unix.Stat(dir, &is) == nil && is.Ino == was.Ino && is.Dev == was.Dev
}

// RemoveUnused removes the output of a build, unless some tree shows it.
func RemoveUnused(dir string) error {
	_, err := removeUnheld(dir, dir, false)
	return err
}

// removeUnheld removes dir, unless a tree shows the directory shown in it, and
// tells which. With dry it only tells.
func removeUnheld(dir, shown string, dry bool) (unheld bool, err error) {
	f, err := os.Open(shown)
	if err == nil {
		defer f.Close() //nolint:errcheck // only a lock
		err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) { // which a tree needs, too
		return false, err
	}
	if dry {
		return true, nil
	}
	// In one step out of sight of who might look for it by name.
	gone := filepath.Join(filepath.Dir(dir), goneMark+filepath.Base(dir))
	if err := RemoveTree(gone); err != nil {
		return false, err
	}
	if err := os.Rename(dir, gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, RemoveTree(gone)
}

// goneMark begins the name of what is being removed. A crash may leave it.
const goneMark = ".gone-"

// isLeftover tells whether a crash has left an entry of the cache or of the
// outputs.
func isLeftover(name string) bool {
	return strings.HasPrefix(name, goneMark) || strings.HasPrefix(name, ".new-")
}

// RemoveTree removes a tree of the host, its write-protected directories too.
func RemoveTree(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			return os.Chmod(name, 0o700)
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(dir))
}

// lockCache keeps others from removing anything in the cache, or with how being
// LOCK_EX from using it, until unlock is called. wait, unless nil, is called
// before it waits. Who can make no file there needs no lock to use what is there.
func (p *Project) lockCache(ctx context.Context, how int, wait func()) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(p.cacheDir(), collectLock), os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil && (how == unix.LOCK_SH || errors.Is(err, fs.ErrNotExist)) {
		return func() {}, nil // one that isn't there yet, or is only read, loses nothing
	}
	if err != nil {
		return nil, err
	}
	err = flock(f, how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		if wait != nil {
			wait()
		}
		err = awaitLock(ctx, f, how)
	}
	if err != nil {
		return nil, errors.Join(&fs.PathError{Op: "flock", Path: f.Name(), Err: err}, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// HoldCache keeps others from removing anything in the cache until release is
// called.
func (p *Project) HoldCache(ctx context.Context) (release func(), err error) {
	return p.lockCache(ctx, unix.LOCK_SH, nil)
}

// flock takes or gives back a lock of an open file: flock(2).
func flock(f *os.File, how int) error {
	return ignoringEINTR(func() error { return unix.Flock(int(f.Fd()), how) })
}

// awaitLock takes a lock as soon as who has it gives it back, unless ctx ends.
func awaitLock(ctx context.Context, f *os.File, how int) error {
	for {
		if err := flock(f, how|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}
