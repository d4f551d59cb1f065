package overlay

import (
	"archive/tar"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Keys of PAX records that hold extended attributes: star's, which GNU tar
// and the tools for images share, with the raw value; and libarchive's, with
// the name in URL encoding and the value in base64 (libarchive,
// archive_write_set_format_pax.c).
const (
	paxStar       = "SCHILY.xattr."
	paxLibarchive = "LIBARCHIVE.xattr."
)

// gnuEscapes undoes those of GNU tar, since "=" ends the key of a record
// (GNU tar, xheader.c, xattr_decode_keyword).
var gnuEscapes = strings.NewReplacer("%3D", "=", "%25", "%")

// headerXattrs returns the extended attributes of an entry.
func headerXattrs(h *tar.Header) (map[string]string, error) {
	var attrs map[string]string
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxStar)
		if ok {
			name = gnuEscapes.Replace(name)
		} else if name, ok = strings.CutPrefix(key, paxLibarchive); ok {
			if _, both := h.PAXRecords[paxStar+name]; both {
				continue
			}
			var err error
			if name, value, err = fromLibarchive(name, value); err != nil {
				return nil, fmt.Errorf("attribute %s: %w", key, err)
			}
		} else {
			continue
		}
		if attrs == nil {
			attrs = map[string]string{}
		}
		attrs[name] = value
	}
	return attrs, nil
}

// headerACLs adds to attrs the access control lists that GNU tar --acls and
// libarchive write as text.
func (w *layerWriter) headerACLs(h *tar.Header, attrs map[string]string) (map[string]string, error) {
	for key, name := range paxACLs {
		text, ok := h.PAXRecords[key]
		if _, raw := attrs[name]; !ok || raw {
			continue
		}
		value, err := parseACL(text)
		if errors.Is(err, errACLName) {
			// The names are of the root that is unpacked, or of the machine
			// that packed it; nobody can tell.
			w.log.Warn("access control list left out: it names users, not ids (tar --xattrs --xattrs-include=* in place of --acls keeps ids)", "entry", h.Name)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		if value == "" {
			continue
		}
		if attrs == nil {
			attrs = map[string]string{}
		}
		attrs[name] = value
	}
	return attrs, nil
}

func fromLibarchive(name, value string) (string, string, error) {
	name, err := url.PathUnescape(name)
	if err != nil {
		return "", "", err
	}
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
	return name, string(raw), err
}

// setXattrs records the extended attributes of h at fd.
func (w *layerWriter) setXattrs(fd int, h *tar.Header) error {
	attrs, err := headerXattrs(h)
	if err == nil {
		attrs, err = w.headerACLs(h, attrs)
	}
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		on := xattrForeign + name
		switch {
		case name == "security.selinux":
			continue // belongs to the policy of another machine
		case strings.HasPrefix(name, xattrPrefix):
			w.log.Warn("attribute left out: the name is used by this program", "entry", h.Name, "attribute", name)
			continue
		case strings.HasPrefix(name, "user."):
			if typ := headerTypes[h.Typeflag]; typ != unix.S_IFREG && typ != unix.S_IFDIR {
				continue // the kernel has none there (xattr(7))
			}
			on = name
		}
		if err := unix.Fsetxattr(fd, on, []byte(attrs[name]), 0); err != nil {
			return fmt.Errorf("record attribute %s (%d bytes): %w", name, len(attrs[name]), err)
		}
	}
	return nil
}
