package overlay

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// signs are the places on the host that say what a project's layers are. Their
// paths go through no link, as those of events do when what is watched doesn't.
type signs struct {
	places  map[string]signKind
	lists   map[string]bool // folders of which every name counts
	folders map[string]bool // the packages'
	watch   map[string]bool // the folders to watch: those, and where places are

	project *Project
	apps    string // one of lists
}

// signKind says what changes of a place count.
type signKind int

const (
	signName    signKind = iota + 1 // it comes, goes or is replaced
	signFile                        // or is written to
	signArchive                     // the same, but only whole is it of use
)

// signs finds the project's.
func (p *Project) signs() *signs {
	s := &signs{
		project: p, places: make(map[string]signKind), lists: make(map[string]bool),
		folders: make(map[string]bool), watch: make(map[string]bool),
	}
	if p.directories != nil {
		return s
	}
	s.watch[p.Root] = true
	for _, file := range []string{filepath.Join(p.Root, ManifestName), p.Manifest.File, p.LockFile()} {
		if file != "" {
			s.place(file, signFile)
		}
	}
	s.list(p.BuiltDir())
	if p.Manifest.checkout != nil {
		for _, dir := range p.CheckoutDirs() {
			s.list(dir)
		}
	}
	for _, dir := range p.LayerDirs() {
		if end := s.place(dir, signArchive); end != "" && isOCILayout(end) {
			s.place(filepath.Join(end, "index.json"), signFile)
		}
	}
	s.packages(p.AppsDir())
	return s
}

// packages adds what says which packages there are, and where.
func (s *signs) packages(apps string) {
	s.apps = s.list(apps)
	entries, err := os.ReadDir(s.apps)
	if err != nil {
		return
	}
	for _, e := range entries {
		if s.excludes(e.Name()) {
			continue
		}
		dir := filepath.Join(s.apps, e.Name())
		if e.Type()&os.ModeSymlink != 0 {
			dir = s.in(s.apps, e.Name(), signArchive)
		}
		if !e.IsDir() && (e.Type().IsRegular() || !isDir(dir)) {
			continue
		}
		s.folders[dir], s.watch[dir] = true, true
		s.in(dir, resultLink, signName)
		s.in(dir, RecipeName, signFile)
	}
}

// excludes tells whether a name in the packages' folder is none of theirs.
func (s *signs) excludes(name string) bool {
	return noPackage(s.project.Manifest.Apps.Exclude, name)
}

// list adds a folder of which every name counts, and returns where it is.
func (s *signs) list(dir string) string {
	end := s.place(dir, signName)
	if isDir(end) {
		s.lists[end], s.watch[end] = true, true
	}
	return end
}

// place adds a path and, if that is a link, what it leads to, which is returned;
// "" where that can't be followed.
func (s *signs) place(path string, kind signKind) string {
	return s.in("/", path, kind)
}

// in is place for a path from a folder on whose path goes through no link.
func (s *signs) in(dir, path string, kind signKind) string {
	links := 0
	return s.follow(dir, path, kind, &links)
}

// follow is in, with the number of links that were followed before. What the path
// leads through counts as well, but for the folders that the project is in and its
// own.
func (s *signs) follow(dir, path string, kind signKind, links *int) string {
	if filepath.IsAbs(path) {
		dir = "/"
	}
	names := splitAll(path)
	for i, name := range names {
		last := i == len(names)-1
		switch name {
		case "..":
			dir = filepath.Dir(dir)
			continue
		case ".":
			continue
		}
		at := filepath.Join(dir, name)
		var st unix.Stat_t // most packages have none of what is looked for
		missing := unix.Lstat(at, &st) != nil
		typ := st.Mode & unix.S_IFMT
		here := signName
		if last && !missing && typ == unix.S_IFREG {
			here = kind
		}
		if last || !inside(s.project.Root, at) && !inside(at, s.project.StateDir()) {
			s.watch[dir] = true
			s.places[at] = max(s.places[at], here)
		}
		switch {
		case missing && last:
			return at
		case missing:
			return ""
		case typ != unix.S_IFLNK:
			dir = at
			continue
		}
		target, err := os.Readlink(at)
		if *links++; err != nil || *links > maxLinks {
			return ""
		}
		if last {
			return s.follow(dir, target, kind, links)
		}
		if dir = s.follow(dir, target, signName, links); dir == "" {
			return ""
		}
	}
	return dir
}

// state is what the signs say: the names in lists, when those of packages changed,
// and which file each place is and when it was written to.
func (s *signs) state() map[string]string {
	state := make(map[string]string)
	for dir := range s.lists {
		if entries, _ := os.ReadDir(dir); len(entries) > 0 {
			state[dir+"/"] = fmt.Sprint(entries)
		}
	}
	var st unix.Stat_t
	for dir := range s.folders {
		if unix.Lstat(dir, &st) == nil {
			state[dir+"/"] = fmt.Sprint(st.Ino, st.Ctim)
		}
	}
	for place, kind := range s.places {
		switch {
		case s.lists[place]: // also an empty one that Watch has made
		case kind == signName && s.folders[filepath.Dir(place)]: // as most packages have none
		case unix.Lstat(place, &st) != nil:
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			state[place] = fmt.Sprint(st.Ino)
		default:
			state[place] = fmt.Sprint(st.Ino, st.Mtim, st.Size)
		}
	}
	return state
}

// counts tells whether what happened to path may change the layers; 0 when not.
// other says that it may be another file now; else it was written to.
func (s *signs) counts(path string, other bool) signKind {
	dir, name := filepath.Dir(path), filepath.Base(path)
	kind := s.places[path]
	if dir == s.apps && !s.excludes(name) {
		if _, ok := cutArchiveSuffix(name); ok && !isDir(path) {
			kind = signArchive
		}
	}
	switch {
	case kind == signArchive:
		return kind
	case other && (kind != 0 || s.lists[dir]):
		return signName
	case kind == signFile, s.lists[dir] && strings.HasSuffix(name, ".toml"):
		return signFile
	}
	return 0
}
