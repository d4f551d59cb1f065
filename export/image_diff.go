package export

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/export/plan"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// Side is what [Diff] compares: an [Image], or a project as a [TreeSide].
type Side interface {
	Name() string // for errors
	Format() string
	Walk(ctx context.Context, visit func(*overlay.Entry) error) error
	Content(e *overlay.Entry) (Content, error)
}

// TreeSide is the merged tree, as an export would write it.
type TreeSide struct {
	Tree  *overlay.Tree
	Epoch *overlay.Time // the latest time; nil for any
}

// Name implements [Side].
func (t TreeSide) Name() string { return t.Tree.Project().Root }

// Format implements [Side].
func (TreeSide) Format() string { return "project" }

// Walk implements [Side].
func (t TreeSide) Walk(ctx context.Context, visit func(*overlay.Entry) error) error {
	return Walk(ctx, t.Tree, t.Epoch, visit)
}

// Content implements [Side].
func (TreeSide) Content(e *overlay.Entry) (Content, error) {
	f, err := e.Content.Open()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Path, err)
	}
	ranges, err := plan.DataRanges(f, e.Size)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", e.Path, err), f.Close())
	}
	return &hostContent{f, ranges}, nil
}

type hostContent struct {
	*overlay.File
	ranges []plan.Range
}

func (c *hostContent) Data() []plan.Range { return c.ranges }

// Difference is one that [Diff] found. Values are for people; a file that one
// side doesn't have has the field "entry" and on that side "".
type Difference struct {
	Path  string `json:"path"`
	Field string `json:"field"`
	A     string `json:"a"`
	B     string `json:"b"`
}

// Diff compares two sides name by name, and every field of every file that both
// formats hold, in one walk over each. Times of access and change are left
// out, since exports make all times the same; so are link counts of
// directories and where holes are. Of a FAT filesystem only names, sizes,
// contents and, to 2 seconds, times of files are compared, and not the copies
// that symlinks became. What is in a directory that only one side has is not
// reported again. An error of report ends it.
func Diff(ctx context.Context, a, b Side, report func(Difference) error) error {
	d := &differ{report: report, same: make(map[[2]uint64]bool)}
	d.sides[0], d.sides[1] = newCursor(ctx, a), newCursor(ctx, b)
	d.fat = a.Format() == "fat32" || b.Format() == "fat32"
	defer d.sides[0].stop()
	defer d.sides[1].stop()
	return d.run()
}

// cursor is a side and the entry that its walk has come to, nil at the end.
type cursor struct {
	Side
	entry *overlay.Entry
	names map[uint64]string // first names of files with several
	next  func() (*overlay.Entry, bool)
	stop  func()
	err   error
}

var errStopped = errors.New("stopped")

func newCursor(ctx context.Context, s Side) *cursor {
	c := &cursor{Side: s, names: make(map[uint64]string)}
	c.next, c.stop = iter.Pull(func(yield func(*overlay.Entry) bool) {
		c.err = s.Walk(ctx, func(e *overlay.Entry) error {
			own := *e
			if !yield(&own) {
				return errStopped
			}
			return nil
		})
	})
	return c
}

// advance goes to the next entry that isn't beneath skip, "" for any.
func (c *cursor) advance(skip string) error {
	for {
		e, ok := c.next()
		if !ok {
			c.entry = nil
			return c.wrap(c.err)
		}
		if skip != "" && strings.HasPrefix(e.Path, skip+"/") {
			continue
		}
		c.entry = e
		if e.Nlink > 1 && !e.IsDir() && c.names[e.Ino] == "" {
			c.names[e.Ino] = e.Path
		}
		return nil
	}
}

// wrap says which side an error is about.
func (c *cursor) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", c.Name(), err)
}

// firstName is the first name of the file that the cursor is at, "" if this is.
func (c *cursor) firstName() string {
	e := c.entry
	if name := c.names[e.Ino]; e.Nlink > 1 && !e.IsDir() && name != e.Path {
		return name
	}
	return ""
}

type differ struct {
	sides  [2]*cursor
	report func(Difference) error
	same   map[[2]uint64]bool // pairs of hard-linked files that were compared
	fat    bool
}

