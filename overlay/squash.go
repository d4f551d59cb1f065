package overlay

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A checkpoint is dropped by merging its layer of edits with the one above it
// into a new one that stands for both. Nothing is copied: the new layer's files
// are further names of theirs. It takes the upper one's place in one step, and
// its file "replaces" names the lower one, which is no part of the stack from
// then on, and is deleted; so a crash leaves the old stack or the new one.

// replacesFile is in the directory of a layer that stands for the one below.
const replacesFile = "replaces"

// Squash drops the checkpoints for which drop says so. What the project shows,
// and what it showed at the other checkpoints, stays. It returns those that it
// has dropped. The project must not be mounted.
func (p *Project) Squash(drop func(Checkpoint) bool) (dropped []Checkpoint, err error) {
	for {
		t, err := Open(p, Options{alone: true})
		if err != nil {
			return dropped, err
		}
		c, err := t.squashOne(drop)
		if err = errors.Join(err, t.Close()); err != nil || c == nil {
			return dropped, err
		}
		dropped = append(dropped, *c)
	}
}

// squashOne drops the oldest checkpoint that is to go; nil when there is none.
func (t *Tree) squashOne(drop func(Checkpoint) bool) (*Checkpoint, error) {
	all, err := readCheckpoints(t.stackDir())
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, drop)
	if i < 0 {
		return nil, nil
	}
	at := slices.IndexFunc(t.layers, func(l *Layer) bool { return l.edit && l.id() == all[i].ID })
	for _, x := range t.indexes {
		if x.dir.layer.rank <= at {
			continue
		}
		// A copy may have no other name than the one in the index.
		if err := cmp.Or(forgetOrigins(x.dir.layer.root), forgetOrigins(x.dir)); err != nil {
			return nil, err
		}
	}
	s := &squash{tree: t, lower: t.layers[at], upper: t.layers[at+1]}
	if err := s.run(); err != nil {
		return nil, fmt.Errorf("drop checkpoint %s: %w", all[i].ID, err)
	}
	return &all[i], nil
}

func (t *Tree) stackDir() string { return filepath.Dir(filepath.Dir(t.edits.Dir)) }

// squash merges two layers of edits that are next to each other.
type squash struct {
	tree         *Tree
	lower, upper *Layer
	merged       *Layer

	// copies are the upper layer's copies of files of the lower one that have
	// several names, by the name that the upper index has for them.
	copies map[string]bool
}

func (s *squash) run() error {
	stackDir := s.tree.stackDir()
	dir, err := os.MkdirTemp(stackDir, ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // the merged one, or what it has replaced
	for _, sub := range []string{"root", "work", "index"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	s.merged = editsLayer(filepath.Join(dir, "root"))
	s.merged.tree = s.tree
	if err := s.indexes(); err != nil {
		return err
	}
	if err := s.directory(s.upper.root, s.lower.root, s.merged.root, below{path: ""}); err != nil {
		return err
	}
	old := filepath.Join(stackDir, s.upper.id())
	frozen, err := os.ReadFile(filepath.Join(old, checkpointFile))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, checkpointFile), frozen, 0o644)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, replacesFile), []byte(s.lower.id()), 0o644); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if err := s.tree.syncEdits(); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, old, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	if err := s.tree.syncEdits(); err != nil {
		return err
	}
	return dropReplaced(stackDir, s.upper.id())
}

// dropUnfinished deletes layers that a crash has kept from becoming part of the
// stack, or from going after they were taken out.
func dropUnfinished(stackDir string) error {
	all, err := os.ReadDir(stackDir)
	for _, e := range all {
		if strings.HasPrefix(e.Name(), ".new-") || strings.HasPrefix(e.Name(), ".gone-") {
			err = errors.Join(err, os.RemoveAll(filepath.Join(stackDir, e.Name())))
		}
	}
	return err
}

// dropReplaced deletes the layer that another one of the stack stands for.
func dropReplaced(stackDir, id string) error {
	file := filepath.Join(stackDir, id, replacesFile)
	text, err := os.ReadFile(file)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return err
	}
	if _, err := strconv.ParseUint(string(text), 10, 32); err != nil || compareIDs(string(text), id) >= 0 {
		return fmt.Errorf("%s: damaged: it names %q, which is no older layer", file, text)
	}
	if err := os.RemoveAll(filepath.Join(stackDir, string(text))); err != nil {
		return err
	}
	return os.Remove(file)
}

