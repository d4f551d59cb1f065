package main

import (
	"context"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/export"
)

func sbomCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:  "sbom",
		Usage: "list what is inside, as an SPDX 2.3 document in JSON",
		Description: "Layers and packages with their versions, what a Debian or Alpine base has installed, and\n" +
			"every file with its digests and the layer that it comes from. The same tree makes the\n" +
			"same bytes; the document is dated by SOURCE_DATE_EPOCH, or 1970.",
		Flags: append([]cli.Flag{
			&cli.PathFlag{Name: "o", Usage: "write to `FILE`, which appears when it is whole; stdout if not given"},
			&cli.StringFlag{Name: "name", Value: "rootfs", Usage: "the system's `NAME` in the document"},
			&cli.BoolFlag{Name: "strict", Usage: "fail where there would be a warning"},
			noBuildFlag(),
			keepGoingFlag(),
		}, cacheFlags()...),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef(c, "takes no arguments but flags")
			}
			if c.String("name") == "" {
				return usagef(c, "--name needs a name")
			}
			return listContents(c, std)
		},
	}
}

func listContents(c *cli.Context, std streams) error {
	r := &export.Request{}
	return atOneMoment(c, std, r, func(ctx context.Context, m *moment) error {
		d := export.Document{Name: c.String("name"), Creator: "rootfs-" + strings.Trim(readVersion().Version, "()")}
		file := c.Path("o")
		if file == "" {
			return export.WriteSBOM(ctx, m.tree, std.out, d, r)
		}
		if err := m.checkOutputs([]string{file}); err != nil {
			return err
		}
		out, err := export.CreateOutput(file)
		if err != nil {
			return err
		}
		defer out.Discard()
		if err := export.WriteSBOM(ctx, m.tree, out.File, d, r); err != nil {
			return err
		}
		return out.Commit()
	})
}
