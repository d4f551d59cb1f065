//go:build bench

package main

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What is measured in a mount runs in a process of its own, in few system
// calls: a mount that hangs doesn't hang the benchmark, and find(1) and the
// like cost more than what they measure.

// childEnv names the work that this process is started for.
const childEnv = "ROOTFS_BENCH_CHILD"

// childWorks do their work on a path and print nothing. What they do before
// they call start isn't counted.
var childWorks = map[string]func(path string, start func()) error{
	"walk":   func(path string, start func()) error { start(); return walkWithSizes(unix.AT_FDCWD, path) },
	"open":   openListed,
	"create": createFiles,
	"delete": deleteFiles,
	"write":  writeLarge,
	"small":  writeSmall,
	"read":   readLarge,
	"random": readRandom,
	"floor":  serveFloor,
}

func init() {
	work, ok := childWorks[os.Getenv(childEnv)]
	if !ok {
		return
	}
	began := time.Now()
	err := work(os.Args[1], func() { began = time.Now() })
	took := time.Since(began)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(took.Nanoseconds())
	os.Exit(0)
}

// walkWithSizes lists a directory and what is below it, with an lstat of each
// entry.
func walkWithSizes(at int, name string) error {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	defer unix.Close(fd) //nolint:errcheck // only read
	var buf [32 << 10]byte
	var names, dirs []string
	for {
		n, err := unix.Getdents(fd, buf[:])
		if err != nil {
			return fmt.Errorf("list %s: %w", name, err)
		}
		if n == 0 {
			break
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names[:0])
		for _, name := range names {
			var st unix.Stat_t
			if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return fmt.Errorf("lstat %s: %w", name, err)
			}
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				dirs = append(dirs, name)
			}
		}
	}
	for _, name := range dirs {
		if err := walkWithSizes(fd, name); err != nil {
			return err
		}
	}
	return nil
}

// fileList is where the names of the small files are, one on a line, relative
// to the root of the tree.
const fileListEnv = "ROOTFS_BENCH_FILES"

// openListed opens, reads and closes each of the listed files.
func openListed(root string, start func()) error {
	list, err := os.ReadFile(os.Getenv(fileListEnv))
	if err != nil {
		return err
	}
	at, err := unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	names := strings.Fields(string(list))
	buf := make([]byte, 64<<10)
	start()
	for _, name := range names {
		fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", name, err)
		}
		for n := 1; n > 0; {
			if n, err = unix.Read(fd, buf); err != nil {
				return fmt.Errorf("read %s: %w", name, err)
			}
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	return nil
}

// The small files: how many, and in how many directories.
const (
	smallFiles = 20_000
	smallDirs  = 20
)

func smallFile(dir string, i int) string {
	return filepath.Join(dir, fmt.Sprintf("d%d/file-%d", i%smallDirs, i))
}

// createFiles makes the small files below dir.
func createFiles(dir string, start func()) error {
	start()
	for i := range smallDirs {
		if err := os.MkdirAll(filepath.Join(dir, fmt.Sprintf("d%d", i)), 0o755); err != nil {
			return err
		}
	}
	text := bytes.Repeat([]byte("x"), 100)
	for i := range smallFiles {
		fd, err := unix.Open(smallFile(dir, i), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return fmt.Errorf("create file %d: %w", i, err)
		}
		if _, err := unix.Write(fd, text); err != nil {
			return fmt.Errorf("write file %d: %w", i, err)
		}
		if err := unix.Close(fd); err != nil {
			return fmt.Errorf("close file %d: %w", i, err)
		}
	}
	return nil
}

// deleteFiles removes what createFiles has made.
func deleteFiles(dir string, start func()) error {
	start()
	for i := range smallFiles {
		if err := unix.Unlink(smallFile(dir, i)); err != nil {
			return fmt.Errorf("unlink file %d: %w", i, err)
		}
	}
	for i := range smallDirs {
		if err := unix.Rmdir(filepath.Join(dir, fmt.Sprintf("d%d", i))); err != nil {
			return fmt.Errorf("rmdir %d: %w", i, err)
		}
	}
	return nil
}

// Sizes of the large files, in bytes.
const (
	writtenLarge = 1 << 30
	writtenSmall = 256 << 20
	readSize     = 512 << 20
	readTimes    = 4
	randomReads  = 100_000
)

// writeLarge writes a new file in pieces of 1 MiB and syncs it.
func writeLarge(path string, start func()) error {
	return writeFile(path, writtenLarge, 1<<20, true, start)
}

// writeSmall writes a new file in pieces of 4 KiB.
func writeSmall(path string, start func()) error {
	return writeFile(path, writtenSmall, 4<<10, false, start)
}

func writeFile(path string, size, piece int, sync bool, start func()) error {
	buf := bytes.Repeat([]byte("rootfs\n\n"), piece/8)
	start()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only left open after an error
	for range size / piece {
		if _, err := f.Write(buf); err != nil {
			return err
		}
	}
	if sync {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return f.Close()
}

// readLarge reads a file from its start to its end, a few times.
func readLarge(path string, start func()) error {
	const pieces = readSize >> 20
	return readAt(path, 1<<20, readTimes*pieces, start, func(i int) int64 { return int64(i%pieces) << 20 })
}

// readRandom reads pieces of 4 KiB, the same in each run.
func readRandom(path string, start func()) error {
	order := rand.New(rand.NewSource(1))
	return readAt(path, 4<<10, randomReads, start, func(int) int64 { return order.Int63n(readSize>>12) << 12 })
}

func readAt(path string, piece, times int, start func(), offset func(i int) int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	buf := make([]byte, piece)
	start()
	for i := range times {
		if _, err := f.ReadAt(buf, offset(i)); err != nil {
			return err
		}
	}
	return nil
}
