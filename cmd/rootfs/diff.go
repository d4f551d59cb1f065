package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/export"
	"github.com/DragonOS-Community/rootfs/overlay"
)

func diffCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:      "diff",
		Usage:     "show what the edits change, or what changed since a checkpoint",
		ArgsUsage: "[CHECKPOINT [CHECKPOINT]] [PATH…]",
		Description: "Without a checkpoint, from the layers to what is shown now; with one, from that to what is\n" +
			"shown now; with two, from the first to the second. A line for each field that differs, and\n" +
			"for text the lines that do, as patch(1) takes them. Status 0 nothing, 1 something, 2 trouble.",
		Action: func(c *cli.Context) error {
			count := 0
			out := newLines(c, std)
			err := diffEdits(c, std, func(change *export.Change) error {
				count++
				return showChange(out, change)
			})
			return diffStatus(std, "diff", count, errors.Join(err, out.flush()))
		},
	}
}

// diffStatus makes an exit status of what a comparison has found.
func diffStatus(std streams, verb string, count int, err error) error {
	switch {
	case errors.As(err, new(*usageError)):
		return err
	case err != nil:
		_, printed := fmt.Fprintln(std.err, "rootfs: "+verb+": "+oneLine(asked(err)))
		return errors.Join(&toldError{exitTrouble}, printed)
	case count > 0:
		return &toldError{exitDiffers}
	}
	return nil
}

// diffEdits compares what the arguments name.
func diffEdits(c *cli.Context, std streams, report func(*export.Change) error) error {
	ctx, stop := interruptible(c.Context)
	defer stop()
	project, all, err := findCheckpoints(c)
	if err != nil {
		return err
	}
	sides, paths, err := diffSides(c.Args().Slice(), all)
	if err != nil {
		return err
	}
	var trees [2]*overlay.Tree
	for i, o := range sides {
		o.ReadOnly, o.Steady, o.Context = true, true, ctx
		if i == 0 { // the other has the same to warn of
			o.Logger = logger(c, std.err)
		}
		if _, trees[i], err = openForReading(project, o); err != nil {
			return err
		}
		defer trees[i].Close() //nolint:errcheck // only read
	}
	for _, path := range rootPaths(paths) {
		if err := export.DiffTrees(ctx, trees[0], trees[1], cmp.Or(string(path), "."), report); err != nil {
			return err
		}
	}
	return nil
}

// diffSides reads the arguments: the checkpoints that are compared, and the paths.
func diffSides(args []string, all []overlay.Checkpoint) (sides [2]overlay.Options, paths []string, err error) {
	given := 0
	for ; given < len(sides) && given < len(args); given++ {
		cp, ok := findCheckpoint(all, args[given])
		if !ok {
			break
		}
		sides[given].Checkpoint = cp.ID
	}
	sides[0].WithoutEdits = given == 0
	for _, path := range args[given:] {
		if !strings.HasPrefix(path, "/") {
			return sides, nil, fmt.Errorf("%s: no such checkpoint (see: rootfs log); paths begin with a slash", quoted(path))
		}
		paths = append(paths, path)
	}
	if len(paths) == 0 {
		paths = []string{"/"}
	}
	return sides, paths, nil
}

// showChange prints the fields of a change, but for those that its lines of text
// show.
func showChange(out *lines, change *export.Change) error {
	text := ""
	if out.enc == nil {
		var err error
		if text, err = textDiff(change); err != nil {
			return fmt.Errorf("/%s: %w", change.Path, err)
		}
	}
	for _, d := range change.Fields {
		if text != "" && (d.Field == "size" || d.Field == "content") {
			continue
		}
		if err := out.difference(d); err != nil {
			return err
		}
	}
	_, err := io.WriteString(out.out, text)
	return err
}

// largestText is the size in bytes of files that are compared by lines.
const largestText = 4 << 20

// textDiff compares the contents of two files by lines; "" where they are the same
// or not text.
func textDiff(change *export.Change) (string, error) {
	var texts [2][]byte
	var names [2]string
	for i, e := range []*overlay.Entry{change.A, change.B} {
		names[i] = patchName([]string{"a/", "b/"}[i] + change.Path)
		if e == nil {
			names[i] = "/dev/null"
			continue
		}
		if !e.IsRegular() || e.Size > largestText {
			return "", nil
		}
		var err error
		if texts[i], err = readContent(e); err != nil {
			return "", err
		}
		if bytes.IndexByte(texts[i], 0) >= 0 {
			return "", nil
		}
	}
	unified := diff.Diff(names[0], texts[0], names[1], texts[1])
	// Its first line is a command, which patch(1) needs not.
	_, lines, _ := bytes.Cut(unified, []byte("\n"))
	return string(lines), nil
}

// patchName writes a name as patch(1) reads it: up to a space, unless a tab follows
// sometime, or in quotes as those of C, where a byte is three octal digits.
func patchName(name string) string {
	if quoted(name) == name && !strings.HasSuffix(name, " ") {
		if strings.Contains(name, " ") {
			name += "\t"
		}
		return name
	}
	b := []byte{'"'}
	for _, c := range []byte(name) {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c > '~':
			b = fmt.Appendf(b, "\\%03o", c)
		default:
			b = append(b, c)
		}
	}
	return string(append(b, '"'))
}

func readContent(e *overlay.Entry) ([]byte, error) {
	f, err := e.Content.Open()
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	return io.ReadAll(io.NewSectionReader(f, 0, e.Size))
}
