//go:build bench

package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// heading is the head of the table whose lines row makes.
var heading = func() string {
	names := make([]string, len(filesystems))
	for i, fs := range filesystems {
		names[i] = fs.name
	}
	return "| | " + strings.Join(names, " | ") + " | its CPU | of the floor | faster than fuse-overlayfs | of kernel overlayfs |\n" +
		strings.Repeat("|---", len(filesystems)+5) + "|\n"
}()

// row is a work's line: seconds, our daemon's processor time, the ratio to the
// least that any daemon takes, and the two that have targets.
func row(w *work, all map[string]*samples) string {
	cells := []string{w.name}
	for _, fs := range filesystems {
		cells = append(cells, seconds(all[fs.name]))
	}
	cpu := "–"
	if s := all[ours]; s != nil {
		cpu = fmt.Sprintf("%.2f", median(s.CPU))
	}
	cells = append(cells, cpu)
	if r := ratio(all, ours, fuseFloor); r > 0 {
		cells = append(cells, fmt.Sprintf("%.2f ×", r))
	} else {
		cells = append(cells, "–")
	}
	if r := ratio(all, fuseOverlay, ours); r > 0 {
		cells = append(cells, judged(r, r >= w.faster, "at least", w.faster))
	} else {
		cells = append(cells, "–")
	}
	if r := ratio(all, ours, overlayFS); r > 0 {
		cells = append(cells, judged(r, r <= w.slower, "at most", w.slower))
	} else {
		cells = append(cells, "–")
	}
	return "| " + strings.Join(cells, " | ") + " |"
}

func seconds(s *samples) string {
	if s == nil {
		return "–"
	}
	return fmt.Sprintf("%.3f", median(s.Seconds))
}

// ratio returns how many times as long a takes as b; 0 if one wasn't measured.
func ratio(all map[string]*samples, a, b string) float64 {
	if all[a] == nil || all[b] == nil {
		return 0
	}
	return median(all[a].Seconds) / median(all[b].Seconds)
}

func judged(value float64, met bool, how string, target float64) string {
	verdict := "met"
	if !met {
		verdict = "MISSED"
	}
	return fmt.Sprintf("%.2f × (%s %g: %s)", value, how, target, verdict)
}

// reportMemory prints what the daemons occupy after their first walk.
func reportMemory(walk map[string]*samples) {
	fmt.Printf("\nmemory after the first walk, MiB, medians:\n")
	for _, fs := range filesystems {
		if s := walk[fs.name]; s != nil && median(s.RSS) > 0 {
			fmt.Printf("- %s: %.1f\n", fs.name, median(s.RSS))
		}
	}
	if s := walk[ours]; s != nil {
		fmt.Println(judged(median(s.RSS)/rssTarget, median(s.RSS) <= rssTarget, "of 40 MiB, at most", 1))
	}
}

// Targets that are no ratios.
const (
	rssTarget   = 40    // MiB
	mountTarget = 0.030 // seconds
)

// A project of 200 packages is mounted: the time of the command, from its start
// until it returns.
func TestBenchMountPackages(t *testing.T) {
	const name, packages = "mount 200 packages", 200
	if !chosenBy(t, "ROOTFS_BENCH_WORK")(name) {
		t.Skip("not chosen")
	}
	need(t, "root", "fuse")
	dir := t.TempDir()
	for i := range packages {
		sh(t, dir, `p=user/apps/package-$1; mkdir -p $p/usr/bin $p/usr/lib $p/usr/share/doc/package-$1 $p/etc/package-$1
			for f in usr/bin/program-$1 usr/lib/lib$1.so usr/share/doc/package-$1/README etc/package-$1/conf; do echo $1 >$p/$f; done`, fmt.Sprint(i))
	}
	sh(t, dir, `mkdir mnt`)
	rootfs := program(t)
	var times []float64
	for range 4 * benchRounds {
		start := time.Now()
		output(t, exec.Command(rootfs, "-C", dir, "mount", filepath.Join(dir, "mnt")))
		times = append(times, time.Since(start).Seconds())
		sh(t, dir, `"$1" umount mnt`, rootfs)
	}
	took := median(times)
	fmt.Printf("\n%s: %.1f ms, min %.1f, max %.1f: %s\n", name, took*1e3, slices.Min(times)*1e3, slices.Max(times)*1e3,
		judged(took/mountTarget, took <= mountTarget, "of 30 ms, at most", 1))
	line, err := json.Marshal(map[string]any{"work": name, "seconds": times})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\njson %s\n", line)
}
