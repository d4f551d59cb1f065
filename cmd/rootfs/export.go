package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/export"
	"github.com/DragonOS-Community/rootfs/overlay"
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
		Free: c.String("free"), Label: c.String("label"), Tag: c.String("tag"), Strict: c.Bool("strict"),
		Lossy: c.Bool("lossy"),
	}
	if len(outputs(r)) == 0 {
		return nil, usagef(c, "nothing to write: give --img FILE, --tar FILE, --docker FILE or --oci DIR")
	}
	for _, choice := range choices {
		if v := c.String(choice.flag); v != "" && !slices.Contains(choice.values, v) {
			return nil, usagef(c, "--%s %s: use one of %s", choice.flag, quoted(v), strings.Join(choice.values, ", "))
		}
	}
	var err error
	r.Epoch, err = epoch(c)
	return r, err
}

// epoch returns the time that SOURCE_DATE_EPOCH asks for, nil for none
// (https://reproducible-builds.org/specs/source-date-epoch/).
func epoch(c *cli.Context) (*overlay.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return nil, nil
	}
	sec, err := strconv.ParseInt(text, 10, 64)
	if err != nil || sec < 0 {
		return nil, usagef(c, "SOURCE_DATE_EPOCH=%s: not a number of seconds since 1970", quoted(text))
	}
	return &overlay.Time{Sec: sec}, nil
}

// outputs are the paths that a request writes to.
func outputs(r *export.Request) []string {
	all := []string{r.Img, r.Tar, r.Docker, r.OCI}
	return slices.DeleteFunc(all, func(path string) bool { return path == "" })
}

func exportProject(c *cli.Context, std streams, r *export.Request) (err error) {
	project, err := findProject(c)
	if err != nil {
		return err
	}
	r.Log = logger(c, std.err)
	if !c.Bool("n") {
		if err := buildFirst(c, std, project); err != nil {
			return err
		}
	}
	collectOften()
	state, tree, done, err := openMoment(project, r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	if err := checkOutputs(project, state, outputs(r)); err != nil {
		return err
	}
	if err := refuseConflicts(tree, r.Log, r.Strict); err != nil {
		return err
	}
	run := export.Run
	if c.Bool("n") {
		run = export.DryRun
	}
	ctx, stop := signal.NotifyContext(c.Context, unix.SIGINT, unix.SIGTERM)
	defer stop()
	report, err := metered(c, std.err, r, func() (*export.Report, error) { return run(ctx, tree, r) })
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted; nothing was written")
	}
	if err != nil {
		return err
	}
	return printReport(c, std.out, report)
}

// openMoment opens the project as it is at one moment. Where it is mounted, the
// daemon makes a checkpoint, which done takes back unless somebody wrote since.
func openMoment(p *overlay.Project, r *export.Request) (state *mountState, tree *overlay.Tree, done func() error, err error) {
	o := overlay.Options{ReadOnly: true, Logger: r.Log}
	if state, _, err = readState(p); err != nil {
		return nil, nil, nil, err
	}
	if state == nil {
		tree, err = overlay.Open(p, o)
		if err != nil {
			return nil, nil, nil, err
		}
		return nil, tree, tree.Close, nil
	}
	if err := syncMapped(state.Mountpoint); err != nil {
		return nil, nil, nil, err
	}
	writers := writersBeneath(state.Mountpoint)
	moment := overlay.Checkpoint{Name: "export", Time: time.Now().UTC().Truncate(time.Second)}
	reply, err := askDaemon(p, &controlRequest{Op: "checkpoint", Checkpoint: moment})
	if err != nil {
		return nil, nil, nil, err
	}
	back := func() error {
		if reply.Checkpoint.Name != moment.Name {
			return nil // somebody's own, since which nothing was edited
		}
		_, err := askDaemon(p, &controlRequest{Op: "uncheckpoint", Checkpoint: reply.Checkpoint})
		return err
	}
	if err := beingWritten(writers, r); err != nil {
		return nil, nil, nil, errors.Join(err, back())
	}
	o.Checkpoint = reply.Checkpoint.ID
	if tree, err = overlay.Open(p, o); err != nil {
		return nil, nil, nil, errors.Join(err, back())
	}
	return state, tree, func() error { return errors.Join(tree.Close(), back()) }, nil
}

// beingWritten warns of files that may be half written in the export; an error
// when that was asked for.
func beingWritten(writers []writtenFile, r *export.Request) error {
	if len(writers) == 0 {
		return nil
	}
	names := make([]string, 0, len(writers))
	for _, w := range writers {
		names = append(names, w.String())
	}
	if r.Strict {
		return fmt.Errorf("still open to be written: %s: close them and export again, or leave out --strict", strings.Join(names, ", "))
	}
	for _, name := range names {
		r.Log.Warn("still open to be written, and exported as it is at this moment: " + name)
	}
	return nil
}

// metered runs an export with its progress shown.
func metered(c *cli.Context, w *os.File, r *export.Request, run func() (*export.Report, error)) (*export.Report, error) {
	m := newMeter(c, w)
	defer m.End()
	r.Progress = m
	return run()
}

// checkOutputs refuses outputs that would change what they are made from.
func checkOutputs(p *overlay.Project, state *mountState, paths []string) error {
	seen := map[string]bool{}
	for _, path := range paths {
		real, err := outputPath(path)
		if err != nil {
			return fmt.Errorf("%s: %w", quoted(path), bare(err))
		}
		switch {
		case seen[real]:
			return fmt.Errorf("%s: two outputs can't be one file", quoted(path))
		case state != nil && beneath(real, state.Mountpoint):
			return fmt.Errorf("%s: lies in the mount that it would be made from; write to another directory", quoted(path))
		case beneath(real, p.StateDir()):
			return fmt.Errorf("%s: lies in %s, where edits are kept; write to another directory", quoted(path), quoted(p.StateDir()))
		}
		if err := outsideLayers(p, real); err != nil {
			return fmt.Errorf("%s: %w; write to another directory", quoted(path), err)
		}
		seen[real] = true
	}
	return nil
}

// outputPath returns the absolute path of a file that may not exist yet, nor
// its directories, without symlinks.
func outputPath(name string) (string, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	rest := ""
	for dir := abs; ; dir = filepath.Dir(dir) {
		real, err := filepath.EvalSymlinks(dir)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		// A link to what doesn't exist yet is written through.
		if target, err := os.Readlink(dir); err == nil && rest == "" {
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(dir), target)
			}
			dir = target
		}
		rest = filepath.Join(filepath.Base(dir), rest)
	}
}
