package export

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Types of a tar header that this program reads but doesn't write.
const (
	typeOldFile   = 0
	typeSameFile  = '7' // contiguous
	typePAXGlobal = 'g'
	typeGNUName   = 'L'
	typeGNULink   = 'K'
	typeGNUSparse = 'S'
	typeGNUVolume = 'V'
)

const (
	maxExtended = 16 << 20 // of an extended header or a long name, in bytes
	maxGlobal   = 1 << 20  // of a global header, in bytes
	maxPieces   = 1 << 20  // of a sparse file

	// maxGlobalXattrs bounds the attributes of global headers, as each member
	// has them all.
	maxGlobalXattrs = 256
)

// extent is a part of a file that isn't a hole: its offset in the file, in the
// image, and its length, in bytes.
type extent struct{ file, image, length int64 }

// tarMember is a member of a tar, as its extended headers have it.
type tarMember struct {
	entry   overlay.Entry // all but Path, Ino and Nlink
	name    string
	link    string // what a hard link is to
	typ     byte
	pieces  []extent
	at      int64 // of the header
	archive int64 // bytes of data in the archive
}

// tarScanner reads the members of a tar that lies between two offsets of src.
// archive/tar doesn't tell where content is, nor what is a hole.
type tarScanner struct {
	src     io.ReaderAt
	off     int64 // of the next header
	end     int64
	global  map[string]string // records of global headers, without attributes
	xattrs  map[string][]byte // of global headers; members share the values
	endSeen bool              // the blocks that end an archive
}

// extended is what extended headers say of the next member.
type extended struct {
	records    []paxRecord
	name, link *string
}

// next returns the next member, or io.EOF. An error names the offset; there is
// no going on after one.
func (s *tarScanner) next() (*tarMember, error) {
	var ext extended
	for {
		at := s.off
		b, err := s.header()
		if err != nil {
			return nil, err
		}
		m, more, err := s.member(b, &ext)
		if err != nil {
			return nil, fmt.Errorf("tar header at %d: %w", at, err)
		}
		if !more {
			m.at = at
			return m, nil
		}
	}
}

// header reads a header block and checks it.
func (s *tarScanner) header() ([]byte, error) {
	var b [tarBlock]byte
	if s.off >= s.end {
		return nil, io.EOF
	}
	at := s.off
	if err := s.read(b[:], at); err != nil {
		return nil, fmt.Errorf("tar header at %d: %w", at, err)
	}
	s.off += tarBlock
	if b == [tarBlock]byte{} {
		s.endSeen = true
		return nil, io.EOF
	}
	// The checksum counts its own field as blanks; old programs added up
	// signed bytes.
	var unsigned, signed int64 = 8 * ' ', 8 * ' '
	for i, c := range b {
		if i < 148 || i >= 156 {
			unsigned, signed = unsigned+int64(c), signed+int64(int8(c))
		}
	}
	if sum, err := tarNumber(b[148:156]); err != nil || sum != unsigned && sum != signed {
		return nil, fmt.Errorf("tar header at %d: the checksum is wrong", at)
	}
	return b[:], nil
}

func (s *tarScanner) read(b []byte, off int64) error {
	if off > s.end-int64(len(b)) {
		return fmt.Errorf("%w: the archive is cut off", io.ErrUnexpectedEOF)
	}
	return readAtFull(s.src, b, off)
}

// member makes a member of a header. There is more to come if it is an extended
// header, which it adds to ext.
func (s *tarScanner) member(b []byte, ext *extended) (m *tarMember, more bool, err error) {
	m = &tarMember{typ: b[156], name: tarString(b[0:100]), link: tarString(b[157:257])}
	if m.archive, err = tarNumber(b[124:136]); err != nil || m.archive < 0 {
		return nil, false, fmt.Errorf("size %q", b[124:136])
	}
	if string(b[257:263]) == "ustar\x00" {
		if prefix := tarString(b[345:500]); prefix != "" {
			m.name = prefix + "/" + m.name
		}
	}
	switch m.typ {
	case typePAX, typePAXGlobal, typeGNUName, typeGNULink:
		limit := int64(maxExtended)
		if m.typ == typePAXGlobal {
			limit = maxGlobal
		}
		data, err := s.extension(m.archive, limit)
		if err != nil {
			return nil, false, err
		}
		return nil, true, s.extend(ext, m.typ, data)
	case typeGNUVolume:
		s.off += m.archive + padding(m.archive)
		return nil, true, nil
	}
	if err := m.fields(b); err != nil {
		return nil, false, err
	}
	var records []paxRecord
	for _, key := range slices.Sorted(maps.Keys(s.global)) {
		if !slices.ContainsFunc(ext.records, func(r paxRecord) bool { return r.key == key }) {
			records = append(records, paxRecord{key, s.global[key]})
		}
	}
	xattrs := make(map[string][]byte)
	maps.Copy(xattrs, s.xattrs)
	sparse, err := m.apply(append(records, ext.records...), xattrs)
	if err != nil {
		return nil, false, err
	}
	if m.typ >= typeLink && m.typ <= typeFIFO {
		m.archive = 0 // whatever the header says, as archive/tar and GNU tar have it
	}
	if ext.name != nil {
		m.name = *ext.name
	}
	if ext.link != nil {
		m.link = *ext.link
	}
	return m, false, s.content(m, b, sparse)
}

