package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// crashFile is an inode of the model: what must be there after a crash.
type crashFile struct {
	mode    uint32 // with the type
	uid     uint32
	content string // a symlink's target
	note    string // user.note
}

// crashState is a directory's content: a path to each name. Names of one file
// share it.
type crashState map[string]*crashFile

func (s crashState) clone() crashState {
	twins := make(map[*crashFile]*crashFile)
	c := make(crashState, len(s))
	for path, f := range s {
		if twins[f] == nil {
			twin := *f
			twins[f] = &twin
		}
		c[path] = twins[f]
	}
	return c
}

// lines describes a state, one line a path.
func (s crashState) lines() []string {
	names := make(map[*crashFile][]string)
	paths := slices.Sorted(maps.Keys(s))
	for _, path := range paths {
		names[s[path]] = append(names[s[path]], path)
	}
	var lines []string
	for _, path := range paths {
		lines = append(lines, s[path].line(path, names[s[path]]))
	}
	return lines
}

func (f *crashFile) line(path string, names []string) string {
	if f.mode&unix.S_IFMT == unix.S_IFDIR {
		names = nil
	}
	return fmt.Sprintf("%s %o %d %q %q %v", path, f.mode, f.uid, f.note, f.content, names)
}

// crashWriter edits a directory, a random edit after another, and makes each
// durable. It knows what may be seen after a crash at any moment.
type crashWriter struct {
	dir string

	// states are what may be there: first what is durable, then what each step
	// of the edit under way would make of it.
	states []crashState

	// cut tells that the power is off; nil where only the daemon dies. A daemon
	// that is killed takes nothing along that it has answered for. When the
	// power goes, only what was synced before stays: ext4 answers some syncs
	// that wait at that moment with success (measured without us in 6 of 57
	// cuts).
	cut *atomic.Bool

	edits, syncs int
}

// layCrashLayer makes the layer's part of what a writer starts with.
func layCrashLayer(dir string) (crashState, error) {
	s := crashState{
		"a": {mode: unix.S_IFREG | 0o644, content: crashContent()},
		"b": {mode: unix.S_IFREG | 0o755, content: crashContent()},
		"c": {mode: unix.S_IFREG | 0o600, content: crashContent()},
		"s": {mode: unix.S_IFLNK | 0o777, content: "a"},
		"d": {mode: unix.S_IFDIR | 0o755}, "d/a": {mode: unix.S_IFREG | 0o644, content: crashContent()},
	}
	if err := os.MkdirAll(filepath.Join(dir, "d"), 0o755); err != nil {
		return nil, err
	}
	for path, f := range s {
		var err error
		switch name := filepath.Join(dir, path); f.mode & unix.S_IFMT {
		case unix.S_IFREG:
			err = errors.Join(os.WriteFile(name, []byte(f.content), 0o600), os.Chmod(name, os.FileMode(f.mode&0o777)))
		case unix.S_IFLNK:
			err = os.Symlink(f.content, name)
		}
		if err != nil {
			return nil, err
		}
	}
	s["k"] = s["a"]
	return s, os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "k"))
}

// crashContent is different each time and of one length.
func crashContent() string {
	return strings.Repeat(fmt.Sprintf("%016x\n", rand.Uint64()), 60)
}

// run edits until an edit fails, and returns its error.
func (w *crashWriter) run() error {
	for {
		if err := crashEdits[rand.N(len(crashEdits))](w); err != nil {
			return err
		}
		w.edits++
	}
}

func (w *crashWriter) at(path string) string { return filepath.Join(w.dir, path) }

func (w *crashWriter) now() crashState { return w.states[len(w.states)-1] }

// step does one call that makes change true.
func (w *crashWriter) step(change func(s crashState), call func() error) error {
	next := w.now().clone()
	change(next)
	w.states = append(w.states, next)
	err := call()
	if err == nil && w.cut == nil {
		w.states = w.states[len(w.states)-1:]
	}
	return err
}

// sync makes what was done durable.
func (w *crashWriter) sync(path string) error {
	f, err := os.Open(w.at(path))
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err == nil && w.cut != nil && w.cut.Load() {
		err = unix.EIO
	}
	if err == nil {
		w.states = w.states[len(w.states)-1:]
		w.syncs++
	}
	return err
}

// file picks a regular file, a name and its file.
func (w *crashWriter) file() (string, *crashFile) {
	var paths []string
	for path, f := range w.now() {
		if f.mode&unix.S_IFMT == unix.S_IFREG {
			paths = append(paths, path)
		}
	}
	if len(paths) == 0 {
		return "", nil
	}
	path := paths[rand.N(len(paths))]
	return path, w.now()[path]
}

// fresh picks a path that isn't there, "" if that doesn't come about.
func (w *crashWriter) fresh() string {
	path := string("abcdefg"[rand.N(7)])
	for _, dir := range []string{"d", "e"} {
		if f := w.now()[dir]; f != nil && f.mode&unix.S_IFMT == unix.S_IFDIR && rand.N(3) == 0 {
			path = dir + "/" + path
		}
	}
	if w.now()[path] != nil {
		return ""
	}
	return path
}

