package main

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
)

// fsType is what the kernel calls our mounts.
const fsType = "fuse.rootfs"

// mountPoint is one line of /proc/self/mountinfo; proc_pid_mountinfo(5).
type mountPoint struct {
	Dir    string
	Type   string
	Source string // of ours: the project's root
}

// mountAt returns the topmost mount on dir, an absolute path without
// symlinks; nil if dir is no mountpoint. It asks nothing of the mount itself,
// which may be dead.
func mountAt(dir string) (*mountPoint, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	return parseMountinfo(f, dir)
}

// mountsIn lists the directories below dir that are mountpoints, the last made
// last.
func mountsIn(dir string) (dirs []string) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close() //nolint:errcheck // only read
	_ = eachMount(f, func(m mountPoint) {
		if m.Dir != dir && beneath(m.Dir, dir) {
			dirs = append(dirs, m.Dir)
		}
	})
	return dirs
}

func parseMountinfo(r io.Reader, dir string) (found *mountPoint, err error) {
	err = eachMount(r, func(m mountPoint) {
		if m.Dir == dir {
			found = &m
		}
	})
	return found, err
}

func eachMount(r io.Reader, do func(mountPoint)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		// ID, parent, major:minor, root, mountpoint, options, fields…, "-", type, source, options
		left, right, ok := strings.Cut(lines.Text(), " - ")
		fields, tail := strings.Split(left, " "), strings.Split(right, " ")
		if ok && len(fields) >= 6 && len(tail) >= 2 {
			do(mountPoint{Dir: unescape(fields[4]), Type: tail[0], Source: unescape(tail[1])})
		}
	}
	return lines.Err()
}

// unescape undoes the octal escapes of /proc files.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
