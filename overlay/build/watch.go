package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// quiet is how long nothing must change before packages are looked at: an
// editor or a checkout makes many changes. Where something changes all the time,
// as a log does, patience is how long that is waited for.
const (
	quiet    = 50 * time.Millisecond
	patience = 2 * time.Second
)

// Watch runs, and again whenever a package's folder or the manifest changes,
// until ctx ends. Each run is told to report. What failed isn't tried again
// before its inputs change.
func Watch(ctx context.Context, p *overlay.Project, o Options, report func([]Result, error)) error {
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer func() { _ = events.Close() }()
	o.failures = &failures{keys: make(map[string]string), errs: make(map[string]error)}
	disturbed := false
	for {
		// First, so that no change is missed.
		now, err := overlay.Find(p.Root, manifest(p))
		if err == nil && now.Root == p.Root {
			p = now
		}
		// With a new watcher: fsnotify loses a folder that has taken another's place.
		next, followErr := follow(p)
		if followErr != nil {
			return followErr
		}
		_ = events.Close()
		events = next
		var results []Result
		if err == nil {
			results, err = Run(ctx, p, o)
		}
		if ctx.Err() != nil {
			return nil
		}
		report(results, err)
		again := slices.ContainsFunc(results, func(r Result) bool { return r.Disturbed })
		if again && disturbed {
			rest(ctx) // a command that changes its own sources would run without end
		}
		disturbed = again
		if err := awaitChange(ctx, events); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// manifest is the file to be read again, "" for the usual one, which may go.
func manifest(p *overlay.Project) string {
	if p.Manifest.File == filepath.Join(p.Root, overlay.ManifestName) {
		return ""
	}
	return p.Manifest.File
}

// rest lets time pass.
func rest(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(5 * time.Second):
	}
}

// awaitChange returns when something has changed and then nothing for a while.
func awaitChange(ctx context.Context, events *fsnotify.Watcher) error {
	var still, late <-chan time.Time
	changed := func() {
		still = time.After(quiet)
		if late == nil {
			late = time.After(patience)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-still:
			return nil
		case <-late:
			return nil
		case _, ok := <-events.Events:
			if !ok {
				return nil
			}
			changed()
		case err := <-events.Errors:
			// The second is of a directory that was renamed and at once removed,
			// and took its watch along.
			if !errors.Is(err, fsnotify.ErrEventOverflow) && !errors.Is(err, unix.EINVAL) {
				return err
			}
			changed()
		}
	}
}

// follow watches where a project's recipes and their inputs are.
func follow(p *overlay.Project) (*fsnotify.Watcher, error) {
	dirs := []string{p.Root}
	if p.Manifest.File != "" {
		dirs = append(dirs, dirsOf(p.Manifest.File)...)
	}
	apps := p.AppsDir()
	dirs = append(dirs, filepath.Dir(apps), apps)
	pkgs, err := os.ReadDir(apps) // with recipes and without: one may come
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, pkg := range pkgs {
		dirs = append(dirs, sourceDirs(p, filepath.Join(apps, pkg.Name()))...)
	}
	dirs = append(dirs, neededDirs(p)...)
	if p.IsCheckout() {
		dirs = append(dirs, checkoutDirs(p)...)
	}
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		// What is gone or can't be read, the build tells of.
		if err := events.Add(dir); errors.Is(err, unix.ENOSPC) {
			return nil, errors.Join(fmt.Errorf("%s: can't be watched: raise fs.inotify.max_user_watches (sysctl)", dir), events.Close())
		}
	}
	return events, nil
}

// sourceDirs lists the directories that may hold a package's inputs.
func sourceDirs(p *overlay.Project, pkg string) []string {
	folder, err := filepath.EvalSymlinks(pkg)
	if err != nil {
		return nil // what is wrong with it, its build tells
	}
	file := filepath.Join(folder, overlay.RecipeName)
	recipe, err := overlay.ReadRecipe(file)
	if err != nil {
		return dirsOf(file) // no recipe, or one to be mended
	}
	return append(inputDirs(p, filepath.Base(pkg), folder, recipe.Ignore), dirsOf(file)...)
}

// dirsOf lists the directory of a file and, of a link, of what it leads to.
func dirsOf(file string) []string {
	dirs := []string{filepath.Dir(file)}
	if real, err := filepath.EvalSymlinks(file); err == nil {
		dirs = append(dirs, filepath.Dir(real))
	}
	return dirs
}

// neededDirs lists the directories of packages that aren't built here, but that
// recipes depend on.
func neededDirs(p *overlay.Project) (dirs []string) {
	pkgs, _ := p.Packages() // what is wrong, the build tells
	needed := make(map[string]bool)
	for _, pk := range pkgs {
		if pk.Recipe != nil {
			for _, name := range pk.Recipe.Depends {
				needed[name] = true
			}
		}
	}
	for _, pk := range pkgs {
		folder, err := filepath.EvalSymlinks(pk.Path)
		if err != nil || pk.Recipe != nil || !needed[pk.Name] {
			continue
		}
		dirs = append(dirs, inputDirs(p, pk.Name, folder, nil)...)
	}
	return dirs
}

// checkoutDirs lists those of a DragonOS checkout, and where it says what the
// packages are.
func checkoutDirs(p *overlay.Project) []string {
	dirs := p.CheckoutDirs()
	pkgs, _ := p.Packages() // what is wrong, the build tells
	for _, pk := range pkgs {
		folder, err := filepath.EvalSymlinks(pk.Path)
		if err != nil || pk.Recipe.Source != nil {
			continue // to be fetched, or to be mended
		}
		dirs = append(dirs, inputDirs(p, pk.Name, folder, pk.Recipe.Ignore)...)
	}
	return dirs
}

// inputDirs lists a package's folder and those in it that aren't the build's.
func inputDirs(p *overlay.Project, name, folder string, ignore []string) []string {
	rec := readRecord(recordFile(p, name))
	l, _ := list(folder, ignored(ignore), rec.Products.Dirs) // what can't be read, the build tells of
	dirs := []string{folder}
	for dir := range l.dirs {
		if !rec.Products.Dirs[dir] {
			dirs = append(dirs, filepath.Join(folder, dir))
		}
	}
	return dirs
}
