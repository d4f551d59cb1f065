package overlay

import (
	"time"

	"golang.org/x/sys/unix"
)

// Entry describes one name of the merged tree, as the mount shows it and as
// an export writes it.
type Entry struct {
	// Path is relative to the root, separated by slashes, in the bytes that
	// the layer has. The root itself is ".".
	Path string

	// Mode holds the type and the permissions as st_mode does (unix.S_IFMT).
	Mode uint32

	UID, GID uint32

	// Rdev is the device number of a character or block device, as
	// [unix.Mkdev] makes it; 0 elsewhere.
	Rdev uint64

	// Size is the length of a regular file or of a symlink's target, in
	// bytes; 0 elsewhere.
	Size int64

	// Blocks counts the 512-byte units that the host has allocated. A regular
	// file with Blocks*512 < Size may have holes.
	Blocks int64

	Atime, Mtime, Ctime Time

	// Ino identifies the inode: two entries with the same Ino are hard links
	// of one file. It stays over copy-up.
	Ino uint64

	// Nlink is the link count that stat shows. A regular file with Nlink 1
	// has no other name; above that, other names may or may not be in the
	// tree.
	Nlink uint32

	// Target is where a symlink points, in the bytes it was made with.
	Target string

	// Xattrs are the extended attributes, sorted by name, values in the form
	// that getxattr returns (so an ACL is a posix_acl_xattr_header and its
	// entries, a capability a vfs_cap_data). They are filled by a walk, not
	// by Stat.
	Xattrs []Xattr

	// Layer is the name of the layer that the entry comes from, of a merged
	// directory the topmost; "" for a file without a name.
	Layer string

	// Content opens a regular file's bytes; nil elsewhere. It stays valid
	// until the tree is closed, whatever happens to the name.
	Content Content
}

// Content is a regular file's bytes.
type Content interface {
	// Open returns a file that is open for reading. It is the host's own
	// file: offsets, holes and copy_file_range work on it. The caller closes
	// it.
	Open() (*File, error)
}

// Xattr is one extended attribute.
type Xattr struct {
	Name  string // with its namespace, such as "user.mime_type"
	Value []byte
}

// Time is a timestamp as the kernel keeps it: seconds since 1970, negative
// before, and nanoseconds from 0 to 999,999,999 that count forward.
type Time struct {
	Sec  int64
	Nsec uint32
}

// TimeOf converts a timespec of the host.
func TimeOf(ts unix.Timespec) Time { return Time{Sec: ts.Sec, Nsec: uint32(ts.Nsec)} }

// Time converts to the library's type.
func (t Time) Time() time.Time { return time.Unix(t.Sec, int64(t.Nsec)) }

// Before tells whether t is earlier than u.
func (t Time) Before(u Time) bool {
	return t.Sec < u.Sec || t.Sec == u.Sec && t.Nsec < u.Nsec
}

// IsDir tells whether the entry is a directory.
func (e *Entry) IsDir() bool { return e.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsRegular tells whether the entry is a regular file.
func (e *Entry) IsRegular() bool { return e.Mode&unix.S_IFMT == unix.S_IFREG }

// IsSymlink tells whether the entry is a symbolic link.
func (e *Entry) IsSymlink() bool { return e.Mode&unix.S_IFMT == unix.S_IFLNK }

// IsDevice tells whether the entry is a character or block device.
func (e *Entry) IsDevice() bool {
	return e.Mode&unix.S_IFMT == unix.S_IFCHR || e.Mode&unix.S_IFMT == unix.S_IFBLK
}
