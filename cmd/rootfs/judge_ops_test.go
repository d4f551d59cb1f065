package main

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// operation is one call, or a few, with all arguments drawn; do returns what
// the side said.
type operation struct {
	text string
	uid  int
	do   func(s *side) string
}

func (o *operation) on(s *side) string { return as(o.uid, func() string { return o.do(s) }) }

// drawer draws operations for a tree whose paths it knows.
type drawer struct {
	t     *rapid.T
	paths []string // what is there
	dirs  []string
}

// judgedNames are those that come and go. Two are what other overlays hide.
var judgedNames = []string{"a", "b", "c", "d", "e", ".wh.a", strings.Repeat("n", unix.NAME_MAX)}

func (d *drawer) n(label string, n int) int { return rapid.IntRange(0, n-1).Draw(d.t, label) }

func pick[T any](d *drawer, label string, from ...T) T { return from[d.n(label, len(from))] }

// fresh is a name in a directory that is there; there may be something of
// that name, or not.
func (d *drawer) fresh() at {
	if slot := d.n("relative to", 8) - 8 + heldFiles; slot >= 0 {
		return at{slot, pick(d, "name", judgedNames...)}
	}
	return at{-1, path.Join(pick(d, "dir", d.dirs...), pick(d, "name", judgedNames...))}
}

// existing is mostly something that is there.
func (d *drawer) existing() at {
	if d.n("existing", 5) == 4 {
		return d.fresh()
	}
	return at{-1, pick(d, "path", d.paths...)}
}

func (d *drawer) slot() int { return d.n("slot", heldFiles) }

// offset is around the sizes that judged files have, and the host's blocks.
func (d *drawer) offset() int64 {
	return pick[int64](d, "offset", 0, 1, 5, 100, 4095, 4096, 8192, 10000, 70000)
}

func (d *drawer) length() int64 { return pick[int64](d, "length", 1, 3, 100, 4096, 9000) }

func (d *drawer) content() []byte {
	return []byte(strings.Repeat(pick(d, "content", "x", "yz", "w"), int(d.length())))
}

func (d *drawer) mode() uint32 {
	return pick[uint32](d, "mode", 0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o600, 0, 0o6777)
}

// umask leaves set-gid its group execute; see the exceptions above.
func (d *drawer) umask() int { return pick(d, "umask", 0o022, 0, 0o027) }

// operation draws one; the simplest is none.
func (d *drawer) operation() *operation {
	kinds := drawOperations
	kind := d.n("operation", len(kinds)+1)
	if kind == 0 {
		return &operation{text: "nothing", do: func(*side) string { return "" }}
	}
	o := kinds[kind-1](d)
	if d.n("who", 6) == 5 {
		o.uid = 1000
		o.text += " as user 1000"
	}
	return o
}

var drawOperations = slices.Concat(namingOperations, contentOperations, attributeOperations, heldOperations)

func op(do func(s *side) string, format string, args ...any) *operation {
	return &operation{text: fmt.Sprintf(format, args...), do: do}
}

