package build

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// signature tells whether a file may have changed. The kernel sets ctime,
// which no program can turn back.
type signature struct {
	Size, Mtime, Ctime int64 // bytes, ns, ns
	Ino                uint64
	Mode               uint32
}

// like tells whether a product is as it was. Who only changes its mode or
// owner doesn't make it an input.
func (s signature) like(t signature) bool { return s.Size == t.Size && s.Mtime == t.Mtime }

// fileRecord is a file's content as it was when it had a signature.
type fileRecord struct {
	Signature signature
	Hash      string // of type, execute bit and content
}

// listing is what a folder holds, by path relative to it.
type listing struct {
	// files are regular files and symlinks, and as "NAME/" the directories that
	// no file tells of: empty ones, and sticky ones for their mode.
	files map[string]signature
	dirs  map[string]bool // without the folder itself
}

// dirMark ends the name of a directory among files.
const dirMark = "/"

// list walks a folder. What skip names is no part of it, nor what other
// programs keep there (.git, the link "result"). It doesn't enter closed
// directories.
func list(folder string, skip func(name string) bool, closed map[string]bool) (*listing, error) {
	l := &listing{files: make(map[string]signature), dirs: make(map[string]bool)}
	tells := make(map[string]bool) // directories that something is in
	err := filepath.WalkDir(folder, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			if name != folder && errors.Is(err, fs.ErrNotExist) {
				return nil // gone since its name was read
			}
			return err
		}
		if name == folder {
			return nil
		}
		rel := name[len(folder)+1:]
		if entry.Name() == ".git" || rel == "result" && entry.Type() == fs.ModeSymlink || skip(rel) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if entry.IsDir() {
			l.dirs[rel], tells[path.Dir(rel)] = true, true
			if closed[rel] {
				tells[rel] = true
				return fs.SkipDir
			}
			return l.addSticky(name, rel)
		}
		if typ := entry.Type(); typ != 0 && typ != fs.ModeSymlink {
			return nil // a socket or the like can't be an input
		}
		sig, err := sign(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		l.files[rel], tells[path.Dir(rel)] = sig, true
		return err
	})
	for dir := range l.dirs {
		if _, ok := l.files[dir+dirMark]; !ok && !tells[dir] {
			l.files[dir+dirMark] = signature{Mode: unix.S_IFDIR}
		}
	}
	return l, err
}

// addSticky adds a directory whose mode a layer shows as it is.
func (l *listing) addSticky(name, rel string) error {
	sig, err := sign(name)
	if err == nil && sig.Mode&unix.S_ISVTX != 0 {
		l.files[rel+dirMark] = signature{Mode: sig.Mode}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// sign returns the signature of a file, links not followed.
func sign(name string) (signature, error) {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return signature{}, &os.PathError{Op: "lstat", Path: name, Err: err}
	}
	return signature{
		Size: st.Size, Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(), Ino: st.Ino, Mode: st.Mode,
	}, nil
}

// hashFile returns the hash of a file of a listing. Of a mode only what no umask
// sets counts: whether it can be executed, set-id bits, and all of a sticky
// directory's.
func hashFile(name string, sig signature) (string, error) {
	h := sha256.New()
	if sig.Mode&unix.S_IFMT == unix.S_IFDIR {
		_, _ = fmt.Fprintf(h, "dir %o", sig.Mode)
		return string(h.Sum(nil)), nil
	}
	if sig.Mode&unix.S_IFMT == unix.S_IFLNK {
		target, err := os.Readlink(name)
		if err != nil {
			return "", err
		}
		_, _ = fmt.Fprintf(h, "link %s", target)
		return string(h.Sum(nil)), nil
	}
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	if special := sig.Mode & (unix.S_ISUID | unix.S_ISGID); special != 0 {
		_, _ = fmt.Fprintf(h, "set-id %o ", special)
	}
	_, _ = fmt.Fprintf(h, "file %t ", sig.Mode&0o111 != 0)
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return string(h.Sum(nil)), nil
}

// hashAll returns the hashes of the files of a listing that choose takes,
// those known from before without reading the file. It keeps cache to what is
// there. fresh tells that a file was read.
func hashAll(folder string, l *listing, cache map[string]fileRecord, choose func(string) bool) (hashes map[string]string, fresh bool, err error) {
	hashes = make(map[string]string, len(l.files))
	for name, sig := range l.files {
		if !choose(name) {
			continue
		}
		known, ok := cache[name]
		if !ok || known.Signature != sig {
			full := filepath.Join(folder, name)
			hash, err := hashFile(full, sig)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, false, err
			}
			known = fileRecord{sig, hash}
			cache[name], fresh = known, true
		}
		hashes[name] = known.Hash
	}
	for name := range cache {
		if _, ok := hashes[name]; !ok {
			delete(cache, name)
			fresh = true
		}
	}
	return hashes, fresh, nil
}

// ignored makes a test for the names that patterns match: one with a slash
// matches the path in the folder, one without any name below it.
func ignored(patterns []string) func(name string) bool {
	return func(name string) bool {
		for _, pattern := range patterns {
			word := path.Base(name)
			if strings.Contains(pattern, "/") {
				word = name
			}
			if ok, _ := path.Match(strings.Trim(pattern, "/"), word); ok { // checked with the recipe
				return true
			}
		}
		return false
	}
}
