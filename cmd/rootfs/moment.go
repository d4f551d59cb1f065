package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/export"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// moment is a project that is read as it was at one moment.
type moment struct {
	project *overlay.Project
	mount   *mountState // nil if it isn't mounted
	tree    *overlay.Tree

	frozen overlay.Checkpoint // by the daemon; without an ID if it isn't mounted
}

// atOneMoment does what the verbs have in common that read all of a project:
// it builds the packages, takes the moment, and has do work until it is done
// or interrupted, with its progress shown. What the flags say to all of them
// goes into the request.
func atOneMoment(c *cli.Context, std streams, r *export.Request, do func(context.Context, *moment) error) (err error) {
	r.Strict, r.Log = c.Bool("strict"), logger(c, std.err)
	if r.Epoch, err = epoch(c); err != nil {
		return err
	}
	project, err := findProject(c)
	if err != nil {
		return err
	}
	if !c.Bool("n") {
		if err := buildFirst(c, std, project); err != nil {
			return err
		}
	}
	paceCollector()
	outliveReaders() // of sbom's stdout, too: the moment is to be given back
	ctx, stop := interruptible(c.Context)
	defer stop()
	m, err := openMoment(ctx, project, r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	progress := newMeter(c, std.err)
	defer progress.End()
	r.Progress = progress
	return do(ctx, m)
}

// lastSecond is of the year 9999: dates in images and lists of contents have four
// digits for the year (RFC 3339).
const lastSecond = 253402300799

// epoch returns the time that SOURCE_DATE_EPOCH asks for, nil for none
// (https://reproducible-builds.org/specs/source-date-epoch/).
func epoch(c *cli.Context) (*overlay.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return nil, nil
	}
	sec, err := strconv.ParseInt(text, 10, 64)
	if err != nil || sec < 0 || sec > lastSecond {
		return nil, usagef(c, "SOURCE_DATE_EPOCH=%s: not a number of seconds since 1970 before the year 10000", quoted(text))
	}
	return &overlay.Time{Sec: sec}, nil
}

// openMoment opens the project as it is at one moment. Where it is mounted, the
// daemon makes a checkpoint, which close takes back unless somebody wrote since.
// Else who begins to edit leaves alone what is open here, and who has begun
// already is waited for.
func openMoment(ctx context.Context, p *overlay.Project, r *export.Request) (*moment, error) {
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		m, err := tryMoment(ctx, p, r)
		if err != nil && ctx.Err() == nil && time.Since(began) < patienceWith(err) {
			continue
		}
		if err != nil || m.mount != nil {
			return m, err
		}
		edited, err := p.BeingEdited()
		if err == nil && !edited {
			return m, nil
		}
		if err == nil && time.Since(began) > patience {
			err = fmt.Errorf("%s: another command edits this project: export when it has ended", p.StateDir())
		}
		if err = errors.Join(err, ctx.Err(), m.close()); err != nil {
			return nil, err
		}
	}
}

// tryMoment is openMoment of a project that nobody begins to edit meanwhile.
func tryMoment(ctx context.Context, p *overlay.Project, r *export.Request) (*moment, error) {
	mount, _, err := readState(p)
	if err != nil {
		return nil, err
	}
	m := &moment{project: p, mount: mount}
	o := overlay.Options{ReadOnly: true, Steady: true, Context: ctx, Logger: r.Log}
	if mount != nil {
		if o.Checkpoint, err = m.freeze(r); err != nil {
			return nil, err
		}
	}
	if m.tree, err = overlay.Open(p, o); err != nil {
		return nil, errors.Join(err, m.thaw())
	}
	return m, nil
}

// freeze has the daemon make a checkpoint and returns its ID.
func (m *moment) freeze(r *export.Request) (string, error) {
	if err := syncMapped(m.mount.Mountpoint); err != nil {
		return "", err
	}
	writers := writersBeneath(m.mount.Mountpoint)
	wanted := overlay.Checkpoint{Time: time.Now().UTC().Truncate(time.Second), Temporary: true}
	reply, err := askDaemon(m.project, &controlRequest{Op: "checkpoint", Checkpoint: wanted})
	if err != nil {
		return "", err
	}
	m.frozen = reply.Checkpoint
	// It was while the daemon answered, which takes as long as the disk does.
	for _, w := range writersBeneath(m.mount.Mountpoint) {
		if !slices.Contains(writers, w) {
			writers = append(writers, w)
		}
	}
	if err := beingWritten(writers, r); err != nil {
		return "", errors.Join(err, m.thaw())
	}
	return m.frozen.ID, nil
}

// thaw gives the checkpoint back. A daemon that has ended meanwhile, or is about
// to, leaves it for gc.
func (m *moment) thaw() error {
	if m.frozen.ID == "" {
		return nil
	}
	reply, err := askDaemon(m.project, &controlRequest{Op: "uncheckpoint", Checkpoint: m.frozen})
	if reply.Error == "" {
		return nil
	}
	return err
}

func (m *moment) close() error { return errors.Join(m.tree.Close(), m.thaw()) }

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
