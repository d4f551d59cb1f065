package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// user is a process that keeps a mount busy.
type user struct {
	pid  int
	name string
}

// usersOf lists the processes with a working directory, root, open file or
// mapping beneath dir, as far as this user may see. It reads only /proc: the
// links there are answered without the mount.
func usersOf(dir string) []user {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	var users []user
	for _, proc := range procs {
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil || pid == os.Getpid() || !uses(proc, dir) {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(proc, "comm"))
		users = append(users, user{pid: pid, name: strings.TrimSpace(string(comm))})
	}
	slices.SortFunc(users, func(a, b user) int { return a.pid - b.pid })
	return users
}

func uses(proc, dir string) bool {
	links := []string{proc + "/cwd", proc + "/root", proc + "/exe"}
	fds, _ := filepath.Glob(proc + "/fd/*")
	for _, link := range append(links, fds...) {
		if target, err := os.Readlink(link); err == nil && beneath(target, dir) {
			return true
		}
	}
	used := false
	eachMapping(proc, func(_, path string) { used = used || beneath(path, dir) })
	return used
}

// inUse tells whether a process or another mount is known that keeps dir busy.
func inUse(dir string) bool { return len(usersOf(dir)) > 0 || len(mountsIn(dir)) > 0 }

// beneath tells whether path is dir or lies in it; both are absolute and
// clean.
func beneath(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// busyError says who uses the mount and what to do.
func busyError(mnt string) error {
	users := usersOf(mnt)
	if inside := mountsIn(mnt); len(inside) > 0 {
		return fmt.Errorf("%s: still in use: unmount %s first", quoted(mnt), quoted(inside[len(inside)-1]))
	}
	if len(users) == 0 {
		return fmt.Errorf("%s: still in use: close what is open there and try again", quoted(mnt))
	}
	names := make([]string, 0, len(users))
	for _, u := range users[:min(len(users), 5)] {
		names = append(names, fmt.Sprintf("%s (process %d)", quoted(u.name), u.pid))
	}
	if more := len(users) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return fmt.Errorf("%s: still in use by %s: end them or let them leave the directory, and try again",
		quoted(mnt), strings.Join(names, ", "))
}
