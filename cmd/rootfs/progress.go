package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// How progress is shown.
const (
	progressAuto  = "auto"  // tty on a terminal, else plain
	progressTTY   = "tty"   // a bar that is drawn over itself
	progressPlain = "plain" // a line now and then
	progressJSON  = "json"  // an object a line
)

var progressKinds = []string{progressAuto, progressTTY, progressPlain, progressJSON}

// quick is how long work may take without a word about its progress.
const quick = 700 * time.Millisecond

func progressKind(c *cli.Context) string {
	if kind := c.String("progress"); kind != "" {
		return kind
	}
	return progressAuto // from an empty variable
}

func checkProgress(c *cli.Context) error {
	if kind := progressKind(c); !slices.Contains(progressKinds, kind) {
		return usagef(c, "--progress %s: use one of %s", quoted(kind), strings.Join(progressKinds, ", "))
	}
	return nil
}

// meter shows how far a work of several steps is. Add may be called from
// several goroutines.
type meter interface {
	// Step begins the next step; total is in bytes, 0 if unknown.
	Step(name string, total int64)
	// Add counts bytes that are done.
	Add(n int64)
	// End takes the meter away.
	End()
}

func newMeter(c *cli.Context, w *os.File) meter {
	kind := progressKind(c)
	if kind == progressAuto {
		kind = progressPlain
		if term.IsTerminal(int(w.Fd())) {
			kind = progressTTY
		}
	}
	switch {
	case c.Bool("q"):
		return silentMeter{}
	case kind == progressTTY:
		return newBarMeter(w)
	case kind == progressJSON:
		return newTickMeter(200*time.Millisecond, jsonTick(w))
	default:
		return newTickMeter(5*time.Second, plainTick(w))
	}
}

// silentMeter shows nothing.
type silentMeter struct{}

func (silentMeter) Step(string, int64) {}
func (silentMeter) Add(int64)          {}
func (silentMeter) End()               {}

// tick is the state of a step at a moment.
type tick struct {
	Type  string `json:"type"` // "progress"
	Step  string `json:"step"`
	Done  int64  `json:"done"`            // bytes
	Total int64  `json:"total,omitempty"` // bytes
}

// tickMeter tells the state at most once in a while.
type tickMeter struct {
	mu   sync.Mutex
	now  tick
	next time.Time
	gap  time.Duration
	tell func(tick)
}

func newTickMeter(gap time.Duration, tell func(tick)) *tickMeter {
	return &tickMeter{gap: gap, tell: tell, next: time.Now().Add(min(gap, quick))}
}

func (m *tickMeter) Step(name string, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = tick{Type: "progress", Step: name, Total: total}
	m.telling()
}

func (m *tickMeter) Add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.Done += n
	m.telling()
}

func (m *tickMeter) telling() {
	if now := time.Now(); !now.Before(m.next) {
		m.next = now.Add(m.gap)
		m.tell(m.now)
	}
}

func (m *tickMeter) End() {}

func jsonTick(w io.Writer) func(tick) {
	enc := json.NewEncoder(w)
	return func(t tick) { _ = enc.Encode(t) } // nothing depends on it
}

func plainTick(w io.Writer) func(tick) {
	return func(t tick) {
		of := ""
		if t.Total > 0 {
			of = fmt.Sprintf(" of %s (%d%%)", bytesText(t.Total), 100*t.Done/t.Total)
		}
		_, _ = fmt.Fprintf(w, "rootfs: %s: %s%s\n", t.Step, bytesText(t.Done), of)
	}
}

// barMeter draws a bar for the current step.
type barMeter struct {
	bars *mpb.Progress
	bar  *mpb.Bar
}

func newBarMeter(w io.Writer) *barMeter {
	// Quick work draws nothing.
	late := make(chan any)
	time.AfterFunc(quick, func() { close(late) })
	return &barMeter{bars: mpb.New(mpb.WithOutput(w), mpb.WithWidth(40), mpb.WithRenderDelay(late))}
}

func (m *barMeter) Step(name string, total int64) {
	m.finish()
	label := mpb.PrependDecorators(decor.Name(name + " "))
	if total <= 0 {
		m.bar = m.bars.AddSpinner(0, label, mpb.AppendDecorators(decor.CurrentKibiByte("% .1f")))
		return
	}
	m.bar = m.bars.AddBar(total, label, mpb.BarRemoveOnComplete(), mpb.AppendDecorators(
		decor.CountersKibiByte("% .1f / % .1f"),
		decor.AverageETA(decor.ET_STYLE_GO, decor.WC{W: 5}),
	))
}

func (m *barMeter) Add(n int64) {
	if m.bar != nil {
		m.bar.IncrInt64(n)
	}
}

func (m *barMeter) finish() {
	if m.bar != nil {
		m.bar.Abort(true)
	}
}

func (m *barMeter) End() {
	m.finish()
	m.bars.Shutdown()
}

// bytesText writes a number of bytes with a binary unit: 1.5 GiB.
func bytesText(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), 0
	for value >= 1<<10 && unit < 6 {
		value /= 1 << 10
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, " KMGTPE"[unit])
}
