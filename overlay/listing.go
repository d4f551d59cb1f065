package overlay

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// directory is what only a directory's node has.
type directory struct {
	stack []*hostDir // topmost first; replaced, never changed in place

	mu     sync.Mutex // covers the names; see Tree.mu for who may change them
	loaded bool

	// ents are the names, in the order of their cookies. The first sorted of
	// them are sorted by name as well; those made later are found in added.
	ents   []dirent
	sorted int
	added  map[string]int32
	edits  *Layer // the newest when dirent.lower was found; see lowered
	next   uint32 // the last cookie given

	overrides *overrides // of what is in it; nil for most

	bequest atomic.Pointer[bequest] // see bequestOf; nil while not known
}

// dirent is one name in a directory.
type dirent struct {
	name   string
	node   *Node  // nil while nobody refers to it through this name
	layer  *Layer // of the topmost entry
	cookie uint32
	typ    uint8 // DT_*; in a recorded layer, DT_REG may be a placeholder

	// lower says that a layer below the edits has the name, so that taking it
	// away needs a whiteout; dead that the name is gone from the tree.
	lower, dead bool
}

// find returns the index of name, dead or alive, or -1.
func (d *directory) find(name string) int {
	if i, ok := d.added[name]; ok {
		return int(i)
	}
	i := sort.Search(d.sorted, func(i int) bool { return d.ents[i].name >= name })
	if i < d.sorted && d.ents[i].name == name {
		return i
	}
	return -1
}

// alive returns the entry name, or nil.
func (d *directory) alive(name string) *dirent {
	if i := d.find(name); i >= 0 && !d.ents[i].dead {
		return &d.ents[i]
	}
	return nil
}

// insert makes name alive at the end of the directory.
func (d *directory) insert(e dirent) {
	if i := d.find(e.name); i >= 0 {
		e.lower = e.lower || d.ents[i].lower
		d.ents[i].dead, d.ents[i].lower = true, false
		d.ents[i].node = nil
	}
	d.compact()
	d.next++
	e.cookie = d.next
	d.ents = append(d.ents, e)
	if d.added == nil {
		d.added = make(map[string]int32)
	}
	d.added[e.name] = int32(len(d.ents) - 1)
}

// compact drops the dead when they are most of a large directory. Cookies
// stay.
func (d *directory) compact() {
	if len(d.ents) < 1024 || len(d.ents) < cap(d.ents) {
		return
	}
	useless := func(e *dirent) bool { return e.dead && !e.lower }
	n := 0
	for i := range d.ents {
		if useless(&d.ents[i]) {
			n++
		}
	}
	if n < len(d.ents)/2 {
		return
	}
	kept := make([]dirent, 0, len(d.ents)-n)
	sorted := 0
	clear(d.added)
	for i := range d.ents {
		if useless(&d.ents[i]) {
			continue
		}
		if i < d.sorted {
			sorted++
		} else {
			d.added[d.ents[i].name] = int32(len(kept))
		}
		kept = append(kept, d.ents[i])
	}
	d.ents, d.sorted = kept, sorted
}

// load reads the names of n from the host, once. The directory's lock is held.
func (t *Tree) load(n *Node) error { return t.loadUpTo(n, math.MaxInt) }

// loadUpTo is load, which gives up with errLarge where a layer has more than that
// many bytes of names.
func (t *Tree) loadUpTo(n *Node, most int) error {
	d := n.dir
	if d.loaded {
		return nil
	}
	ents, err := t.list(n, most)
	if err != nil {
		return err
	}
	for i := range ents {
		ents[i].cookie = uint32(i + 1)
	}
	d.ents, d.sorted, d.added, d.next = ents, len(ents), nil, uint32(len(ents))
	d.loaded, d.edits = true, t.edits
	return nil
}

// lowered makes dirent.lower right after a checkpoint was made: all that there
// is lies below the edits then; or taken back. t.mu is held exclusively.
func (t *Tree) lowered(d *directory) error {
	if d.edits == t.edits {
		return nil
	}
	below := make(map[string]bool)
	if d.edits.rank > t.edits.rank {
		fresh, err := readStack(d.stack, math.MaxInt)
		if err != nil {
			return err
		}
		for i := range fresh {
			below[fresh[i].name] = fresh[i].lower
		}
	} else {
		for i := range d.ents {
			if !d.ents[i].dead {
				below[d.ents[i].name] = true
			}
		}
	}
	for i := range d.ents {
		d.ents[i].lower = below[d.ents[i].name] && (!d.ents[i].dead || d.find(d.ents[i].name) == i)
	}
	d.edits = t.edits
	return nil
}

var errLarge = errors.New("a directory with many names")

// list merges the names of n, sorted.
func (t *Tree) list(n *Node, most int) ([]dirent, error) {
	ents, err := readStack(n.dir.stack, most)
	slices.SortFunc(ents, func(a, b dirent) int { return cmp.Compare(a.name, b.name) })
	return ents, err
}