// extension reads the data of an extended header.
func (s *tarScanner) extension(size, limit int64) ([]byte, error) {
	if size > limit {
		return nil, fmt.Errorf("an extended header of %d bytes", size)
	}
	if size > s.end-s.off {
		return nil, fmt.Errorf("%w: the archive is cut off", io.ErrUnexpectedEOF)
	}
	b := make([]byte, size)
	if err := s.read(b, s.off); err != nil {
		return nil, err
	}
	s.off += size + padding(size)
	return b, nil
}

func (s *tarScanner) extend(ext *extended, typ byte, data []byte) error {
	text := tarString(data)
	switch typ {
	case typeGNUName:
		ext.name = &text
	case typeGNULink:
		ext.link = &text
	default:
		records, err := parsePAX(data)
		if err != nil {
			return err
		}
		if typ == typePAXGlobal {
			return s.extendAll(records)
		}
		ext.records = records
	}
	return nil
}

// extendAll adds the records of a global header to those before, of which it
// replaces those with the same key (POSIX pax, "pax Header Block"). What members
// can't have in common is left out.
func (s *tarScanner) extendAll(records []paxRecord) error {
	if s.global == nil {
		s.global, s.xattrs = make(map[string]string), make(map[string][]byte)
	}
	for _, r := range records {
		if !isField(r.key) {
			if err := addXattr(s.xattrs, r); err != nil {
				return fmt.Errorf("pax record %s=%.40q", r.key, r.value)
			}
		} else if s.global[r.key] = r.value; r.value == "" {
			delete(s.global, r.key)
		}
	}
	if len(s.xattrs) > maxGlobalXattrs {
		return fmt.Errorf("more than %d extended attributes for all members", maxGlobalXattrs)
	}
	return nil
}

// isField tells whether a record stands for a field of the header.
func isField(key string) bool {
	switch key {
	case "path", "linkpath", "size", "uid", "gid", "mtime":
		return true
	}
	return false
}

// parsePAX parses records of the form "length key=value\n".
func parsePAX(b []byte) (records []paxRecord, err error) {
	for len(b) > 0 && b[0] != 0 {
		digits, _, ok := bytes.Cut(b, []byte(" "))
		n, err := strconv.Atoi(string(digits[:min(len(digits), 10)]))
		if !ok || err != nil || n < len(digits)+2 || n > len(b) || b[n-1] != '\n' {
			return nil, fmt.Errorf("pax record %.40q", b)
		}
		key, value, ok := strings.Cut(string(b[len(digits)+1:n-1]), "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("pax record %.40q", b[:n])
		}
		records = append(records, paxRecord{key, value})
		b = b[n:]
	}
	return records, nil
}

// fields reads the ustar fields.
func (m *tarMember) fields(b []byte) error {
	var v [6]int64
	for i, f := range [][]byte{b[100:108], b[108:116], b[116:124], b[136:148], b[329:337], b[337:345]} {
		if i >= 4 && m.typ != typeChar && m.typ != typeBlock {
			break // old formats have something else there
		}
		var err error
		if v[i], err = tarNumber(f); err != nil {
			return fmt.Errorf("number %q", f)
		}
	}
	e := &m.entry
	if v[1] != int64(uint32(v[1])) || v[2] != int64(uint32(v[2])) {
		return fmt.Errorf("owner %d:%d is out of range", v[1], v[2])
	}
	e.Mode, e.UID, e.GID = uint32(v[0])&0o7777, uint32(v[1]), uint32(v[2])
	e.Mtime = overlay.Time{Sec: v[3]}
	switch m.typ {
	case typeFile, typeOldFile, typeSameFile, typeGNUSparse, typeLink:
		e.Mode |= unix.S_IFREG
	case typeSymlink:
		e.Mode = unix.S_IFLNK | 0o777
	case typeChar:
		e.Mode |= unix.S_IFCHR
	case typeBlock:
		e.Mode |= unix.S_IFBLK
	case typeDir:
		e.Mode |= unix.S_IFDIR
	case typeFIFO:
		e.Mode |= unix.S_IFIFO
	default:
		return fmt.Errorf("member %q has the unknown type %q", m.name, m.typ)
	}
	if m.typ == typeChar || m.typ == typeBlock {
		e.Rdev = unix.Mkdev(uint32(v[4]), uint32(v[5]))
	}
	return nil
}

