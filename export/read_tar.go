package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// tarNode is a file of a [tarTree].
type tarNode struct {
	entry    overlay.Entry
	pieces   []extent
	children map[string]uint64 // of a directory
	layer    int               // that it comes from
	opaque   int               // layer that has hidden those below, 0 for none
}

// tarSection is a tar in a file: a layer.
type tarSection struct{ off, size int64 }

// tarTree is what unpacking one or several tars, one over the other, would
// make. Files are numbered from 1, the root.
type tarTree struct {
	format    string
	src       io.ReaderAt
	layers    []tarSection
	whiteouts bool // names that begin with .wh. remove what is below
	nodes     []*tarNode
	err       error // that ended the reading
}

const (
	tarRoot    = 1
	whiteout   = ".wh."
	opaque     = ".wh..wh..opq"
	aufsPrefix = ".wh..wh." // other files and folders of aufs's own housekeeping

	// maxTarName bounds the directories that a member's name may imply.
	maxTarName = 64 << 10 // bytes
)

// readTar reads the headers of all layers. What can't be read is an error of
// every later call, except Check, which tells all that is wrong.
func readTar(format string, src io.ReaderAt, whiteouts bool, layers ...tarSection) *tarTree {
	t := &tarTree{format: format, src: src, layers: layers, whiteouts: whiteouts}
	t.err = t.build(context.Background(), func(problem string) error { return errors.New(problem) })
	return t
}

