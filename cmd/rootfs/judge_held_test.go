package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// unjudged tells whether the kernel's overlay can be wrong about changing the
// attributes of what a slot holds: it copies up a removed file of a layer only
// then, which brings the name back or fails with EEXIST.
func (s *side) unjudged(slot int) bool {
	fd := s.held[slot]
	if fd == noFile {
		return false
	}
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil || !strings.HasSuffix(name, " (deleted)") {
		return false
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	return err != nil || flags&unix.O_ACCMODE == unix.O_RDONLY || !isRegular(fd)
}

// heldOperations work on descriptors, whose names may be gone.
var heldOperations = []func(d *drawer) *operation{
	drawOpen, drawOpen,
	func(d *drawer) *operation {
		slot, dir, mode, umask := d.slot(), pick(d, "dir", d.dirs...), d.mode(), d.umask()
		return op(func(s *side) string {
			_, name := s.at(at{-1, dir})
			defer unix.Umask(unix.Umask(umask))
			fd, err := unix.Open(name, unix.O_RDWR|unix.O_TMPFILE|unix.O_CLOEXEC, mode)
			if err == nil {
				s.hold(slot, fd)
			}
			return said(err)
		}, "fd%d = tmpfile in %s mode %#o umask %#o", slot, dir, mode, umask)
	},
	func(d *drawer) *operation {
		slot, to := d.slot(), d.fresh()
		return op(func(s *side) string {
			if s.held[slot] == noFile {
				return ""
			}
			dir, name := s.at(to)
			return said(unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", s.held[slot]), dir, name, unix.AT_SYMLINK_FOLLOW))
		}, "link fd%d to %s", slot, to)
	},
	func(d *drawer) *operation {
		slot, off, text := d.slot(), d.offset(), d.content()
		return op(func(s *side) string {
			if !isRegular(s.held[slot]) { // a fifo would take it, or not
				return ""
			}
			n, err := unix.Pwrite(s.held[slot], text, off)
			return said(err, n)
		}, "write fd%d at %d %s", slot, off, brieflyBytes(text))
	},
	drawRead, drawRead,
	func(d *drawer) *operation {
		slot, size := d.slot(), d.offset()
		return op(func(s *side) string { return said(unix.Ftruncate(s.held[slot], size)) }, "ftruncate fd%d to %d", slot, size)
	},
	func(d *drawer) *operation {
		slot := d.slot()
		return op(func(s *side) string {
			var st unix.Stat_t
			if err := unix.Fstat(s.held[slot], &st); err != nil {
				return said(err)
			}
			// Of a removed file of a layer, the kernel's overlay says how many
			// names it has there.
			line, _, _ := strings.Cut(s.stat(&st), " names")
			return said(nil, line)
		}, "fstat fd%d", slot)
	},
	func(d *drawer) *operation {
		slot, mode := d.slot(), d.mode()
		return op(func(s *side) string {
			if s.unjudged(slot) {
				return ""
			}
			return said(unix.Fchmod(s.held[slot], mode))
		}, "fchmod fd%d %#o", slot, mode)
	},
	func(d *drawer) *operation {
		slot, name := d.slot(), pick(d, "xattr", judgedXattrs...)
		return op(func(s *side) string {
			if s.unjudged(slot) {
				return ""
			}
			return said(unix.Fsetxattr(s.held[slot], name, []byte("held"), 0))
		}, "fsetxattr fd%d %s", slot, name)
	},
	func(d *drawer) *operation {
		slot, off, length := d.slot(), d.offset(), d.length()
		// Those that FUSE has: no collapsing and inserting of ranges.
		mode := pick[uint32](d, "mode", 0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
			unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE)
		return op(func(s *side) string {
			return said(unix.Fallocate(s.held[slot], mode, off, length))
		}, "fallocate fd%d mode %#x at %d length %d", slot, mode, off, length)
	},
	func(d *drawer) *operation {
		slot, off, whence := d.slot(), d.offset(), pick(d, "whence", unix.SEEK_DATA, unix.SEEK_HOLE)
		return op(func(s *side) string {
			if !isRegular(s.held[slot]) {
				return ""
			}
			// Where the data begins and ends is the host's affair: an
			// allocated block without data counts as a hole or not by
			// whether it was written back.
			_, err := unix.Seek(s.held[slot], off, whence)
			return said(err)
		}, "lseek fd%d %d whence %d", slot, off, whence)
	},
	func(d *drawer) *operation {
		from, to, in, out, length := d.slot(), d.slot(), d.offset(), d.offset(), int(d.length())
		return op(func(s *side) string {
			in, out := in, out
			n, err := unix.CopyFileRange(s.held[from], &in, s.held[to], &out, length, 0)
			return said(err, n)
		}, "copy %d of fd%d at %d to fd%d at %d", length, from, in, to, out)
	},
	func(d *drawer) *operation {
		slot := d.slot()
		return op(func(s *side) string {
			if _, err := unix.Seek(s.held[slot], 0, unix.SEEK_SET); err != nil {
				return said(err)
			}
			names, err := listing(s.held[slot], nil)
			slices.Sort(names)
			return said(err, names)
		}, "list fd%d", slot)
	},
	func(d *drawer) *operation {
		slot := d.slot()
		return op(func(s *side) string { return said(unix.Fsync(s.held[slot])) }, "fsync fd%d", slot)
	},
}

func drawOpen(d *drawer) *operation {
	slot, where, flags := d.slot(), d.existing(), pick(d, "flags", unix.O_RDONLY, unix.O_RDWR, unix.O_WRONLY|unix.O_APPEND, unix.O_DIRECTORY)
	return op(func(s *side) string {
		dir, name := s.at(where)
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_NOFOLLOW, 0)
		if err == nil {
			s.hold(slot, fd)
		}
		return said(err)
	}, "fd%d = open %s flags %#x", slot, where, flags)
}

func drawRead(d *drawer) *operation {
	slot, off, length := d.slot(), d.offset(), d.length()
	return op(func(s *side) string {
		if !isRegular(s.held[slot]) {
			return ""
		}
		buf := make([]byte, length)
		n, err := unix.Pread(s.held[slot], buf, off)
		return said(err, n, brieflyBytes(buf[:max(n, 0)]))
	}, "read fd%d at %d length %d", slot, off, length)
}
