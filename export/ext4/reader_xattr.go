package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/DragonOS-Community/rootfs/overlay"
)

const (
	xattrSystem   = 7        // the namespace of inline data
	xattrRichACL  = 8        // never was in the kernel
	maxXattrValue = 64 << 10 // XATTR_SIZE_MAX
	flagEAInode   = 0x200000 // an inode that holds a value
	inlineName    = "data"   // of the attribute with the rest of inline content
)

// diskXattr is an attribute as it is found: its value in the area, or in an
// inode of its own (ea_inode).
type diskXattr struct {
	index      uint8
	name       string
	off, size  int // of the value, in bytes from where offsets count
	valueInode uint32
}

// xattrList parses the entries in b that begin at first. Values lie in b too,
// each in a place of its own, their offsets counted from base.
func xattrList(b []byte, first, base int) ([]diskXattr, error) {
	le := binary.LittleEndian
	var list []diskXattr
	room := len(b)
	for at := first; ; {
		if at+xattrListEnd > len(b) {
			return nil, errors.New("the list of extended attributes has no end")
		}
		if le.Uint32(b[at:]) == 0 {
			return list, nil
		}
		if at+xattrEntryHeader > len(b) || at+xattrEntryHeader+int(b[at]) > len(b) {
			return nil, errors.New("the list of extended attributes has no end")
		}
		e := b[at:]
		x := diskXattr{
			index: e[1], name: string(e[xattrEntryHeader:][:e[0]]),
			off: base + int(le.Uint16(e[2:])), size: int(min(le.Uint32(e[8:]), maxXattrValue+1)), valueInode: le.Uint32(e[4:]),
		}
		if x.size > maxXattrValue || x.valueInode == 0 && x.off+x.size > len(b) {
			return nil, fmt.Errorf("extended attribute %q: its value is outside", x.name)
		}
		if x.valueInode == 0 {
			if room -= x.size; room < 0 {
				return nil, fmt.Errorf("extended attribute %q: its value overlaps others", x.name)
			}
		}
		list = append(list, x)
		at += pad4(xattrEntryHeader + int(e[0]))
	}
}

// inodeXattrs parses the attributes in the inode itself.
func (n *node) inodeXattrs() ([]diskXattr, error) {
	at := 128 + n.extraSize()
	if at+8 > len(n.raw) || n.u32(at) != xattrMagic {
		return nil, nil
	}
	return xattrList(n.raw, at+4, at+4)
}

// blockXattrs parses the attributes in a block, which it returns too.
func (r *Reader) blockXattrs(number uint64) ([]diskXattr, []byte, error) {
	b, err := r.block(number)
	if err != nil {
		return nil, nil, err
	}
	le := binary.LittleEndian
	if le.Uint32(b) != xattrMagic || le.Uint32(b[8:]) != 1 {
		return nil, nil, fmt.Errorf("block %d holds no extended attributes", number)
	}
	if r.super.metadataSums() {
		sum := r.seed.addUint32(uint32(number)).addUint32(uint32(number >> 32))
		sum = sum.add(b[:16]).add(make([]byte, 4)).add(b[20:])
		if uint32(sum) != le.Uint32(b[16:]) {
			return nil, nil, fmt.Errorf("extended attributes in block %d: %w", number, errSum)
		}
	}
	list, err := xattrList(b, xattrBlockHeader, 0)
	return list, b, err
}

// xattrs reads all of an inode's extended attributes, sorted by name.
func (r *Reader) xattrs(n *node) ([]overlay.Xattr, error) {
	list, err := n.inodeXattrs()
	if err != nil {
		return nil, err
	}
	all, err := r.values(nil, list, n.raw)
	if err != nil {
		return nil, err
	}
	if block := n.xattrBlock(); block != 0 {
		list, b, err := r.blockXattrs(block)
		if err != nil {
			return nil, err
		}
		if all, err = r.values(all, list, b); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, func(x, y overlay.Xattr) int { return strings.Compare(x.Name, y.Name) })
	return all, nil
}

// values appends the attributes of a list, in the form that getxattr returns.
func (r *Reader) values(all []overlay.Xattr, list []diskXattr, area []byte) ([]overlay.Xattr, error) {
	for _, x := range list {
		if x.index == xattrSystem && x.name == inlineName {
			continue // content
		}
		name, err := x.fullName()
		if err != nil {
			return nil, err
		}
		var value []byte
		if x.valueInode != 0 {
			value, err = r.valueInode(x)
		} else {
			value = slices.Clone(area[x.off : x.off+x.size])
		}
		if err == nil && (x.index == xattrACLAccess || x.index == xattrACLDefault) {
			value, err = shownACL(value)
		}
		if err != nil {
			return nil, fmt.Errorf("extended attribute %q: %w", name, err)
		}
		all = append(all, overlay.Xattr{Name: name, Value: value})
	}
	return all, nil
}

func (x *diskXattr) fullName() (string, error) {
	for _, p := range xattrPrefixes {
		if p.index == x.index {
			return p.prefix + x.name, nil
		}
	}
	switch x.index {
	case 0:
		return x.name, nil
	case xattrSystem, xattrRichACL:
		return "system." + x.name, nil
	}
	return "", fmt.Errorf("extended attribute %q: namespace %d is unknown", x.name, x.index)
}

// valueInode reads a value that is the content of an inode.
func (r *Reader) valueInode(x diskXattr) ([]byte, error) {
	n, err := r.node(uint64(x.valueInode))
	if err != nil {
		return nil, err
	}
	if n.flags()&flagEAInode == 0 || n.size(r) != int64(x.size) {
		return nil, fmt.Errorf("inode %d doesn't hold its value of %d bytes", x.valueInode, x.size)
	}
	b := make([]byte, x.size)
	return b, r.extents(n, func(file, image, length int64) error {
		return readFull(r.src, b[file:file+length], image)
	})
}

// inlineRest tells where in the inode the rest of its content is, in bytes
// from its beginning.
func (n *node) inlineRest() (at, length int64, err error) {
	list, err := n.inodeXattrs()
	if err != nil {
		return 0, 0, err
	}
	for _, x := range list {
		if x.index == xattrSystem && x.name == inlineName && x.valueInode == 0 {
			return int64(x.off), int64(x.size), nil
		}
	}
	return 0, 0, nil
}

// shownACL converts an ACL from its form on disk; see [diskACL].
func shownACL(disk []byte) ([]byte, error) {
	le := binary.LittleEndian
	if len(disk) < 4 || le.Uint32(disk) != aclDiskVersion {
		return nil, errors.New("not an ACL of version 1")
	}
	x := le.AppendUint32(nil, aclXattrVersion)
	for e := disk[4:]; len(e) > 0; {
		size := 4
		if len(e) >= 4 && (le.Uint16(e) == aclUser || le.Uint16(e) == aclGroup) {
			size = 8
		}
		if len(e) < size {
			return nil, errors.New("an ACL that ends within an entry")
		}
		x = append(x, e[:4]...)
		if size == 8 {
			x = append(x, e[4:8]...)
		} else {
			x = le.AppendUint32(x, 0xffffffff) // ACL_UNDEFINED_ID
		}
		e = e[size:]
	}
	return x, nil
}
