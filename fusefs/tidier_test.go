package fusefs

import "testing"

func TestMemoryIsGivenBackAfterWorkOnly(t *testing.T) {
	m := newTidier()
	m.until.Store(allocated())
	m.collected()
	if m.timer.Stop() {
		t.Error("memory would be given back without work")
	}
	kept = make([]byte, worthwhile)
	m.collected()
	if !m.timer.Stop() {
		t.Error("memory would not be given back after work")
	}
	m.tidy()
	m.collected()
	if m.timer.Stop() {
		t.Error("giving memory back counts as work")
	}
	m.stop()
	kept = make([]byte, worthwhile)
	m.collected()
	if m.timer.Stop() {
		t.Error("memory would be given back after the unmount")
	}
}

var kept []byte // on the heap
