package main

import (
	"encoding/json"
	"errors"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/overlay"
	"github.com/DragonOS-Community/rootfs/overlay/build"
)

func gcCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:  "gc",
		Usage: "remove what nobody uses: checkpoints without a name, old outputs, unpacked images",
		Description: "Exports of a mount in which programs write leave such checkpoints. Their edits are merged\n" +
			"into the next ones; nothing is copied. The project must not be mounted for that.\n" +
			"Outputs of builds go that the project doesn't show as it is now, and out of the cache of\n" +
			"all projects what none of them uses. Outside of a project, only the cache is looked at.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Usage: "drop checkpoints with a name, too: log and restore know none then"},
			&cli.BoolFlag{Name: "n", Usage: "print what would be removed, and remove nothing"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usagef(c, "it takes no arguments")
			}
			report, err := collect(c, std)
			if report == nil {
				return err
			}
			return errors.Join(err, report.print(c, std))
		},
	}
}

// gcReport is what was removed, or would be.
type gcReport struct {
	project bool
	Dropped []overlay.Checkpoint `json:"dropped"`
	Freed   []overlay.Freed      `json:"freed"`
}

// collect removes all that can be. What is in the way of one thing, as a mount
// is of checkpoints, holds up no other.
func collect(c *cli.Context, std streams) (*gcReport, error) {
	collector := &overlay.Collector{Dry: c.Bool("n"), Log: logger(c, std.err)}
	report := &gcReport{project: true, Dropped: []overlay.Checkpoint{}, Freed: []overlay.Freed{}}
	project, err := findProject(c)
	if errors.Is(err, overlay.ErrNoProject) {
		report.project = false
		project, err = newProject(c)
	}
	if err != nil {
		return nil, err
	}
	var errs []error
	if report.project {
		all := c.Bool("all")
		drop := func(cp overlay.Checkpoint) bool { return all || cp.Name == "" }
		dropped, err := dropCheckpoints(project, drop, collector.Dry)
		report.Dropped = append(report.Dropped, dropped...)
		errs = append(errs, err, build.Collect(c.Context, project, collector))
	}
	errs = append(errs, project.CollectCache(collector))
	report.Freed = append(report.Freed, collector.Freed...)
	return report, errors.Join(errs...)
}

// dropCheckpoints returns those that it has dropped, or would have.
func dropCheckpoints(p *overlay.Project, drop func(overlay.Checkpoint) bool, dry bool) (dropped []overlay.Checkpoint, err error) {
	if !dry {
		return p.Squash(drop)
	}
	all, err := p.Checkpoints()
	for _, cp := range all {
		if drop(cp) {
			dropped = append(dropped, cp)
		}
	}
	return dropped, err
}

func (r *gcReport) print(c *cli.Context, std streams) error {
	if c.Bool("json") {
		return json.NewEncoder(std.out).Encode(r)
	}
	if c.Bool("q") {
		return nil
	}
	verb := ""
	if c.Bool("n") {
		verb = "to be "
	}
	var errs []error
	if r.project {
		errs = append(errs, fprintf(std.err, "checkpoints %sdropped: %d\n", verb, len(r.Dropped)))
	}
	total := int64(0)
	for _, f := range r.Freed {
		total += f.Bytes
		errs = append(errs, fprintf(std.err, "%s %sremoved: %d, %s\n", f.Kind, verb, f.Count, bytesText(f.Bytes)))
	}
	return errors.Join(append(errs, fprintf(std.err, "%sfreed: %s\n", verb, bytesText(total)))...)
}
