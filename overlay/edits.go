package overlay

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The edits are a stack of recorded layers in the project's state directory,
// the newest writable:
//
//	.rootfs/edits/format       the version of this arrangement
//	.rootfs/edits/N/root       the layer
//	.rootfs/edits/N/work       entries on their way into root, by rename
//	.rootfs/edits/N/index      copied-up files that have several names below
const (
	editsName   = "edits"
	editsFormat = "1"
	formatFile  = "format"
	firstEdits  = "0001"
)

// state is what only the process that edits has.
type state struct {
	lock  *os.File
	work  *hostDir
	index *index
	temp  atomic.Uint64

	readers map[string]int // at temporary checkpoints, by ID; under Tree.mu

	beingRead bool     // another process had a steady tree open at the beginning
	alone     *os.File // keeps others from opening one; nil mostly
}

// openEdits adds the edits to the layers, up to a checkpoint if one is named.
func (t *Tree) openEdits(o *Options) error {
	writable, upTo := !o.ReadOnly, o.Checkpoint
	if d := t.project.directories; d != nil {
		return t.openUpper(d, writable)
	}
	dir := filepath.Join(t.project.StateDir(), editsName)
	if writable {
		if err := t.prepareState(dir); err != nil {
			return err
		}
	}
	if err := checkFormat(filepath.Join(dir, formatFile)); err != nil {
		if errors.Is(err, os.ErrNotExist) && !writable {
			return nil
		}
		return err
	}
	if err := t.lockReading(dir, o); err != nil {
		return err
	}
	stack, err := editsStack(dir)
	if err != nil {
		return err
	}
	if len(stack) == 0 {
		return fmt.Errorf("%s: damaged: there are no edits", dir)
	}
	if upTo != "" {
		i := slices.Index(stack, upTo)
		if i < 0 || i == len(stack)-1 { // the last one is being written
			return fmt.Errorf("%s: there is no checkpoint %s any more", dir, upTo)
		}
		stack = stack[:i+1]
	}
	for _, n := range stack {
		t.pushEdits(editsLayer(filepath.Join(dir, n, "root")), "..")
	}
	return nil
}

func editsLayer(dir string) *Layer {
	l := &Layer{Name: editsName, Dir: dir, recorded: true, edit: true}
	l.root = &hostDir{layer: l}
	return l
}

// pushEdits puts a layer of edits on top. beside is where its work and index
// directories are, relative to it, as every access is.
func (t *Tree) pushEdits(l *Layer, beside string) {
	if t.edits != nil {
		t.edits.Name = "checkpoint " + t.edits.id()
	}
	t.layers = append(slices.Clip(t.layers), l) // who holds the old slice keeps it
	t.edits = l
	x := &index{dir: &hostDir{layer: l, parent: l.root, name: beside + "/index"}}
	t.indexes = append(t.indexes, x)
	if t.state != nil {
		t.state.work = &hostDir{layer: l, parent: l.root, name: beside + "/work"}
		t.state.index = x
	}
}

// id is the name of an edits layer's directory in the stack.
func (l *Layer) id() string { return filepath.Base(filepath.Dir(l.Dir)) }

// prepareState makes the state directory, takes the lock and makes the first
// edits.
func (t *Tree) prepareState(dir string) error {
	if err := t.project.MakeStateDir(); err != nil {
		return err
	}
	if err := t.lockState(); err != nil {
		return err
	}
	err := checkFormat(filepath.Join(dir, formatFile)) // before anything is cleared up
	if errors.Is(err, os.ErrNotExist) {
		err = makeEdits(dir)
	}
	if err != nil {
		return err
	}
	// A layer that a killed squash has left holds names of the others' files,
	// which would count.
	if err := dropUnfinished(dir); err != nil {
		return err
	}
	stack, err := editsStack(dir)
	if err != nil || len(stack) == 0 {
		return err
	}
	for _, id := range stack {
		if err := dropReplaced(dir, id); err != nil {
			return err
		}
	}
	work := filepath.Join(dir, stack[len(stack)-1], "work")
	if err := setAside(work); err != nil {
		return err
	}
	return os.MkdirAll(work, 0o755) // a crash may come while it is set aside
}

// lockState takes the lock of the state directory.
func (t *Tree) lockState() error {
	lock, err := takeLock(t.project.StateFile("lock"))
	if err != nil {
		return err
	}
	t.state = &state{lock: lock, readers: make(map[string]int)}
	unix.Umask(0)
	return nil
}

