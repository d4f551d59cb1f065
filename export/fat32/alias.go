package fat32

import (
	"errors"
	"strconv"
	"strings"
)

const (
	stemSize      = 8
	extensionSize = 3
)

// alias is a short name: the name and the extension, filled with spaces.
type alias [stemSize + extensionSize]byte

// isShort tells whether a short name may have a character, besides small
// letters (fatgen103, "Limits on Short Names").
func isShort(c byte) bool {
	return 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'()-@^_`{}~", c) >= 0
}

// basis is what a short name is made from (fatgen103, "The Basis-Name
// Generation Algorithm").
type basis struct {
	alias
	stem  int  // length of the stem
	exact bool // the alias is the name, but for case
	upper bool // the alias is the name
}

// basisOf takes a name that [checkName] has passed.
func basisOf(name string) basis {
	b := basis{exact: true, upper: true}
	for i := range b.alias {
		b.alias[i] = ' '
	}
	rest := strings.TrimLeft(name, " .")
	b.exact = len(rest) == len(name)
	stem, extension := rest, ""
	if i := strings.IndexByte(rest, '.'); i >= 0 {
		last := strings.LastIndexByte(rest, '.')
		stem, extension = rest[:i], rest[last+1:]
		b.exact = b.exact && i == last
	}
	b.stem = b.put(b.alias[:stemSize], stem)
	b.put(b.alias[stemSize:], extension)
	b.upper = b.upper && b.exact
	return b
}

// put fills one part of the alias, as far as there is room, and returns how
// much.
func (b *basis) put(part []byte, from string) int {
	n := 0
	for _, r := range from {
		c := byte('_')
		switch {
		case r == ' ':
			b.exact = false
			continue
		case 'a' <= r && r <= 'z':
			c = byte(r) - 'a' + 'A'
			b.upper = false
		case r < 0x80 && isShort(byte(r)):
			c = byte(r)
		default:
			b.exact = false
		}
		if n == len(part) {
			b.exact = false
			break
		}
		part[n] = c
		n++
	}
	return n
}

// aliases gives the short names of one directory, each one once and without a
// search, however many begin in the same way.
type aliases struct {
	taken map[alias]struct{} // names that are exact
	next  map[tail]uint32
}

// tail counts the numbers of as many digits behind one stem.
type tail struct {
	alias  // the stem cut to its place, and the extension
	digits uint8
}

// number returns an alias that ends in ~ and a number. It doesn't collide with
// an earlier one, since those with the same stem and as many digits have one
// counter.
func (a *aliases) number(b basis) (alias, error) {
	low := uint32(1)
	for digits := 1; digits < stemSize-1; digits++ {
		room := min(stemSize-1-digits, b.stem)
		key := tail{b.alias, uint8(digits)}
		for i := room; i < stemSize; i++ {
			key.alias[i] = ' '
		}
		for n := max(a.next[key], low); n < low*10; n++ {
			a.next[key] = n + 1
			candidate := key.alias
			candidate[room] = '~'
			strconv.AppendUint(candidate[room+1:room+1], uint64(n), 10)
			if _, ok := a.taken[candidate]; !ok {
				return candidate, nil
			}
		}
		low *= 10
	}
	return alias{}, errors.New("no short name is left for it in its directory")
}

// checksum ties a long name's records to the short one's (fatgen103,
// "ChkSum").
func (a alias) checksum() byte {
	var sum byte
	for _, c := range a {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}
