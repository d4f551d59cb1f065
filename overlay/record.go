package overlay

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

// A recorded layer is a directory tree on the host that holds what an
// unprivileged host can't: owners, devices, set-uid bits, whiteouts. Edits,
// checkpoints and unpacked archives are recorded layers; packages and
// sysconfig are plain ones.
//
// How each kind of entry is kept:
//
//	regular file, directory   itself
//	symlink                   a regular file; the target is in xattrMeta, or its content
//	device, fifo, socket      an empty regular file
//	whiteout                  a character device 0:0
//
// The name xattrMeta holds type, permissions, owner and device number. It is
// there only where the host's own mode and the owner 0:0 don't say the same,
// and the host's sticky bit (S_ISVTX, which an owner may set on anything) says
// that it is: so most entries cost no xattr call, to write or to read. The
// xattr is written before the bit is set and removed after the bit is
// cleared, so that a crash in between shows the old metadata.
const (
	xattrPrefix   = "user.rootfs."
	xattrMeta     = xattrPrefix + "meta"     // see meta.encode
	xattrOpaque   = xattrPrefix + "opaque"   // "y": nothing below merges into this directory
	xattrRedirect = xattrPrefix + "redirect" // "/path": where in the layers below this directory came from
	xattrForeign  = xattrPrefix + "x."       // + name: an xattr outside user.*
)

// metaFlag marks, in the host's mode, an entry with xattrMeta.
const metaFlag = unix.S_ISVTX

// meta is what xattrMeta holds.
type meta struct {
	mode     uint32 // as st_mode, with the type
	uid, gid uint32
	rdev     uint64 // as unix.Mkdev makes it

	// origin is the inode number that the entry had before it was copied up;
	// 0 for one that was made here.
	origin uint64

	// nlink is the number of names of a file that had several of them in a
	// lower layer, not all of which are on the host; 0 where the host's count
	// is right.
	nlink uint32

	// target is a symlink's, where it isn't the placeholder's content.
	target string
}

// maxMetaTarget is the longest target that is kept in xattrMeta, in bytes: an
// ext4 block holds all attributes of a file. There it reaches the disk together
// with the name; content would come later.
const maxMetaTarget = 1024

// hostPerm returns the permissions that a recorded entry has on the host: at
// least readable and writable by its owner, so that the daemon can serve it.
func (m meta) hostPerm() uint32 {
	if m.mode&unix.S_IFMT == unix.S_IFDIR {
		return m.mode&0o777 | 0o700
	}
	return m.mode&0o777 | 0o600
}

// implied tells whether the host's own mode says all, so that no xattr is
// needed.
func (m meta) implied() bool {
	typ := m.mode & unix.S_IFMT
	return (typ == unix.S_IFREG || typ == unix.S_IFDIR) &&
		m.uid == 0 && m.gid == 0 && m.mode&0o7777 == m.hostPerm() &&
		m.origin == 0 && m.nlink == 0
}

// encode gives the value of xattrMeta: the mode in octal, uid, gid,
// major:minor, origin and nlink, in decimal, and the target if there is one,
// separated by blanks.
func (m meta) encode() []byte {
	b := fmt.Appendf(nil, "%o %d %d %d:%d %d %d",
		m.mode, m.uid, m.gid, unix.Major(m.rdev), unix.Minor(m.rdev), m.origin, m.nlink)
	if m.target != "" {
		b = append(append(b, ' '), m.target...)
	}
	return b
}

var errMeta = errors.New("malformed " + xattrMeta)

func decodeMeta(b []byte) (meta, error) {
	f := strings.SplitN(string(b), " ", 7)
	if len(f) < 6 {
		return meta{}, errMeta
	}
	target := ""
	if len(f) == 7 {
		target = f[6]
	}
	major, minor, ok := strings.Cut(f[3], ":")
	if !ok {
		return meta{}, errMeta
	}
	var n [7]uint64
	for i, field := range []struct {
		text       string
		base, bits int
	}{
		{f[0], 8, 32},
		{f[1], 10, 32},
		{f[2], 10, 32},
		{major, 10, 32},
		{minor, 10, 32},
		{f[4], 10, 64},
		{f[5], 10, 32},
	} {
		v, err := strconv.ParseUint(field.text, field.base, field.bits)
		if err != nil {
			return meta{}, errMeta
		}
		n[i] = v
	}
	return meta{
		mode: uint32(n[0]), uid: uint32(n[1]), gid: uint32(n[2]),
		rdev:   unix.Mkdev(uint32(n[3]), uint32(n[4])),
		origin: n[5], nlink: uint32(n[6]), target: target,
	}, nil
}

// metaAt reads the metadata of the recorded entry at path, whose lstat is st.
func metaAt(path string, st *unix.Stat_t) (meta, error) {
	if st.Mode&metaFlag == 0 {
		return meta{mode: st.Mode}, nil
	}
	b, err := xattr.LGet(path, xattrMeta)
	if err != nil {
		if errors.Is(err, xattr.ENOATTR) {
			// The sticky bit of somebody who edits the layer by hand.
			return meta{mode: st.Mode &^ metaFlag}, nil
		}
		return meta{}, err
	}
	return decodeMeta(b)
}

// isWhiteout tells whether an entry of a recorded layer hides its name. Real
// devices are placeholder files there, so the type is enough.
func isWhiteout(mode uint32) bool { return mode&unix.S_IFMT == unix.S_IFCHR }

// recordFd gives the open host file fd the metadata m. old is its current
// host mode. A directory keeps the flag once it has it, since its other marks
// are looked for by it. The last call that can fail is the one that is seen.
func recordFd(fd int, m meta, old uint32) error {
	flagged := old&metaFlag != 0
	implied := m.implied() && (!flagged || m.mode&unix.S_IFMT != unix.S_IFDIR)
	mode := m.hostPerm()
	if !implied {
		mode |= metaFlag
	}
	chmod := func() error {
		if old&0o7777 == mode {
			return nil
		}
		return unix.Fchmod(fd, mode)
	}
	set := func() error {
		if err := unix.Fsetxattr(fd, xattrMeta, m.encode(), 0); err != nil {
			return fmt.Errorf("record owner and mode: %w", err)
		}
		return nil
	}
	switch {
	case !implied && flagged: // the attribute is what counts
		if err := chmod(); err != nil {
			return err
		}
		return set()
	case !implied: // the flag is
		if err := set(); err != nil {
			return err
		}
		return chmod()
	case !flagged:
		return chmod()
	}
	if err := chmod(); err != nil {
		return err
	}
	_ = unix.Fremovexattr(fd, xattrMeta) // nobody reads it any more
	return nil
}

// metaOf reads the metadata of an open host entry, whose mode there is mode.
func metaOf(fd int, mode uint32) (meta, error) {
	if mode&metaFlag == 0 {
		return meta{mode: mode}, nil
	}
	var buf [128 + maxMetaTarget]byte // seven numbers and their blanks, the target
	n, err := unix.Fgetxattr(fd, xattrMeta, buf[:])
	if errors.Is(err, unix.ENODATA) {
		return meta{mode: mode &^ metaFlag}, nil
	}
	if err != nil {
		return meta{}, fmt.Errorf("%s: %w", xattrMeta, err)
	}
	return decodeMeta(buf[:n])
}
