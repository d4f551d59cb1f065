package overlay

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// paxACLs maps the keys of PAX records that hold an access control list as
// text (star(5), "SCHILY.acl.access") to the extended attributes for it.
var paxACLs = map[string]string{
	"SCHILY.acl.access":  xattrACLAccess,
	"SCHILY.acl.default": xattrACLDefault,
}

// aclTags are those of linux/posix_acl.h, without and with an id.
var aclTags = map[string][2]uint16{
	"user": {aclUserObj, aclUser}, "u": {aclUserObj, aclUser},
	"group": {aclGroupObj, aclGroup}, "g": {aclGroupObj, aclGroup},
	"mask": {aclMask, 0}, "m": {aclMask, 0},
	"other": {aclOther, 0}, "o": {aclOther, 0},
}

var (
	errACL     = errors.New("malformed access control list")
	errACLName = errors.New("access control list with names")
)

// TarACL returns the extended attribute that a PAX record is about which holds an
// access control list as text. The name is "" for other records, and where a layer
// has no such attribute: the list is empty or names users in place of ids.
func TarACL(key, text string) (name, value string, err error) {
	name = paxACLs[key]
	if name == "" {
		return "", "", nil
	}
	value, err = parseACL(text)
	if errors.Is(err, errACLName) {
		err = nil
	}
	if value == "" {
		name = ""
	}
	return name, value, err
}

// parseACL converts the text form of an access control list (acl(5)), with
// ids in the place of names or, as star has them, after the permissions, to
// the value of its extended attribute. The error is errACLName when there
// are only names.
func parseACL(text string) (string, error) {
	var entries []aclEntry
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		e, err := parseACLEntry(line)
		if err != nil {
			return "", fmt.Errorf("entry %q: %w", line, err)
		}
		entries = append(entries, e)
	}
	if len(entries) == 0 {
		return "", nil
	}
	// The order that the kernel demands (posix_acl_valid).
	slices.SortStableFunc(entries, func(a, b aclEntry) int {
		return cmp.Or(cmp.Compare(a.tag, b.tag), cmp.Compare(a.id, b.id))
	})
	return string(encodeACL(entries)), nil
}

func parseACLEntry(line string) (aclEntry, error) {
	fields := strings.Split(line, ":")
	tags, ok := aclTags[fields[0]]
	if ok && tags[1] == 0 && len(fields) == 2 {
		fields = slices.Insert(fields, 1, "") // "mask:rwx"
	}
	if !ok || len(fields) < 3 || len(fields) > 4 {
		return aclEntry{}, errACL
	}
	e := aclEntry{tag: tags[0], id: aclNoID}
	for _, c := range fields[2] {
		bit := map[rune]uint16{'r': 4, 'w': 2, 'x': 1, '-': 0}
		value, ok := bit[c]
		if !ok {
			return aclEntry{}, errACL
		}
		e.perm |= value
	}
	if fields[1] == "" {
		return e, nil
	}
	if tags[1] == 0 {
		return aclEntry{}, errACL
	}
	id, err := strconv.ParseUint(fields[len(fields)-1], 10, 32)
	if len(fields) == 3 {
		id, err = strconv.ParseUint(fields[1], 10, 32)
	}
	if err != nil {
		return aclEntry{}, errACLName
	}
	e.tag, e.id = tags[1], uint32(id)
	return e, nil
}
