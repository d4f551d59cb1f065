package overlay

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Freed is how much of one kind of thing was removed.
type Freed struct {
	Kind  string `json:"kind"`
	Count int    `json:"count"`
	Bytes int64  `json:"bytes"` // on the disk
}

// Collector removes what nobody uses and adds up how much that is.
type Collector struct {
	Dry bool // only add up
	Log *slog.Logger

	Freed []Freed // by kind, in the order of their first mention
}

// Remove removes the directory or file at path, unless a tree shows it.
func (c *Collector) Remove(kind, path string) error { return c.remove(kind, path, path) }

func (c *Collector) remove(kind, path, shown string) error {
	size, err := diskUsage(path)
	if err != nil {
		return err
	}
	unheld, err := removeUnheld(path, shown, c.Dry)
	if err != nil {
		return err
	}
	if !unheld {
		c.Log.Debug("kept, as it is in use", "path", path)
		return nil
	}
	for i := range c.Freed {
		if f := &c.Freed[i]; f.Kind == kind {
			f.Count++
			f.Bytes += size
			return nil
		}
	}
	c.Freed = append(c.Freed, Freed{kind, 1, size})
	return nil
}

// diskUsage adds up the space that a tree takes, each file once.
func diskUsage(path string) (size int64, err error) {
	seen := make(map[uint64]bool)
	err = filepath.WalkDir(path, func(name string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if statErr := unix.Lstat(name, &st); statErr == nil && !seen[st.Ino] {
			size += st.Blocks * 512
			if st.Nlink > 1 {
				seen[st.Ino] = true
			}
		}
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
			return nil // a directory that shuts itself is removed all the same
		}
		return err
	})
	return size, err
}

// CollectCache removes what no project uses from the cache that all projects of
// a person share. It waits for those who are just about to use something.
func (p *Project) CollectCache(c *Collector) error {
	unlock, err := p.lockCache(context.Background(), unix.LOCK_EX, func() {
		c.Log.Info("waiting for another rootfs that is about to use the cache")
	})
	if err != nil {
		return err
	}
	defer unlock()
	used, err := p.uses(usedLayers, c.Dry)
	if err != nil {
		return err
	}
	cache := p.cacheDir()
	err = errors.Join(
		c.unused("unpacked images", filepath.Join(cache, "layers"), func(name string) (string, bool) {
			root := filepath.Join("layers", name, archiveRootDir)
			return filepath.Join(cache, root), used[root]
		}),
		c.unused("layers of manifests", filepath.Join(cache, "manifests"), func(name string) (string, bool) {
			dir := filepath.Join("manifests", name)
			return filepath.Join(cache, dir), used[dir]
		}),
	)
	if err == nil && !c.Dry {
		err = archiveCache{dir: cache}.forget()
	}
	return errors.Join(err, p.collectFetches(c))
}

// unused removes the entries of a directory for which keep doesn't say so. It
// also says which directory trees show.
func (c *Collector) unused(kind, dir string, keep func(name string) (shown string, kept bool)) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		shown, kept := keep(e.Name())
		if kept && !isLeftover(e.Name()) {
			continue
		}
		err = errors.Join(err, c.remove(kind, filepath.Join(dir, e.Name()), shown))
	}
	return err
}

// forget removes the records of archives whose layers are gone.
func (c archiveCache) forget() error {
	dir := filepath.Dir(c.recordFile(""))
	records, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range records {
		key := strings.TrimSuffix(e.Name(), ".json")
		if c.load(key, new(archiveRecord)) != nil {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// collectFetches removes the files of addresses that no project fetches from.
func (p *Project) collectFetches(c *Collector) error {
	used, err := p.uses(usedFetches, c.Dry)
	if err != nil {
		return err
	}
	dir := p.FetchDir()
	index := filepath.Join(dir, "addresses")
	addresses, err := os.ReadDir(index)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	sums := map[string]bool{filepath.Base(index): true}
	for _, e := range addresses {
		name := filepath.Join(index, e.Name())
		if used[e.Name()] {
			sum, readErr := os.ReadFile(name)
			err = errors.Join(err, readErr)
			sums[string(sum)] = true
		} else if !c.Dry {
			err = errors.Join(err, os.Remove(name))
		}
	}
	return errors.Join(err, c.unused("fetched files", dir, func(name string) (string, bool) {
		return filepath.Join(dir, name), sums[name]
	}))
}
