package export

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// sizeUnits are the suffixes of sizes. Those of one letter count in 1024s, as
// qemu-img and truncate do.
var sizeUnits = map[string]int64{
	"": 1, "B": 1,
	"K": 1 << 10, "KIB": 1 << 10, "KB": 1e3,
	"M": 1 << 20, "MIB": 1 << 20, "MB": 1e6,
	"G": 1 << 30, "GIB": 1 << 30, "GB": 1e9,
	"T": 1 << 40, "TIB": 1 << 40, "TB": 1e12,
}

// ParseSize reads a size such as "512M" or "2GiB" and returns bytes; "auto"
// and "" are 0.
func ParseSize(s string) (int64, error) {
	if s == "" || s == "auto" {
		return 0, nil
	}
	digits := strings.TrimLeft(s, "0123456789")
	number, err := strconv.ParseInt(s[:len(s)-len(digits)], 10, 64)
	unit, ok := sizeUnits[strings.ToUpper(strings.TrimSpace(digits))]
	if err != nil || !ok || number <= 0 || number > math.MaxInt64/unit {
		return 0, fmt.Errorf("size %q: write a number and a unit, such as 512M or 2GiB, or auto", s)
	}
	return number * unit, nil
}
