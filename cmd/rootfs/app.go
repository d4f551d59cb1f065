package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/DragonOS-Community/rootfs/export"
	"github.com/DragonOS-Community/rootfs/overlay"
)

// Exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// streams are where a command talks: data to out, everything else to err.
type streams struct {
	out, err *os.File
}

// toldError is a failure that the reader knows of already.
type toldError struct {
	status int
}

func (e *toldError) Error() string { return fmt.Sprintf("exit status %d", e.status) }

// usageError is a command line that makes no sense.
type usageError struct {
	what string
	verb string // "" where no verb is meant
}

func (e *usageError) Error() string {
	help := "rootfs --help"
	if e.verb != "" {
		help = "rootfs " + e.verb + " --help"
	}
	return fmt.Sprintf("%s (see %s)", e.what, help)
}

func usagef(c *cli.Context, format string, args ...any) error {
	verb := ""
	if c.Command != nil && c.Command.Name != c.App.Name {
		verb = c.Command.Name
	}
	return &usageError{what: fmt.Sprintf(format, args...), verb: verb}
}

// run executes one command line and returns the exit status.
func run(args []string, std streams) (status int) {
	defer func() {
		// A fault of ours is told in a line too; the trace is for those who ask.
		if p := recover(); p != nil {
			_, _ = fmt.Fprintf(std.err, "rootfs: internal error: %v; please report it together with the output of: rootfs version\n", p)
			if os.Getenv("ROOTFS_TRACE") != "" {
				_, _ = std.err.Write(debug.Stack())
			}
			status = exitFailed
		}
	}()
	app := newApp(std)
	args, err := helperArgs(app, args)
	if err == nil {
		err = app.RunContext(context.Background(), permute(app, args))
	}
	if err == nil {
		return exitDone
	}
	if told := new(toldError); errors.As(err, &told) {
		return told.status
	}
	_, _ = fmt.Fprintln(std.err, "rootfs: "+oneLine(err))
	if usage := new(usageError); errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

// oneLine writes an error, joined ones too, as one line. The same again, as of
// each write to a full disk, says nothing new.
func oneLine(err error) string {
	parts := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' })
	parts = slices.CompactFunc(parts, func(part, last string) bool { return strings.HasSuffix(last, part) })
	return strings.Join(parts, "; ")
}

func newApp(std streams) *cli.App {
	commands := []*cli.Command{
		mountCommand(std), umountCommand(), statusCommand(std), diffCommand(std), exportCommand(std),
		buildCommand(std), watchCommand(std), whichCommand(std), conflictsCommand(std), sizeCommand(std), sbomCommand(std),
		checkpointCommand(std), logCommand(std), restoreCommand(std), gcCommand(std),
		nodeCommand(std), setcapCommand(std), chownCommand(std), imageCommand(std),
		pushCommand(std), pullCommand(std), completionCommand(std), versionCommand(std),
	}
	for _, c := range commands {
		c.HideHelpCommand = true // so that a directory may be called "help"
		c.OnUsageError = onUsageError
		c.Action = prefixed(c.Name, c.Action)
		plainHelp(c.Flags)
	}
	app := &cli.App{
		Name:           "rootfs",
		Usage:          "one live root filesystem out of packages and configuration",
		Writer:         std.out,
		ErrWriter:      std.err,
		HideVersion:    true,
		ExitErrHandler: func(*cli.Context, error) {}, // main exits
		OnUsageError:   onUsageError,
		Flags: []cli.Flag{
			&cli.PathFlag{Name: "C", Usage: "work as if started in `DIR`"},
			&cli.PathFlag{Name: "manifest", Usage: "read `FILE` in place of rootfs.toml"},
			&cli.BoolFlag{Name: "json", Usage: "print data as JSON, one object a line"},
			&cli.BoolFlag{Name: "q", Usage: "say nothing but errors"},
			&cli.BoolFlag{Name: "v", Usage: "say more"},
			&cli.StringFlag{
				Name: "progress", Value: progressAuto, EnvVars: []string{"ROOTFS_PROGRESS"},
				Usage: "show progress as `KIND`: " + strings.Join(progressKinds, ", "),
			},
		},
		Before:   before,
		Action:   noVerb,
		Commands: commands,
	}
	plainHelp(app.Flags)
	return app
}

// plainHelp takes "(default: false)" out of the help.
func plainHelp(flags []cli.Flag) {
	for _, f := range flags {
		if b, ok := f.(*cli.BoolFlag); ok {
			b.DisableDefaultText = true
		}
	}
}

// before checks and applies the flags that stand before the verb.
func before(c *cli.Context) error {
	if c.Bool("q") && c.Bool("v") {
		return usagef(c, "-q and -v exclude each other")
	}
	if err := checkProgress(c); err != nil {
		return err
	}
	// The daemon starts where its parent has gone already.
	if dir := c.Path("C"); dir != "" && !isDaemon() {
		if err := os.Chdir(dir); err != nil {
			return fmt.Errorf("-C %s: %w", dir, bare(err))
		}
	}
	return nil
}

// noVerb is called where the first word is no verb.
func noVerb(c *cli.Context) error {
	word := c.Args().First()
	if word == "" {
		return usagef(c, "no command given")
	}
	hint := ""
	// The library always finds something; people rarely mistype the first letter.
	if near := cli.SuggestCommand(c.App.Commands, word); strings.Contains(near, `"`+word[:1]) {
		hint = "; " + strings.ToLower(near[:1]) + near[1:]
	}
	return usagef(c, "unknown command %s%s", quoted(word), hint)
}

// onUsageError puts what the flag library says into our words.
func onUsageError(c *cli.Context, err error, _ bool) error {
	msg := err.Error()
	if name, ok := strings.CutPrefix(msg, "flag provided but not defined: "); ok {
		msg = "unknown flag " + dashed(name)
	} else if name, ok := strings.CutPrefix(msg, "flag needs an argument: "); ok {
		msg = "flag " + dashed(name) + " needs a value"
	}
	err = usagef(c, "%s", msg)
	if usage := err.(*usageError); usage.verb != "" { //nolint:errorlint // it was made a line above
		return fmt.Errorf("%s: %w", usage.verb, err)
	}
	return err
}

// dashed writes a flag, which the library gives with one dash, as people do.
func dashed(name string) string {
	if len(name) > 2 {
		return "-" + name
	}
	return name
}

// prefixed names the verb in its errors.
func prefixed(verb string, action cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := action(c); err != nil {
			return fmt.Errorf("%s: %w", verb, asked(err))
		}
		return nil
	}
}

// asked returns err, or what to say of one that comes of a signal.
func asked(err error) error {
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	return err
}

// bare takes the system call and the path off an error that is about to be
// told with a path as its reader wrote it.
func bare(err error) error {
	if path := new(os.PathError); errors.As(err, &path) {
		return path.Err
	}
	if sys := new(os.SyscallError); errors.As(err, &sys) {
		return sys.Err
	}
	return err
}

// findProject returns the project of the working directory.
func findProject(c *cli.Context) (*overlay.Project, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("working directory: %w", bare(err))
	}
	p, err := overlay.Find(dir, c.Path("manifest"))
	if err != nil {
		return nil, err
	}
	p.Registry, p.Incomplete = export.NewRegistry(), leavesOut(c)
	return p, actForOwner(p)
}

// logger returns what libraries report to: lines on w as -q and -v want them.
func logger(c *cli.Context, w io.Writer) *slog.Logger {
	return slog.New(&lineHandler{w: w, level: logLevel(c)})
}

func logLevel(c *cli.Context) slog.Level {
	switch {
	case c.Bool("q"):
		return slog.LevelError
	case c.Bool("v"):
		return slog.LevelDebug
	}
	return slog.LevelInfo
}