func (d *differ) run() error {
	a, b := d.sides[0], d.sides[1]
	if err := errors.Join(a.advance(""), b.advance("")); err != nil {
		return err
	}
	for a.entry != nil || b.entry != nil {
		order := 0
		switch {
		case a.entry == nil:
			order = 1
		case b.entry == nil:
			order = -1
		default:
			order = compareWalked(a.entry.Path, b.entry.Path)
		}
		var err error
		switch {
		case order < 0:
			err = d.only(0)
		case order > 0:
			err = d.only(1)
		default:
			err = d.both()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// compareWalked orders paths as a walk visits them: what is in a directory
// follows it at once.
func compareWalked(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == ".":
		return -1
	case b == ".":
		return 1
	}
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	if i == len(a) || i == len(b) {
		return cmp.Compare(len(a), len(b))
	}
	rank := func(c byte) int {
		if c == '/' {
			return -1
		}
		return int(c)
	}
	return cmp.Compare(rank(a[i]), rank(b[i]))
}

// only deals with an entry that the other side lacks.
func (d *differ) only(side int) error {
	c := d.sides[side]
	e := c.entry
	if err := c.advance(e.Path); err != nil {
		return err
	}
	other := d.sides[1-side].Format()
	kind := e.Mode & unix.S_IFMT
	switch {
	case other == "fat32" && kind != unix.S_IFREG && kind != unix.S_IFDIR:
		return nil // it holds none
	case (other == "tar" || other == "docker archive") && kind == unix.S_IFSOCK:
		return nil
	case e.Path == "lost+found" && e.IsDir() && strings.HasPrefix(c.Format(), "ext") && !strings.HasPrefix(other, "ext"):
		return nil // a part of the format
	}
	x := Difference{Path: e.Path, Field: "entry", A: KindText(e)}
	if side == 1 {
		x.A, x.B = "", x.A
	}
	return d.report(x)
}

// KindText names the type of an entry for people.
func KindText(e *overlay.Entry) string {
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFCHR:
		return "character device"
	case unix.S_IFBLK:
		return "block device"
	case unix.S_IFIFO:
		return "fifo"
	}
	return "socket"
}

// both compares a name that both sides have.
func (d *differ) both() error {
	a, b := d.sides[0], d.sides[1]
	x, y := a.entry, b.entry
	skip := ""
	if (x.Mode^y.Mode)&unix.S_IFMT != 0 {
		skip = x.Path
		if !d.fat || !x.IsSymlink() && !y.IsSymlink() {
			if err := d.report(Difference{x.Path, "type", KindText(x), KindText(y)}); err != nil {
				return err
			}
		}
	} else if err := errors.Join(d.fields(x, y), d.firstNames(x, y)); err != nil {
		return err
	}
	return errors.Join(a.advance(skip), b.advance(skip))
}

// firstNames compares which files two entries are further names of.
func (d *differ) firstNames(x, y *overlay.Entry) error {
	if d.fat || implied(x, y) {
		return nil
	}
	return d.field(x.Path, "first name", d.sides[0].firstName(), d.sides[1].firstName())
}

// implied tells whether one of the entries is a directory that its archive only
// has things in.
func implied(x, y *overlay.Entry) bool { return x.Nlink == 0 || y.Nlink == 0 }

// field reports a field whose values differ.
func (d *differ) field(path, field, p, q string) error {
	if p == q {
		return nil
	}
	return d.report(Difference{path, field, p, q})
}

// fields compares two entries of one type.
func (d *differ) fields(x, y *overlay.Entry) error {
	add := func(field, p, q string) error { return d.field(x.Path, field, p, q) }
	var errs []error
	if !d.fat && !implied(x, y) {
		errs = append(errs,
			add("mode", fmt.Sprintf("%04o", x.Mode&0o7777), fmt.Sprintf("%04o", y.Mode&0o7777)),
			add("owner", fmt.Sprintf("%d:%d", x.UID, x.GID), fmt.Sprintf("%d:%d", y.UID, y.GID)),
			add("mtime", TimeText(x.Mtime), TimeText(y.Mtime)),
			add("target", x.Target, y.Target),
			d.xattrs(x, y),
		)
	}
	if x.IsDevice() {
		errs = append(errs, add("device", DeviceText(x.Rdev), DeviceText(y.Rdev)))
	}
	if x.IsRegular() {
		if d.fat {
			errs = append(errs, add("mtime", TimeText(fatTime(x.Mtime)), TimeText(fatTime(y.Mtime))))
		}
		errs = append(errs, add("size", fmt.Sprint(x.Size), fmt.Sprint(y.Size)))
		if x.Size == y.Size && x.Size > 0 {
			errs = append(errs, d.content(x, y))
		}
	}
	return errors.Join(errs...)
}

// TimeText writes a time for people, in UTC and with all digits that it has.
func TimeText(t overlay.Time) string { return t.Time().UTC().Format(time.RFC3339Nano) }

// DeviceText writes a device number as "major:minor".
func DeviceText(rdev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(rdev), unix.Minor(rdev)) }

