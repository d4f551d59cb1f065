package ext4

import (
	"encoding/binary"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/export/plan"
	"github.com/DragonOS-Community/rootfs/overlay"
)

const (
	maxName  = 255
	maxLinks = 65000 // EXT4_LINK_MAX

	// maxFileBlocks is the reach of an extent's 32-bit logical block number;
	// the last number is a sentinel of the kernel (EXT_MAX_BLOCKS).
	maxFileBlocks = 1<<32 - 1
)

// hardLink is a file that may have further names.
type hardLink struct {
	number uint32
	seen   uint32 // names added so far
}

// Add adds an entry: the root, ".", first; each directory before what it
// holds; the entries of one directory in bytewise order of their names. e may
// be reused afterwards, what it refers to is kept. Errors name the path: a
// name, an attribute or a number that ext4 can't hold, or an entry out of
// order.
//
// A directory lost+found of the root gets the inode number that the tools
// expect it to have; if there is none, an empty one is made.
func (p *Planner) Add(e *overlay.Entry) error {
	if p.planned {
		return fmt.Errorf("%s: added after the image was planned", e.Path)
	}
	if err := p.add(e); err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	p.identify(e)
	return nil
}

func (p *Planner) add(e *overlay.Entry) error {
	if e.Path == "." {
		return p.addRoot(e)
	}
	name := path.Base(e.Path)
	dir := p.dirs[path.Dir(e.Path)]
	if err := checkName(dir, e.Path, name); err != nil {
		return err
	}
	if e.Path == lostFound && !e.IsDir() {
		return fmt.Errorf("has to be a directory, as e2fsck puts what it finds there")
	}
	if link := p.links[e.Ino]; link != nil && e.Nlink > 1 && !e.IsDir() {
		return p.addLink(e, link, dir, name)
	}
	node, number, err := p.addInode(e)
	if err != nil {
		return err
	}
	p.enter(e, dir, name, node, number)
	return nil
}

// enter gives an inode its first name.
func (p *Planner) enter(e *overlay.Entry, dir *directory, name string, node *inode, number uint32) {
	if e.IsDir() {
		dir.subdirs++
		p.addDirectory(e.Path, dir, node, number)
	} else if e.Nlink > 1 {
		p.links[e.Ino] = &hardLink{number: number, seen: 1}
	}
	node.dir, node.nameAt = dir, dir.add(name, number, fileType(node.mode))
}

func checkName(dir *directory, full, name string) error {
	switch {
	case dir == nil:
		return fmt.Errorf("its directory was not added before it")
	case len(name) > maxName:
		return fmt.Errorf("name has %d bytes, ext4 takes %d", len(name), maxName)
	case name == "." || name == ".." || name == "/" || full != path.Clean(full) || strings.IndexByte(name, 0) >= 0:
		return fmt.Errorf("not the path of an entry: %q", full)
	case len(dir.records) > maxDirectory-blockSize:
		return fmt.Errorf("its directory is full at %d bytes of names", len(dir.records))
	case !dir.follows(name):
		return fmt.Errorf("added after %q, out of order", dir.name(dir.last))
	}
	return nil
}

func (p *Planner) addRoot(e *overlay.Entry) error {
	if p.root != nil || !e.IsDir() {
		return fmt.Errorf("the root is one directory")
	}
	node := p.inodes.get(rootInode)
	if err := p.fill(node, e); err != nil {
		return err
	}
	p.root = p.addDirectory(".", nil, node, rootInode)
	return nil
}

// addLink adds one more name of a file.
func (p *Planner) addLink(e *overlay.Entry, link *hardLink, dir *directory, name string) error {
	node := p.inodes.get(link.number)
	if uint32(node.mode) != e.Mode&0xffff {
		return fmt.Errorf("mode %#o differs from that of the same file at %s", e.Mode, node)
	}
	if node.links == maxLinks {
		return fmt.Errorf("more than the %d links that ext4 allows a file, the first at %s", maxLinks, node)
	}
	node.links++
	link.seen++
	if link.seen == e.Nlink {
		delete(p.links, e.Ino)
	}
	dir.add(name, link.number, fileType(node.mode))
	return nil
}

