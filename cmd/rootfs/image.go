package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/export"
)

// imageAction is one of the things that can be done with an image.
type imageAction struct {
	name, args string
	least      int // words after the name
	most       int
	run        func(c *cli.Context, std streams, args []string) error
}

var imageActions = []imageAction{
	{"ls", "FILE [PATH]", 1, 2, imageList},
	{"cat", "FILE PATH", 2, 2, imageCat},
	{"stat", "FILE [PATH]", 1, 2, imageStat},
	{"check", "FILE", 1, 1, imageCheck},
	{"diff", "FILE [FILE]", 1, 2, imageDiff},
}

func imageCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:      "image",
		Usage:     "look into disk images, tars and docker archives: ls, cat, stat, check, diff",
		ArgsUsage: "ls|cat|stat|check|diff FILE [PATH]",
		Description: "Needs neither root nor a mount, and nothing is changed. FILE is an ext2, ext3, ext4 or\n" +
			"FAT32 filesystem, alone or in an MBR or GPT partition, a tar (.gz, .xz, .zst) or a\n" +
			"docker archive, whoever made it.\n\n" +
			"  ls FILE [PATH]     names in a directory; with -l, all about them\n" +
			"  cat FILE PATH      a file's content\n" +
			"  stat FILE [PATH]   every field, and where in FILE the data lies\n" +
			"  check FILE         what contradicts itself, a line each; status 1 if anything does\n" +
			"  diff FILE [FILE]   what differs between two images, or an image and the project;\n" +
			"                     status 0 nothing, 1 something, 2 trouble",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "l", Usage: "ls: list type, mode, links, owner, size and time too"},
			&cli.IntFlag{Name: "partition", Usage: "look into partition `N`, from 1 on, where there are several"},
		},
		Action: func(c *cli.Context) error {
			args := c.Args().Slice()
			i := slices.IndexFunc(imageActions, func(a imageAction) bool { return len(args) > 0 && a.name == args[0] })
			if i < 0 {
				return usagef(c, "say what to do: ls, cat, stat, check or diff")
			}
			a := imageActions[i]
			switch n := len(args) - 1; {
			case n < a.least || n > a.most:
				return usagef(c, "%s takes %s", a.name, a.args)
			case c.Bool("l") && a.name != "ls":
				return usagef(c, "-l is for ls")
			case c.Int("partition") < 0:
				return usagef(c, "--partition %d: partitions are numbered from 1", c.Int("partition"))
			}
			return a.run(c, std, args[1:])
		},
	}
}

// openImage opens an image.
func openImage(c *cli.Context, path string) (*export.Image, error) {
	im, err := export.OpenImage(path, c.Int("partition"))
	if host := new(os.PathError); errors.As(err, &host) {
		err = fmt.Errorf("%s: %w", quoted(path), host.Err)
	}
	return im, err
}

// withImage opens an image for f, whose errors are about it.
func withImage(c *cli.Context, path string, f func(*export.Image) error) error {
	im, err := openImage(c, path)
	if err != nil {
		return err
	}
	if err = f(im); err != nil && !errors.As(err, new(*toldError)) {
		err = fmt.Errorf("%s: %w", quoted(path), err)
	}
	return errors.Join(err, im.Close())
}

// imagePath is the second word, or the root.
func imagePath(args []string) string {
	if len(args) > 1 {
		return args[1]
	}
	return "/"
}

// imageCheck tells what contradicts itself in an image.
func imageCheck(c *cli.Context, std streams, args []string) error {
	return withImage(c, args[0], func(im *export.Image) error {
		ctx, stop := interruptible(c.Context)
		defer stop()
		count := 0
		out := newLines(c, std)
		err := im.Check(ctx, func(problem string) error {
			count++
			return out.line(problem, struct {
				Problem string `json:"problem"`
			}{problem})
		})
		if err = errors.Join(err, out.flush()); err != nil {
			return err
		}
		if count == 0 {
			return nil
		}
		if what := "problems"; !c.Bool("q") {
			if count == 1 {
				what = "problem"
			}
			_, err = fmt.Fprintf(std.err, "%d %s in %s\n", count, what, quoted(args[0]))
		}
		return errors.Join(err, &toldError{exitFailed})
	})
}