// fatTime is what FAT makes of a time: from 1980 to 2107, to 2 seconds.
func fatTime(t overlay.Time) overlay.Time {
	const first, last = 315532800, 4354819198
	return overlay.Time{Sec: min(max(t.Sec, first), last) &^ 1}
}

// xattrs compares extended attributes, which are sorted.
func (d *differ) xattrs(x, y *overlay.Entry) error {
	p, q := x.Xattrs, y.Xattrs
	for len(p) > 0 || len(q) > 0 {
		order := 0
		switch {
		case len(p) == 0:
			order = 1
		case len(q) == 0:
			order = -1
		default:
			order = strings.Compare(p[0].Name, q[0].Name)
		}
		diff := Difference{Path: x.Path}
		equal := order == 0 && bytes.Equal(p[0].Value, q[0].Value)
		if order <= 0 {
			diff.Field, diff.A = "xattr "+p[0].Name, fmt.Sprintf("%q", p[0].Value)
			p = p[1:]
		}
		if order >= 0 {
			diff.Field, diff.B = "xattr "+q[0].Name, fmt.Sprintf("%q", q[0].Value)
			q = q[1:]
		}
		if equal {
			continue
		}
		if err := d.report(diff); err != nil {
			return err
		}
	}
	return nil
}

// content compares the bytes of two files of the same size.
func (d *differ) content(x, y *overlay.Entry) error {
	pair := [2]uint64{x.Ino, y.Ino}
	if x.Nlink > 1 && y.Nlink > 1 {
		if d.same[pair] {
			return nil
		}
		d.same[pair] = true
	}
	p, err := d.sides[0].Content(x)
	if err != nil {
		return d.sides[0].wrap(err)
	}
	defer p.Close() //nolint:errcheck // only read
	q, err := d.sides[1].Content(y)
	if err != nil {
		return d.sides[1].wrap(err)
	}
	defer q.Close() //nolint:errcheck // only read
	at, err := firstDifference(p, q, x.Size)
	if err != nil {
		return fmt.Errorf("%s: %w", x.Path, err)
	}
	if at < 0 {
		return nil
	}
	return d.report(Difference{x.Path, "content", fmt.Sprintf("byte %d is %s", at, byteAt(p, at)), byteAt(q, at)})
}

func byteAt(r io.ReaderAt, at int64) string {
	var b [1]byte
	_, _ = r.ReadAt(b[:], at) // was read a moment ago
	return fmt.Sprintf("%#02x", b[0])
}

// compareBuffer is how much of two files is compared at once.
const compareBuffer = 256 << 10

// firstDifference returns where two files of one size differ first, -1 if
// nowhere. Where both have holes nothing is read.
func firstDifference(a, b Content, size int64) (int64, error) {
	p, q := a.Data(), b.Data()
	bufA, bufB := make([]byte, min(compareBuffer, size)), make([]byte, min(compareBuffer, size))
	for at := int64(0); ; {
		for len(p) > 0 && p[0].Off+p[0].Len <= at {
			p = p[1:]
		}
		for len(q) > 0 && q[0].Off+q[0].Len <= at {
			q = q[1:]
		}
		next := size
		for _, r := range [][]plan.Range{p, q} {
			if len(r) > 0 {
				next = min(next, r[0].Off)
			}
		}
		if at = max(at, next); at >= size {
			return -1, nil
		}
		end := size
		for _, r := range [][]plan.Range{p, q} {
			if len(r) > 0 && r[0].Off <= at {
				end = min(end, r[0].Off+r[0].Len)
			}
		}
		n := min(int64(len(bufA)), end-at)
		if err := errors.Join(readAtFull(a, bufA[:n], at), readAtFull(b, bufB[:n], at)); err != nil {
			return 0, err
		}
		if !bytes.Equal(bufA[:n], bufB[:n]) {
			for i := range n {
				if bufA[i] != bufB[i] {
					return at + i, nil
				}
			}
		}
		at += n
	}
}

// readAtFull is ReadAt where the end of the file is an error.
func readAtFull(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
