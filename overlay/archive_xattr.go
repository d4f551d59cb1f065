package overlay

import (
	"archive/tar"
	"encoding/base64"
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

// headerXattrs returns the extended attributes of an entry.
func headerXattrs(h *tar.Header) (map[string]string, error) {
	var attrs map[string]string
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxStar)
		if ok {
			// GNU tar's escapes, since "=" ends the key of a record.
			name = strings.NewReplacer("%3D", "=", "%25", "%").Replace(name)
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
			on = name
		}
		if err := unix.Fsetxattr(fd, on, []byte(attrs[name]), 0); err != nil {
			return fmt.Errorf("record attribute %s (%d bytes): %w", name, len(attrs[name]), err)
		}
	}
	return nil
}
