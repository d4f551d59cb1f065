package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os/signal"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

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
	project, err := findProject(c)
	if err != nil {
		return nil, err
	}
	r := &export.Request{Strict: c.Bool("strict"), Log: logger(c, std.err)}
	if r.Epoch, err = epoch(c); err != nil {
		return nil, err
	}
	if err := buildFirst(c, std, project); err != nil {
		return nil, err
	}
	collectOften()
	_, tree, done, err := openMoment(project, r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	if err := refuseConflicts(tree, r.Log, r.Strict); err != nil {
		return nil, err
	}
	if err := project.MakeStateDir(); err != nil {
		return nil, err
	}
	ctx, stop := signal.NotifyContext(c.Context, unix.SIGINT, unix.SIGTERM)
	defer stop()
	m := newMeter(c, std.err)
	defer m.End()
	r.Progress = m
	return export.Push(ctx, tree, ref, project.StateDir(), r)
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
