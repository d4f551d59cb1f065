package export

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// tarBlock is the unit of the tar format, in bytes.
const tarBlock = 512

// Types of a tar header (POSIX.1-2017, pax, "ustar Header Block").
const (
	typeFile    = '0'
	typeLink    = '1'
	typeSymlink = '2'
	typeChar    = '3'
	typeBlock   = '4'
	typeDir     = '5'
	typeFIFO    = '6'
	typePAX     = 'x'
)

// tarHeader is one member of a tar, before its contents. archive/tar is no
// help here: it drops GNU.sparse records and refuses attribute names with '='.
type tarHeader struct {
	typ          byte
	name, link   string // arbitrary bytes other than NUL
	mode         uint32 // permissions only
	uid, gid     uint32
	size         int64 // of what follows in the archive
	mtime        overlay.Time
	major, minor uint32
	extra        []paxRecord // besides those that the fields above need
}

type paxRecord struct{ key, value string }

// Largest values of the octal fields of 8 and 12 bytes.
const (
	maxOctal7  = 1<<21 - 1
	maxOctal11 = 1<<33 - 1
)

// appendTo appends the header's blocks to b: a ustar block, and before it an
// extended header for what does not fit.
//
// Names of up to 100 bytes go into the ustar block as they are, whatever
// their encoding: every reader takes them for bytes, while a pax path that is
// not UTF-8 makes bsdtar fail, and the record that announces it (hdrcharset)
// makes GNU tar warn.
func (h *tarHeader) appendTo(b []byte) ([]byte, error) {
	if h.major > maxOctal7 || h.minor > maxOctal7 {
		return nil, fmt.Errorf("device number %d:%d is too large for a tar", h.major, h.minor)
	}
	if strings.IndexByte(h.name, 0) >= 0 || strings.IndexByte(h.link, 0) >= 0 {
		return nil, errors.New("name has a NUL byte")
	}
	records := h.records()
	if len(records) > 0 {
		var body []byte
		for _, r := range records {
			body = r.appendTo(body)
		}
		ext := tarHeader{typ: typePAX, name: "PaxHeader", mode: 0o644, size: int64(len(body))}
		b = ext.appendUstar(b)
		b = append(b, body...)
		b = append(b, make([]byte, padding(int64(len(body))))...)
	}
	return h.appendUstar(b), nil
}

// records lists what the ustar block cannot hold, in an order of its own so
// that the same entry makes the same bytes.
func (h *tarHeader) records() []paxRecord {
	var rs []paxRecord
	add := func(key, value string) { rs = append(rs, paxRecord{key, value}) }
	if len(h.name) > 100 {
		add("path", h.name)
	}
	if len(h.link) > 100 {
		add("linkpath", h.link)
	}
	if h.size > maxOctal11 {
		add("size", strconv.FormatInt(h.size, 10))
	}
	if h.uid > maxOctal7 {
		add("uid", strconv.FormatUint(uint64(h.uid), 10))
	}
	if h.gid > maxOctal7 {
		add("gid", strconv.FormatUint(uint64(h.gid), 10))
	}
	if t := h.mtime; t.Nsec != 0 || t.Sec < 0 || t.Sec > maxOctal11 {
		add("mtime", paxTime(t))
	}
	return append(rs, h.extra...)
}

// appendUstar appends the ustar block; what does not fit is cut or zero there,
// since a record overrides it.
func (h *tarHeader) appendUstar(b []byte) []byte {
	start := len(b)
	b = append(b, make([]byte, tarBlock)...)
	blk := b[start:]
	copy(blk[0:100], h.name)
	octal(blk[100:108], uint64(h.mode))
	octal(blk[108:116], uint64(h.uid))
	octal(blk[116:124], uint64(h.gid))
	octal(blk[124:136], uint64(h.size))
	octal(blk[136:148], uint64(max(h.mtime.Sec, 0)))
	blk[156] = h.typ
	copy(blk[157:257], h.link)
	copy(blk[257:265], "ustar\x0000")
	octal(blk[329:337], uint64(h.major))
	octal(blk[337:345], uint64(h.minor))

	sum := uint64(8 * ' ') // the checksum counts as blanks
	for _, c := range blk {
		sum += uint64(c)
	}
	octal(blk[148:155], sum)
	blk[155] = ' '
	return b
}

// octal fills a field with v in octal digits and a final NUL; with zero if v
// has too many digits.
func octal(field []byte, v uint64) {
	last := len(field) - 1
	if v>>(3*last) != 0 {
		v = 0
	}
	for i := last - 1; i >= 0; i-- {
		field[i] = '0' + byte(v&7)
		v >>= 3
	}
	field[last] = 0
}

// appendTo appends "length key=value\n", where length counts its own digits.
func (r paxRecord) appendTo(b []byte) []byte {
	rest := len(" =\n") + len(r.key) + len(r.value)
	n := rest + len(strconv.Itoa(rest))
	if len(strconv.Itoa(n)) > len(strconv.Itoa(rest)) {
		n++
	}
	b = strconv.AppendInt(b, int64(n), 10)
	b = append(b, ' ')
	b = append(b, r.key...)
	b = append(b, '=')
	b = append(b, r.value...)
	return append(b, '\n')
}

// paxTime formats seconds as a decimal fraction: nanoseconds count forward in
// t, also before 1970, but away from zero in the text.
func paxTime(t overlay.Time) string {
	sec, nsec, sign := t.Sec, t.Nsec, ""
	if sec < 0 {
		sign = "-"
		sec = -sec
		if nsec > 0 {
			sec--
			nsec = 1e9 - nsec
		}
	}
	s := sign + strconv.FormatInt(sec, 10)
	if nsec == 0 {
		return s
	}
	return s + "." + strings.TrimRight(fmt.Sprintf("%09d", nsec), "0")
}

// xattrKey names the record of an extended attribute. A key ends at its first
// '=', so GNU tar writes that as %3D, and % as %25 (src/xheader.c,
// xattr_encode_keyword). Other readers take keys literally: so % is only
// written so where GNU tar would otherwise read something else.
func xattrKey(name string) string {
	const prefix = "SCHILY.xattr."
	if !strings.ContainsAny(name, "=%") {
		return prefix + name
	}
	return prefix + xattrEscapes.Replace(name)
}

var xattrEscapes = strings.NewReplacer("=", "%3D", "%3D", "%253D", "%25", "%2525")

// padding is how many bytes fill up a block after n bytes.
func padding(n int64) int64 { return -n & (tarBlock - 1) }