// makeEdits makes empty edits; the format file comes last and says that they
// are whole.
func makeEdits(dir string) error {
	for _, sub := range []string{"root", "work", "index"} {
		if err := os.MkdirAll(filepath.Join(dir, firstEdits, sub), 0o755); err != nil {
			return err
		}
	}
	probe := filepath.Join(dir, firstEdits, "work")
	if err := unix.Setxattr(probe, xattrPrefix+"probe", []byte("y"), 0); err != nil {
		return fmt.Errorf("%s: this filesystem keeps no extended attributes (%w): put the project on ext4, xfs, btrfs or a recent tmpfs", dir, err)
	}
	if err := unix.Removexattr(probe, xattrPrefix+"probe"); err != nil {
		return err
	}
	return writeWhole(filepath.Join(dir, formatFile), []byte(editsFormat+"\n"))
}

// writeWhole makes a file of the state, or replaces it, so that a crash or a
// power cut leaves the old one or the new one.
func writeWhole(file string, text []byte) (err error) {
	temp := filepath.Join(filepath.Dir(file), "."+filepath.Base(file)+".new")
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

func checkFormat(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if v := strings.TrimSpace(string(text)); v != editsFormat {
		return fmt.Errorf("%s: edits of format %q, and this program knows %q: use the program that made them", file, v, editsFormat)
	}
	return nil
}

// compareIDs orders the names of edits layers by age: after 9999 comes 10000.
func compareIDs(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) }

// editsStack lists the numbered directories, oldest first.
func editsStack(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return compareIDs(a.Name(), b.Name()) })
	var stack []string
	for _, e := range entries {
		if _, err := strconv.ParseUint(e.Name(), 10, 32); err != nil || !e.IsDir() {
			continue
		}
		replaced, err := os.ReadFile(filepath.Join(dir, e.Name(), replacesFile))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if n := len(stack); n > 0 && stack[n-1] == string(replaced) {
			stack = stack[:n-1]
		}
		stack = append(stack, e.Name())
	}
	return stack, nil
}

// setAside moves what a crash left in a work directory out of the way. It
// was never part of the tree, but it is somebody's: it is not deleted.
func setAside(work string) error {
	left, err := os.ReadDir(work)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || len(left) == 0 {
		return err
	}
	for i := 1; ; i++ {
		aside := fmt.Sprintf("%s.left-%d", work, i)
		if _, err := os.Lstat(aside); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err := os.Rename(work, aside); err != nil {
			return err
		}
		return os.Mkdir(work, 0o755)
	}
}

// LockedError says that another process edits the project.
type LockedError struct {
	File string
	PID  int // 0 when it isn't known
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("%s: process %d has this project mounted or edits it: unmount it first, or try again when it has ended", e.File, e.PID)
}

// takeLock takes the lock file, which holds the pid of its owner. The kernel
// frees it when the owner dies, which is waited for.
func takeLock(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	const step, limit = 5 * time.Millisecond, 2 * time.Second
	for waited := time.Duration(0); ; waited += step {
		err := flock(f, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("%s: %w", file, err), f.Close())
		}
		text, _ := os.ReadFile(file)
		pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		if waited >= limit || !ended(pid) {
			return nil, errors.Join(&LockedError{File: file, PID: pid}, f.Close())
		}
		time.Sleep(step)
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := fmt.Fprintf(f, "%d\n", os.Getpid()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ended tells whether a process has ended, though the kernel may not have closed
// all of its files yet: proc(5), the state in /proc/PID/stat.
func ended(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
	}
	_, state, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')')+1:]), " ")
	return strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X")
}

func (s *state) close() error {
	if s.alone != nil {
		_ = s.alone.Close()
	}
	return s.lock.Close()
}

// tempName returns a name that is free in the work directory.
func (s *state) tempName() string { return strconv.FormatUint(s.temp.Add(1), 36) }

// startRoot gives a new edits root the attributes of the root below, so that
// the first edit doesn't change them.
func (t *Tree) startRoot() error {
	top := t.root.dir.stack[0]
	lower := t.root.dir.stack[1:]
	if len(lower) == 0 {
		return nil
	}
	if v, err := top.mark(xattrMeta); err != nil || v != "" {
		return err
	}
	t.root.dir.stack = lower
	snap, err := t.snapshot(t.root)
	t.root.dir.stack = append([]*hostDir{top}, lower...)
	if err != nil {
		return err
	}
	return snap.apply(top)
}
