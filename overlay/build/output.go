package build

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// outputVersion changes with what the hash of an output covers. It is part of
// that hash and of all keys, so that an output of before is never taken for what
// it isn't, here or in a shared cache.
const outputVersion = "output 2\n"

// inspection is what is known of a built tree.
type inspection struct {
	hash    hash.Hash
	entries int
	links   map[uint64]string // first names of files with several, by inode
	alien   []string          // ELF files for another machine than arch's
	arch    string
}

// inspect reads a built tree. Its hash covers all that a layer shows but
// times, so that building the same again gives the same.
func inspect(root, arch string) (*inspection, error) {
	i := &inspection{hash: sha256.New(), links: make(map[uint64]string), arch: arch}
	_, _ = io.WriteString(i.hash, outputVersion)
	err := filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
		if err != nil || name == root {
			return err
		}
		return i.add(name, name[len(root)+1:])
	})
	return i, err
}

// name returns the hash in hexadecimal; 128 bits of it tell outputs apart.
func (i *inspection) name() string { return hex.EncodeToString(i.hash.Sum(nil)[:16]) }

func (i *inspection) add(name, rel string) error {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: name, Err: err}
	}
	i.entries++
	_, _ = fmt.Fprintf(i.hash, "%q %o %d\n", rel, overlay.PlainMode(st.Mode), st.Rdev)
	if err := i.addXattrs(name); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err := os.Readlink(name)
		_, _ = fmt.Fprintf(i.hash, "-> %q\n", target)
		return err
	case unix.S_IFREG:
		if first, ok := i.links[st.Ino]; ok {
			_, _ = fmt.Fprintf(i.hash, "= %q\n", first)
			return nil
		}
		if st.Nlink > 1 {
			i.links[st.Ino] = rel
		}
		return i.addContent(name, rel, st.Size)
	}
	return nil
}

// addXattrs counts the attributes that a layer shows.
func (i *inspection) addXattrs(name string) error {
	names, err := xattr.LList(name)
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
		return nil
	}
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, attr := range names {
		value, err := xattr.LGet(name, attr)
		if err != nil || attr == "security.selinux" {
			continue
		}
		_, _ = fmt.Fprintf(i.hash, "%q=%q\n", attr, value)
	}
	return nil
}

func (i *inspection) addContent(name, rel string, size int64) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	_, _ = fmt.Fprintf(i.hash, "%d\n", size)
	var head [overlay.ELFHead]byte
	n, err := io.ReadFull(f, head[:])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if machine := overlay.ForeignMachine(head[:n], i.arch); machine != "" {
		i.alien = append(i.alien, fmt.Sprintf("%s (%s)", rel, machine))
	}
	_, _ = i.hash.Write(head[:n])
	_, err = io.Copy(i.hash, f)
	return err
}

// switchLink makes link point to target in one step.
func switchLink(link, target string) error {
	if old, err := os.Readlink(link); err == nil && old == target {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	temp := filepath.Join(filepath.Dir(link), "."+filepath.Base(link)+".new")
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, temp); err != nil {
		return err
	}
	return os.Rename(temp, link)
}

// syncFilesystem brings what was written to the filesystem of dir to the disk.
func syncFilesystem(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // only read
	return unix.Syncfs(int(d.Fd()))
}
