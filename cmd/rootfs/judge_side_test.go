package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

// A side is one of two filesystems that must behave alike: ours, and the
// kernel's overlayfs over the same layers.
type side struct {
	root  string
	began time.Time // what happened since then is "now"
	held  [heldFiles]int
}

// heldFiles is how many descriptors a sequence of operations can keep open.
const heldFiles = 4

// noFile is a descriptor that every call refuses with EBADF.
const noFile = -1

func newSide(root string, began time.Time) *side {
	s := &side{root: root, began: began}
	for i := range s.held {
		s.held[i] = noFile
	}
	return s
}

// hold keeps fd in a slot, in place of what is there.
func (s *side) hold(slot, fd int) {
	s.drop(slot)
	s.held[slot] = fd
}

func (s *side) drop(slot int) {
	if s.held[slot] != noFile {
		_ = unix.Close(s.held[slot])
		s.held[slot] = noFile
	}
}

func (s *side) close() {
	for i := range s.held {
		s.drop(i)
	}
}

// at is where an operation finds an entry: by path, or relative to a held
// directory.
type at struct {
	slot int // below 0: rel is below the root
	rel  string
}

func (a at) String() string {
	if a.slot < 0 {
		return a.rel
	}
	return fmt.Sprintf("fd%d:%s", a.slot, a.rel)
}

func (s *side) at(a at) (dirfd int, path string) {
	if a.slot < 0 {
		return unix.AT_FDCWD, filepath.Join(s.root, a.rel)
	}
	return s.held[a.slot], a.rel
}

// as runs do with the filesystem identity of a user, in a thread of its own.
func as(uid int, do func() string) string {
	if uid == 0 {
		return do()
	}
	said := make(chan string)
	go func() {
		// Never unlocked: the thread ends with its identity.
		runtime.LockOSThread()
		_ = unix.Setfsgid(uid)
		_ = unix.Setfsuid(uid)
		said <- do()
	}()
	return <-said
}

// said is the result of an operation as both sides must give it.
func said(err error, values ...any) string {
	if err == nil {
		return strings.TrimSpace("ok " + fmt.Sprintln(values...))
	}
	var errno unix.Errno
	if e, ok := err.(unix.Errno); ok { //nolint:errorlint // comes as it is from package unix
		errno = e
	}
	return unix.ErrnoName(errno)
}

// when tells a time that was set from one that is the clock's.
func (s *side) when(ts unix.Timespec) string {
	if at := time.Unix(ts.Unix()); !at.Before(s.began) {
		return "now"
	}
	return fmt.Sprintf("%d.%09d", ts.Sec, ts.Nsec)
}

// stat is what fstatat says of an entry. Directories differ in size and
// number of names between any two filesystems.
func (s *side) stat(st *unix.Stat_t) string {
	line := fmt.Sprintf("%06o %d:%d %s", st.Mode, st.Uid, st.Gid, s.when(st.Mtim))
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return line
	case unix.S_IFCHR, unix.S_IFBLK:
		line += fmt.Sprintf(" dev %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	return line + fmt.Sprintf(" size %d names %d", st.Size, st.Nlink)
}

// tree is a line for each entry below rel: path, stat, content or target, xattrs, and
// the first of the names of the same inode.
func (s *side) tree(rel string) ([]string, error) {
	var lines []string
	first := make(map[uint64]string)
	err := s.walk(rel, func(rel string, st *unix.Stat_t) error {
		if first[st.Ino] == "" {
			first[st.Ino] = rel
		}
		path := filepath.Join(s.root, rel)
		line := fmt.Sprintf("%s %s = %s", rel, s.stat(st), first[st.Ino])
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %s", brieflyBytes(text))
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		names, err := xattr.LList(path)
		if err != nil {
			return err
		}
		slices.Sort(names)
		for _, name := range names {
			value, err := xattr.LGet(path, name)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %s=%q", name, value)
		}
		lines = append(lines, line)
		return nil
	})
	return lines, err
}

// walk calls visit for every entry below rel, parents first, by name. A
// listing must agree with lstat on inode numbers and types.
func (s *side) walk(rel string, visit func(rel string, st *unix.Stat_t) error) error {
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(s.root, rel), &st); err != nil {
		return fmt.Errorf("%s: lstat: %w", rel, err)
	}
	if err := visit(rel, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	fd, err := unix.Open(filepath.Join(s.root, rel), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: open: %w", rel, err)
	}
	names, err := listing(fd, nil)
	if err := errorsFirst(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("%s: list: %w", rel, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := s.walk(filepath.Join(rel, name), visit); err != nil {
			return err
		}
	}
	return nil
}

func errorsFirst(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// listing reads the names of a directory in small pieces; between is called
// once, after the first.
func listing(fd int, between func()) ([]string, error) {
	var names []string
	buf := make([]byte, 320) // a few names, or one of the longest
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil || n == 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
		if between != nil {
			between()
			between = nil
		}
	}
}

// brieflyBytes shows a content on one line, with its zeros counted.
func brieflyBytes(text []byte) string {
	var b strings.Builder
	for len(text) > 0 {
		n := 1
		for n < len(text) && text[n] == text[0] {
			n++
		}
		if n > 8 {
			fmt.Fprintf(&b, "<%q*%d>", text[0], n)
		} else {
			b.Write(text[:n])
		}
		text = text[n:]
	}
	return fmt.Sprintf("%q", b.String())
}
