package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// daemonLimit is how long a daemon may take to bring everything to disk after
// the kernel has let go of the mount.
const daemonLimit = 2 * time.Minute

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
			return umount(c.Args().First())
		},
	}
}

func umount(name string) error {
	dir, dead, err := resolveMount(name)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: no such directory", quoted(name))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", quoted(name), bare(err))
	}
	m, err := mountAt(dir)
	switch {
	case err != nil:
		return err
	case m == nil:
		return fmt.Errorf("%s: not mounted", quoted(name))
	case m.Type != fsType:
		return fmt.Errorf("%s: a mount of type %s, not one of rootfs", quoted(name), m.Type)
	case dead:
		return detachDead(dir)
	}
	wait := daemonOf(m)
	if err := unmount(dir); errors.Is(err, unix.EBUSY) {
		return busyError(dir)
	} else if err != nil {
		return fmt.Errorf("%s: %w", quoted(name), err)
	}
	if err := wait(daemonLimit); err != nil {
		return fmt.Errorf("%s: unmounted, but its daemon hasn't ended yet: %w", quoted(name), err)
	}
	return nil
}

// daemonOf returns what waits for the end of a mount's daemon. A mount names
// its project; where that can't be read, there is nothing to wait for.
func daemonOf(m *mountPoint) waitFunc {
	if p, err := overlay.Find(m.Source, ""); err == nil {
		if s, wait, err := readState(p); err == nil && s != nil && s.Mountpoint == m.Dir {
			return wait
		}
	}
	return func(time.Duration) error { return nil }
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
