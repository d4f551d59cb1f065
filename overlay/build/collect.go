package build

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Collect removes what builds have left that the project as it is now doesn't
// show: outputs of earlier builds and of other architectures and manifests, and
// sources, records and logs of packages that it hasn't. What a tree shows stays.
// It waits for a build at work.
func Collect(ctx context.Context, p *overlay.Project, c *overlay.Collector) (err error) {
	if _, err := os.Lstat(p.StateDir()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	pkgs, err := p.Packages()
	if err != nil {
		return err
	}
	lock, err := takeLock(ctx, filepath.Join(p.StateDir(), "build.lock"), c.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	shown, known := make(map[string]bool), make(map[string]bool)
	for _, pk := range pkgs {
		known[pk.Name] = true
		if output, err := filepath.EvalSymlinks(filepath.Join(p.BuiltDir(), pk.Name)); err == nil && pk.Recipe != nil {
			shown[output] = true
		}
	}
	k := &collection{Collector: c, state: p.StateDir()}
	if !c.Dry {
		k.errs = append(k.errs, prune(p.BuiltDir(), pkgs))
	}
	k.remove("leftovers of builds", "packages/*", func(dir string) bool { return dir == p.BuiltDir() })
	k.remove("outputs of packages", "outputs/*/*", func(dir string) bool {
		real, err := filepath.EvalSymlinks(dir)
		return err == nil && shown[real]
	})
	k.remove("leftovers of builds", "staging/*", func(string) bool { return false })
	k.remove("sources of packages", "sources/*", func(file string) bool {
		return known[strings.TrimSuffix(filepath.Base(file), fetchedMark)]
	})
	k.remove("leftovers of builds", "builds/*", func(file string) bool { return known[filepath.Base(file)] })
	k.remove("leftovers of builds", "logs/*", func(file string) bool { return known[strings.TrimSuffix(filepath.Base(file), ".log")] })
	return errors.Join(k.errs...)
}

// collection is one run of Collect.
type collection struct {
	*overlay.Collector
	state string
	errs  []error
}

// remove removes what a pattern of paths in the state folder matches, but for
// what is to be kept.
func (k *collection) remove(kind, pattern string, keep func(path string) bool) {
	// As a file system, so that the folder's own name is no pattern.
	found, err := fs.Glob(os.DirFS(k.state), pattern)
	k.errs = append(k.errs, err)
	for _, name := range found {
		if path := filepath.Join(k.state, name); !keep(path) {
			k.errs = append(k.errs, k.Remove(kind, path))
		}
	}
}
