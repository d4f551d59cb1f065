package main

import (
	"encoding/json"
	"errors"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/overlay"
)

func whichCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:      "which",
		Usage:     "say which layers have PATH, and which of them is shown",
		ArgsUsage: "PATH",
		Description: "One line a layer on stdout, the topmost first: shown, merged (a directory), hidden by one\n" +
			"above, or removes (what is below); the layer; where it is on the host.",
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usagef(c, "give one path in the root filesystem")
			}
			return withTree(c, std, func(tree *overlay.Tree) error {
				path := strings.TrimLeft(c.Args().First(), "/")
				origins, err := tree.Which(path)
				if err != nil {
					return err
				}
				return printOrigins(c, std, path, origins)
			})
		},
	}
}

func printOrigins(c *cli.Context, std streams, path string, origins []overlay.Origin) error {
	enc := json.NewEncoder(std.out)
	table := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	var errs []error
	for _, o := range origins {
		if !c.Bool("json") {
			errs = append(errs, fprintf(table, "%s\t%s\t%s\n", o.Use, quoted(o.Layer), quoted(o.Host)))
			continue
		}
		errs = append(errs, enc.Encode(struct {
			Type      string      `json:"type"`
			Path      string      `json:"path"`
			Bytes     []byte      `json:"path_bytes,omitempty"`
			Use       overlay.Use `json:"use"` // shown merged hidden removes
			Layer     string      `json:"layer"`
			Host      string      `json:"host"`
			HostBytes []byte      `json:"host_bytes,omitempty"`
		}{"origin", path, notUTF8(path), o.Use, o.Layer, o.Host, notUTF8(o.Host)}))
	}
	return errors.Join(append(errs, table.Flush())...)
}

// withTree opens the project to be looked at, as its daemon shows it if it is
// mounted.
func withTree(c *cli.Context, std streams, do func(*overlay.Tree) error) error {
	project, err := findProject(c)
	if err != nil {
		return err
	}
	_, tree, err := openForReading(project, overlay.Options{ReadOnly: true, Logger: logger(c, std.err)})
	if err != nil {
		return err
	}
	return errors.Join(do(tree), tree.Close())
}
