package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// work is the making of one package.
type work struct {
	*builder
	*unit
	folder string // the package's, links followed
	rec    *record
	leave  func()            // lets other packages have the folder
	tools  map[string]string // versions
	before *listing
	inputs map[string]string // hashes, by path in the folder
	fresh  bool              // the record has changed

	dropped []string // outputs that are not kept any more
}

// make brings the output of a package with a recipe up to date.
func (b *builder) make(ctx context.Context, u *unit) error {
	w := &work{builder: b, unit: u, rec: readRecord(recordFile(b.project, u.Name)), leave: func() {}}
	defer func() { w.leave() }()
	u.dir = filepath.Join(b.project.BuiltDir(), u.Name)
	u.result.Log = filepath.Join(b.project.StateDir(), "logs", u.Name+".log")
	u.result.Output, _ = filepath.EvalSymlinks(u.dir) // none yet
	if err := w.look(ctx); err != nil {
		return err
	}
	if output := w.rec.find(w.project.Variant(), w.key()); output != "" && !b.options.Force {
		if _, err := os.Stat(w.outputDir(output)); err == nil {
			return w.reuse(output)
		}
	}
	if err := b.options.failures.of(u.Name, w.key()); err != nil {
		return err
	}
	if ok, err := w.fetchOutput(ctx); err != nil {
		return err
	} else if ok {
		b.built <- w
		return nil
	}
	u.result.Ran = true
	b.options.Observer.Begin(u.Name)
	if err := w.build(ctx); err != nil {
		b.options.failures.add(u.Name, w.key(), err)
		return errors.Join(err, w.remember())
	}
	b.built <- w
	w.shareOutput()
	return nil
}

// look reads the package's inputs.
func (w *work) look(ctx context.Context) (err error) {
	if err := w.fetch(ctx); err != nil {
		return err
	}
	if w.folder, err = filepath.EvalSymlinks(w.Path); err != nil {
		return err
	}
	w.enter()
	if w.tools, err = w.toolVersions(ctx, w.Recipe, w.folder); err != nil {
		return err
	}
	if w.before, err = w.list(); err != nil {
		return err
	}
	w.inputs, w.fresh, err = hashAll(w.folder, w.before, w.rec.Files, w.rec.Products.sources(w.before))
	return err
}

// enter waits until no other package is at work in the folder: several may be
// made of one.
func (w *work) enter() {
	mu, _ := w.inFolder.LoadOrStore(w.folder, new(sync.Mutex))
	mu.(*sync.Mutex).Lock()
	w.leave = mu.(*sync.Mutex).Unlock
}

func (w *work) list() (*listing, error) {
	return list(w.folder, ignored(w.Recipe.Ignore), w.rec.Products.Dirs)
}

func (w *work) key() string {
	inputs := w.inputs
	if w.Recipe.Once {
		inputs = nil
	}
	return key(w.Recipe, w.arch(), w.tools, inputs, w.needs)
}

func (w *work) outputDir(output string) string { return filepath.Join(w.project.OutputsDir(), output) }

// reuse makes an output of an earlier build the package's.
func (w *work) reuse(output string) error {
	w.result.State = Unchanged
	if filepath.Base(w.result.Output) != output { // its folder may be behind a link
		w.result.State, w.result.Output = Restored, w.outputDir(output)
		w.dropped = w.rec.add(w.project.Variant(), done{w.key(), output})
		w.fresh = true
	}
	if err := w.show(output); err != nil || !w.fresh {
		return err
	}
	if err := w.rec.write(recordFile(w.project, w.Name)); err != nil {
		return err
	}
	return w.drop()
}

// drop removes the outputs that aren't kept any more.
func (w *work) drop() (err error) {
	for _, output := range w.dropped {
		err = errors.Join(err, overlay.RemoveUnused(w.outputDir(output)))
	}
	return err
}

// show switches the package to an output.
func (w *work) show(output string) error {
	w.hash = output[len(w.Name)+1:]
	return switchLink(w.dir, filepath.Join("../../outputs", w.arch(), output))
}

// build runs the command and makes what it leaves the package's output.
func (w *work) build(ctx context.Context) (err error) {
	staging := w.staging()
	if err := overlay.RemoveTree(staging); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, overlay.RemoveTree(staging)) }()
	if err := w.rec.Products.age(w.folder, w.arch()); err != nil {
		return err
	}
	root := filepath.Join(staging, "root")
	if err := w.command(ctx, staging, root); err != nil {
		return err
	}
	if err := w.learn(); err != nil {
		return err
	}
	w.result.State = Built
	return w.take(root, "")
}

// staging is the folder of what is being made.
func (w *work) staging() string { return filepath.Join(w.project.StateDir(), "staging", w.Name) }

// take makes the tree at root the package's output. Its content must be what
// the hash want says, unless that is empty.
func (w *work) take(root, want string) error {
	tree, err := inspect(root, w.arch())
	if err != nil {
		return err
	}
	if want != "" && tree.name() != want {
		return fmt.Errorf("its content has the hash %s, not %q", tree.name(), want)
	}
	if len(tree.alien) > 0 {
		w.options.Logger.Warn(fmt.Sprintf("%s: has programs for another machine than %s: %s", w.Name, w.arch(), some(tree.alien)))
	}
	// What its owner can't write to, only root can move.
	if err := os.Chmod(root, 0o755); err != nil {
		return err
	}
	output := w.Name + "-" + tree.name()
	if err := w.install(root, output); err != nil {
		return err
	}
	if err := w.show(output); err != nil {
		return err
	}
	w.result.Output = w.outputDir(output)
	w.dropped = w.rec.add(w.project.Variant(), done{w.key(), output})
	return nil
}

