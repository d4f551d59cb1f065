package main

import (
	"log/slog"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/overlay"
	"github.com/DragonOS-Community/rootfs/overlay/build"
)

func watchCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:      "watch",
		Usage:     "build packages whenever they change, until Ctrl-C",
		ArgsUsage: "[PKG…]",
		Description: "Builds as rootfs build does, and again whenever a package's folder or rootfs.toml\n" +
			"changes. A mount shows each output as soon as it is there.",
		Flags: cacheFlags(),
		Action: func(c *cli.Context) error {
			project, err := findProject(c)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c.Context)
			defer stop()
			d := newBuildDisplay(c, std.err)
			defer d.close()
			r := &watchReport{c: c, std: std, project: project, told: make(map[string]string)}
			r.log = slog.New(&lineHandler{w: d, level: logLevel(c)})
			o := build.Options{Names: c.Args().Slice(), KeepGoing: true, Logger: r.log, Observer: d}
			if o.Cache, o.CacheReadOnly, err = packageCache(c, project); err != nil {
				return err
			}
			return build.Watch(ctx, project, o, r.report)
		},
	}
}

// watchReport tells what is new in each round of rootfs watch.
type watchReport struct {
	c       *cli.Context
	std     streams
	project *overlay.Project
	log     *slog.Logger
	told    map[string]string // the last failure of each package; of all, by ""
}

func (w *watchReport) report(results []build.Result, err error) {
	news, rest := false, err
	for _, r := range results {
		if r.Err != nil {
			rest = nil // it is told with its package
		}
	}
	w.failure("", rest, false)
	for _, r := range results {
		w.failure(r.Name, r.Err, r.Ran)
		news = news || r.Ran || r.State == build.Restored || r.State == build.Fetched
	}
	if news {
		_ = printResults(w.c, w.std, w.project, results) // the next round tells too
	}
}

// failure tells one that wasn't told last time, or has happened again.
func (w *watchReport) failure(name string, err error, again bool) {
	text := ""
	if err != nil {
		text = oneLine(err)
	}
	if text != "" && (again || text != w.told[name]) {
		w.log.Error(text)
	}
	w.told[name] = text
}
