package overlay

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

// manifestLayer makes a recorded layer of the manifest's entries with a type
// and of its remove list, so that they merge as any layer does. It is kept in
// the cache under a digest of what it holds.
func (p *Project) manifestLayer() (*Layer, error) {
	m := p.Manifest
	key := fmt.Appendf(nil, "4\n%q\n", m.Remove)
	explicit := make(map[string]bool)
	for i := range m.Files {
		if f := &m.Files[i]; f.Type != "" {
			key = fmt.Appendf(key, "%q %s %q\n", f.Path, f.meta().encode(), f.Target)
			explicit[f.Path] = true
		}
	}
	if len(explicit)+len(m.Remove) == 0 {
		return nil, nil
	}
	dir := filepath.Join(p.cacheDir(), "manifests", fmt.Sprintf("%x", sha256.Sum256(key)))
	if !isDir(dir) {
		if err := publishDir(dir, m.write); err != nil {
			return nil, fmt.Errorf("%s: %w", m.File, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(m.File, &st); err != nil {
		return nil, fmt.Errorf("%s: %w", m.File, err)
	}
	mtime := TimeOf(st.Mtim)
	return &Layer{
		Name: filepath.Base(m.File), Dir: dir, recorded: true, decides: true,
		implicit: m.implicitDirs(explicit), mtime: &mtime,
	}, nil
}

// implicitDirs are the parents that the manifest names only in passing.
func (m *Manifest) implicitDirs(explicit map[string]bool) map[string]bool {
	implicit := map[string]bool{".": true}
	add := func(p string) {
		for p = path.Dir(p); p != "."; p = path.Dir(p) {
			if !explicit[p] && !slices.Contains(m.Remove, p) {
				implicit[p] = true
			}
		}
	}
	for _, p := range m.Remove {
		add(p)
	}
	for i := range m.Files {
		if m.Files[i].Type != "" {
			add(m.Files[i].Path)
		}
	}
	return implicit
}

// publishDir fills a new directory and gives it its name when it is whole and
// the disk has it.
func publishDir(dir string, write func(tmp string) error) error {
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(parent, ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)                      //nolint:errcheck // a leftover is harmless
	if err := os.Chmod(tmp, 0o755); err != nil { // the root of the layer
		return err
	}
	if err := write(tmp); err != nil {
		return err
	}
	if err := syncHost(tmp); err != nil {
		return fmt.Errorf("sync the cache: %w", err)
	}
	if err := os.Rename(tmp, dir); err != nil && !isDir(dir) {
		return err // else another process made the same
	}
	return nil
}

// write fills the layer's directory. Paths are clean and beneath it, and a
// recorded layer holds no symlinks to follow.
func (m *Manifest) write(dir string) error {
	for _, p := range m.Remove {
		host := filepath.Join(dir, p)
		if err := makeParents(dir, p); err != nil {
			return err
		}
		if err := unix.Mknod(host, unix.S_IFCHR, 0); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("remove %q: %w", "/"+p, err)
		}
	}
	last := make(map[string]int) // of several for one path, it counts
	for i := range m.Files {
		if m.Files[i].Type != "" {
			last[m.Files[i].Path] = i
		}
	}
	for i := range m.Files {
		f := &m.Files[i]
		if f.Type == "" || last[f.Path] != i {
			continue
		}
		if err := f.write(dir); err != nil {
			return fmt.Errorf("[[file]] %q: %w", "/"+f.Path, err)
		}
	}
	return nil
}

// makeParents makes the directories above path in dir, of the same mode
// whatever the process's umask.
func makeParents(dir, path string) error {
	names := splitAll(path)
	for _, name := range names[:len(names)-1] {
		dir = filepath.Join(dir, name)
		if err := makeDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// makeDir makes a directory of the layer unless it is there. The same path under
// remove, a whiteout: what is below goes, this comes.
func makeDir(host string) error {
	var st unix.Stat_t
	removed := unix.Lstat(host, &st) == nil && isWhiteout(st.Mode)
	if removed {
		if err := os.Remove(host); err != nil {
			return err
		}
	}
	switch err := os.Mkdir(host, 0o755); {
	case errors.Is(err, os.ErrExist):
		return nil
	case err != nil:
		return err
	}
	if !removed {
		return os.Chmod(host, 0o755)
	}
	if err := xattr.LSet(host, xattrOpaque, []byte("y")); err != nil {
		return err
	}
	return unix.Chmod(host, 0o755|metaFlag)
}

func (f *ManifestFile) write(dir string) error {
	mt := f.meta()
	host := filepath.Join(dir, f.Path)
	if err := makeParents(dir, f.Path); err != nil {
		return err
	}
	if mt.mode&unix.S_IFMT == unix.S_IFDIR {
		if err := makeDir(host); err != nil {
			return err
		}
	} else {
		if err := os.Remove(host); err != nil && !errors.Is(err, os.ErrNotExist) { // a whiteout
			return err
		}
		if err := os.WriteFile(host, []byte(f.Target), 0o644); err != nil {
			return err
		}
	}
	made, err := os.Open(host)
	if err != nil {
		return err
	}
	defer made.Close() //nolint:errcheck // nothing was written
	var st unix.Stat_t
	if err := unix.Fstat(int(made.Fd()), &st); err != nil {
		return err
	}
	return recordFd(int(made.Fd()), mt, st.Mode)
}
