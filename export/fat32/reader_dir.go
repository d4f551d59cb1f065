package fat32

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf16"

	"golang.org/x/sys/unix"
)

// Bits of the byte that says how Windows shows a short name.
const (
	lowerBase      = 0x08
	lowerExtension = 0x10
)

const (
	deletedName = 0xe5
	escapedName = 0x05 // a name that begins with the byte of deleted ones
)

// codePage437 are the upper half of the characters of short names, which other
// systems write in the code page of their country.
const codePage437 = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐" +
	"└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0"

var codePage = []rune(codePage437)

// found is a name in a directory.
type found struct {
	name   string
	number uint64
	record record
	orphan bool // long records before it belong to another name
}

// ReadDir calls yield with the names in a directory and their files' numbers,
// in the order of the disk, without "." and ".." and the volume's label. An
// error of yield ends it.
func (r *Reader) ReadDir(number uint64, yield func(name string, number uint64) error) error {
	b, err := r.record(number)
	if err == nil {
		err = r.readDir(b, func(f found) error {
			if f.name == "." || f.name == ".." {
				return nil
			}
			if strings.ContainsAny(f.name, "/\x00") || f.name == "" {
				return fmt.Errorf("%q can't be a name", f.name)
			}
			return yield(f.name, f.number)
		})
	}
	if err != nil {
		return fmt.Errorf("directory %d: %w", number, err)
	}
	return nil
}

// readDir gives on all names of a directory.
func (r *Reader) readDir(b record, yield func(found) error) error {
	if !b.isDir() {
		return unix.ENOTDIR
	}
	var long longName
	ended := false
	return r.extents(b, func(_, image, length int64) error {
		buf := make([]byte, min(length, maxDirectoryRead))
		if err := readFull(r.src, buf, image); err != nil || ended {
			return err
		}
		for at := 0; at+recordSize <= len(buf); at += recordSize {
			rec := record(buf[at : at+recordSize])
			switch {
			case rec[0] == 0:
				ended = true
				return nil
			case rec[0] == deletedName:
				long = longName{}
				continue
			case rec[11]&0x3f == attrLong:
				long.add(rec)
				continue
			case rec[11]&attrVolume != 0:
				long = longName{}
				continue
			}
			f := found{number: uint64(image+int64(at)) / recordSize, record: rec, orphan: long.begun}
			if name, ok := long.name(rec); ok {
				f.name, f.orphan = name, false
			} else {
				f.name = rec.shortName()
			}
			long = longName{}
			if err := yield(f); err != nil {
				return err
			}
		}
		return nil
	})
}

// longName collects the records of a long name, which come with its end first.
type longName struct {
	units    []uint16
	next     int // number of the record that must follow
	checksum byte
	begun    bool
}

func (l *longName) add(rec record) {
	order := int(rec[0])
	if order&lastLong != 0 {
		*l = longName{next: order &^ lastLong, checksum: rec[13], begun: true}
		if n := l.next; n == 0 || n > maxFileRecords-1 {
			l.next = -1
			return
		}
		l.units = make([]uint16, l.next*unitsPerRecord)
		order = l.next
	}
	l.begun = true
	if order != l.next || order < 1 || rec[13] != l.checksum {
		l.next = -1
		return
	}
	for i, at := range unitOffsets {
		l.units[(order-1)*unitsPerRecord+i] = le.Uint16(rec[at:])
	}
	l.next--
}

// name returns the long name, if all of it is there and belongs to rec.
func (l *longName) name(rec record) (string, bool) {
	if len(l.units) == 0 || l.next != 0 || l.checksum != alias(rec[:11]).checksum() {
		return "", false
	}
	units := l.units
	for i, u := range units {
		if u == 0 {
			units = units[:i]
			break
		}
	}
	return string(utf16.Decode(units)), true
}

// shortName returns a short name as Windows shows it.
func (r record) shortName() string {
	part := func(b []byte, lower bool) string {
		b = bytes.TrimRight(b, " ")
		var s strings.Builder
		for i, c := range b {
			switch {
			case i == 0 && c == escapedName && &b[0] == &r[0]:
				s.WriteRune(codePage[deletedName-0x80])
			case c >= 0x80:
				s.WriteRune(codePage[c-0x80])
			default:
				s.WriteByte(c)
			}
		}
		if lower {
			return strings.ToLower(s.String())
		}
		return s.String()
	}
	name := part(r[:8], r[12]&lowerBase != 0)
	if ext := part(r[8:11], r[12]&lowerExtension != 0); ext != "" {
		name += "." + ext
	}
	return name
}
