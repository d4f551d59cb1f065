package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/export"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// Exit statuses of diff, as those of diff(1).
const (
	exitDiffers = 1
	exitTrouble = 2
)

// imageDiff compares an image with another, or with the project.
func imageDiff(c *cli.Context, std streams, args []string) error {
	ctx, stop := interruptible(c.Context)
	defer stop()
	count := 0
	out := newLines(c, std)
	err := withSides(ctx, c, std, args, func(a, b export.Side) error {
		return export.Diff(ctx, a, b, func(d export.Difference) error {
			count++
			return out.difference(d)
		})
	})
	return diffStatus(std, "image diff", count, errors.Join(err, out.flush()))
}

// withSides opens what is compared: two images, or one and the project.
func withSides(ctx context.Context, c *cli.Context, std streams, args []string, compare func(a, b export.Side) error) error {
	a, err := openImage(c, args[0])
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // only read
	if len(args) == 2 {
		b, err := openImage(c, args[1])
		if err != nil {
			return err
		}
		defer b.Close() //nolint:errcheck // only read
		return compare(a, b)
	}
	epoch, err := epoch(c)
	if err != nil {
		return err
	}
	project, err := findProject(c)
	if err != nil {
		return err
	}
	_, tree, err := openForReading(project, overlay.Options{ReadOnly: true, Logger: logger(c, std.err), Context: ctx})
	if err != nil {
		return err
	}
	return errors.Join(compare(a, export.TreeSide{Tree: tree, Epoch: epoch}), tree.Close())
}

func (l *lines) difference(d export.Difference) error {
	d.Path = absolute(d.Path)
	return l.line(differenceText(d), struct {
		export.Difference
		Bytes  []byte `json:"path_bytes,omitempty"`
		ABytes []byte `json:"a_bytes,omitempty"`
		BBytes []byte `json:"b_bytes,omitempty"`
	}{d, notUTF8(d.Path), notUTF8(d.A), notUTF8(d.B)})
}

// differenceText is "path: field: a → b".
func differenceText(d export.Difference) string {
	show := func(s string) string {
		if s == "" {
			return "none"
		}
		return quoted(s)
	}
	return fmt.Sprintf("%s: %s: %s → %s", quoted(d.Path), d.Field, show(d.A), show(d.B))
}
