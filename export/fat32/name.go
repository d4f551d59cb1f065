package fat32

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	maxName = 255 // UTF-16 units

	// forbidden are the characters that a long name can't have, besides
	// control characters (fatgen103, "FAT Long Directory Entries").
	forbidden = `"*/:<>?\|`

	// padding fills a long name's last record.
	padding = 0xffff
)

// checkName says why FAT can't hold a name, or nothing.
func checkName(name string) string {
	if !utf8.ValidString(name) {
		return "its name is not valid UTF-8; FAT has names in UTF-16"
	}
	for _, r := range name {
		if r < ' ' || r == padding || strings.ContainsRune(forbidden, r) {
			return fmt.Sprintf("its name has %q, which FAT forbids", r)
		}
	}
	switch name[len(name)-1] {
	case ' ', '.':
		return "its name ends in a space or a dot, which FAT readers drop"
	}
	if n := units(name); n > maxName {
		return fmt.Sprintf("its name has %d UTF-16 units; FAT takes %d", n, maxName)
	}
	return ""
}

// units counts the UTF-16 units of a name.
func units(name string) int {
	n := 0
	for _, r := range name {
		n += utf16.RuneLen(r)
	}
	return n
}

// fold returns a name without regard to case: two names that some reader may
// take for one have the same. Which readers fold which letters differs
// (Windows by its table, Linux by its character set), so all that have a
// counterpart are folded.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf {
			if 'A' <= r && r <= 'Z' {
				r += 'a' - 'A'
			}
			return r
		}
		return unicode.ToLower(unicode.ToUpper(r))
	}, name)
}