// apply lets records override the fields, adds attributes to xattrs, and returns
// the records of a sparse file.
func (m *tarMember) apply(records []paxRecord, xattrs map[string][]byte) (sparse []paxRecord, err error) {
	e := &m.entry
	lists := make(map[string]string)
	for _, r := range records {
		if r.value == "" && isField(r.key) {
			continue // as if it weren't there
		}
		switch r.key {
		case "path":
			m.name = r.value
		case "linkpath":
			m.link = r.value
		case "size":
			m.archive, err = strconv.ParseInt(r.value, 10, 64)
			if m.archive < 0 {
				err = strconv.ErrRange
			}
		case "uid":
			e.UID, err = parseOwner(r.value)
		case "gid":
			e.GID, err = parseOwner(r.value)
		case "mtime":
			e.Mtime, err = parsePAXTime(r.value)
		case "SCHILY.acl.access", "SCHILY.acl.default":
			lists[r.key] = r.value
		default:
			if strings.HasPrefix(r.key, "GNU.sparse.") {
				sparse = append(sparse, r)
			}
			err = addXattr(xattrs, r)
		}
		if err != nil {
			return nil, fmt.Errorf("pax record %s=%.40q", r.key, r.value)
		}
	}
	for key, text := range lists {
		name, value, err := overlay.TarACL(key, text)
		if err != nil {
			return nil, fmt.Errorf("pax record %s=%.40q: %w", key, text, err)
		}
		if _, raw := xattrs[name]; !raw && name != "" {
			xattrs[name] = []byte(value)
		}
	}
	e.Xattrs = sortedXattrs(xattrs)
	return sparse, nil
}

// addXattr takes down a record that holds an extended attribute, as GNU tar and
// star write it or as libarchive does.
func addXattr(to map[string][]byte, r paxRecord) error {
	if name, ok := strings.CutPrefix(r.key, "SCHILY.xattr."); ok {
		to[strings.NewReplacer("%3D", "=", "%25", "%").Replace(name)] = []byte(r.value)
	} else if name, ok := strings.CutPrefix(r.key, "LIBARCHIVE.xattr."); ok {
		name, err := url.PathUnescape(name)
		if err != nil {
			return err
		}
		value, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(r.value, "="))
		if _, both := to[name]; !both {
			to[name] = value
		}
		return err
	}
	return nil
}

func parseOwner(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}

// parsePAXTime reads seconds as a decimal fraction; see [paxTime].
func parsePAXTime(s string) (overlay.Time, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return overlay.Time{}, err
	}
	fraction = (fraction + "000000000")[:9]
	nsec, err := strconv.ParseUint(fraction, 10, 32)
	if strings.HasPrefix(whole, "-") && nsec > 0 {
		sec, nsec = sec-1, 1e9-nsec
	}
	return overlay.Time{Sec: sec, Nsec: uint32(nsec)}, err
}

// tarString is a field up to its NUL.
func tarString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// tarNumber reads a field: octal digits, or in base 256 with the first bit set,
// as GNU tar writes what is too large or negative.
func tarNumber(b []byte) (int64, error) {
	if b[0]&0x80 == 0 {
		text := strings.Trim(string(b), " \x00")
		if text == "" {
			return 0, nil
		}
		return strconv.ParseInt(text, 8, 64)
	}
	v := int64(b[0] & 0x3f)
	if b[0]&0x40 != 0 { // two's complement
		v -= 0x40
	}
	for _, c := range b[1:] {
		if v > 1<<54 || v < -1<<54 {
			return 0, strconv.ErrRange
		}
		v = v<<8 | int64(c)
	}
	return v, nil
}
