package overlay

import (
	"archive/tar"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// maxGlobal is how many records global headers may have, as each entry has them
// all.
const maxGlobal = 256

// forAll takes down what a global header says of the entries that follow (POSIX
// pax, "pax Header Block"): what archive/tar leaves to its caller and a mount shows.
func (w *layerWriter) forAll(h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader && h.PAXRecords == nil {
		return errors.New("malformed") // archive/tar keeps no others
	}
	for key, value := range h.PAXRecords {
		_, acl := paxACLs[key]
		switch {
		case key == "uid" || key == "gid" || key == "mtime":
			if value == "" {
				delete(w.global, key)
				continue
			}
		case !acl && !strings.HasPrefix(key, paxStar) && !strings.HasPrefix(key, paxLibarchive):
			continue
		}
		if w.global == nil {
			w.global = make(map[string]string)
		}
		if w.global[key] = value; len(w.global) > maxGlobal {
			return fmt.Errorf("more than %d records for all entries", maxGlobal)
		}
	}
	return nil
}

// inherit gives an entry what global headers say and its own doesn't.
func (w *layerWriter) inherit(h *tar.Header) error {
	for key, value := range w.global {
		if _, own := h.PAXRecords[key]; own {
			continue
		}
		var err error
		switch key {
		case "uid":
			h.Uid, err = strconv.Atoi(value)
		case "gid":
			h.Gid, err = strconv.Atoi(value)
		case "mtime":
			h.ModTime, err = parsePAXTime(value)
		default:
			if h.PAXRecords == nil {
				h.PAXRecords = make(map[string]string)
			}
			h.PAXRecords[key] = value
		}
		if err != nil {
			return fmt.Errorf("pax record %s=%.40q", key, value)
		}
	}
	return nil
}

// parsePAXTime reads seconds as a decimal fraction.
func parsePAXTime(s string) (time.Time, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	nsec, err := strconv.ParseUint((fraction + "000000000")[:9], 10, 32)
	if strings.HasPrefix(whole, "-") {
		return time.Unix(sec, -int64(nsec)), err
	}
	return time.Unix(sec, int64(nsec)), err
}
