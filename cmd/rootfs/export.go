package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/export"
)

func exportCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:  "export",
		Usage: "write the tree as a disk image, a layer tar, a docker archive or an OCI layout",
		Description: "Several outputs are written in one walk. Each appears when it is whole. What the flags\n" +
			"don't say comes from [image] in rootfs.toml. Times are no later than SOURCE_DATE_EPOCH,\n" +
			"if that is set.",
		Flags: append([]cli.Flag{
			&cli.PathFlag{Name: "img", Usage: "write a disk image to `FILE`"},
			&cli.PathFlag{Name: "tar", Usage: "write a layer tar to `FILE`"},
			&cli.PathFlag{Name: "docker", Usage: "write a docker archive to `FILE`, compressed if it ends in .gz or .zst"},
			&cli.PathFlag{Name: "oci", Usage: "write an OCI image layout to `DIR`"},
			&cli.StringFlag{Name: "fs", Usage: "the image's filesystem: ext4, vfat"},
			&cli.StringFlag{Name: "partition", Usage: "the image's partition `TABLE`: mbr, gpt, none"},
			&cli.StringFlag{Name: "size", Usage: "the image's `SIZE`, as 512M or 2GiB; auto: content and --free"},
			&cli.StringFlag{Name: "free", Usage: "free space in an image of automatic size, as `SIZE`"},
			&cli.StringFlag{Name: "label", Usage: "the filesystem's `LABEL`"},
			&cli.StringFlag{Name: "tag", Usage: "the container image's `NAME[:TAG]`"},
			&cli.BoolFlag{Name: "lossy", Usage: "leave out of a vfat image what FAT can't hold, with a warning for each"},
			&cli.BoolFlag{Name: "strict", Usage: "fail where there would be a warning"},
			noBuildFlag(),
			keepGoingFlag(),
			&cli.BoolFlag{Name: "n", Usage: "print what would be written, and write nothing"},
		}, cacheFlags()...),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef(c, "takes no arguments but flags")
			}
			request, err := newRequest(c)
			if err != nil {
				return err
			}
			return exportProject(c, std, request)
		},
	}
}

// choices are the flags with few values.
var choices = []struct {
	flag   string
	values []string
}{
	{"fs", []string{"ext4", "vfat"}},
	{"partition", []string{"mbr", "gpt", "none"}},
}

// newRequest is what the flags and the environment ask for. What they leave
// open is empty, and the manifest's to say.
func newRequest(c *cli.Context) (*export.Request, error) {
	r := &export.Request{
		Img: c.Path("img"), Tar: c.Path("tar"), Docker: c.Path("docker"), OCI: c.Path("oci"),
		Filesystem: c.String("fs"), Partition: c.String("partition"), Size: c.String("size"),
		Free: c.String("free"), Label: c.String("label"), Tag: c.String("tag"), Lossy: c.Bool("lossy"),
	}
	if len(outputs(r)) == 0 {
		return nil, usagef(c, "nothing to write: give --img FILE, --tar FILE, --docker FILE or --oci DIR")
	}
	for _, choice := range choices {
		if v := c.String(choice.flag); v != "" && !slices.Contains(choice.values, v) {
			return nil, usagef(c, "--%s %s: use one of %s", choice.flag, quoted(v), strings.Join(choice.values, ", "))
		}
	}
	return r, nil
}

// outputs are the paths that a request writes to.
func outputs(r *export.Request) []string {
	all := []string{r.Img, r.Tar, r.Docker, r.OCI}
	return slices.DeleteFunc(all, func(path string) bool { return path == "" })
}

func exportProject(c *cli.Context, std streams, r *export.Request) error {
	run := export.Run
	if c.Bool("n") {
		run = export.DryRun
	}
	var report *export.Report
	err := atOneMoment(c, std, r, func(ctx context.Context, m *moment) (err error) {
		if err := m.checkOutputs(outputs(r)); err != nil {
			return err
		}
		if err := refuseConflicts(m.tree, r.Log, r.Strict); err != nil {
			return err
		}
		report, err = run(ctx, m.tree, r)
		return err
	})
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted; nothing was written")
	}
	if err != nil {
		return err
	}
	return printReport(c, std.out, report)
}
