package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/export"
)

func pushCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:      "push",
		Usage:     "send the tree to a registry as an OCI image",
		ArgsUsage: "REF",
		Description: "A layer for each of base, packages, configuration and edits. Layers that the registry\n" +
			"has are not sent again, so that a push that was ended goes on where it was. Credentials\n" +
			"are those of docker login or podman login. Times are no later than SOURCE_DATE_EPOCH,\n" +
			"if that is set. The last line on stdout is the image by its digest.",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "strict", Usage: "fail where there would be a warning"},
			noBuildFlag(),
			keepGoingFlag(),
		}, cacheFlags()...),
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usagef(c, "give one reference, as registry.example.org/team/system:1")
			}
			report, err := pushProject(c, std, c.Args().First())
			if errors.Is(err, context.Canceled) {
				return errors.New("interrupted; what was sent needn't be sent again")
			}
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return json.NewEncoder(std.out).Encode(report)
			}
			return printPush(std.out, report)
		},
	}
}

func pushProject(c *cli.Context, std streams, ref string) (report *export.PushReport, err error) {
	r := &export.Request{}
	err = atOneMoment(c, std, r, func(ctx context.Context, m *moment) error {
		if err := refuseConflicts(m.tree, r.Log, r.Strict); err != nil {
			return err
		}
		if err := m.project.MakeStateDir(); err != nil {
			return err
		}
		report, err = export.Push(ctx, m.tree, ref, m.project.StateDir(), r)
		return err
	})
	return report, err
}

func printPush(w io.Writer, r *export.PushReport) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var errs []error
	for _, l := range r.Layers {
		state := "there already"
		if l.Sent {
			state = "sent"
		}
		errs = append(errs, fprintf(table, "  %s\t%d entries\t%s\t%s\n", l.Name, l.Entries, bytesText(l.Size), state))
	}
	return errors.Join(append(errs, table.Flush(), fprintf(w, "%s@%s\n", r.Ref, r.Digest))...)
}
