package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestLogLines(t *testing.T) {
	var b strings.Builder
	log := slog.New(&lineHandler{w: &b, level: slog.LevelInfo})
	log.Info("ready")
	log.Warn("two layers have it", "path", "etc/passwd", "layers", 2)
	log.With("project", "/p").Error("no good", "name", "a\nb")
	log.Debug("not wanted")
	want := `rootfs: ready
rootfs: warning: two layers have it (path etc/passwd, layers 2)
rootfs: error: no good (project /p, name "a\nb")
`
	if b.String() != want {
		t.Errorf("got:\n%swant:\n%s", b.String(), want)
	}
}

func TestOneLine(t *testing.T) {
	full := errors.New("write /dev/stdout: no space left on device")
	if got, want := oneLine(fmt.Errorf("size: %w", errors.Join(full, full, full))), "size: "+full.Error(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	err := fmt.Errorf("export: %w", errors.Join(errors.New("first"), errors.New("second")))
	if got, want := oneLine(err), "export: first; second"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestQuoted(t *testing.T) {
	for name, want := range map[string]string{
		"etc/passwd":     "etc/passwd",
		"with space":     "with space",
		"grün/你好":        "grün/你好",
		"":               `""`,
		"a\nb":           `"a\nb"`,
		"\x1b[31mred":    `"\x1b[31mred"`,
		"not utf-8 \xff": `"not utf-8 \xff"`,
	} {
		if got := quoted(name); got != want {
			t.Errorf("%q: got %s, want %s", name, got, want)
		}
	}
}