// crashEdits are the edits. Each that finds nothing to do is none.
var crashEdits = []func(w *crashWriter) error{
	overwriteOrAppend, overwriteOrAppend, overwriteOrAppend,
	createFile, createFile, replaceFile, replaceFile,
	linkFile, unlinkFile, unlinkFile, changeAttributes, changeAttributes,
	makeSpecial, moveDirectory, makeDirectory,
}

func overwriteOrAppend(w *crashWriter) error {
	path, _ := w.file()
	if path == "" {
		return nil
	}
	flags, text := os.O_WRONLY, crashContent()
	if rand.N(2) == 0 {
		flags |= os.O_APPEND
	}
	f, err := os.OpenFile(w.at(path), flags, 0)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // a sync follows
	err = w.step(func(s crashState) {
		if flags&os.O_APPEND != 0 {
			s[path].content += text
		} else {
			s[path].content = text + s[path].content[min(len(text), len(s[path].content)):]
		}
	}, func() error {
		_, err := f.WriteString(text)
		return err
	})
	return errors.Join(err, w.unlessFailed(err, path))
}

// unlessFailed syncs a path after a step, unless that failed.
func (w *crashWriter) unlessFailed(err error, path string) error {
	if err != nil {
		return nil
	}
	return w.sync(path)
}

