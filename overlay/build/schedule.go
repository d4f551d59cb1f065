package build

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// builder is one run.
type builder struct {
	project  *overlay.Project
	options  Options
	slots    chan struct{} // one is held by whoever works
	folders  []string      // where every command may write
	confines bool          // the kernel can keep it there
	headers  string        // see kernelHeaders
	shared   *sharing
	versions versions
	inFolder sync.Map // *sync.Mutex by folder, held by the package at work in it
	failed   atomic.Bool
	built    chan *work // to be committed
	toShare  chan share
}

// unit is a package in a run. What is below done may be read when that is
// closed.
type unit struct {
	overlay.Package
	needs []*unit // direct and indirect dependencies
	used  bool    // another package depends on it

	done   chan struct{}
	dir    string // the tree, as dependents see it
	hash   string // of its content
	result Result
}

// run builds packages, which come after what they depend on.
func (b *builder) run(ctx context.Context, pkgs []overlay.Package) ([]Result, error) {
	units := make([]*unit, len(pkgs))
	byName := make(map[string]*unit, len(pkgs))
	for i, pk := range pkgs {
		units[i] = &unit{Package: pk, done: make(chan struct{}), result: Result{Name: pk.Name}}
		byName[pk.Name] = units[i]
		units[i].needs = closure(pk.Recipe, byName)
		for _, need := range units[i].needs {
			need.used = true
		}
	}
	b.built, b.toShare = make(chan *work, len(units)), make(chan share, len(units))
	var working sync.WaitGroup
	for _, u := range units {
		working.Go(func() {
			defer close(u.done)
			b.work(ctx, u)
			if u.Recipe != nil || u.result.Err != nil {
				b.options.Observer.End(u.result)
			}
		})
	}
	committed := make(chan error)
	go func() { committed <- b.commitAll() }()
	var sharing sync.WaitGroup
	sharing.Go(func() { b.shareAll(ctx) })
	working.Wait()
	close(b.built)
	close(b.toShare)
	sharing.Wait()
	var results []Result
	errs := []error{<-committed}
	for _, u := range units {
		if u.Recipe != nil {
			results = append(results, u.result)
		}
		errs = append(errs, u.result.Err)
	}
	if ctx.Err() != nil {
		return results, ctx.Err()
	}
	return results, errors.Join(errs...)
}

// commitAll commits what has been built, all that waits at once: a sync may
// take long, and covers everything.
func (b *builder) commitAll() (err error) {
	for w := range b.built {
		batch := []*work{w}
		for len(b.built) > 0 {
			batch = append(batch, <-b.built)
		}
		err = errors.Join(err, b.commit(batch))
	}
	return err
}

// closure lists all that a recipe depends on, which is in units already.
func closure(r *overlay.Recipe, units map[string]*unit) []*unit {
	if r == nil {
		return nil
	}
	var all []*unit
	seen := make(map[*unit]bool)
	for _, name := range r.Depends {
		for _, u := range slices.Concat(units[name].needs, []*unit{units[name]}) {
			if !seen[u] {
				seen[u] = true
				all = append(all, u)
			}
		}
	}
	return all
}

// work waits for what a package needs and brings it up to date.
func (b *builder) work(ctx context.Context, u *unit) {
	for _, need := range u.needs {
		<-need.done
		if s := need.result.State; s == Failed || s == Skipped {
			u.result.State = Skipped
			return
		}
	}
	if u.Recipe == nil && !u.used {
		return
	}
	b.slots <- struct{}{}
	defer func() { <-b.slots }()
	if ctx.Err() != nil || b.failed.Load() && !b.options.KeepGoing {
		u.result.State = Skipped
		return
	}
	update := b.given
	if u.Recipe != nil {
		update = b.make
	}
	if err := update(ctx, u); err != nil {
		b.failed.Store(true)
		u.result.State, u.result.Err = Failed, &packageError{u.Name, err}
	}
}

// packageError is the failure of one package.
type packageError struct {
	name string
	err  error
}

func (e *packageError) Error() string { return e.name + ": " + e.err.Error() }
func (e *packageError) Unwrap() error { return e.err }

// given takes in a package that isn't built here, for those that depend on it.
func (b *builder) given(_ context.Context, u *unit) error {
	path, err := filepath.EvalSymlinks(u.Path)
	if err != nil {
		return err
	}
	file := recordFile(b.project, u.Name)
	rec := readRecord(file)
	nothing := func(string) bool { return false }
	l, err := list(path, nothing, nil)
	if err != nil {
		return err
	}
	if sig, err := sign(path); err != nil {
		return err
	} else if len(l.files) == 0 && len(l.dirs) == 0 {
		l.files["."] = sig // an archive
	}
	hashes, fresh, err := hashAll(path, l, rec.Files, func(string) bool { return true })
	if err != nil {
		return err
	}
	u.dir, u.hash = path, hashOf(func(h *keyHash) { h.inputs(hashes) })
	if fresh {
		return rec.write(file)
	}
	return nil
}

func recordFile(p *overlay.Project, name string) string {
	return filepath.Join(p.StateDir(), "builds", name)
}

func (b *builder) arch() string { return b.project.Manifest.Arch }