// namingOperations change which names there are.
var namingOperations = []func(d *drawer) *operation{
	func(d *drawer) *operation {
		where, flags := d.fresh(), pick(d, "flags", 0, unix.O_EXCL, unix.O_TRUNC, unix.O_NOFOLLOW)
		mode, umask, slot := d.mode(), d.umask(), d.slot()
		return op(func(s *side) string {
			dir, name := s.at(where)
			defer unix.Umask(unix.Umask(umask))
			fd, err := unix.Openat(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NONBLOCK|flags, mode)
			if err == nil {
				s.hold(slot, fd)
			}
			return said(err)
		}, "create %s flags %#x mode %#o umask %#o, hold as fd%d", where, flags, mode, umask, slot)
	},
	func(d *drawer) *operation {
		where, mode, umask := d.fresh(), d.mode(), d.umask()
		return op(func(s *side) string {
			dir, name := s.at(where)
			defer unix.Umask(unix.Umask(umask))
			return said(unix.Mkdirat(dir, name, mode))
		}, "mkdir %s mode %#o umask %#o", where, mode, umask)
	},
	drawUnlink, drawUnlink,
	func(d *drawer) *operation {
		where := d.existing()
		return op(func(s *side) string {
			dir, name := s.at(where)
			return said(unix.Unlinkat(dir, name, unix.AT_REMOVEDIR))
		}, "rmdir %s", where)
	},
	drawRename, drawRename, drawRename,
	func(d *drawer) *operation {
		from, to := d.existing(), d.fresh()
		return op(func(s *side) string {
			fromDir, fromName := s.at(from)
			toDir, toName := s.at(to)
			return said(unix.Linkat(fromDir, fromName, toDir, toName, 0))
		}, "link %s to %s", from, to)
	},
	func(d *drawer) *operation {
		where, target := d.fresh(), pick(d, "target", "a", "../b", "c/d", "/nonexistent/x", strings.Repeat("long/", 100))
		return op(func(s *side) string {
			dir, name := s.at(where)
			return said(unix.Symlinkat(target, dir, name))
		}, "symlink %s -> %.20s", where, target)
	},
	func(d *drawer) *operation {
		where, mode, umask := d.fresh(), d.mode(), d.umask()
		typ := pick[uint32](d, "type", unix.S_IFREG, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK)
		return op(func(s *side) string {
			dir, name := s.at(where)
			defer unix.Umask(unix.Umask(umask))
			return said(unix.Mknodat(dir, name, typ|mode, int(unix.Mkdev(4, 70000))))
		}, "mknod %s %#o umask %#o", where, typ|mode, umask)
	},
}

func drawUnlink(d *drawer) *operation {
	where := d.existing()
	return op(func(s *side) string {
		dir, name := s.at(where)
		return said(unix.Unlinkat(dir, name, 0))
	}, "unlink %s", where)
}

func drawRename(d *drawer) *operation {
	from, to := d.existing(), d.fresh()
	if d.n("onto", 3) == 2 {
		to = d.existing()
	}
	flags := pick[uint](d, "flags", 0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE)
	return op(func(s *side) string {
		fromDir, fromName := s.at(from)
		toDir, toName := s.at(to)
		var parent unix.Stat_t
		_ = unix.Fstatat(toDir, filepath.Dir(toName), &parent, 0)
		err := unix.Renameat2(fromDir, fromName, toDir, toName, flags)
		if errors.Is(err, unix.EXDEV) {
			// The kernel's overlay, which alone says so (step), has put an opaque
			// directory in place of the empty one in the way by then.
			_ = unix.UtimesNanoAt(toDir, filepath.Dir(toName), []unix.Timespec{parent.Atim, parent.Mtim}, 0)
		}
		if errors.Is(err, unix.ENOTEMPTY) {
			// ext4 below the kernel's overlay has made a whiteout by then, and
			// taken it back: the directory has a new time. Both get one.
			touched := []unix.Timespec{{Sec: 1e9}, {Sec: 1e9}}
			_ = unix.UtimesNanoAt(fromDir, filepath.Dir(fromName), touched, 0)
		}
		return said(err)
	}, "rename %s to %s flags %d", from, to, flags)
}

// contentOperations change what is in a file, by name.
var contentOperations = []func(d *drawer) *operation{
	func(d *drawer) *operation {
		where, flags := d.existing(), pick(d, "flags", 0, unix.O_APPEND, unix.O_TRUNC)
		off, text := d.offset(), d.content()
		return op(func(s *side) string {
			dir, name := s.at(where)
			fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_NOFOLLOW|flags, 0)
			if err != nil {
				return said(err)
			}
			defer unix.Close(fd) //nolint:errcheck // what matters was said
			if !isRegular(fd) {
				return said(nil)
			}
			n, err := unix.Pwrite(fd, text, off)
			return said(err, n)
		}, "write %s flags %#x at %d %s", where, flags, off, brieflyBytes(text))
	},
	func(d *drawer) *operation {
		where, size := d.existing(), d.offset()
		return op(func(s *side) string {
			_, name := s.at(where)
			if where.slot >= 0 {
				return ""
			}
			return said(unix.Truncate(name, size))
		}, "truncate %s to %d", where, size)
	},
	func(d *drawer) *operation {
		where, n := d.existing(), pick(d, "remove", judgedNames...)
		return op(func(s *side) string {
			dir, name := s.at(where)
			fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return said(err)
			}
			defer unix.Close(fd) //nolint:errcheck // only read
			var removed error
			names, err := listing(fd, func() { removed = unix.Unlinkat(fd, n, 0) })
			// Whether a name that goes meanwhile is listed is nobody's promise.
			names = slices.DeleteFunc(names, func(s string) bool { return s == n })
			slices.Sort(names)
			return said(err, names, said(removed))
		}, "list %s while removing %s", where, n)
	},
}

