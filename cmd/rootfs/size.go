package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/overlay"
)

func sizeCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:      "size",
		Usage:     "say where the bytes are: by layer, and by name in PATH",
		ArgsUsage: "[PATH]",
		Description: "Regular files as they are shown, the largest first. A file with several names counts\n" +
			"once; what a layer above hides doesn't count.",
		Action: func(c *cli.Context) error {
			if c.NArg() > 1 {
				return usagef(c, "takes one directory at most")
			}
			return withTree(c, std, func(tree *overlay.Tree) error {
				path := string(rootPaths([]string{c.Args().First()})[0])
				sizes, err := tree.Sizes(path)
				if err != nil {
					return err
				}
				if c.Bool("json") {
					return printSizesJSON(json.NewEncoder(std.out), path, sizes)
				}
				return printSizes(std.out, path, sizes)
			})
		},
	}
}

// largestFirst returns the keys of amounts.
func largestFirst(amounts map[string]overlay.Amount) []string {
	return slices.SortedFunc(maps.Keys(amounts), func(a, b string) int {
		return cmp.Or(cmp.Compare(amounts[b].Bytes, amounts[a].Bytes), cmp.Compare(a, b))
	})
}

func below(path, name string) string {
	if path == "" {
		return "/" + name
	}
	return "/" + path + "/" + name
}

func printSizes(w io.Writer, path string, s *overlay.Sizes) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(a overlay.Amount, name string) error {
		return fprintf(table, "%s\t%d files\t  %s\n", bytesText(a.Bytes), a.Files, name)
	}
	var errs []error
	for _, name := range largestFirst(s.Layers) {
		errs = append(errs, row(s.Layers[name], quoted(name)))
	}
	for _, name := range largestFirst(s.Names) {
		errs = append(errs, row(s.Names[name], quoted(below(path, name))))
	}
	return errors.Join(append(errs, row(s.Total, "total"), table.Flush())...)
}

func printSizesJSON(enc *json.Encoder, path string, s *overlay.Sizes) error {
	line := func(typ, name string, a overlay.Amount) error {
		return enc.Encode(struct {
			Type  string `json:"type"` // layer path total
			Name  string `json:"name,omitempty"`
			Raw   []byte `json:"name_bytes,omitempty"`
			Files int64  `json:"files"`
			Bytes int64  `json:"bytes"`
		}{typ, name, notUTF8(name), a.Files, a.Bytes})
	}
	var errs []error
	for _, name := range largestFirst(s.Layers) {
		errs = append(errs, line("layer", name, s.Layers[name]))
	}
	for _, name := range largestFirst(s.Names) {
		errs = append(errs, line("path", below(path, name), s.Names[name]))
	}
	return errors.Join(append(errs, line("total", "", s.Total))...)
}
