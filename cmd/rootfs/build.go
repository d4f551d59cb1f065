package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/export"
	"github.com/DragonOS-Community/rootfs/overlay"
	"github.com/DragonOS-Community/rootfs/overlay/build"
)

func buildCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:      "build",
		Usage:     "build the packages that have a recipe and have changed",
		ArgsUsage: "[PKG…]",
		Description: "Builds all packages, or those named and what they depend on, in parallel. The outputs\n" +
			"are in .rootfs/packages and show in a mount at once; .rootfs/logs has a log for each.\n" +
			"A package that can't be built stays what it was.",
		Flags: append([]cli.Flag{
			&cli.IntFlag{Name: "j", Usage: "build `N` packages at a time (default: one a processor)"},
			&cli.BoolFlag{Name: "keep-going", Aliases: []string{"k"}, Usage: "after a failure, build what doesn't depend on it"},
			&cli.BoolFlag{Name: "force", Usage: "build also what hasn't changed"},
		}, cacheFlags()...),
		Action: func(c *cli.Context) error {
			if c.Int("j") < 0 {
				return usagef(c, "-j %d: give how many packages to build at a time", c.Int("j"))
			}
			project, err := findProject(c)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c.Context)
			defer stop()
			results, err := buildPackages(ctx, c, std, project, build.Options{
				Names: c.Args().Slice(), Jobs: c.Int("j"), KeepGoing: c.Bool("keep-going"), Force: c.Bool("force"),
			})
			if printErr := printResults(c, std, project, results); printErr != nil || err != nil {
				return tellEach(std.err, errors.Join(err, printErr))
			}
			if results == nil && !c.Bool("json") {
				logger(c, std.err).Info("nothing to build: no package has a recipe (package.toml)")
			}
			return nil
		},
	}
}

// tellEach gives each of several packages that failed a line of its own.
func tellEach(w io.Writer, err error) error {
	lines := strings.Split(err.Error(), "\n")
	if len(lines) == 1 {
		return err
	}
	for _, line := range lines {
		if err := fprintf(w, "rootfs: build: %s\n", line); err != nil {
			return err
		}
	}
	return &toldError{exitFailed}
}

// noBuildFlag is of the verbs that build first.
func noBuildFlag() cli.Flag {
	return &cli.BoolFlag{Name: "no-build", Usage: "take the packages as they were last built"}
}

// keepGoingFlag is theirs too.
func keepGoingFlag() cli.Flag {
	return &cli.BoolFlag{Name: "keep-going", Aliases: []string{"k"}, Usage: "leave out, with a warning, packages that can't be built"}
}

// leavesOut tells whether a package that can't be built costs a warning.
func leavesOut(c *cli.Context) bool { return c.Bool("keep-going") && !c.Bool("strict") }

// cacheFlags are of all verbs that build.
func cacheFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "cache", EnvVars: []string{"ROOTFS_CACHE"}, Usage: "share built packages through the repository `REF` of a registry"},
		&cli.BoolFlag{Name: "cache-read-only", EnvVars: []string{"ROOTFS_CACHE_READ_ONLY"}, Usage: "take packages from there, and put none into it"},
	}
}

// packageCache returns the cache that the flags, the environment or the
// manifest name; nil for none. A flag without a value means none.
func packageCache(c *cli.Context, p *overlay.Project) (cache build.Cache, readOnly bool, err error) {
	ref := p.Manifest.Build.Cache
	if c.IsSet("cache") {
		ref = c.String("cache")
	}
	if ref == "" {
		return nil, false, nil
	}
	cache, err = export.NewPackageCache(ref, p.StateDir())
	if err != nil {
		err = fmt.Errorf("cache %s: %w", quoted(ref), err)
	}
	return cache, c.Bool("cache-read-only"), err
}

// buildFirst brings the project's packages up to date for a verb that shows
// them.
func buildFirst(c *cli.Context, std streams, p *overlay.Project) error {
	if c.Bool("no-build") {
		return nil
	}
	ctx, stop := interruptible(c.Context)
	defer stop()
	keepGoing := c.Bool("keep-going")
	results, err := buildPackages(ctx, c, std, p, build.Options{KeepGoing: keepGoing})
	if !leavesOut(c) || results == nil || ctx.Err() != nil {
		return err
	}
	log := logger(c, std.err)
	for _, r := range results {
		if r.Err != nil {
			log.Warn(oneLine(r.Err))
		}
	}
	return nil
}

// buildPackages builds with its progress shown, and the last words of what
// fails.
func buildPackages(ctx context.Context, c *cli.Context, std streams, p *overlay.Project, o build.Options) ([]build.Result, error) {
	var err error
	if o.Cache, o.CacheReadOnly, err = packageCache(c, p); err != nil {
		return nil, err
	}
	outliveReaders() // as the commands that are running would
	d := newBuildDisplay(c, std.err)
	o.Observer, o.Logger = d, slog.New(&lineHandler{w: d, level: logLevel(c)})
	results, err := build.Run(ctx, p, o)
	d.close()
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted; packages that were being built stay what they were")
	}
	return results, err
}

// printResults tells what came of each package: on stdout what there is to
// do with it, on stderr the sum.
func printResults(c *cli.Context, std streams, p *overlay.Project, results []build.Result) error {
	if c.Bool("json") {
		return printResultsJSON(json.NewEncoder(std.out), results)
	}
	if c.Bool("q") || len(results) == 0 {
		return nil
	}
	counts := map[build.State]int{}
	var skipped []string
	for _, r := range results {
		counts[r.State]++
		if r.State == build.Skipped {
			skipped = append(skipped, quoted(r.Name))
		}
		if r.State == build.Built || r.State == build.Restored || r.State == build.Fetched {
			link := filepath.Join(p.BuiltDir(), r.Name)
			if err := fprintf(std.out, "%s %s\n", r.State, quoted(link)); err != nil {
				return err
			}
		}
	}
	if counts[build.Unchanged] == len(results) {
		return fprintf(std.err, "nothing to build: %s unchanged\n", packagesText(len(results)))
	}
	var parts []string
	for s := build.Unchanged; s <= build.Skipped; s++ {
		if counts[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", counts[s], s))
		}
	}
	if len(skipped) > 0 {
		parts[len(parts)-1] += ": " + strings.Join(skipped, ", ")
	}
	return fprintf(std.err, "%s\n", strings.Join(parts, ", "))
}

func packagesText(n int) string {
	if n == 1 {
		return "1 package is"
	}
	return fmt.Sprintf("%d packages are", n)
}

func printResultsJSON(enc *json.Encoder, results []build.Result) error {
	var errs []error
	for _, r := range results {
		line := struct {
			Type   string `json:"type"`
			Name   string `json:"name"`
			State  string `json:"state"` // unchanged restored built fetched failed skipped
			Output string `json:"output,omitempty"`
			Log    string `json:"log,omitempty"`
			Error  string `json:"error,omitempty"`
		}{"package", r.Name, r.State.String(), r.Output, r.Log, ""}
		if r.Err != nil {
			line.Error = oneLine(r.Err)
		}
		errs = append(errs, enc.Encode(line))
	}
	return errors.Join(errs...)
}
