package main

import (
	"context"
	"errors"
	"io"
	"os/signal"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/export"
	"github.com/DragonOS-Community/rootfs/overlay"
)

func sbomCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:  "sbom",
		Usage: "list what is inside, as an SPDX 2.3 document in JSON",
		Description: "Layers and packages with their versions, what a Debian or Alpine base has installed, and\n" +
			"every file with its digests and the layer that it comes from. The same tree makes the\n" +
			"same bytes; the document is dated by SOURCE_DATE_EPOCH, or 1970.",
		Flags: []cli.Flag{
			&cli.PathFlag{Name: "o", Usage: "write to `FILE`, which appears when it is whole; stdout if not given"},
			&cli.StringFlag{Name: "name", Value: "rootfs", Usage: "the system's `NAME` in the document"},
			&cli.BoolFlag{Name: "strict", Usage: "fail where there would be a warning"},
			noBuildFlag(),
			keepGoingFlag(),
		},
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

func listContents(c *cli.Context, std streams) (err error) {
	project, err := findProject(c)
	if err != nil {
		return err
	}
	r := &export.Request{Strict: c.Bool("strict"), Log: logger(c, std.err)}
	if r.Epoch, err = epoch(c); err != nil {
		return err
	}
	if err := buildFirst(c, std, project); err != nil {
		return err
	}
	collectOften()
	state, tree, done, err := openMoment(project, r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	file := c.Path("o")
	if file == "" {
		return writeContents(c, std, tree, std.out, r)
	}
	if err := checkOutputs(project, state, []string{file}); err != nil {
		return err
	}
	out, err := export.CreateOutput(file)
	if err != nil {
		return err
	}
	defer out.Discard()
	if err := writeContents(c, std, tree, out.File, r); err != nil {
		return err
	}
	return out.Commit()
}

func writeContents(c *cli.Context, std streams, tree *overlay.Tree, w io.Writer, r *export.Request) error {
	ctx, stop := signal.NotifyContext(c.Context, unix.SIGINT, unix.SIGTERM)
	defer stop()
	m := newMeter(c, std.err)
	defer m.End()
	r.Progress = m
	d := export.Document{Name: c.String("name"), Creator: "rootfs-" + strings.Trim(readVersion().Version, "()")}
	err := export.WriteSBOM(ctx, tree, w, d, r)
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	return err
}
