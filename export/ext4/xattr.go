package ext4

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Extended attributes, as in the kernel's fs/ext4/xattr.h. A list of entries
// grows from the start of its area, the values from its end; four zero bytes
// end the list.
const (
	xattrMagic       = 0xea020000
	xattrBlockHeader = 32
	xattrEntryHeader = 16 // before the name
	xattrListEnd     = 4

	// The area in an inode is what follows the fields; it begins with the
	// magic number.
	xattrInodeStart = inodeFields + 4
	xattrInodeSpace = inodeSize - xattrInodeStart
	xattrBlockSpace = blockSize - xattrBlockHeader
)

// xattrPrefixes are the namespaces, by their number on disk. A name that is
// all prefix, as those of ACLs, has no other part. Longer prefixes of the same
// beginning come first.
var xattrPrefixes = []struct {
	prefix string
	index  uint8
}{
	{"user.", 1},
	{"system.posix_acl_access", 2},
	{"system.posix_acl_default", 3},
	{"trusted.", 4},
	{"security.", 6},
}

const (
	xattrACLAccess  = 2
	xattrACLDefault = 3
)

// attribute is an extended attribute in its form on disk.
type attribute struct {
	index uint8
	name  string // without the prefix
	value []byte
}

// attributes converts to the form on disk, in the order that the kernel keeps
// in a block.
func attributes(xattrs []overlay.Xattr) ([]attribute, error) {
	list := make([]attribute, 0, len(xattrs))
	for _, x := range xattrs {
		a, err := convert(x)
		if err != nil {
			return nil, fmt.Errorf("attribute %q: %w", x.Name, err)
		}
		list = append(list, a)
	}
	slices.SortFunc(list, attribute.compare)
	for i := 1; i < len(list); i++ {
		if list[i].compare(list[i-1]) == 0 {
			return nil, fmt.Errorf("attribute %q: given twice", list[i].name)
		}
	}
	return list, nil
}

func (a attribute) compare(b attribute) int {
	return cmp.Or(
		cmp.Compare(a.index, b.index),
		cmp.Compare(len(a.name), len(b.name)),
		strings.Compare(a.name, b.name),
	)
}

func convert(x overlay.Xattr) (attribute, error) {
	for _, p := range xattrPrefixes {
		name, ok := strings.CutPrefix(x.Name, p.prefix)
		if !ok {
			continue
		}
		isACL := p.index == xattrACLAccess || p.index == xattrACLDefault
		if isACL != (name == "") {
			break
		}
		if len(x.Name) > maxName || strings.IndexByte(name, 0) >= 0 {
			return attribute{}, errors.New("not a name that ext4 takes")
		}
		a := attribute{p.index, name, x.Value}
		if !isACL {
			return a, nil
		}
		var err error
		a.value, err = diskACL(x.Value)
		return a, err
	}
	return attribute{}, errors.New("not in a namespace that ext4 has")
}

// xattrSpace returns the bytes that attributes take in an area.
func xattrSpace(list []attribute) int {
	n := xattrListEnd
	for _, a := range list {
		n += pad4(xattrEntryHeader+len(a.name)) + pad4(len(a.value))
	}
	return n
}

func pad4(n int) int { return (n + 3) &^ 3 }

// putXattrs writes the entries and values into an area, which is zero, and
// returns the hash over all. bias is what offsets of values count from, in
// bytes before the area.
func putXattrs(area []byte, list []attribute, bias int) uint32 {
	le := binary.LittleEndian
	var hash uint32
	at, end := 0, len(area)
	for _, a := range list {
		e := area[at:]
		e[0], e[1] = byte(len(a.name)), a.index
		if len(a.value) > 0 {
			end -= pad4(len(a.value))
			copy(area[end:], a.value)
			le.PutUint16(e[2:], uint16(end+bias))
		}
		le.PutUint32(e[8:], uint32(len(a.value)))
		le.PutUint32(e[12:], a.hash())
		copy(e[xattrEntryHeader:], a.name)
		at += pad4(xattrEntryHeader + len(a.name))
		hash = hash<<16 ^ hash>>16 ^ a.hash()
	}
	return hash
}

