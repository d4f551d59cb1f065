package fat32

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Loss is something of the tree that FAT can't hold.
type Loss struct {
	Path   string
	Reason string

	// Kept tells that the entry is in the image all the same, without an
	// attribute. Otherwise it is left out, a directory with all that it
	// holds.
	Kept bool
}

// String returns a line: the path, quoted if it would not be one, and the
// reason.
func (l Loss) String() string {
	name := l.Path
	if q := strconv.Quote(name); q != `"`+name+`"` {
		name = q
	}
	return name + ": " + l.Reason
}

// LossError says what keeps a tree from becoming an image of FAT32: all of it,
// sorted by path, and at least one.
type LossError struct{ Losses []Loss }

// Error is one line, with the first loss.
func (e *LossError) Error() string {
	return fmt.Sprintf("FAT32 can't hold all of the tree: of %d losses, the first is %s", len(e.Losses), e.Losses[0])
}

// noteAttributes notes what an entry loses if it is kept. Copies of it lose
// the same and aren't told apart.
func (p *Planner) noteAttributes(e *overlay.Entry) {
	note := func(format string, args ...any) {
		p.losses = append(p.losses, Loss{Path: e.Path, Reason: fmt.Sprintf(format, args...), Kept: true})
	}
	if e.IsSymlink() {
		return // what it leads to has the attributes that count
	}
	if e.UID != 0 || e.GID != 0 {
		note("its owner is %d:%d; FAT has no owners", e.UID, e.GID)
	}
	if e.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
		note("its mode is %#o; FAT has no set-id bits", e.Mode&0o7777)
	}
	for _, x := range e.Xattrs {
		note("has the attribute %s; FAT has no extended attributes", x.Name)
	}
}

// specials names the kinds that FAT doesn't have.
var specials = map[uint32]string{
	unix.S_IFCHR:  "a character device",
	unix.S_IFBLK:  "a block device",
	unix.S_IFIFO:  "a named pipe",
	unix.S_IFSOCK: "a socket",
}

// unfit says why FAT can't hold a file, or nothing. It is about what a name
// leads to, not the name.
func (n *node) unfit() string {
	kind := n.kind()
	switch {
	case kind == unix.S_IFDIR:
		return ""
	case kind != unix.S_IFREG:
		name, ok := specials[kind]
		if !ok {
			name = fmt.Sprintf("of an unknown type (mode %#o)", n.mode)
		}
		return name + "; FAT has files and directories only"
	case n.size > maxFileSize:
		return fmt.Sprintf("has %d bytes; FAT takes %d, one less than 4 GiB", n.size, int64(maxFileSize))
	}
	return ""
}
