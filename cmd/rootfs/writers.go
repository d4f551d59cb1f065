package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// writtenFile is a file in a mount that a process has open or mapped to write.
type writtenFile struct {
	path string
	pid  int
}

func (w writtenFile) String() string { return fmt.Sprintf("%s (process %d)", quoted(w.path), w.pid) }

// writersBeneath lists the files beneath dir that a process may be writing at
// this moment, as far as this user may see. It reads only /proc: the links
// there are answered without the mount.
func writersBeneath(dir string) []writtenFile {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	var all []writtenFile
	for _, proc := range procs {
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil || pid == os.Getpid() {
			continue
		}
		paths := append(openedToWrite(proc, dir), mappedToWrite(proc, dir)...)
		slices.Sort(paths)
		for _, path := range slices.Compact(paths) {
			all = append(all, writtenFile{path, pid})
		}
	}
	slices.SortFunc(all, func(a, b writtenFile) int { return strings.Compare(a.path, b.path) })
	return all
}

// deletedSuffix is what /proc adds to the path of a file without a name.
const deletedSuffix = " (deleted)"

func openedToWrite(proc, dir string) []string {
	var paths []string
	fds, _ := filepath.Glob(proc + "/fd/*")
	for _, fd := range fds {
		path, err := os.Readlink(fd)
		if err != nil || !beneath(path, dir) || strings.HasSuffix(path, deletedSuffix) {
			continue
		}
		info, err := os.ReadFile(proc + "/fdinfo/" + filepath.Base(fd))
		if err == nil && opensToWrite(string(info)) {
			paths = append(paths, path)
		}
	}
	return paths
}

// opensToWrite reads the flags line of /proc/PID/fdinfo/FD, which is octal
// (proc_pid_fdinfo(5)).
func opensToWrite(info string) bool {
	for line := range strings.Lines(info) {
		if text, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(text), 8, 32)
			return err == nil && flags&unix.O_ACCMODE != unix.O_RDONLY
		}
	}
	return false
}

func mappedToWrite(proc, dir string) []string {
	var paths []string
	eachMapping(proc, func(perms, path string) {
		if len(perms) >= 4 && perms[1] == 'w' && perms[3] == 's' && beneath(path, dir) && !strings.HasSuffix(path, deletedSuffix) {
			paths = append(paths, path)
		}
	})
	return paths
}

// eachMapping calls do with the permissions and the path of each file that a
// process has mapped (proc_pid_maps(5)).
func eachMapping(proc string, do func(perms, path string)) {
	maps, err := os.Open(proc + "/maps")
	if err != nil {
		return
	}
	defer maps.Close() //nolint:errcheck // only read
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		line := lines.Text()
		where, rest, _ := strings.Cut(line, " ")
		perms, rest, _ := strings.Cut(rest, " ")
		_, path, ok := strings.Cut(rest, "/")
		if !ok {
			continue
		}
		path = "/" + path
		if strings.Contains(path, `\012`) { // a newline's, or the name's own
			path = mappedFile(proc, where, path)
		}
		do(perms, path)
	}
}

// mappedFile returns the path of what is mapped where, which maps has as path.
func mappedFile(proc, where, path string) string {
	var from, to uint64
	if _, err := fmt.Sscanf(where, "%x-%x", &from, &to); err != nil {
		return path
	}
	if exact, err := os.Readlink(fmt.Sprintf("%s/map_files/%x-%x", proc, from, to)); err == nil {
		return exact
	}
	return path
}

// syncMapped brings what processes have written to their mappings to the
// daemon: the kernel does that by itself only when a mapping ends, and syncfs
// doesn't.
func syncMapped(dir string) error {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	done := make(map[string]bool)
	for _, proc := range procs {
		for _, path := range mappedToWrite(proc, dir) {
			if done[path] {
				continue
			}
			done[path] = true
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				continue // gone since
			}
			err = unix.Fsync(fd)
			_ = unix.Close(fd)
			if err != nil {
				return fmt.Errorf("sync %s: %w", quoted(path), err)
			}
		}
	}
	return nil
}
