package build

import (
	"encoding/gob"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// recordVersion changes with the form of record, or with what is hashed.
const recordVersion = 1

// record is what is remembered of a package between runs. Without it the
// package is built again. The architectures share what is known of the folder,
// in which they all build.
type record struct {
	Version  int
	Files    map[string]fileRecord // of the folder
	Products products
	Done     map[string][]done // by variant of the project, the newest first
}

func newRecord() *record {
	return &record{
		Version: recordVersion, Files: make(map[string]fileRecord), Done: make(map[string][]done),
	}
}

// done is a build that succeeded.
type done struct {
	Key    string // of its inputs
	Output string // name of the output's directory
}

// keep is how many outputs of a package are kept: a change that is taken back
// then costs nothing.
const keep = 3

// clockStep is by how much a file's time may lie before the moment when it
// was written: the kernel's coarse clock.
const clockStep = 10 * time.Millisecond

// readRecord reads a package's record; an empty one where there is none that
// can be used.
func readRecord(file string) *record {
	f, err := os.Open(file)
	if err != nil {
		return newRecord()
	}
	defer f.Close() //nolint:errcheck // only read
	var st unix.Stat_t
	r := newRecord()
	if unix.Fstat(int(f.Fd()), &st) != nil || gob.NewDecoder(f).Decode(r) != nil || r.Version != recordVersion {
		return newRecord()
	}
	// A file that was written to when the record was may have changed after,
	// with no other time to tell.
	for name, known := range r.Files {
		if known.Signature.Ctime >= st.Mtim.Nano()-int64(clockStep) {
			delete(r.Files, name)
		}
	}
	return r
}

// write replaces the record in one step.
func (r *record) write(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".record-")
	if err != nil {
		return err
	}
	err = errors.Join(gob.NewEncoder(f).Encode(r), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// find returns the output of an earlier build of the same inputs, "" if none. It
// may have been another variant's, where this one has none: a build may make
// something else each time.
func (r *record) find(variant, key string) string {
	for _, v := range slices.Concat([]string{variant}, slices.Sorted(maps.Keys(r.Done))) {
		for _, d := range r.Done[v] {
			if d.Key == key {
				return d.Output
			}
		}
	}
	return ""
}

// add puts a build of a variant first and returns the outputs that no variant
// keeps any more.
func (r *record) add(variant string, d done) (dropped []string) {
	all := append([]done{d}, r.Done[variant]...)
	var left []done
	kept := make(map[string]bool)
	for _, old := range all {
		switch {
		case old.Key == d.Key && len(left) > 0:
			// Built again.
		case kept[old.Output] || len(kept) < keep:
			kept[old.Output] = true
			left = append(left, old)
		default:
			dropped = append(dropped, old.Output)
		}
	}
	// Many inputs may have given one output.
	r.Done[variant] = left[:min(len(left), 4*keep)]
	return slices.DeleteFunc(dropped, r.keeps)
}

// keeps tells whether a variant has use for an output.
func (r *record) keeps(output string) bool {
	for _, builds := range r.Done {
		if slices.ContainsFunc(builds, func(d done) bool { return d.Output == output }) {
			return true
		}
	}
	return false
}
