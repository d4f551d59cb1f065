package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/overlay"
)

func checkpointCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:      "checkpoint",
		Usage:     "freeze the edits as they are, to return to",
		ArgsUsage: "[NAME]",
		Description: "What is edited later goes on top; nothing is copied. Where nothing was edited since\n" +
			"the last checkpoint, that one is named.",
		Action: func(c *cli.Context) error {
			if c.NArg() > 1 {
				return usagef(c, "takes one name at most")
			}
			name := c.Args().First()
			if strings.HasPrefix(name, "/") || !utf8.ValidString(name) {
				return usagef(c, "%s: a name must be UTF-8 and not begin with a slash, as the paths for restore do", quoted(name))
			}
			project, err := findProject(c)
			if err != nil {
				return err
			}
			made := overlay.Checkpoint{Name: name, Time: time.Now().UTC().Truncate(time.Second)}
			reply, err := edit(project, logger(c, std.err), &controlRequest{Op: "checkpoint", Checkpoint: made})
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return json.NewEncoder(std.out).Encode(reply.Checkpoint)
			}
			_, err = fmt.Fprintln(std.out, reply.Checkpoint.ID)
			return err
		},
	}
}

func logCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:        "log",
		Usage:       "list the checkpoints, newest first",
		Description: "One line a checkpoint on stdout: its id, its time, its name.",
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef(c, "takes no arguments")
			}
			_, all, err := findCheckpoints(c)
			if err != nil {
				return err
			}
			slices.Reverse(all)
			enc := json.NewEncoder(std.out)
			for _, cp := range all {
				if c.Bool("json") {
					err = enc.Encode(cp)
				} else {
					name := quoted(cp.Name)
					if cp.Temporary {
						name = "(of an export)"
					}
					line := cp.ID + "  " + cp.Time.Local().Format(time.DateTime) + "  " + name
					_, err = fmt.Fprintln(std.out, strings.TrimRight(line, " "))
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func restoreCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "make paths what they were at a checkpoint, or in the layers",
		ArgsUsage: "[CHECKPOINT] PATH…",
		Description: "A checkpoint is given by its id or its name (see rootfs log). Without one, the paths become\n" +
			"what the layers have now. Paths are those of the root filesystem: /etc/passwd.",
		Action: func(c *cli.Context) error {
			project, all, err := findCheckpoints(c)
			if err != nil {
				return err
			}
			args := c.Args().Slice()
			request := &controlRequest{Op: "restore"}
			if len(args) > 0 {
				if cp, ok := findCheckpoint(all, args[0]); ok {
					request.Checkpoint, args = cp, args[1:]
				}
			}
			if len(args) == 0 {
				return usagef(c, "name the paths to restore")
			}
			if request.Checkpoint.ID == "" && len(args) > 1 && !strings.HasPrefix(args[0], "/") && strings.HasPrefix(args[1], "/") {
				return fmt.Errorf("%s: no such checkpoint; see: rootfs log", quoted(args[0]))
			}
			request.Paths = rootPaths(args)
			_, err = edit(project, logger(c, std.err), request)
			return err
		},
	}
}

// findCheckpoints returns the project of the working directory and its checkpoints.
func findCheckpoints(c *cli.Context) (*overlay.Project, []overlay.Checkpoint, error) {
	project, err := findProject(c)
	if err != nil {
		return nil, nil, err
	}
	all, err := project.Checkpoints()
	return project, all, err
}

// findCheckpoint finds one by its id, or else the newest of a name.
func findCheckpoint(all []overlay.Checkpoint, word string) (found overlay.Checkpoint, ok bool) {
	for _, cp := range all {
		if cp.ID == word {
			return cp, true
		}
		if cp.Name == word && word != "" {
			found, ok = cp, true
		}
	}
	return found, ok
}
