package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

func chownCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:      "chown",
		Usage:     "give paths another owner, without being root",
		ArgsUsage: "USER[:GROUP]|:GROUP PATH…",
		Description: "Users and groups are numbers, or names in the root filesystem's own /etc/passwd and\n" +
			"/etc/group. Paths are those of the root filesystem: /etc/shadow.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "recursive", Aliases: []string{"R"}, Usage: "with all that is below"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() < 2 {
				return usagef(c, "give an owner and the paths")
			}
			project, err := findProject(c)
			if err != nil {
				return err
			}
			_, err = edit(project, logger(c, std.err), &controlRequest{
				Op: "chown", Owner: c.Args().First(), Paths: rootPaths(c.Args().Tail()), Recursive: c.Bool("recursive"),
			})
			return err
		},
	}
}

// rootPaths makes paths of the root filesystem relative to its root.
func rootPaths(args []string) [][]byte {
	paths := make([][]byte, len(args))
	for i, arg := range args {
		paths[i] = []byte(path.Clean("/" + arg)[1:])
	}
	return paths
}

func chown(tree *overlay.Tree, r *controlRequest) error {
	uid, gid, err := parseOwner(tree, r.Owner)
	if err != nil {
		return err
	}
	return r.eachPath(func(path string) error { return tree.Chown(path, uid, gid, r.Recursive) })
}

// parseOwner reads USER, USER:GROUP or :GROUP; what isn't given is nil. Names
// are those of the tree.
func parseOwner(tree *overlay.Tree, owner string) (uid, gid *uint32, err error) {
	user, group, hasGroup := strings.Cut(owner, ":")
	if user != "" {
		if uid, err = parseID(tree, "user", user, "etc/passwd"); err != nil {
			return nil, nil, err
		}
	}
	if hasGroup && group != "" {
		if gid, err = parseID(tree, "group", group, "etc/group"); err != nil {
			return nil, nil, err
		}
	}
	if uid == nil && gid == nil {
		return nil, nil, fmt.Errorf("owner %s: neither a user nor a group", quoted(owner))
	}
	return uid, gid, nil
}

// parseID returns a number, or the number that a name has in a file of the
// form of passwd(5) and group(5): name, password, number.
func parseID(tree *overlay.Tree, what, name, file string) (*uint32, error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil && n != 1<<32-1 {
		id := uint32(n)
		return &id, nil
	}
	text, err := tree.ReadFile(file)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		fields := strings.SplitN(lines.Text(), ":", 4)
		if len(fields) < 3 || fields[0] != name {
			continue
		}
		n, err := strconv.ParseUint(fields[2], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("/%s: %s %s has the number %s", file, what, quoted(name), quoted(fields[2]))
		}
		id := uint32(n)
		return &id, nil
	}
	return nil, fmt.Errorf("%s %s: not in the root filesystem's /%s; give its number", what, quoted(name), file)
}