// readStack merges the names of a stack of directories, with the limit of
// loadUpTo.
func readStack(stack []*hostDir, most int) ([]dirent, error) {
	b := listBuffers.Get().(*listBuffer)
	defer listBuffers.Put(b)
	var ents []dirent
	var at map[string]int    // where a name is in ents
	closed := map[int]bool{} // entries that nothing below adds to
	for i, part := range stack {
		names, err := b.read(part, most)
		if ignoreMissing(err) != nil {
			return nil, err
		} // else the layer lost the directory since
		if i == 0 {
			ents = make([]dirent, 0, len(names))
		}
		if i == 1 {
			at = make(map[string]int, len(ents)+len(names))
			for j := range ents {
				at[ents[j].name] = j
			}
		}
		below := !part.layer.writable()
		for _, h := range names {
			if h.typ == unix.DT_DIR && part.hides(h.name) {
				continue
			}
			whiteout, err := part.isWhiteout(h)
			if err != nil {
				return nil, err
			}
			if j, seen := at[h.name]; seen {
				if !closed[j] && !whiteout {
					ents[j].lower = ents[j].lower || below
				}
				closed[j] = closed[j] || whiteout
				continue
			}
			e := dirent{
				name: h.name, typ: h.typ, layer: part.layer,
				lower: below && !whiteout, dead: whiteout,
			}
			ents = append(ents, e)
			if at != nil {
				at[h.name] = len(ents) - 1
			}
			if whiteout && below {
				closed[len(ents)-1] = true
			}
		}
	}
	return ents, nil
}

// hostName is one entry of a host directory.
type hostName struct {
	name string
	typ  uint8 // DT_*
}

// isWhiteout tells whether an entry of d only hides its name.
func (d *hostDir) isWhiteout(h hostName) (bool, error) {
	if h.typ != unix.DT_CHR || !d.layer.asIs {
		return h.typ == unix.DT_CHR && d.layer.recorded, nil
	}
	var st unix.Stat_t
	ok, err := d.stat(h.name, &st)
	return ok && d.layer.isWhiteout(&st), err
}

// listBuffer is what reading a directory needs for a while.
type listBuffer struct {
	dirents [64 << 10]byte
	names   []byte // one after the other
	ends    []int
	types   []uint8
	list    []hostName
}

var listBuffers = sync.Pool{New: func() any { return new(listBuffer) }}

// readNames lists a host directory, without "." and "..", in the host's order.
func readNames(d *hostDir) ([]hostName, error) {
	b := listBuffers.Get().(*listBuffer)
	defer listBuffers.Put(b)
	names, err := b.read(d, math.MaxInt)
	return slices.Clone(names), err
}

// read is readNames into a list that is the buffer's, with the limit of loadUpTo.
func (b *listBuffer) read(d *hostDir, most int) ([]hostName, error) {
	fd, done, err := d.openToList()
	if err == nil {
		defer done()
		if err = b.fill(fd, most); err == nil {
			err = b.split(fd)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %w", d.layer.Dir, d.path(), err)
	}
	return b.list, nil
}

// fill reads all names of an open directory, with the limit of loadUpTo.
func (b *listBuffer) fill(fd, most int) error {
	b.names, b.ends, b.types = b.names[:0], b.ends[:0], b.types[:0]
	for {
		n, err := unix.Getdents(fd, b.dirents[:])
		if err != nil || n == 0 {
			return err
		}
		for rest := b.dirents[:n]; len(rest) > 0; {
			// struct linux_dirent64: u64 ino, s64 off, u16 reclen, u8 type, name
			reclen := int(binary.NativeEndian.Uint16(rest[16:]))
			name := rest[19:reclen]
			name = name[:clen(name)]
			if string(name) != "." && string(name) != ".." {
				b.names = append(b.names, name...)
				b.ends = append(b.ends, len(b.names))
				b.types = append(b.types, rest[18])
			}
			rest = rest[reclen:]
		}
		if len(b.names) > most {
			return errLarge
		}
	}
}

// split cuts all names of the directory out of one string, which costs one
// allocation for them all.
func (b *listBuffer) split(dirfd int) error {
	all := string(b.names)
	b.list = b.list[:0]
	start := 0
	for i, end := range b.ends {
		h := hostName{all[start:end], b.types[i]}
		start = end
		if h.typ == unix.DT_UNKNOWN {
			var st unix.Stat_t
			if err := fstatat(dirfd, h.name, &st); err != nil {
				return err
			}
			h.typ = uint8(st.Mode & unix.S_IFMT >> 12)
		}
		b.list = append(b.list, h)
	}
	return nil
}

func clen(b []byte) int {
	for i, c := range b {
		if c == 0 {
			return i
		}
	}
	return len(b)
}
