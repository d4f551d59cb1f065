package fat32

import (
	"time"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// timestamp is a moment as a record holds it (fatgen103, "Date and Time
// Formats").
type timestamp struct {
	date, clock uint16
	hundredths  uint8 // of the 2 seconds that clock counts
}

// The first and the last second that a date can tell.
const (
	minTime = 315532800  // 1980-01-01 00:00:00
	maxTime = 4354819199 // 2107-12-31 23:59:59
)

// timestampOf converts a time, in UTC; one that FAT can't tell becomes the
// nearest.
func timestampOf(t overlay.Time) timestamp {
	switch {
	case t.Sec < minTime:
		t = overlay.Time{Sec: minTime}
	case t.Sec > maxTime:
		t = overlay.Time{Sec: maxTime}
	}
	u := time.Unix(t.Sec, 0).UTC()
	year, month, day := u.Date()
	hour, minute, second := u.Clock()
	return timestamp{
		date:       uint16((year-1980)<<9 | int(month)<<5 | day),
		clock:      uint16(hour<<11 | minute<<5 | second/2),
		hundredths: uint8(second%2*100 + int(t.Nsec/10_000_000)),
	}
}