func isRegular(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// attributeOperations change what stat tells, by name.
var attributeOperations = []func(d *drawer) *operation{
	func(d *drawer) *operation {
		where, mode := d.existing(), d.mode()
		return op(func(s *side) string {
			dir, name := s.at(where)
			return said(unix.Fchmodat(dir, name, mode, 0))
		}, "chmod %s %#o", where, mode)
	},
	func(d *drawer) *operation {
		where, uid, gid := d.existing(), pick(d, "uid", -1, 0, 1000, 70000), pick(d, "gid", -1, 0, 1000, 4000000000)
		return op(func(s *side) string {
			dir, name := s.at(where)
			return said(unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW))
		}, "chown %s %d:%d", where, uid, gid)
	},
	func(d *drawer) *operation {
		where := d.existing()
		times := []unix.Timespec{{Sec: 1000, Nsec: 1}, {Sec: pick[int64](d, "mtime", 0, -1, 5e9, 1e9), Nsec: 999999999}}
		if d.n("which", 3) == 2 {
			times[1] = unix.Timespec{Nsec: unix.UTIME_NOW}
		}
		return op(func(s *side) string {
			dir, name := s.at(where)
			return said(unix.UtimesNanoAt(dir, name, times, unix.AT_SYMLINK_NOFOLLOW))
		}, "utimens %s %v", where, times)
	},
	func(d *drawer) *operation {
		where, name := d.existing(), pick(d, "xattr", judgedXattrs...)
		value, flags := d.content(), pick(d, "flags", 0, unix.XATTR_CREATE, unix.XATTR_REPLACE)
		value = value[:min(len(value), 100)]
		return op(func(s *side) string {
			if where.slot >= 0 {
				return ""
			}
			_, file := s.at(where)
			return said(unix.Lsetxattr(file, name, value, flags))
		}, "setxattr %s %s flags %d", where, name, flags)
	},
	func(d *drawer) *operation {
		dir, list := pick(d, "dir", d.dirs...), pick(d, "list", judgedLists...)
		return op(func(s *side) string {
			_, file := s.at(at{-1, dir})
			return said(unix.Lsetxattr(file, "system.posix_acl_default", list, 0))
		}, "set default list of %s %q", dir, list)
	},
	func(d *drawer) *operation {
		where, name := d.existing(), pick(d, "xattr", judgedXattrs...)
		return op(func(s *side) string {
			if where.slot >= 0 {
				return ""
			}
			_, file := s.at(where)
			return said(unix.Lremovexattr(file, name))
		}, "removexattr %s %s", where, name)
	},
	func(d *drawer) *operation {
		where := d.existing()
		return op(func(s *side) string {
			dir, name := s.at(where)
			var st unix.Stat_t
			err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
			if err != nil {
				return said(err)
			}
			return said(nil, s.stat(&st))
		}, "stat %s", where)
	},
}

var judgedXattrs = []string{"user.a", "user.b", "trusted.a"}

// judgedLists are default access lists: u::rwx,u:4242:r-x,g::rwx,m::rwx,o::r-x
// and u::rwx,g::r-x,o::---. Ours doesn't enforce what the first says beyond the
// permission bits, so it says nothing about users and groups that there are.
var judgedLists = [][]byte{
	[]byte("\x02\x00\x00\x00" +
		"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x05\x00\x92\x10\x00\x00" +
		"\x04\x00\x07\x00\xff\xff\xff\xff" + "\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x05\x00\xff\xff\xff\xff"),
	[]byte("\x02\x00\x00\x00" +
		"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x04\x00\x05\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"),
}
