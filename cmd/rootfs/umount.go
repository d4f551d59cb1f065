package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

const (
	// daemonLimit is how long a daemon may take to bring everything to disk.
	daemonLimit = 2 * time.Minute

	// copyLimit is how long the kernel may take to let go of a mount. After
	// it, the mount has a copy in another mount namespace: each that is made
	// gets one, such as a container's.
	copyLimit = 500 * time.Millisecond

	// lookLimit is how long a mount may be busy without anybody in it.
	lookLimit = time.Second
)

func umountCommand() *cli.Command {
	return &cli.Command{
		Name:      "umount",
		Usage:     "end the mount on MNT; returns when all edits are on disk",
		ArgsUsage: "MNT",
		Description: "A mount whose daemon has died is cleared. Edits stay in .rootfs/ and are there again\n" +
			"with the next mount.",
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usagef(c, "give one mountpoint")
			}
			return umount(c, c.Args().First())
		},
	}
}

func umount(c *cli.Context, name string) error {
	dir, dead, err := resolveMount(name)
	if errors.Is(err, os.ErrNotExist) {
		dir, _ := realPathTo(name) // it may be in another mount namespace, with its mount
		return umountElsewhere(c, dir, fmt.Errorf("%s: no such directory", quoted(name)))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", quoted(name), bare(err))
	}
	m, err := mountAt(dir)
	switch {
	case err != nil:
		return err
	case m == nil:
		return umountElsewhere(c, dir, fmt.Errorf("%s: not mounted", quoted(name)))
	case m.Type != fsType:
		return fmt.Errorf("%s: a mount of type %s, not one of rootfs", quoted(name), m.Type)
	case dead:
		return detachDead(dir)
	}
	err = unmount(dir)
	// Who only looks at it, as other commands do, is gone at once.
	for began := time.Now(); errors.Is(err, unix.EBUSY) && time.Since(began) < lookLimit && !inUse(dir); err = unmount(dir) {
		time.Sleep(5 * time.Millisecond)
	}
	if errors.Is(err, unix.EBUSY) {
		return busyError(dir)
	} else if err != nil {
		return fmt.Errorf("%s: %w", quoted(name), err)
	}
	// A mount names its project, whose manifest may be wrong by now. One of
	// directories has a name of its own, and no state to be found by it.
	p := &overlay.Project{Root: m.Source}
	if _, err := os.Stat(p.StateDir()); err != nil || !filepath.IsAbs(m.Source) {
		return nil
	}
	if err := endDaemon(p, dir); err != nil {
		return fmt.Errorf("%s: unmounted, but its daemon hasn't ended: %w", quoted(name), err)
	}
	return nil
}

// umountElsewhere ends a daemon whose mount is gone here, and lives on in other
// mount namespaces; notHere is the error when there is none.
func umountElsewhere(c *cli.Context, dir string, notHere error) error {
	// The manifest may be wrong by now.
	if p, _ := overlay.Find(".", c.Path("manifest")); p != nil {
		if pid, _, err := daemonOf(p, dir); err == nil && pid != 0 {
			return endDaemon(p, dir)
		}
	}
	return notHere
}

// endDaemon waits until the daemon has ended that had a project mounted on dir;
// where other mount namespaces keep it from that, it is told to.
func endDaemon(p *overlay.Project, dir string) error {
	_, wait, err := daemonOf(p, dir)
	if err != nil || wait == nil {
		return err
	}
	if err := wait(copyLimit); !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	pid, wait, err := daemonOf(p, dir)
	if err != nil || wait == nil {
		return err
	}
	// It doesn't answer any more when it is busy with the disk at its end.
	_, unasked := askDaemon(p, &controlRequest{Op: "end"})
	if err := wait(daemonLimit); err != nil {
		return fmt.Errorf("process %d: %w", pid, errors.Join(err, unasked))
	}
	return nil
}

// daemonOf finds the daemon that has a project mounted on dir, or had, and
// what waits for its end, which is nil when there is none.
func daemonOf(p *overlay.Project, dir string) (pid int, wait waitFunc, err error) {
	s, wait, err := readState(p)
	if err != nil || s == nil || s.Mountpoint != dir {
		return 0, nil, err
	}
	return s.PID, wait, nil
}

// unmount ends a mount, as root by itself and otherwise through the set-uid
// helper of FUSE. An error is unix.EBUSY where the mount is in use.
func unmount(dir string) error {
	if os.Geteuid() == 0 {
		return unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	}
	return fusermount(dir, "-u")
}

// detachDead takes away a mount that nobody serves, with what still holds it.
func detachDead(dir string) error {
	if os.Geteuid() == 0 {
		return unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	return fusermount(dir, "-uz")
}

func fusermount(dir, flag string) error {
	out, err := exec.Command("fusermount3", flag, "--", dir).CombinedOutput()
	switch {
	case err == nil:
		return nil
	case strings.Contains(string(out), unix.EBUSY.Error()), strings.Contains(string(out), "busy"):
		return unix.EBUSY
	case errors.Is(err, exec.ErrNotFound):
		return errors.New("fusermount3 is missing; install it with: apt install fuse3")
	}
	return fmt.Errorf("fusermount3: %s: %w", strings.TrimSpace(string(out)), err)
}