// build makes the nodes. What is wrong is reported, and left out unless report
// returns an error.
func (t *tarTree) build(ctx context.Context, report func(problem string) error) error {
	t.nodes = nil
	t.add(impliedDir(0))
	for i, layer := range t.layers {
		s := &tarScanner{src: t.src, off: layer.off, end: layer.off + layer.size}
		for {
			if err := ctx.Err(); err != nil {
				return err
			}
			m, err := s.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				// Nothing is known of what follows.
				if err = report(err.Error()); err != nil {
					return err
				}
				break
			}
			if err := t.insert(m, i); err != nil {
				if err = report(fmt.Sprintf("%.4096q: %v", m.name, err)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// impliedDir is a directory that the archive has no member for; it has no
// links, by which it is told.
func impliedDir(layer int) *tarNode {
	return &tarNode{entry: overlay.Entry{Mode: unix.S_IFDIR | 0o755}, children: make(map[string]uint64), layer: layer}
}

func (t *tarTree) add(n *tarNode) uint64 {
	t.nodes = append(t.nodes, n)
	n.entry.Ino = uint64(len(t.nodes))
	return n.entry.Ino
}

func (t *tarTree) node(number uint64) *tarNode { return t.nodes[number-1] }

// tarPath cleans a member's name: "" is the root.
func tarPath(name string) (string, error) {
	if len(name) > maxTarName {
		return "", fmt.Errorf("the name has %d bytes, more than %d", len(name), maxTarName)
	}
	if slices.Contains(strings.Split(name, "/"), "..") {
		return "", errors.New("the name leads out of a directory")
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", errors.New("the name has a NUL byte")
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

// insert puts a member where its name says; the later one wins, but a directory
// keeps what is in it.
func (t *tarTree) insert(m *tarMember, layer int) error {
	name, err := tarPath(m.name)
	if err != nil {
		return err
	}
	if strings.HasSuffix(m.name, "/") && m.entry.IsRegular() && m.typ != typeLink {
		m.entry.Mode = unix.S_IFDIR | m.entry.Mode&0o7777 // as before POSIX
		m.entry.Size, m.pieces = 0, nil
	}
	if name == "" {
		if !m.entry.IsDir() {
			return errors.New("the root can't be replaced")
		}
		t.setDir(t.node(tarRoot), m, layer)
		return nil
	}
	dirName, base := path.Split(name)
	if t.whiteouts && strings.Contains("/"+name, "/"+aufsPrefix) && base != opaque {
		return nil
	}
	dir, err := t.dir(dirName, layer)
	if err != nil {
		return err
	}
	if t.whiteouts && strings.HasPrefix(base, whiteout) {
		t.whiteOut(dir, base, layer)
		return nil
	}
	old := dir.children[base]
	switch {
	case m.typ == typeLink:
		return t.link(m, dir, base, layer)
	case m.entry.IsDir() && old != 0 && t.node(old).entry.IsDir():
		t.setDir(t.node(old), m, layer)
		return nil
	}
	t.unlink(old)
	n := &tarNode{entry: m.entry, pieces: m.pieces, layer: layer}
	n.entry.Nlink = 1
	for _, p := range m.pieces {
		n.entry.Blocks += (p.length + 511) / 512
	}
	if m.entry.IsDir() {
		n.children = make(map[string]uint64)
	}
	if m.entry.IsSymlink() {
		n.entry.Target = m.link
	}
	dir.children[base] = t.add(n)
	return nil
}

func (t *tarTree) setDir(n *tarNode, m *tarMember, layer int) {
	number := n.entry.Ino
	n.entry, n.layer = m.entry, layer
	n.entry.Ino, n.entry.Nlink = number, 1
}

// dir returns a directory by its name, with those above it that are missing.
// Links on the way are followed, as by every program that unpacks tars over each
// other.
func (t *tarTree) dir(name string, layer int) (*tarNode, error) {
	dirs := []*tarNode{t.node(tarRoot)} // from the root to where the name has led
	links := 0
	for todo := strings.Split(name, "/"); len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		if part == "" || part == "." {
			continue
		}
		if part == ".." {
			dirs = dirs[:max(len(dirs)-1, 1)]
			continue
		}
		n := dirs[len(dirs)-1]
		child := n.children[part]
		if child != 0 && t.node(child).entry.IsSymlink() {
			target := t.node(child).entry.Target
			if links++; links > maxFollowed || len(target) >= unix.PathMax {
				return nil, fmt.Errorf("%q above it: %w", part, unix.ELOOP)
			}
			if strings.HasPrefix(target, "/") {
				dirs = dirs[:1]
			}
			todo = append(strings.Split(target, "/"), todo...)
			continue
		}
		if child == 0 || !t.node(child).entry.IsDir() && t.node(child).layer < layer {
			child = t.add(impliedDir(layer))
			n.children[part] = child
		}
		if !t.node(child).entry.IsDir() {
			return nil, fmt.Errorf("%q above it is no directory", part)
		}
		dirs = append(dirs, t.node(child))
	}
	return dirs[len(dirs)-1], nil
}

// link gives a file another name.
func (t *tarTree) link(m *tarMember, dir *tarNode, base string, layer int) error {
	name, err := tarPath(m.link)
	if err != nil {
		return err
	}
	dirName, file := path.Split(name)
	from, err := t.dir(dirName, layer)
	if err != nil {
		return err
	}
	number := from.children[file]
	if number == 0 || t.node(number).entry.IsDir() {
		return fmt.Errorf("a hard link to %q, which is no file before it", m.link)
	}
	if dir.children[base] == number {
		return nil
	}
	t.unlink(dir.children[base])
	t.node(number).entry.Nlink++
	dir.children[base] = number
	return nil
}

func (t *tarTree) unlink(number uint64) {
	if number != 0 && !t.node(number).entry.IsDir() {
		t.node(number).entry.Nlink--
	}
}

// whiteOut removes what layers below have (OCI image specification, layer.md,
// "Whiteouts").
func (t *tarTree) whiteOut(dir *tarNode, base string, layer int) {
	if base == opaque {
		t.clear(dir, layer)
	} else {
		t.hide(dir, strings.TrimPrefix(base, whiteout), layer)
	}
}

// clear removes what layers below have in a directory.
func (t *tarTree) clear(dir *tarNode, layer int) {
	if dir.opaque == layer {
		return // said before
	}
	dir.opaque = layer
	for name := range dir.children {
		t.hide(dir, name, layer)
	}
}

// hide removes what layers below have at a name and beneath it.
func (t *tarTree) hide(dir *tarNode, name string, layer int) {
	number := dir.children[name]
	if number == 0 {
		return
	}
	n := t.node(number)
	if n.entry.IsDir() {
		t.clear(n, layer)
	}
	switch {
	case n.layer == layer:
	case len(n.children) > 0: // of this layer
		n.entry, n.layer = impliedDir(layer).entry, layer
		n.entry.Ino = number
	default:
		t.unlink(number)
		delete(dir.children, name)
	}
}

// Format implements [Filesystem].
func (t *tarTree) Format() string { return t.format }

// Root implements [Filesystem].
func (t *tarTree) Root() uint64 { return tarRoot }

func (t *tarTree) get(number uint64) (*tarNode, error) {
	if t.err != nil {
		return nil, t.err
	}
	if number == 0 || number > uint64(len(t.nodes)) {
		return nil, fmt.Errorf("file %d: %w", number, unix.ENOENT)
	}
	return t.node(number), nil
}

// Stat implements [Filesystem].
func (t *tarTree) Stat(number uint64, e *overlay.Entry) error {
	n, err := t.get(number)
	if err == nil {
		*e = n.entry
	}
	return err
}

// ReadDir implements [Filesystem].
func (t *tarTree) ReadDir(number uint64, yield func(name string, number uint64) error) error {
	n, err := t.get(number)
	if err != nil {
		return err
	}
	if n.children == nil {
		return unix.ENOTDIR
	}
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		if err := yield(name, n.children[name]); err != nil {
			return err
		}
	}
	return nil
}

// Extents implements [Filesystem].
func (t *tarTree) Extents(number uint64, yield func(file, image, length int64) error) error {
	n, err := t.get(number)
	if err != nil {
		return err
	}
	for _, p := range n.pieces {
		if err := yield(p.file, p.image, p.length); err != nil {
			return err
		}
	}
	return nil
}

// Check implements [Filesystem]: it reads all headers again.
func (t *tarTree) Check(ctx context.Context, report func(problem string) error) error {
	again := &tarTree{src: t.src, layers: t.layers, whiteouts: t.whiteouts}
	if err := again.build(ctx, report); err != nil {
		return err
	}
	for _, layer := range t.layers {
		if layer.size%tarBlock != 0 || !endsInZeros(t.src, layer) {
			if err := report("the archive doesn't end with two blocks of zeros"); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// endsInZeros tells whether a tar ends as it should.
func endsInZeros(src io.ReaderAt, s tarSection) bool {
	var b [2 * tarBlock]byte
	if s.size < int64(len(b)) {
		return false
	}
	n, _ := src.ReadAt(b[:], s.off+s.size-int64(len(b)))
	return n == len(b) && b == [2 * tarBlock]byte{}
}

func sortedXattrs(m map[string][]byte) []overlay.Xattr {
	var list []overlay.Xattr
	for _, name := range slices.Sorted(maps.Keys(m)) {
		list = append(list, overlay.Xattr{Name: name, Value: m[name]})
	}
	return list
}
