package main

import (
	"runtime"
	"runtime/debug"
)

const (
	// garbagePercent is how much garbage may be beside what an export holds. It
	// holds that to the end, and more of it with each entry: with half of Go's
	// usual garbage it is read through no more than eight times in all.
	garbagePercent = 50

	// firstCollection is how much memory an export takes before anything is
	// collected, in bytes. A small one ends before: to set the collector going
	// would be much of its work.
	firstCollection = 32 << 20
)

// paceCollector paces the garbage collector for an export.
func paceCollector() {
	limit := debug.SetMemoryLimit(firstCollection)
	debug.SetGCPercent(-1)
	// Called when the first collection finds the pointer unused.
	runtime.AddCleanup(new(*byte), func(limit int64) {
		debug.SetGCPercent(garbagePercent)
		debug.SetMemoryLimit(limit)
	}, limit)
}