// addInode makes the inode of an entry.
func (p *Planner) addInode(e *overlay.Entry) (*inode, uint32, error) {
	if e.Path == lostFound {
		node := p.inodes.get(lostFoundInode)
		return node, lostFoundInode, p.fill(node, e)
	}
	var node inode
	if err := p.fill(&node, e); err != nil {
		return nil, 0, err
	}
	if p.inodes.count == maxInodes {
		return nil, 0, fmt.Errorf("more than the %d inodes that ext4 has", uint32(maxInodes))
	}
	added, number := p.inodes.add()
	*added = node
	return added, number, nil
}

// fill sets an inode's fields from the entry, names and links excepted.
func (p *Planner) fill(node *inode, e *overlay.Entry) error {
	*node = inode{
		mode: uint16(e.Mode), uid: e.UID, gid: e.GID, links: 1,
		sec: e.Mtime.Sec, nsec: e.Mtime.Nsec,
	}
	if len(e.Xattrs) > 0 {
		node.more().xattrs = e.Xattrs
	}
	var err error
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		err = fillRegular(node, e)
	case unix.S_IFLNK:
		err = fillSymlink(node, e)
	case unix.S_IFCHR, unix.S_IFBLK:
		err = fillDevice(node, e)
	case unix.S_IFDIR, unix.S_IFIFO, unix.S_IFSOCK:
	default:
		err = fmt.Errorf("unknown file type in mode %#o", e.Mode)
	}
	if err != nil {
		return err
	}
	return node.checkXattrs()
}

func fillRegular(node *inode, e *overlay.Entry) error {
	if e.Size < 0 || e.Size > maxFileBlocks*blockSize {
		return fmt.Errorf("%d bytes are more than ext4 takes, %d", e.Size, int64(maxFileBlocks)*blockSize)
	}
	node.size = e.Size
	if e.Size == 0 {
		return nil
	}
	if e.Content == nil {
		return fmt.Errorf("a file of %d bytes without content", e.Size)
	}
	node.content = e.Content
	if e.Blocks >= (e.Size+511)/512 {
		return nil
	}
	f, err := e.Content.Open()
	if err != nil {
		return err
	}
	ranges, err := plan.DataRanges(f, e.Size)
	_ = f.Close() // it was only read
	if err != nil {
		return err
	}
	if runs := blockRuns(ranges); len(runs) != 1 || runs[0] != (run{0, blocksOf(e.Size)}) {
		node.more().runs = runs
	}
	return nil
}

// blockRuns rounds ranges of bytes to blocks. It is never nil.
func blockRuns(ranges []plan.Range) []run {
	runs := make([]run, 0, len(ranges))
	for _, r := range ranges {
		first, end := uint32(r.Off/blockSize), blocksOf(r.Off+r.Len)
		if n := len(runs); n > 0 && first <= runs[n-1].first+runs[n-1].count {
			runs[n-1].count = end - runs[n-1].first
			continue
		}
		runs = append(runs, run{first, end - first})
	}
	return runs
}

func fillSymlink(node *inode, e *overlay.Entry) error {
	// The target and a zero byte have to fit a block.
	if len(e.Target) == 0 || len(e.Target) >= blockSize {
		return fmt.Errorf("symlink target of %d bytes, ext4 takes 1 to %d", len(e.Target), blockSize-1)
	}
	node.size = int64(len(e.Target))
	node.more().target = e.Target
	return nil
}

func fillDevice(node *inode, e *overlay.Entry) error {
	major, minor := unix.Major(e.Rdev), unix.Minor(e.Rdev)
	if major >= 1<<12 || minor >= 1<<20 {
		return fmt.Errorf("device number %d:%d is more than Linux takes, 4095:1048575", major, minor)
	}
	x := node.more()
	x.major, x.minor = major, minor
	return nil
}

// identify adds what an entry says to the digest that identifiers come from.
func (p *Planner) identify(e *overlay.Entry) {
	le := binary.LittleEndian
	b := append(append(p.scratch[:0], e.Path...), 0)
	for _, v := range []uint32{e.Mode, e.UID, e.GID, e.Mtime.Nsec} {
		b = le.AppendUint32(b, v)
	}
	for _, v := range []uint64{e.Rdev, uint64(e.Size), uint64(e.Mtime.Sec)} {
		b = le.AppendUint64(b, v)
	}
	b = append(append(b, e.Target...), 0)
	for _, x := range e.Xattrs {
		b = append(append(b, x.Name...), 0)
		b = le.AppendUint32(b, uint32(len(x.Value)))
		b = append(b, x.Value...)
	}
	p.digest.Write(b)
	p.scratch = b
}
