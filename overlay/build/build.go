package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Options say what to build and how.
type Options struct {
	Names     []string // packages, with what they depend on; all when empty
	Jobs      int      // packages at a time; 0 for one a processor
	KeepGoing bool     // after a failure, build what doesn't depend on it
	Force     bool     // build also what hasn't changed
	Logger    *slog.Logger
	Observer  Observer

	Cache         Cache // asked before a package is built, and given what was; nil for none
	CacheReadOnly bool  // it is given nothing

	failures *failures // not to be tried again; nil for none
}

// Observer is told how building goes, from several goroutines.
type Observer interface {
	// Begin says that a package's command starts.
	Begin(name string)
	// End says what came of a package.
	End(r Result)
}

// State is what came of a package.
type State int

// A package's states.
const (
	Unchanged State = iota + 1 // its inputs are as they were
	Restored                   // its inputs are as they were some time before
	Built
	Fetched // somebody has built it, and the cache has what came of it
	Failed
	Skipped // something else failed
)

func (s State) String() string {
	return [...]string{"", "unchanged", "restored", "built", "fetched", "failed", "skipped"}[s]
}

// Result is what came of one package.
type Result struct {
	Name  string
	State State
	Ran   bool // its command was run

	// Disturbed says that inputs changed meanwhile, so that it will run again.
	Disturbed bool

	Output string   // host directory with the package's tree; of an earlier build, or "", when failed
	Log    string   // host file with what the last command said
	Tail   []string // its last lines, when failed
	Err    error    // when failed; starts with the package's name
}

// Run builds the packages of a project that have changed and returns what
// came of each that has a recipe. The error joins those of the packages that
// failed. One Run at a time works on a project; others wait.
func Run(ctx context.Context, p *overlay.Project, o Options) (results []Result, err error) {
	pkgs, err := p.Packages(o.Names...)
	if err != nil {
		return nil, err
	}
	if err := needRecipes(pkgs, o.Names); err != nil || !anyRecipe(pkgs) {
		return nil, err
	}
	if err := p.MakeStateDir(); err != nil {
		return nil, err
	}
	lock, err := takeLock(ctx, filepath.Join(p.StateDir(), "build.lock"), o.Logger)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if o.Jobs <= 0 {
		o.Jobs = runtime.NumCPU()
	}
	b := &builder{project: p, options: o, slots: make(chan struct{}, o.Jobs), folders: commonFolders(p.Root)}
	b.shared = newSharing(&o)
	if b.confines = canConfine(); !b.confines {
		o.Logger.Debug("this kernel has no Landlock: builds may write anywhere")
	}
	if b.headers, err = kernelHeaders(p); err != nil {
		return nil, err
	}
	if len(o.Names) == 0 {
		p.NoteFetches(archives(pkgs))
	}
	results, err = b.run(ctx, pkgs)
	if len(o.Names) == 0 {
		err = errors.Join(err, prune(p.BuiltDir(), pkgs))
	}
	return results, err
}

// needRecipes refuses names of packages that can't be built.
func needRecipes(pkgs []overlay.Package, names []string) error {
	for _, name := range names {
		for _, pk := range pkgs {
			if pk.Name == name && pk.Recipe == nil {
				return fmt.Errorf("%s: has no recipe, so there is nothing to build", pk.Path)
			}
		}
	}
	return nil
}

func anyRecipe(pkgs []overlay.Package) bool {
	for _, pk := range pkgs {
		if pk.Recipe != nil {
			return true
		}
	}
	return false
}

// takeLock waits for the lock that one builder holds.
func takeLock(ctx context.Context, name string, log *slog.Logger) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for told := false; ; told = true {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, errors.Join(&os.PathError{Op: "flock", Path: name, Err: err}, f.Close())
		}
		if !told {
			log.Info("another build is at work; waiting for it")
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// prune removes the links of packages that have no recipe any more, or none
// for the architecture. Their outputs stay until [Collect].
func prune(dir string, pkgs []overlay.Package) error {
	links, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	known := make(map[string]bool, len(pkgs))
	for _, pk := range pkgs {
		known[pk.Name] = pk.Recipe != nil
	}
	for _, link := range links {
		if !known[link.Name()] {
			err = errors.Join(err, os.Remove(filepath.Join(dir, link.Name())))
		}
	}
	return err
}