// below says where the layers under both have a directory: at path, which is
// where they are looked for, too, when nothing says otherwise; or nowhere.
type below struct {
	path string
	cut  bool
}

func (b below) child(name string) below {
	return below{strings.TrimPrefix(b.path+"/"+name, "/"), b.cut}
}

// directory fills the merged directory of an upper and a lower one, of which
// either may be nil.
func (s *squash) directory(upper, lower, merged *hostDir, at below) error {
	upperNames, err := namesOf(upper)
	if err != nil {
		return err
	}
	lowerNames, err := namesOf(lower)
	if err != nil {
		return err
	}
	done := make(map[string]bool, len(upperNames))
	for _, h := range upperNames {
		done[h.name] = true
		if err := s.upperEntry(upper, lower, merged, h.name, at); err != nil {
			return err
		}
	}
	for _, h := range lowerNames {
		if done[h.name] {
			continue
		}
		if err := s.lowerEntry(lower, merged, h.name); err != nil {
			return err
		}
	}
	if upper == nil {
		return copyMarks(lower, merged)
	}
	return copyHostDir(upper, merged)
}

func namesOf(d *hostDir) ([]hostName, error) {
	if d == nil {
		return nil, nil
	}
	return readNames(d)
}

// upperEntry puts what the upper layer has by a name into the merged one.
func (s *squash) upperEntry(upper, lower, merged *hostDir, name string, at below) error {
	var st unix.Stat_t
	if ok, err := upper.stat(name, &st); err != nil || !ok {
		return errors.Join(err, vanished(upper, name, ok))
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return linkHostEntry(upper, name, merged, name)
	}
	child := &hostDir{layer: upper.layer, parent: upper, name: name}
	made, err := makeHostDir(merged, name)
	if err != nil {
		return err
	}
	opaque, err := child.mark(xattrOpaque)
	if err != nil {
		return err
	}
	redirect, err := child.mark(xattrRedirect)
	if err != nil {
		return err
	}
	natural := at.child(name)
	var part *hostDir
	from := below{cut: true}
	switch {
	case opaque != "":
	case redirect != "":
		part, from, err = s.inLower(redirect)
	default:
		part, from, err = stepInLower(lower, name, natural)
	}
	if err != nil {
		return err
	}
	if err := s.directory(child, part, made, from); err != nil {
		return err
	}
	return markMerged(made, from, natural)
}

// forgetOrigins gives what the directory has copied from an older layer of the
// edits inode numbers of its own: when that layer goes, the host uses its
// numbers again.
func forgetOrigins(d *hostDir) error {
	names, err := readNames(d)
	if err != nil {
		return err
	}
	up, err := d.open()
	if err != nil {
		return err
	}
	defer d.close()
	for _, h := range names {
		var st unix.Stat_t
		if err := fstatat(up, h.name, &st); err != nil {
			return err
		}
		typ := st.Mode & unix.S_IFMT
		if st.Mode&metaFlag != 0 && (typ == unix.S_IFREG || typ == unix.S_IFDIR) {
			if err := forgetOrigin(up, h.name, &st); err != nil {
				return fmt.Errorf("%s/%s/%s: %w", d.layer.Dir, d.path(), h.name, err)
			}
		}
		if typ == unix.S_IFDIR {
			if err := forgetOrigins(&hostDir{layer: d.layer, parent: d, name: h.name}); err != nil {
				return err
			}
		}
	}
	return nil
}

