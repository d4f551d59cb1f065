package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/overlay"
)

func conflictsCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:  "conflicts",
		Usage: "list the paths that layers have different things for",
		Description: "One line a path on stdout: the layer that wins, and those that it hides. Sysconfig and the\n" +
			"manifest are there to override and never in conflict. With conflicts = \"error\" in\n" +
			"rootfs.toml, mount and export refuse a project that has any.",
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef(c, "takes no arguments")
			}
			return withTree(c, std, func(tree *overlay.Tree) error {
				out := bufio.NewWriter(std.out)
				enc := json.NewEncoder(out)
				n := 0
				err := tree.Conflicts(func(conflict overlay.Conflict) error {
					n++
					if !c.Bool("json") {
						return fprintf(out, "%s\n", conflictText(conflict))
					}
					return enc.Encode(struct {
						Type   string   `json:"type"`
						Path   string   `json:"path"`
						Bytes  []byte   `json:"path_bytes,omitempty"`
						Layers []string `json:"layers"` // the one that wins first
					}{"conflict", conflict.Path, notUTF8(conflict.Path), conflict.Layers})
				})
				if err := errors.Join(err, out.Flush()); err != nil || n > 0 || c.Bool("q") || c.Bool("json") {
					return err
				}
				return fprintf(std.err, "no conflicts\n")
			})
		},
	}
}

func conflictText(c overlay.Conflict) string {
	names := make([]string, len(c.Layers))
	for i, name := range c.Layers {
		names[i] = quoted(name)
	}
	return fmt.Sprintf("%s: %s over %s", quoted("/"+c.Path), names[0], strings.Join(names[1:], ", "))
}

// refuseConflicts does what the manifest wants of conflicts, in a mount or an
// export: an error, or a warning where there is somebody to read it.
func refuseConflicts(tree *overlay.Tree, warn *slog.Logger, strict bool) error {
	want := tree.Project().Manifest.Conflicts
	if want == "allow" || want == "warn" && warn == nil {
		return nil
	}
	first, n := "", 0
	err := tree.Conflicts(func(c overlay.Conflict) error {
		if n++; n == 1 {
			first = conflictText(c)
		}
		return nil
	})
	if err != nil || n == 0 {
		return err
	}
	text := "layers disagree on " + first
	if n > 1 {
		text += fmt.Sprintf(", and on %d more paths", n-1)
	}
	text += " (rootfs conflicts lists them)"
	if want == "error" {
		return errors.New(text + ": change the packages, or set conflicts = \"warn\" in rootfs.toml")
	}
	if strict {
		return errors.New(text)
	}
	warn.Warn(text)
	return nil
}
