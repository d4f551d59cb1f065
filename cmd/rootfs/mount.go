package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/fusefs"
	"github.com/DragonOS-Community/rootfs/overlay"
)

func mountCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:      "mount",
		Usage:     "show the project as a filesystem on MNT, an empty directory",
		ArgsUsage: "MNT",
		Description: "Returns when the mount is ready; a daemon then serves it until `rootfs umount MNT`,\n" +
			"`fusermount3 -u MNT` or SIGTERM.",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "f", Usage: "stay in the foreground; Ctrl-C ends the mount"},
			&cli.StringSliceFlag{Name: "o", KeepSpace: true, Usage: "mount `OPTS`, separated by commas: allow_other, debug, or what fuse(8) knows; lowerdir=DIR[:DIR…], upperdir=DIR, workdir=DIR for directories in place of the project"},
			noBuildFlag(),
			keepGoingFlag(),
		}, cacheFlags()...),
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usagef(c, "give one directory to mount on")
			}
			r, err := newMountRequest(c, logger(c, std.err))
			if err != nil {
				return err
			}
			if !isDaemon() {
				if err := buildFirst(c, std, r.project); err != nil {
					return err
				}
				if !c.Bool("f") {
					return daemonise(std)
				}
			}
			return r.serve()
		},
	}
}

// mountRequest is a mount that has been checked and can be served.
type mountRequest struct {
	project *overlay.Project
	dir     string // absolute, without symlinks
	control bool   // other verbs ask it: it is a project's
	options fusefs.Options
	log     *slog.Logger
}

func newMountRequest(c *cli.Context, log *slog.Logger) (*mountRequest, error) {
	o, err := readOptions(c.StringSlice("o"))
	if err != nil {
		return nil, err
	}
	r := &mountRequest{
		log: log,
		options: fusefs.Options{
			Debug:  slices.Contains(o.words, "debug"),
			Logger: log,
			Extra:  slices.DeleteFunc(slices.Clone(o.words), func(w string) bool { return w == "debug" }),
		},
	}
	if o.given {
		r.options.FSName, r.options.Owners = o.source, o.owners()
		r.project, r.dir, err = o.checkDirectories(c.Args().First(), log)
		return r, err
	}
	if r.project, err = findProject(c); err != nil {
		return nil, err
	}
	r.control = true
	r.options.FSName = r.project.Root // by which umount finds the daemon
	r.dir, err = checkMountpoint(r.project, c.Args().First(), log)
	return r, err
}

// serve mounts, and returns when somebody has unmounted and everything is on
// disk.
func (r *mountRequest) serve() (err error) {
	if err := r.notMounted(); err != nil {
		return err
	}
	tree, err := r.open()
	if err != nil {
		return err
	}
	if err := outsideTree(tree, r.dir); err != nil {
		return errors.Join(fmt.Errorf("%s: %w; mount on another directory", quoted(r.dir), err), tree.Close())
	}
	if err := refuseConflicts(tree, nil, false); err != nil {
		return errors.Join(err, tree.Close())
	}
	claim, err := claimState(r.project, mountState{PID: os.Getpid(), Mountpoint: r.dir})
	if err != nil {
		return errors.Join(err, tree.Close())
	}
	// In this order: who waits for the claim may open the tree at once. Nothing
	// is closed under a request of a mount that has a copy elsewhere.
	defer func() { err = errors.Join(err, tree.Halt(), claim.release()) }()
	// Before the mount, so that no signal can end the process under it.
	outliveReaders()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, interrupts()...)
	defer close(signals)
	defer signal.Stop(signals)
	server, err := fusefs.Mount(tree, r.dir, r.options)
	if err != nil {
		return err
	}
	var ended <-chan struct{}
	if r.control {
		control, err := serveControl(r.project, tree, r.log)
		if err != nil {
			return errors.Join(err, server.Unmount())
		}
		defer control.stop()
		ended = control.ended
	}
	gone := make(chan struct{})
	go r.unmountOnSignal(server, signals, gone)
	if isDaemon() {
		if err := detach(r.project); err != nil {
			return errors.Join(err, server.Unmount())
		}
	} else {
		r.log.Info("mounted; Ctrl-C ends it", "on", r.dir)
	}
	select {
	case <-server.Done():
	case <-ended:
	case <-gone:
	}
	return nil
}

// endLimit is how long a mount waits for the end of a daemon that has lost its
// own or has just been killed.
const endLimit = 2 * time.Second

// notMounted returns an error that says by whom the project is mounted.
func (r *mountRequest) notMounted() error {
	state, wait, err := readState(r.project)
	if err != nil || state == nil {
		return err
	}
	m, err := mountAt(state.Mountpoint)
	if err != nil {
		return err
	}
	if m == nil && r.waitForEnd(wait) == nil {
		return nil
	}
	if !r.control {
		return fmt.Errorf("upperdir and workdir are in use, by process %d, which has them mounted on %s, here or in another mount namespace: unmount that, or end the process",
			state.PID, quoted(state.Mountpoint))
	}
	return fmt.Errorf("the project is mounted already, on %s, by process %d; end that with: rootfs umount %[1]s",
		quoted(state.Mountpoint), state.PID)
}

// waitForEnd waits for a daemon that has lost its mount. It may have much to
// bring to the disk, or live on for a copy of the mount in another mount
// namespace: a project's then still has its socket.
func (r *mountRequest) waitForEnd(wait waitFunc) error {
	if wait(endLimit) == nil {
		return nil
	}
	if r.control {
		if _, err := os.Lstat(r.project.StateFile(controlName)); !errors.Is(err, os.ErrNotExist) {
			return os.ErrDeadlineExceeded
		}
	}
	state, wait, err := readState(r.project)
	if err != nil || state == nil {
		return err
	}
	r.log.Info("waiting for the daemon of an earlier mount to end", "process", state.PID)
	return wait(daemonLimit)
}

// open opens the tree, and waits for another process that is about to let go of
// it: the kernel closes a killed daemon's files one by one.
func (r *mountRequest) open() (*overlay.Tree, error) {
	const step = 5 * time.Millisecond
	for waited := time.Duration(0); ; waited += step {
		tree, err := overlay.Open(r.project, overlay.Options{Logger: r.log})
		if locked := new(overlay.LockedError); !errors.As(err, &locked) || waited >= endLimit {
			return tree, err
		}
		time.Sleep(step)
	}
}

// unmountOnSignal ends the mount when a signal asks for it. A mount in use
// stays: what its users write then must not vanish. One that is unmounted here
// and lives on in other namespaces is given up, and gone closed.
func (r *mountRequest) unmountOnSignal(server *fusefs.Server, signals <-chan os.Signal, gone chan<- struct{}) {
	for range signals {
		err := server.Unmount()
		if err == nil {
			continue
		}
		r.log.Debug("unmount", "cause", err)
		if m, err := mountAt(r.dir); err == nil && (m == nil || m.Type != fsType) {
			close(gone)
			return
		}
		r.log.Error(oneLine(busyError(r.dir)))
	}
}
