package main

import "runtime/debug"

// garbagePercent is how much garbage may be beside what an export holds. It
// holds that to the end, and more of it with each entry: with half of Go's
// usual garbage it is read through no more than eight times in all.
const garbagePercent = 50

// collectOften paces the garbage collector for an export.
func collectOften() { debug.SetGCPercent(garbagePercent) }
