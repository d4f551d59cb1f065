package main

import (
	"fmt"
	"strconv"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

func nodeCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:      "node",
		Usage:     "make a device, fifo or socket, which the kernel lets only root do",
		ArgsUsage: "PATH c|b MAJOR MINOR | PATH p|s",
		Description: "The node is recorded with the edits, shown in the mount and exported; the host gets none.\n" +
			"PATH is one of the root filesystem: /dev/console.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "mode", Aliases: []string{"m"}, Value: "0600", Usage: "permissions in octal: `MODE`"},
			&cli.StringFlag{Name: "owner", Value: "0:0", Usage: "`USER[:GROUP]`, by number or by the names in the root filesystem's /etc/passwd"},
		},
		Action: func(c *cli.Context) error {
			project, err := findProject(c)
			if err != nil {
				return err
			}
			r, err := nodeRequest(c)
			if err != nil {
				return err
			}
			_, err = edit(project, logger(c, std.err), r)
			return err
		},
	}
}

// nodeTypes are the letters of mknod(1).
var nodeTypes = map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO, "s": unix.S_IFSOCK}

func nodeRequest(c *cli.Context) (*controlRequest, error) {
	args := c.Args().Slice()
	if len(args) < 2 {
		return nil, usagef(c, "give a path and a type")
	}
	mode, err := strconv.ParseUint(c.String("mode"), 8, 32)
	if err != nil || mode > 0o7777 {
		return nil, usagef(c, "--mode %s: not octal permissions such as 0600", quoted(c.String("mode")))
	}
	kind, ok := nodeTypes[args[1]]
	if !ok {
		return nil, usagef(c, "type %s: it is c or b for a device, p for a fifo, s for a socket", quoted(args[1]))
	}
	r := &controlRequest{Op: "node", Paths: rootPaths(args[:1]), Mode: kind | uint32(mode), Owner: c.String("owner")}
	numbers := args[2:]
	if kind == unix.S_IFIFO || kind == unix.S_IFSOCK {
		if len(numbers) != 0 {
			return nil, usagef(c, "a fifo or socket has no device number")
		}
		return r, nil
	}
	if len(numbers) != 2 {
		return nil, usagef(c, "give a device's major and minor number")
	}
	// Linux: 12 bits and 20 bits (include/linux/kdev_t.h).
	major, err := strconv.ParseUint(numbers[0], 0, 12)
	if err != nil {
		return nil, usagef(c, "major number %s: not in 0 to 4095", quoted(numbers[0]))
	}
	minor, err := strconv.ParseUint(numbers[1], 0, 20)
	if err != nil {
		return nil, usagef(c, "minor number %s: not in 0 to 1048575", quoted(numbers[1]))
	}
	r.Rdev = unix.Mkdev(uint32(major), uint32(minor))
	return r, nil
}

func makeNode(tree *overlay.Tree, r *controlRequest) error {
	uid, gid, err := parseOwner(tree, r.Owner)
	if err != nil {
		return err
	}
	owner := overlay.Owner{}
	if uid != nil {
		owner.UID = *uid
	}
	if gid != nil {
		owner.GID = *gid
	}
	return r.eachPath(func(path string) error {
		if err := tree.MakeNode(path, r.Mode, r.Rdev, owner); err != nil {
			return fmt.Errorf("make the node: %w", err)
		}
		return nil
	})
}