// create makes a file with content, and syncs it.
func (w *crashWriter) create(path string) error {
	var f *os.File
	err := w.step(func(s crashState) { s[path] = &crashFile{mode: unix.S_IFREG | 0o644} }, func() (err error) {
		f, err = os.OpenFile(w.at(path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		return err
	})
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it is synced
	text := crashContent()
	err = w.step(func(s crashState) { s[path].content = text }, func() error {
		_, err := f.WriteString(text)
		return err
	})
	return errors.Join(err, w.unlessFailed(err, path))
}

func createFile(w *crashWriter) error {
	path := w.fresh()
	if path == "" {
		return nil
	}
	if err := w.create(path); err != nil {
		return err
	}
	return w.sync(filepath.Dir(path))
}

// replaceFile is how editors save.
func replaceFile(w *crashWriter) error {
	path, _ := w.file()
	if path == "" {
		return nil
	}
	if err := w.create("temp"); err != nil {
		return err
	}
	err := w.step(func(s crashState) {
		s[path] = s["temp"]
		delete(s, "temp")
	}, func() error { return os.Rename(w.at("temp"), w.at(path)) })
	if err := errors.Join(err, w.unlessFailed(err, filepath.Dir(path))); err != nil {
		return err
	}
	return w.sync(".")
}

func linkFile(w *crashWriter) error {
	path, _ := w.file()
	to := w.fresh()
	if path == "" || to == "" {
		return nil
	}
	err := w.step(func(s crashState) { s[to] = s[path] }, func() error { return os.Link(w.at(path), w.at(to)) })
	return errors.Join(err, w.unlessFailed(err, filepath.Dir(to)))
}

func unlinkFile(w *crashWriter) error {
	path, _ := w.file()
	if path == "" {
		return nil
	}
	err := w.step(func(s crashState) { delete(s, path) }, func() error { return os.Remove(w.at(path)) })
	return errors.Join(err, w.unlessFailed(err, filepath.Dir(path)))
}

func changeAttributes(w *crashWriter) error {
	path, f := w.file()
	if path == "" {
		return nil
	}
	var change func(f *crashFile)
	var call func() error
	switch rand.N(4) {
	case 0:
		mode := []uint32{0o644, 0o4755, 0o600, 0o444, 0o1777}[rand.N(5)]
		change = func(f *crashFile) { f.mode = unix.S_IFREG | mode }
		call = func() error { return unix.Chmod(w.at(path), mode) }
	case 1:
		uid := rand.N[uint32](3) * 1000
		change = func(f *crashFile) { f.uid, f.mode = uid, f.mode&^unix.S_ISUID }
		call = func() error { return os.Lchown(w.at(path), int(uid), -1) }
	case 2:
		note := fmt.Sprint(rand.Uint64())
		change = func(f *crashFile) { f.note = note }
		call = func() error { return unix.Lsetxattr(w.at(path), "user.note", []byte(note), 0) }
	default:
		size := rand.N(len(f.content) + 1)
		change = func(f *crashFile) { f.content = f.content[:size] }
		call = func() error { return os.Truncate(w.at(path), int64(size)) }
	}
	err := w.step(func(s crashState) { change(s[path]) }, call)
	return errors.Join(err, w.unlessFailed(err, path))
}

// makeSpecial makes what the host keeps as a placeholder.
func makeSpecial(w *crashWriter) error {
	path := w.fresh()
	if path == "" {
		return nil
	}
	f := &crashFile{mode: unix.S_IFIFO | 0o640}
	call := func() error { return unix.Mkfifo(w.at(path), 0o640) }
	if rand.N(3) > 0 {
		target := strings.Repeat("x/", 1+rand.N(100))
		f = &crashFile{mode: unix.S_IFLNK | 0o777, content: target}
		call = func() error { return os.Symlink(target, w.at(path)) }
	}
	err := w.step(func(s crashState) { s[path] = f }, call)
	return errors.Join(err, w.unlessFailed(err, filepath.Dir(path)))
}

// moveDirectory renames the directory, which comes from the layer.
func moveDirectory(w *crashWriter) error {
	from, to := "d", "e"
	if w.now()[from] == nil || w.now()[from].mode&unix.S_IFMT != unix.S_IFDIR {
		from, to = to, from
	}
	if f := w.now()[from]; f == nil || f.mode&unix.S_IFMT != unix.S_IFDIR || w.now()[to] != nil {
		return nil
	}
	err := w.step(func(s crashState) {
		for path, f := range maps.Clone(s) {
			if rest, ok := strings.CutPrefix(path, from); ok && (rest == "" || rest[0] == '/') {
				delete(s, path)
				s[to+rest] = f
			}
		}
	}, func() error { return os.Rename(w.at(from), w.at(to)) })
	return errors.Join(err, w.unlessFailed(err, "."))
}

// makeDirectory makes a directory that the host records, or removes it again.
func makeDirectory(w *crashWriter) error {
	const path = "new"
	if w.now()[path] != nil {
		err := w.step(func(s crashState) { delete(s, path) }, func() error { return os.Remove(w.at(path)) })
		return errors.Join(err, w.unlessFailed(err, "."))
	}
	err := w.step(func(s crashState) { s[path] = &crashFile{mode: unix.S_IFDIR | 0o755} },
		func() error { return unix.Mkdir(w.at(path), 0o755) })
	if err != nil {
		return err
	}
	err = w.step(func(s crashState) { s[path].mode = unix.S_IFDIR | 0o2775 },
		func() error { return unix.Chmod(w.at(path), 0o2775) })
	return errors.Join(err, w.unlessFailed(err, "."))
}

// check compares what is there now with what may be, and goes on from there.
func (w *crashWriter) check() error {
	is, err := readCrashState(w.dir)
	if err != nil {
		return err
	}
	for i, s := range w.states {
		seen := is
		if w.cut != nil && i > 0 {
			seen = is.healed(w.states[i-1], s)
		}
		if slices.Equal(seen.lines(), s.lines()) {
			w.states = []crashState{is}
			return nil
		}
	}
	return fmt.Errorf("%s: %d states may be there, and none is\n%s",
		w.dir, len(w.states), crashDiff(w.states[0].lines(), w.now().lines(), is.lines()))
}

// healed takes a write or a truncate that wasn't synced for one that was done:
// ext4 may keep the new size and not yet the bytes, or zero what is to be cut
// off first.
func (s crashState) healed(old, last crashState) crashState {
	h := s.clone()
	for path, f := range h {
		if a, b := old[path], last[path]; a != nil && b != nil && torn(a.content, b.content, f.content) {
			f.content = b.content
		}
	}
	return h
}

// torn tells whether each byte is the old one, the new one or, where only one
// of them has any, a zero.
func torn(old, last, is string) bool {
	both := min(len(old), len(last))
	if len(is) < both || len(is) > max(len(old), len(last)) {
		return false
	}
	for i := range is {
		switch {
		case i < len(old) && is[i] == old[i], i < len(last) && is[i] == last[i], i >= both && is[i] == 0:
		default:
			return false
		}
	}
	return true
}

// crashDiff shows the lines in which what is there differs from the first or
// the last of what may be.
func crashDiff(old, last, is []string) string {
	var b strings.Builder
	for _, kind := range []struct {
		name      string
		of, not   []string
		otherwise []string
	}{{"old only", old, is, nil}, {"new only", last, is, nil}, {"there", is, old, last}} {
		for _, line := range kind.of {
			if !slices.Contains(kind.not, line) || kind.otherwise != nil && !slices.Contains(kind.otherwise, line) {
				fmt.Fprintf(&b, "%-8s %.60s … %s\n", kind.name, line, line[max(0, len(line)-40):])
			}
		}
	}
	return b.String()
}

func readCrashState(dir string) (crashState, error) {
	s := make(crashState)
	inodes := make(map[uint64]*crashFile)
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		f := inodes[st.Ino]
		if f == nil {
			if f, err = readCrashFile(path, &st); err != nil {
				return err
			}
			inodes[st.Ino] = f
		}
		s[path[len(dir)+1:]] = f
		return nil
	})
	return s, err
}

func readCrashFile(path string, st *unix.Stat_t) (*crashFile, error) {
	f := &crashFile{mode: st.Mode, uid: st.Uid}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		f.content = target
		return f, err
	case unix.S_IFREG:
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		f.content = string(text)
		if len(text) != int(st.Size) {
			return nil, fmt.Errorf("%s: %d bytes, and stat says %d", path, len(text), st.Size)
		}
		buf := make([]byte, 64)
		n, err := unix.Lgetxattr(path, "user.note", buf)
		if errors.Is(err, unix.ENODATA) {
			return f, nil
		}
		f.note = string(buf[:max(n, 0)])
		return f, err
	}
	return f, nil
}
