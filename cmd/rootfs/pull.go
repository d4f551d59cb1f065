package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/export"
	"github.com/DragonOS-Community/rootfs/overlay"
)

func pullCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:      "pull",
		Usage:     "make an image of a registry the project's base, or take newer ones",
		ArgsUsage: "[REF]",
		Description: "With REF, the image becomes the base: in the project here, or in a new one in this\n" +
			"folder. The images that rootfs.toml refers to, this one too, are looked up anew, fetched,\n" +
			"and written into rootfs.lock by their digests, which hold until the next pull.",
		Action: func(c *cli.Context) error {
			if c.NArg() > 1 {
				return usagef(c, "takes one reference at most")
			}
			ref := c.Args().First()
			if c.NArg() == 1 && !overlay.IsImageReference(ref) {
				return usagef(c, "%s: give an image with its tag or digest, as registry.example.org/team/system:1", quoted(ref))
			}
			images, err := pullImages(c, std, ref)
			if err != nil {
				return err
			}
			enc := json.NewEncoder(std.out)
			var errs []error
			for _, i := range images {
				if c.Bool("json") {
					errs = append(errs, enc.Encode(i))
				} else {
					errs = append(errs, fprintf(std.out, "%s is %s (%s)\n", quoted(i.Source), i.Digest, i.Arch))
				}
			}
			return errors.Join(errs...)
		},
	}
}

func pullImages(c *cli.Context, std streams, ref string) ([]overlay.LockedImage, error) {
	project, err := findProject(c)
	if errors.Is(err, overlay.ErrNoProject) && ref != "" {
		project, err = newProject(c)
	}
	if err != nil {
		return nil, err
	}
	ctx, stop := interruptible(c.Context)
	defer stop()
	if ref != "" {
		if project, err = project.SetBase(ctx, ref); err != nil {
			return nil, err
		}
	}
	images, err := project.LockImages(ctx)
	if err != nil {
		return nil, err
	}
	if len(images) == 0 {
		return nil, fmt.Errorf("%s refers to no image of a registry: give one to make it the base", quoted(project.Root))
	}
	stop() // what fetches can be ended at any time
	tree, err := overlay.Open(project, overlay.Options{ReadOnly: true, WithoutEdits: true, Logger: logger(c, std.err)})
	if err != nil {
		return nil, err
	}
	return images, tree.Close()
}

// newProject is what the working directory becomes.
func newProject(c *cli.Context) (*overlay.Project, error) {
	if file := c.Path("manifest"); file != "" {
		return nil, fmt.Errorf("--manifest %s: there is no project to use it with", quoted(file))
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("working directory: %w", bare(err))
	}
	p, err := overlay.New(dir)
	if err != nil {
		return nil, err
	}
	p.Registry = export.NewRegistry()
	return p, nil
}