func forgetOrigin(dirfd int, name string, st *unix.Stat_t) error {
	m, err := metaAt(procPath(dirfd, name), st)
	if err != nil || !ofEdits(m.origin) {
		return err
	}
	fd, err := openRetry(dirfd, name, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written through it
	_, err = editMeta(fd, m.mode&unix.S_IFMT, func(m *meta) { m.origin = 0 })
	return err
}

// ofEdits tells whether an inode number is one that edits give.
func ofEdits(ino uint64) bool { return ino != 0 && ino>>inoBits == 0 }

// markMerged notes where the part below a merged directory is.
func markMerged(d *hostDir, from, natural below) error {
	mark, value := xattrOpaque, "y"
	switch {
	case from == natural, from.cut && natural.cut:
		return nil
	case !from.cut:
		mark, value = xattrRedirect, "/"+from.path
	}
	up, err := d.open()
	if err != nil {
		return err
	}
	defer d.close()
	return withDirFd(up, ".", func(fd int) error {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if err := setMark(fd, mark, value); err != nil {
			return err
		}
		return unix.UtimesNanoAt(fd, "", []unix.Timespec{st.Atim, st.Mtim}, unix.AT_EMPTY_PATH)
	})
}

// lowerEntry puts what only the lower layer has by a name into the merged one.
func (s *squash) lowerEntry(lower, merged *hostDir, name string) error {
	var st unix.Stat_t
	if ok, err := lower.stat(name, &st); err != nil || !ok {
		return errors.Join(err, vanished(lower, name, ok))
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		child := &hostDir{layer: lower.layer, parent: lower, name: name}
		made, err := makeHostDir(merged, name)
		if err != nil {
			return err
		}
		return s.directory(nil, child, made, below{})
	}
	// It may have lost its other names since, and have its copy in the index alone.
	if key := indexKey(lower.layer, &st); s.copies[key] {
		return linkHostEntry(s.index(s.upper), key, merged, name)
	}
	return linkHostEntry(lower, name, merged, name)
}

// inLower follows the path of a redirect of the upper layer through the lower
// one: what that has there, and where the layers below have it.
func (s *squash) inLower(path string) (*hostDir, below, error) {
	part, at := s.lower.root, below{}
	for _, name := range splitAll(path) {
		var err error
		if part, at, err = stepInLower(part, name, at.child(name)); err != nil {
			return nil, at, err
		}
	}
	return part, at, nil
}

// stepInLower is what the lower layer has of a directory by a name in d, and
// where the layers below it have that directory: at natural, unless the lower
// layer says something else.
func stepInLower(d *hostDir, name string, natural below) (*hostDir, below, error) {
	if d == nil {
		return nil, natural, nil
	}
	var st unix.Stat_t
	ok, err := d.stat(name, &st)
	if err != nil || !ok {
		return nil, natural, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, below{cut: true}, nil // it hides what is below
	}
	child := &hostDir{layer: d.layer, parent: d, name: name}
	opaque, err := child.mark(xattrOpaque)
	if err != nil || opaque != "" {
		return child, below{cut: true}, err
	}
	redirect, err := child.mark(xattrRedirect)
	if err != nil || redirect == "" {
		return child, natural, err
	}
	return child, below{path: strings.Join(splitAll(redirect), "/")}, nil
}

// index is where a layer keeps its copies of files with several names.
func (s *squash) index(l *Layer) *hostDir {
	return &hostDir{layer: l, parent: l.root, name: "../index"}
}

// indexes merges the two indexes: a copy in the upper layer of a copy in the
// lower one is one of the file below that.
func (s *squash) indexes() error {
	upper, lower, merged := s.index(s.upper), s.index(s.lower), s.index(s.merged)
	upperNames, err := readNames(upper)
	if err != nil {
		return err
	}
	s.copies = make(map[string]bool, len(upperNames))
	for _, h := range upperNames {
		s.copies[h.name] = true
	}
	lowerNames, err := readNames(lower)
	if err != nil {
		return err
	}
	taken := make(map[string]bool)
	for _, h := range lowerNames {
		var st unix.Stat_t
		if ok, err := lower.stat(h.name, &st); err != nil || !ok {
			return errors.Join(err, vanished(lower, h.name, ok))
		}
		from, name := lower, h.name
		if key := indexKey(s.lower, &st); s.copies[key] {
			from, name = upper, key
			taken[key] = true
		}
		if err := linkHostEntry(from, name, merged, h.name); err != nil {
			return err
		}
	}
	for _, h := range upperNames {
		if taken[h.name] {
			continue
		}
		if err := linkHostEntry(upper, h.name, merged, h.name); err != nil {
			return err
		}
	}
	return nil
}

func vanished(d *hostDir, name string, there bool) error {
	if there {
		return nil
	}
	return fmt.Errorf("%s/%s/%s: %w", d.layer.Dir, d.path(), name, unix.ENOENT)
}
