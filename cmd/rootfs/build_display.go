package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/DragonOS-Community/rootfs/overlay/build"
)

// buildDisplay shows how building goes: on a terminal one line that says what
// is being built now, elsewhere a line when a package begins. Messages pass
// through it, so that they don't meet the line. It implements [build.Observer].
type buildDisplay struct {
	mu      sync.Mutex
	w       *os.File
	kind    string // of progress
	quiet   bool
	done    int
	running []string
	since   map[string]time.Time
	stop    chan struct{}
	drawn   bool
}

func newBuildDisplay(c *cli.Context, w *os.File) *buildDisplay {
	d := &buildDisplay{w: w, kind: progressKind(c), quiet: c.Bool("q"), since: map[string]time.Time{}, stop: make(chan struct{})}
	if d.kind == progressAuto {
		d.kind = progressPlain
		if term.IsTerminal(int(w.Fd())) {
			d.kind = progressTTY
		}
	}
	if d.kind == progressTTY && !d.quiet {
		go d.animate()
	}
	return d
}

// animate draws the line now and then, until close.
func (d *buildDisplay) animate() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-tick.C:
			d.mu.Lock()
			d.draw()
			d.mu.Unlock()
		}
	}
}

// draw writes the line; d.mu is held.
func (d *buildDisplay) draw() {
	d.wipe()
	if len(d.running) == 0 {
		return
	}
	parts := make([]string, len(d.running))
	for i, name := range d.running {
		parts[i] = fmt.Sprintf("%s %s", quoted(name), time.Since(d.since[name]).Truncate(100*time.Millisecond))
	}
	line := []rune(fmt.Sprintf("building (%d done): %s", d.done, strings.Join(parts, ", ")))
	if width, _, err := term.GetSize(int(d.w.Fd())); err == nil && width > 1 {
		line = line[:min(len(line), width-1)]
	}
	_, _ = d.w.WriteString(string(line)) // nothing depends on it
	d.drawn = true
}

// wipe takes the line away; d.mu is held.
func (d *buildDisplay) wipe() {
	if d.drawn {
		_, _ = d.w.WriteString("\r\x1b[K")
		d.drawn = false
	}
}

// Write writes a message between two drawings of the line.
func (d *buildDisplay) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wipe()
	return d.w.Write(p)
}

// Begin implements [build.Observer].
func (d *buildDisplay) Begin(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running = append(d.running, name)
	d.since[name] = time.Now()
	switch {
	case d.quiet:
	case d.kind == progressPlain:
		_, _ = fmt.Fprintf(d.w, "rootfs: building %s\n", quoted(name))
	case d.kind == progressJSON:
		d.event("building", name)
	}
}

// End implements [build.Observer]. The end of a failed build's log says more
// than its status.
func (d *buildDisplay) End(r build.Result) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done++
	if i := slices.Index(d.running, r.Name); i >= 0 {
		d.running = slices.Delete(d.running, i, i+1)
	}
	if d.kind == progressJSON && !d.quiet {
		d.event(r.State.String(), r.Name)
	}
	if len(r.Tail) == 0 {
		return
	}
	d.wipe()
	_, _ = fmt.Fprintf(d.w, "--- %s, the end of its log:\n", quoted(r.Name))
	for _, line := range r.Tail {
		_, _ = fmt.Fprintf(d.w, "    %s\n", strings.Map(printable, line))
	}
}

// printable keeps a log from giving orders to the terminal.
func printable(r rune) rune {
	if r != '\t' && (r < ' ' || r == 0x7f) {
		return -1
	}
	return r
}

// event writes an object on a line; d.mu is held.
func (d *buildDisplay) event(step, name string) {
	_ = json.NewEncoder(d.w).Encode(struct {
		Type string `json:"type"`
		Step string `json:"step"`
		Name string `json:"name"`
	}{"progress", step, name}) // nothing depends on it
}

func (d *buildDisplay) close() {
	close(d.stop)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wipe()
}
