package build

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// products are what builds have left in a package's own folder, as make does:
// no inputs, as long as nobody else writes to them.
type products struct {
	Arch  string               // that they were last made for
	Files map[string]signature // as they were at the end of the build
	Dirs  map[string]bool      // that git ignores; all in them is the build's
}

// sources makes a test for the files of a listing that are inputs.
func (p *products) sources(l *listing) func(name string) bool {
	return func(name string) bool {
		made, ok := p.Files[name]
		return !ok || !made.like(l.files[name])
	}
}

// newDirs lists the directories that a build has made, without those in them.
func newDirs(before, after *listing) []string {
	var dirs []string
	for dir := range after.dirs {
		if up := path.Dir(dir); !before.dirs[dir] && (up == "." || before.dirs[up]) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// learn compares a folder before a build, where inputs were its inputs, and
// after. ignored are the new directories in which nobody keeps sources.
// changed tells whether the content of an input is another than before.
// It returns the inputs that were written to meanwhile, by the build itself or
// by somebody else, in which case the build may not have seen them.
func (p *products) learn(before, after *listing, ignored []string, inputs map[string]string, changed func(name string) bool) (disturbed []string) {
	fresh := products{Arch: p.Arch, Files: make(map[string]signature), Dirs: make(map[string]bool)}
	for dir := range p.Dirs {
		if after.dirs[dir] {
			fresh.Dirs[dir] = true
		}
	}
	for _, dir := range ignored {
		fresh.Dirs[dir] = true
	}
	for name, sig := range after.files {
		was, known := p.Files[name]
		_, input := inputs[name]
		switch {
		case !input && fresh.holds(name):
		case !input:
			fresh.Files[name] = sig
		case known && changed(name):
			// Somebody had written to it, and the build has made it anew.
			fresh.Files[name] = sig
			delete(inputs, name)
		case known:
			fresh.Files[name] = was
		case changed(name):
			disturbed = append(disturbed, name)
		}
	}
	for name := range inputs {
		if _, ok := after.files[name]; ok {
			continue
		}
		_, known := p.Files[name]
		if dir, ok := strings.CutSuffix(name, dirMark); known || ok && after.dirs[dir] { // filled
			delete(inputs, name)
		} else {
			disturbed = append(disturbed, name)
		}
	}
	// What the build has made or filled is nobody's when it is empty again.
	for dir := range after.dirs {
		_, known := p.Files[dir+dirMark]
		_, input := inputs[dir+dirMark]
		_, was := before.files[dir+dirMark]
		if !input && (known || was || !before.dirs[dir]) && !fresh.holds(dir+dirMark) {
			fresh.Files[dir+dirMark] = signature{Mode: unix.S_IFDIR}
		}
	}
	*p = fresh
	slices.Sort(disturbed)
	return disturbed
}

// age makes the products that were made for another architecture older than
// their sources, so that make makes them anew.
func (p *products) age(folder, arch string) error {
	old := p.Arch
	p.Arch = arch
	if old == "" || old == arch {
		return nil
	}
	for name, made := range p.Files {
		if is, err := sign(filepath.Join(folder, name)); err == nil && made.like(is) {
			if err := makeOld(filepath.Join(folder, name)); err != nil {
				return err
			}
		}
	}
	for dir := range p.Dirs {
		err := filepath.WalkDir(filepath.Join(folder, dir), func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			return makeOld(name)
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// makeOld gives a file or a symlink a time before any source's.
func makeOld(name string) error {
	old := unix.Timespec{Sec: 1}
	err := unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{old, old}, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return &os.PathError{Op: "utimensat", Path: name, Err: err}
	}
	return nil
}

// adopt takes those of disturbed inputs that are mine for the build's own, and
// returns the others.
func (p *products) adopt(mine, disturbed []string, after *listing, inputs map[string]string) []string {
	for _, name := range mine {
		if sig, ok := after.files[name]; ok {
			p.Files[name] = sig
		}
		delete(inputs, name)
	}
	return slices.DeleteFunc(disturbed, func(name string) bool { return slices.Contains(mine, name) })
}

// holds tells whether name is in one of the directories that builds made.
func (p *products) holds(name string) bool {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if p.Dirs[dir] {
			return true
		}
	}
	return false
}
