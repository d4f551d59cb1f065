package export

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// machineCheck finds programs and libraries that are for another machine than
// the tree is. It looks at the first bytes of what is read anyway, when that is
// opened.
type machineCheck struct {
	arch string

	mu    sync.Mutex
	found map[string][]string // by layer
}

func newMachineCheck(arch string) *machineCheck {
	return &machineCheck{arch: arch, found: make(map[string][]string)}
}

// watch has the entry's content looked at when it is opened, if it is a program
// or a library by its mode or name.
func (m *machineCheck) watch(e *overlay.Entry) {
	program := e.Mode&0o111 != 0 || strings.Contains(path.Base(e.Path), ".so")
	if program && e.IsRegular() && e.Size >= overlay.ELFHead {
		e.Content = &programContent{Content: e.Content, check: m, layer: e.Layer, path: e.Path}
	}
}

// programContent is the content of a program.
type programContent struct {
	overlay.Content
	check       *machineCheck
	layer, path string
	known       atomic.Bool
}

// String names the content for messages, as the one within does.
func (c *programContent) String() string { return fmt.Sprint(c.Content) }

// Open implements [overlay.Content].
func (c *programContent) Open() (*overlay.File, error) {
	f, err := c.Content.Open()
	if err != nil || c.known.Swap(true) {
		return f, err
	}
	var head [overlay.ELFHead]byte
	if n, _ := f.ReadAt(head[:], 0); n == len(head) { // a failure is for who reads all
		c.look(head[:])
	}
	return f, nil
}

func (c *programContent) look(head []byte) {
	machine := overlay.ForeignMachine(head, c.check.arch)
	if machine == "" {
		return
	}
	c.check.mu.Lock()
	defer c.check.mu.Unlock()
	path := "/" + c.path
	if q := strconv.Quote(path); q != `"`+path+`"` {
		path = q
	}
	c.check.found[c.layer] = append(c.check.found[c.layer], fmt.Sprintf("%s (%s)", path, machine))
}

// fewPrograms is how many of a layer a warning names.
const fewPrograms = 3

// report warns of what was found, a line a layer; that is an error when strict.
func (m *machineCheck) report(log *slog.Logger, strict bool) error {
	var lines []string
	for _, layer := range slices.Sorted(maps.Keys(m.found)) {
		files := m.found[layer]
		slices.Sort(files)
		for _, file := range files {
			log.Debug("for another machine than "+m.arch+": "+file, "layer", layer)
		}
		more := ""
		if n := len(files) - fewPrograms; n > 0 {
			files, more = files[:fewPrograms], fmt.Sprintf(" and %d more", n)
		}
		lines = append(lines, fmt.Sprintf("%s has programs for another machine than %s: %s%s", layer, m.arch, strings.Join(files, ", "), more))
	}
	if strict && len(lines) > 0 {
		return errors.New(strings.Join(lines, "; "))
	}
	for _, line := range lines {
		log.Warn(line)
	}
	return nil
}
