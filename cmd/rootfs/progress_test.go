package main

import (
	"strings"
	"testing"
)

// Each line is one tick; the gap is none, so that all are told.
func TestPlainAndJSONProgress(t *testing.T) {
	var plain, json strings.Builder
	for _, m := range []meter{newTickMeter(0, plainTick(&plain)), newTickMeter(0, jsonTick(&json))} {
		m.Step("reading the tree", 0)
		m.Add(1536)
		m.Step("writing the disk image", 4<<20)
		m.Add(1 << 20)
		m.Add(2 << 20)
		m.End()
	}
	want := `rootfs: reading the tree: 0 B
rootfs: reading the tree: 1.5 KiB
rootfs: writing the disk image: 0 B of 4.0 MiB (0%)
rootfs: writing the disk image: 1.0 MiB of 4.0 MiB (25%)
rootfs: writing the disk image: 3.0 MiB of 4.0 MiB (75%)
`
	if plain.String() != want {
		t.Errorf("plain:\n%swant:\n%s", plain.String(), want)
	}
	want = `{"type":"progress","step":"reading the tree","done":0}
{"type":"progress","step":"reading the tree","done":1536}
{"type":"progress","step":"writing the disk image","done":0,"total":4194304}
{"type":"progress","step":"writing the disk image","done":1048576,"total":4194304}
{"type":"progress","step":"writing the disk image","done":3145728,"total":4194304}
`
	if json.String() != want {
		t.Errorf("JSON:\n%swant:\n%s", json.String(), want)
	}
}

// Work that is done before anybody wonders says nothing.
func TestQuickWorkIsSilent(t *testing.T) {
	var plain, bar strings.Builder
	for _, m := range []meter{newTickMeter(quick, plainTick(&plain)), newBarMeter(&bar)} {
		m.Step("quick", 10)
		m.Add(10)
		m.End()
	}
	if plain.Len()+bar.Len() > 0 {
		t.Errorf("said %q and drew %q", plain.String(), bar.String())
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 81 << 20: "81.0 MiB", 1 << 62: "4.0 EiB",
	} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}
