package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// lineHandler writes log records as lines for people:
// "rootfs: warning: message (key value, …)".
type lineHandler struct {
	mu    sync.Mutex
	w     io.Writer
	level slog.Level
}

// Enabled implements [slog.Handler].
func (h *lineHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

// Handle implements [slog.Handler].
func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	return h.write(r, nil)
}

func (h *lineHandler) write(r slog.Record, attrs []slog.Attr) error {
	var b bytes.Buffer
	b.WriteString("rootfs: ")
	if r.Level != slog.LevelInfo {
		level := strings.ToLower(r.Level.String())
		if r.Level == slog.LevelWarn {
			level = "warning"
		}
		b.WriteString(level + ": ")
	}
	b.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, a)
		return true
	})
	sep := " ("
	for _, a := range attrs {
		fmt.Fprintf(&b, "%s%s %s", sep, a.Key, quoted(a.Value.String()))
		sep = ", "
	}
	if len(attrs) > 0 {
		b.WriteByte(')')
	}
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := h.w.Write(b.Bytes())
	return err
}

// WithAttrs implements [slog.Handler].
func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &boundHandler{lineHandler: h, attrs: attrs}
}

// WithGroup implements [slog.Handler]; a line has no groups.
func (h *lineHandler) WithGroup(string) slog.Handler { return h }

// boundHandler is a lineHandler with attributes of its own.
type boundHandler struct {
	*lineHandler
	attrs []slog.Attr
}

// Handle implements [slog.Handler].
func (h *boundHandler) Handle(_ context.Context, r slog.Record) error {
	return h.write(r, slices.Clone(h.attrs))
}

// WithAttrs implements [slog.Handler].
func (h *boundHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &boundHandler{lineHandler: h.lineHandler, attrs: slices.Concat(h.attrs, attrs)}
}

// WithGroup implements [slog.Handler]; a line has no groups.
func (h *boundHandler) WithGroup(string) slog.Handler { return h }

// quoted returns a name as it is where it is safe to print on a line, and as
// a quoted string otherwise: names hold any byte but '/' and NUL.
func quoted(name string) string {
	if name == "" || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool {
		return !unicode.IsPrint(r) || r == '"' || r == '\\'
	}) {
		return strconv.Quote(name)
	}
	return name
}