// hash is ext4_xattr_hash_entry.
func (a attribute) hash() uint32 {
	var h uint32
	for _, c := range []byte(a.name) {
		h = h<<5 ^ h>>27 ^ uint32(c)
	}
	var word [4]byte
	for v := a.value; len(v) > 0; v = v[min(4, len(v)):] {
		word = [4]byte{}
		copy(word[:], v)
		h = h<<16 ^ h>>16 ^ binary.LittleEndian.Uint32(word[:])
	}
	return h
}

// putXattrBlock makes the block of attributes at a block number, in b, which is
// zero.
func putXattrBlock(b []byte, xattrs []overlay.Xattr, block uint64, seed checksum) {
	list, err := attributes(xattrs)
	if err != nil {
		return // checkXattrs has let nothing through that has an error
	}
	le := binary.LittleEndian
	hash := putXattrs(b[xattrBlockHeader:], list, xattrBlockHeader)
	le.PutUint32(b[0:], xattrMagic)
	le.PutUint32(b[4:], 1) // references
	le.PutUint32(b[8:], 1) // blocks
	le.PutUint32(b[12:], hash)
	sum := seed.addUint32(uint32(block)).addUint32(uint32(block >> 32)).add(b)
	le.PutUint32(b[16:], uint32(sum))
}

// putInodeXattrs writes attributes into an inode.
func putInodeXattrs(b []byte, xattrs []overlay.Xattr) {
	list, err := attributes(xattrs)
	if err != nil {
		return // checkXattrs has let nothing through that has an error
	}
	binary.LittleEndian.PutUint32(b[inodeFields:], xattrMagic)
	putXattrs(b[xattrInodeStart:inodeSize], list, 0)
}

// checkXattrs tells whether the attributes can be stored.
func (i *inode) checkXattrs() error {
	if len(i.xattrs()) == 0 {
		return nil
	}
	list, err := attributes(i.xattrs())
	if err != nil {
		return err
	}
	space := xattrSpace(list)
	if space > xattrBlockSpace {
		return fmt.Errorf("extended attributes of %d bytes, ext4 takes %d", space, xattrBlockSpace)
	}
	i.extra.inline = i.isShortLink() && space <= xattrInodeSpace
	return nil
}

// hasXattrBlock tells whether the attributes are in a block of their own.
func (i *inode) hasXattrBlock() bool {
	return len(i.xattrs()) > 0 && !i.extra.inline
}

// POSIX ACLs: what getxattr returns is include/uapi/linux/posix_acl_xattr.h,
// what ext4 stores is fs/ext4/acl.h, where only named users and groups have an
// id.
const (
	aclXattrVersion = 2
	aclDiskVersion  = 1
	aclXattrEntry   = 8
	aclUser         = 0x02
	aclGroup        = 0x08
)

var aclTags = []byte{0x01, aclUser, 0x04, aclGroup, 0x10, 0x20}

// diskACL converts an ACL to its form on disk.
func diskACL(x []byte) ([]byte, error) {
	le := binary.LittleEndian
	if len(x) < 4 || (len(x)-4)%aclXattrEntry != 0 || le.Uint32(x) != aclXattrVersion {
		return nil, errors.New("not an ACL of version 2")
	}
	disk := le.AppendUint32(nil, aclDiskVersion)
	for e := x[4:]; len(e) > 0; e = e[aclXattrEntry:] {
		tag := le.Uint16(e)
		if tag > 0xff || bytes.IndexByte(aclTags, byte(tag)) < 0 {
			return nil, fmt.Errorf("ACL entry with unknown tag %#x", tag)
		}
		disk = append(disk, e[:4]...) // tag and permissions
		if tag == aclUser || tag == aclGroup {
			disk = append(disk, e[4:8]...)
		}
	}
	return disk, nil
}
