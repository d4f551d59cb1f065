package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// checkMountpoint returns the absolute path, without symlinks, of a directory
// that the project can be mounted on.
func checkMountpoint(p *overlay.Project, name string, log *slog.Logger) (string, error) {
	dir, err := freeMountpoint(name, log)
	if err != nil {
		return "", err
	}
	if err := checkPlace(p, dir); err != nil {
		return "", fmt.Errorf("%s: %w; mount on another directory", quoted(name), err)
	}
	if err := checkEmpty(dir); err != nil {
		return "", fmt.Errorf("%s: %w", quoted(name), err)
	}
	return dir, nil
}

// freeMountpoint returns the absolute path, without symlinks, of what is no
// mount of ours, after it has cleared what a daemon that died has left there.
func freeMountpoint(name string, log *slog.Logger) (string, error) {
	dir, dead, err := resolveMount(name)
	for ; dead && err == nil; dir, dead, err = resolveMount(name) {
		if err := clearDead(dir); err != nil {
			return "", fmt.Errorf("%s: %w", quoted(name), err)
		}
		log.Warn("an earlier mount there had lost its daemon, and was cleared", "on", name)
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("%s: no such directory; make it with: mkdir -p %[1]s", quoted(name))
	case err != nil:
		return "", fmt.Errorf("%s: %w", quoted(name), bare(err))
	}
	if m, err := mountAt(dir); err != nil {
		return "", err
	} else if m != nil && m.Type == fsType {
		return "", fmt.Errorf("%s: already mounted, with the project %s; end that with: rootfs umount %[1]s", quoted(name), quoted(m.Source))
	}
	return dir, nil
}

// clearDead takes a mount of ours away that nobody serves.
func clearDead(dir string) error {
	m, err := mountAt(dir)
	if err != nil {
		return err
	}
	if m == nil || m.Type != fsType {
		return errors.New("nobody serves this mount, which isn't one of rootfs; clear it with: fusermount3 -uz, or umount -l")
	}
	return detachDead(dir)
}

// checkPlace refuses what would show the mount to itself.
func checkPlace(p *overlay.Project, dir string) error {
	if beneath(p.Root, dir) {
		return errors.New("contains the project")
	}
	if beneath(dir, p.StateDir()) {
		return fmt.Errorf("lies in %s, where edits are kept", quoted(p.StateDir()))
	}
	return outsideLayers(p, dir)
}

// outsideLayers refuses a path that lies in where layers are made from.
func outsideLayers(p *overlay.Project, path string) error {
	for _, layer := range p.LayerDirs() {
		if real, err := filepath.EvalSymlinks(layer); err == nil && beneath(path, real) {
			return liesIn(p, layer)
		}
	}
	return nil
}

// outsideTree refuses a path that lies in a layer of an open tree: of what links
// lead to, too.
func outsideTree(tree *overlay.Tree, path string) error {
	for _, layer := range tree.Layers() {
		if beneath(path, layer.Dir) {
			return liesIn(tree.Project(), layer.Dir)
		}
	}
	return nil
}

func liesIn(p *overlay.Project, layer string) error {
	if rel, err := filepath.Rel(p.Root, layer); err == nil && filepath.IsLocal(rel) {
		layer = rel
	}
	return fmt.Errorf("lies in the layer %s", quoted(layer))
}

func checkEmpty(dir string) error {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return errors.New("not a directory")
	}
	if err != nil {
		return bare(err)
	}
	defer f.Close() //nolint:errcheck // only read
	switch names, err := f.Readdirnames(1); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return bare(err)
	default:
		return fmt.Errorf("not empty (it has %s); mount on an empty directory", quoted(names[0]))
	}
}

// realPath returns the absolute path of name without symlinks.
func realPath(name string) (string, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}

// realPathTo is realPath that looks at what is at the end only to see whether it
// is a link.
func realPathTo(name string) (string, error) {
	name, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	const most = 255 // as filepath.EvalSymlinks
	for range most {
		parent, err := filepath.EvalSymlinks(filepath.Dir(name))
		if err != nil {
			return "", err
		}
		name = filepath.Join(parent, filepath.Base(name))
		target, err := os.Readlink(name)
		if err != nil {
			break // no link
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(parent, target)
		}
		name = target
	}
	return name, nil
}

// resolveMount is realPath for what may be a mount; dead tells that it is one
// whose daemon has gone.
func resolveMount(name string) (dir string, dead bool, err error) {
	dir, err = realPath(name)
	if lostDaemon(err) || errors.Is(err, unix.EACCES) {
		// It can't be looked at itself, nor by root if it is another user's; the
		// path to it can.
		dir, pathErr := realPathTo(name)
		if lostDaemon(err) {
			return dir, true, pathErr
		}
		if m, _ := mountAt(dir); m != nil && pathErr == nil {
			return dir, false, nil
		}
	}
	if err != nil {
		return "", false, err
	}
	// The kernel may still know the directory's attributes; this asks the daemon.
	return dir, lostDaemon(unix.Statfs(dir, new(unix.Statfs_t))), nil
}

// lostDaemon tells whether err is the kernel's answer for a FUSE mount without
// a daemon: ECONNABORTED to who had asked before it died.
func lostDaemon(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
}
