package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/DragonOS-Community/rootfs/overlay"
)

func statusCommand(std streams) *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "list the edits against the layers, and where the project is mounted",
		Description: "One line a change on stdout: A added, M modified, m only owner, mode, time or\n" +
			"attributes, D deleted, R renamed, T replaced by another type.",
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef(c, "takes no arguments")
			}
			project, err := findProject(c)
			if err != nil {
				return err
			}
			state, tree, err := openForReading(project, overlay.Options{ReadOnly: true, Logger: logger(c, std.err)})
			if err != nil {
				return err
			}
			out := bufio.NewWriter(std.out)
			v := statusView(&textStatus{out: out, notes: std.err, quiet: c.Bool("q"), colour: colours(std.out)})
			if c.Bool("json") {
				v = &jsonStatus{json.NewEncoder(out)}
			}
			err = printStatus(v, project, state, tree)
			return errors.Join(err, out.Flush(), tree.Close())
		},
	}
}

// openForReading opens a project that may be mounted, as its daemon shows it
// now, also without packages that can't be built; state is nil where it isn't
// mounted.
func openForReading(p *overlay.Project, o overlay.Options) (state *mountState, tree *overlay.Tree, err error) {
	p.Incomplete = true
	for {
		if state, _, err = readState(p); err != nil {
			return nil, nil, err
		}
		if state != nil {
			err = syncMount(state.Mountpoint)
		}
		if lostDaemon(err) {
			continue // just now
		}
		if err != nil {
			return nil, nil, fmt.Errorf("sync %s: %w", quoted(state.Mountpoint), err)
		}
		tree, err = overlay.Open(p, o)
		return state, tree, err
	}
}

// syncMount brings what programs have written through the mount to the edits.
func syncMount(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EACCES) || errors.Is(err, os.ErrNotExist) {
		return nil // another user's mount, which lets nobody else in, or one in another mount namespace
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // only read
	return unix.Syncfs(fd)
}

// statusView shows a status.
type statusView interface {
	project(p *overlay.Project, state *mountState) error
	change(d overlay.Difference) error
	end(counts map[string]int) error
}

func printStatus(v statusView, p *overlay.Project, state *mountState, tree *overlay.Tree) error {
	if err := v.project(p, state); err != nil {
		return err
	}
	counts := map[string]int{}
	err := tree.Status(func(d overlay.Difference) error {
		counts[d.Kind.String()]++
		return v.change(d)
	})
	if err != nil {
		return err
	}
	return v.end(counts)
}

// textStatus is for people: changes on out, the rest on notes.
type textStatus struct {
	out           *bufio.Writer
	notes         io.Writer
	quiet, colour bool
}

func (t *textStatus) project(_ *overlay.Project, state *mountState) error {
	if t.quiet {
		return nil
	}
	if state == nil {
		_, err := fmt.Fprintln(t.notes, "not mounted")
		return err
	}
	_, err := fmt.Fprintf(t.notes, "mounted on %s (process %d)\n", quoted(state.Mountpoint), state.PID)
	return err
}

// kindColours are ANSI colours: green for what is new, red for what is gone,
// yellow for the rest.
var kindColours = map[string]string{"A": "\x1b[32m", "D": "\x1b[31m"}

func (t *textStatus) change(d overlay.Difference) error {
	kind := d.Kind.String()
	if t.colour {
		colour, ok := kindColours[kind]
		if !ok {
			colour = "\x1b[33m"
		}
		kind = colour + kind + "\x1b[0m"
	}
	from := ""
	if d.From != "" {
		from = quoted(d.From) + " -> "
	}
	_, err := fmt.Fprintf(t.out, "%s %s%s\n", kind, from, quoted(d.Path))
	return err
}

func (t *textStatus) end(counts map[string]int) error {
	// On a terminal the sum comes last.
	if err := t.out.Flush(); err != nil || t.quiet {
		return err
	}
	var parts []string
	for _, k := range []struct{ kind, name string }{
		{"A", "added"},
		{"M", "modified"},
		{"m", "changed in metadata"},
		{"D", "deleted"},
		{"R", "renamed"},
		{"T", "replaced"},
	} {
		if n := counts[k.kind]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, k.name))
		}
	}
	if parts == nil {
		parts = []string{"no edits"}
	}
	_, err := fmt.Fprintln(t.notes, strings.Join(parts, ", "))
	return err
}

// jsonStatus writes one object a line: first the project, then the changes.
type jsonStatus struct {
	enc *json.Encoder
}

func (j *jsonStatus) project(p *overlay.Project, state *mountState) error {
	return j.enc.Encode(struct {
		Type  string      `json:"type"`
		Root  string      `json:"root"`
		Mount *mountState `json:"mount,omitempty"`
	}{"project", p.Root, state})
}

func (j *jsonStatus) change(d overlay.Difference) error {
	line := struct {
		Type      string `json:"type"`
		Kind      string `json:"kind"`
		Path      string `json:"path"`
		Bytes     []byte `json:"path_bytes,omitempty"`
		From      string `json:"from,omitempty"`
		FromBytes []byte `json:"from_bytes,omitempty"`
		Layer     string `json:"layer,omitempty"`
	}{"change", d.Kind.String(), d.Path, notUTF8(d.Path), d.From, notUTF8(d.From), d.Layer}
	return j.enc.Encode(line)
}

func (j *jsonStatus) end(map[string]int) error { return nil }

// notUTF8 returns a name that is no UTF-8 as bytes, which JSON has in base64, and
// nil for others: a string of JSON can't hold it.
func notUTF8(name string) []byte {
	if utf8.ValidString(name) {
		return nil
	}
	return []byte(name)
}

// colours tells whether a stream takes ANSI colours; NO_COLOR: no-color.org.
func colours(f *os.File) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}
