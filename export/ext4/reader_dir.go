package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// maxDirectoryRead is how many bytes of a directory are read at most: larger
// ones are only made by a crafted image.
const maxDirectoryRead = 512 << 20

// dirent is one record of a directory.
type dirent struct {
	inode uint32
	name  string
	typ   byte // FT_*, 0 where the filesystem keeps none
}

// ReadDir calls yield with the names in a directory and their inodes, in the
// order of the disk, without "." and "..". An error of yield ends it.
func (r *Reader) ReadDir(number uint64, yield func(name string, inode uint64) error) error {
	n, err := r.node(number)
	if err != nil {
		return err
	}
	err = r.dirents(n, func(d dirent) error {
		if d.name == "." || d.name == ".." {
			return nil
		}
		return yield(d.name, uint64(d.inode))
	})
	if err != nil {
		return fmt.Errorf("directory inode %d: %w", number, err)
	}
	return nil
}

// dirents calls yield with a directory's records, "." and ".." first.
func (r *Reader) dirents(n *node, yield func(dirent) error) error {
	if n.kind() != unix.S_IFDIR {
		return unix.ENOTDIR
	}
	if n.flags()&flagInline != 0 {
		return r.inlineDirents(n, yield)
	}
	left := int64(maxDirectoryRead)
	first := true
	err := r.extents(n, func(file, image, length int64) error {
		if left -= length; left < 0 {
			return fmt.Errorf("more than %d bytes", maxDirectoryRead)
		}
		if length%int64(r.super.blockSize) != 0 {
			return fmt.Errorf("its size of %d bytes is no number of blocks", n.size(r))
		}
		b := make([]byte, r.super.blockSize)
		for end := image + length; image < end; image += int64(len(b)) {
			if err := readFull(r.src, b, image); err != nil {
				return err
			}
			if err := r.dirBlock(n, b, first, yield); err != nil {
				return fmt.Errorf("block at %d: %w", file, err)
			}
			first = false
			file += int64(len(b))
		}
		return nil
	})
	if err == nil && first {
		err = errors.New("it has no blocks")
	}
	return err
}

// dirBlock gives on the records of a block.
func (r *Reader) dirBlock(n *node, b []byte, first bool, yield func(dirent) error) error {
	if r.super.metadataSums() {
		if err := n.verifyDirBlock(b, first); err != nil {
			return err
		}
	}
	return r.records(b, yield)
}

// records gives on the records in b that are in use.
func (r *Reader) records(b []byte, yield func(dirent) error) error {
	le := binary.LittleEndian
	for at := 0; at < len(b); {
		if len(b)-at < direntHeader {
			return fmt.Errorf("a record of %d bytes at %d", len(b)-at, at)
		}
		e := b[at:]
		length := recLen(le.Uint16(e[4:]), len(b))
		d := dirent{inode: le.Uint32(e), typ: e[7]}
		name := int(e[6])
		if r.super.incompat&incompatFiletype == 0 {
			name, d.typ = int(le.Uint16(e[6:])), 0
		}
		if length < direntHeader || length%4 != 0 || length > len(e) || d.inode != 0 && direntHeader+name > length {
			return fmt.Errorf("a record of %d bytes with a name of %d at %d", length, name, at)
		}
		if d.inode != 0 {
			d.name = string(e[direntHeader:][:name])
			if err := r.checkDirent(d); err != nil {
				return err
			}
			if err := yield(d); err != nil {
				return err
			}
		}
		at += length
	}
	return nil
}

func (r *Reader) checkDirent(d dirent) error {
	if d.name == "" || len(d.name) > maxName || bytes.ContainsAny([]byte(d.name), "/\x00") {
		return fmt.Errorf("%q can't be a name", d.name)
	}
	if d.inode > r.super.inodes {
		return fmt.Errorf("%q refers to inode %d, of %d", d.name, d.inode, r.super.inodes)
	}
	return nil
}

// recLen decodes a record's length, which is kept in other ways in blocks of
// 64 KiB (ext4_rec_len_from_disk).
func recLen(v uint16, block int) int {
	if block < 1<<16 {
		return int(v)
	}
	if v == 0 || v == 0xffff {
		return block
	}
	return int(v&0xfffc) | int(v&3)<<16
}

// verifyDirBlock checks a directory block's checksum, which is at its end, or
// behind the entries of a hashed directory's index. Index blocks are told by
// where they are or by a single record: the rest may be left of what the block
// was before.
func (n *node) verifyDirBlock(b []byte, first bool) error {
	le := binary.LittleEndian
	if n.flags()&flagIndex != 0 {
		if first {
			return n.verifyIndex(b, 32)
		}
		if le.Uint32(b) == 0 && recLen(le.Uint16(b[4:]), len(b)) == len(b) {
			return n.verifyIndex(b, 8)
		}
	}
	tail := b[len(b)-dirTailSize:]
	if le.Uint32(tail) != 0 || le.Uint16(tail[4:]) != dirTailSize || tail[7] != dirTailType {
		return errors.New("it has no checksum")
	}
	if uint32(n.seed.add(b[:len(b)-dirTailSize])) != le.Uint32(tail[8:]) {
		return errSum
	}
	return nil
}

// verifyIndex checks a block of a hashed directory's index, whose entries
// begin at at (struct dx_countlimit, struct dx_tail).
func (n *node) verifyIndex(b []byte, at int) error {
	le := binary.LittleEndian
	limit, count := int(le.Uint16(b[at:])), int(le.Uint16(b[at+2:]))
	end := at + 8*limit
	if count > limit || end+8 > len(b) {
		return fmt.Errorf("an index of %d entries with room for %d", count, limit)
	}
	sum := n.seed.add(b[:at+8*count]).add(b[end : end+4]).add(make([]byte, 4))
	if uint32(sum) != le.Uint32(b[end+4:]) {
		return errSum
	}
	return nil
}

// inlineDirents reads a directory that is kept in its inode: the parent's
// number and records, and more records in an attribute.
func (r *Reader) inlineDirents(n *node, yield func(dirent) error) error {
	p := n.pointers()
	for _, d := range []dirent{{n.number, ".", 2}, {binary.LittleEndian.Uint32(p), "..", 2}} {
		if d.inode == 0 || d.inode > r.super.inodes {
			return fmt.Errorf("%q refers to inode %d, of %d", d.name, d.inode, r.super.inodes)
		}
		if err := yield(d); err != nil {
			return err
		}
	}
	if err := r.records(p[4:], yield); err != nil || n.size(r) <= blockPointers {
		return err
	}
	at, length, err := n.inlineRest()
	if err != nil {
		return err
	}
	return r.records(n.raw[at:at+min(length, n.size(r)-blockPointers)], yield)
}
