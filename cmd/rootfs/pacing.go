package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// garbagePercent is how much garbage may be beside what an export holds,
	// which it holds to the end: to collect more rarely would only double it.
	garbagePercent = 20

	// garbageFloor is how much garbage may be in any case, in bytes: a fifth
	// of a small heap would be collected dozens of times a second.
	garbageFloor = 16 << 20

	// maxPercent bounds what the floor gives to a heap of next to nothing.
	maxPercent = 400
)

// collectRarely paces the garbage collector for an export.
func collectRarely() {
	debug.SetGCPercent(maxPercent)
	runtime.SetFinalizer(&cycle{}, (*cycle).end)
}

// cycle is garbage at the end of each cycle of the collector.
type cycle struct{ _ *byte }

// end sets the pace of the next cycle by what lived through this one.
func (c *cycle) end() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	percent := 100 * garbageFloor / max(1, live[0].Value.Uint64())
	debug.SetGCPercent(int(min(max(percent, garbagePercent), maxPercent)))
	runtime.SetFinalizer(c, (*cycle).end)
}