// command runs the recipe's command; what it puts into DESTDIR is below root.
func (w *work) command(ctx context.Context, staging, root string) error {
	dest, temp := filepath.Join(root, w.Recipe.Path), filepath.Join(staging, "tmp")
	for _, dir := range []string{dest, temp, filepath.Dir(w.result.Log)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for dir := dest; dir != staging; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
			return err
		}
	}
	own := map[string]string{"DESTDIR": dest, "DADK_CURRENT_BUILD_DIR": dest, "TMPDIR": temp}
	for _, need := range w.needs {
		own[overlay.DependencyVariable(need.Name)] = need.dir
	}
	if w.headers != "" {
		own["C_INCLUDE_PATH"] = w.headers
	}
	c := &command{
		argv: w.Recipe.Command, dir: w.folder, env: environment(w.Recipe, w.arch(), own),
		timeout: w.Recipe.Timeout, log: w.result.Log,
	}
	if w.Recipe.Confined && w.confines {
		c.folders = append(slices.Clone(w.folders), w.folder, staging)
	}
	if err := c.run(ctx); err != nil {
		w.result.Tail = tail(c.log)
		return errors.Join(w.explain(err), w.learn())
	}
	// What a link leads to isn't the output, and may change at any time.
	if st, err := os.Lstat(dest); err != nil || !st.IsDir() {
		return errors.Join(fmt.Errorf("%s: the command left no folder where DESTDIR was: let it put its files in there", w.Recipe.File), w.learn())
	}
	if left, err := os.ReadDir(dest); err != nil || len(left) > 0 {
		return err
	}
	return errors.Join(fmt.Errorf("%s: the command put nothing into DESTDIR: let it install there, as in make install DESTDIR=\"$DESTDIR\"", w.Recipe.File), w.learn())
}

// explain adds to a command's failure where to read more.
func (w *work) explain(err error) error {
	hint := ""
	if lacks := advice(w.result.Log); lacks != "" {
		hint = "; " + lacks
	}
	// In C's words, or in Go's.
	denied := func(line string) bool { return strings.Contains(line, "ermission denied") }
	if w.Recipe.Confined && w.confines && slices.ContainsFunc(w.result.Tail, denied) {
		hint += "; it may write only to its folder, DESTDIR and TMPDIR, unless its recipe says confined = false"
	}
	return fmt.Errorf("%w: see %s%s", err, w.result.Log, hint)
}

// learn looks at what the command has done to the package's folder.
func (w *work) learn() error {
	after, err := w.list()
	if err != nil {
		return err
	}
	var bad error
	ignored := gitIgnored(w.folder, newDirs(w.before, after))
	disturbed := w.rec.Products.learn(w.before, after, ignored, w.inputs, func(name string) bool {
		sig := after.files[name]
		if sig == w.before.files[name] {
			return false
		}
		hash, err := hashFile(filepath.Join(w.folder, name), sig)
		bad = errors.Join(bad, err)
		if err == nil {
			w.rec.Files[name] = fileRecord{sig, hash}
		}
		return hash != w.inputs[name]
	})
	if len(disturbed) > 0 {
		// What a build somewhere else has left, copied with the folder.
		disturbed = w.rec.Products.adopt(gitIgnored(w.folder, disturbed), disturbed, after, w.inputs)
	}
	if len(disturbed) > 0 {
		w.result.Disturbed = true
		w.options.Logger.Warn(fmt.Sprintf("%s: changed while it was built, so it will be built again; if its own command changes it, name it under ignore in %s: %s",
			w.Name, w.Recipe.File, some(disturbed)))
	}
	return bad
}

// install gives an output its place. One that is there already, from an
// earlier build, stays, so that who uses it isn't disturbed.
func (w *work) install(root, output string) error {
	place := w.outputDir(output)
	if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
		return err
	}
	if _, err := os.Lstat(place); err == nil {
		// Nobody knows whether what a crash has left is whole.
		tree, err := inspect(place, w.arch())
		if err == nil && w.Name+"-"+tree.name() == output {
			return nil
		}
		if err := overlay.RemoveTree(place); err != nil {
			return err
		}
	}
	return os.Rename(root, place)
}

// commit remembers packages that have been built, once their outputs are on
// the disk. A crash before leaves packages that are built again.
func (b *builder) commit(built []*work) error {
	err := syncFilesystem(b.project.StateDir())
	for _, w := range built {
		if err == nil {
			err = w.remember()
		}
		if err == nil {
			err = w.drop()
		}
	}
	return err
}

// remember writes the record after a build, failed or not.
func (w *work) remember() error {
	for name := range w.rec.Files {
		if _, ok := w.inputs[name]; !ok {
			delete(w.rec.Files, name)
		}
	}
	return w.rec.write(recordFile(w.project, w.Name))
}

// some lists the first few of many.
func some(names []string) string {
	const few = 5
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}
