package export

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// content finds where a member's content is, and goes on behind it. b is its
// header, sparse are its records of a sparse file.
func (s *tarScanner) content(m *tarMember, b []byte, sparse []paxRecord) error {
	data := s.off
	if m.archive > s.end-data {
		return fmt.Errorf("%q has %d bytes, but the archive is cut off after %d: %w", m.name, m.archive, s.end-data, io.ErrUnexpectedEOF)
	}
	s.off += m.archive + padding(m.archive)
	if m.typ == typeGNUSparse {
		return s.oldSparse(m, b, data)
	}
	if !m.entry.IsRegular() || m.typ == typeLink {
		m.entry.Size = int64(len(m.link))
		if !m.entry.IsSymlink() {
			m.entry.Size = 0
		}
		return nil
	}
	if len(sparse) > 0 {
		return s.paxSparse(m, sparse, data)
	}
	m.entry.Size = m.archive
	if m.archive > 0 {
		m.pieces = []extent{{0, data, m.archive}}
	}
	return nil
}

// sparse checks a sparse file's map, pairs of offset and length, and sets the
// pieces. The data of all parts follow each other from data on.
func (m *tarMember) sparse(numbers []int64, size, data, end int64) error {
	if len(numbers)%2 != 0 {
		return errors.New("the map of a sparse file ends within a pair")
	}
	m.entry.Size = size
	for i := 0; i < len(numbers); i += 2 {
		off, n := numbers[i], numbers[i+1]
		var before int64
		if l := len(m.pieces); l > 0 {
			before = m.pieces[l-1].file + m.pieces[l-1].length
		}
		if off < before || n < 0 || off > size || n > size-off || n > end-data {
			return fmt.Errorf("the map of a sparse file of %d bytes has %d at %d", size, n, off)
		}
		if n > 0 {
			m.pieces = append(m.pieces, extent{off, data, n})
			data += n
		}
	}
	return nil
}

// paxSparse reads the map of a sparse file, in any of GNU tar's three formats
// (GNU tar manual, "Storing Sparse Files").
func (s *tarScanner) paxSparse(m *tarMember, records []paxRecord, data int64) error {
	size := int64(-1)
	var numbers []int64
	var major bool
	number := func(text string) error {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 || len(numbers) >= 2*maxPieces {
			return fmt.Errorf("the map of a sparse file has %.40q", text)
		}
		numbers = append(numbers, n)
		return nil
	}
	for _, r := range records {
		var err error
		switch r.key {
		case "GNU.sparse.major":
			major = r.value != "0"
		case "GNU.sparse.name":
			m.name = r.value
		case "GNU.sparse.size", "GNU.sparse.realsize":
			size, err = strconv.ParseInt(r.value, 10, 64)
		case "GNU.sparse.offset", "GNU.sparse.numbytes": // 0.0
			err = number(r.value)
		case "GNU.sparse.map": // 0.1
			for text := range strings.SplitSeq(r.value, ",") {
				if err = number(text); err != nil {
					break
				}
			}
		}
		if err != nil {
			return err
		}
	}
	if size < 0 {
		return errors.New("a sparse file without a size")
	}
	end := data + m.archive
	if major { // 1.0
		var err error
		if numbers, data, err = s.sparseMap(data, end); err != nil {
			return err
		}
	}
	return m.sparse(numbers, size, data, end)
}

// sparseMap reads the map before a sparse file's data: a line for the count and
// for each number, filled up to a block. It returns where the data begin.
func (s *tarScanner) sparseMap(data, end int64) (numbers []int64, at int64, err error) {
	want := int64(1)
	var line []byte
	for at = data; ; {
		var block [tarBlock]byte
		if at > end-tarBlock {
			return nil, 0, errors.New("the map of a sparse file has no end")
		}
		if err := s.read(block[:], at); err != nil {
			return nil, 0, err
		}
		at += tarBlock
		for rest := block[:]; ; {
			head, tail, ok := bytes.Cut(rest, []byte("\n"))
			if line = append(line, head...); len(line) > 20 {
				return nil, 0, fmt.Errorf("the map of a sparse file has %.40q", line)
			}
			if !ok {
				break
			}
			n, err := strconv.ParseInt(string(line), 10, 64)
			if err != nil || n < 0 {
				return nil, 0, fmt.Errorf("the map of a sparse file has %.40q", line)
			}
			line, rest = line[:0], tail
			if numbers == nil {
				if n > maxPieces {
					return nil, 0, fmt.Errorf("a sparse file of %d pieces", n)
				}
				want += 2 * n
			}
			if numbers = append(numbers, n); int64(len(numbers)) == want {
				return numbers[1:], at, nil
			}
		}
	}
}

// oldSparse reads the map of a sparse file in the header (GNU tar manual,
// "Basic Tar Format", struct oldgnu_header) and in the blocks that follow it.
func (s *tarScanner) oldSparse(m *tarMember, b []byte, data int64) error {
	size, err := tarNumber(b[483:495])
	if err != nil || size < 0 {
		return fmt.Errorf("a sparse file with the size %q", b[483:495])
	}
	var numbers []int64
	take := func(entries []byte) error {
		for e := entries; len(e) > 0 && e[0] != 0; e = e[24:] {
			off, err1 := tarNumber(e[:12])
			n, err2 := tarNumber(e[12:24])
			if err := errors.Join(err1, err2); err != nil || len(numbers) >= 2*maxPieces {
				return errors.New("the map of a sparse file isn't one")
			}
			numbers = append(numbers, off, n)
		}
		return nil
	}
	err = take(b[386:482])
	more := b[482] != 0
	for err == nil && more {
		var block [tarBlock]byte
		if err = s.read(block[:], data); err == nil {
			err = take(block[:504])
		}
		data, s.off, more = data+tarBlock, s.off+tarBlock, block[504] != 0
	}
	if err != nil {
		return err
	}
	return m.sparse(numbers, size, data, data+m.archive)
}
