package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// A rebuilt package or a changed configuration is in the mount at once, names
// and attributes that the kernel has cached notwithstanding.
func TestMountFollowsItsLayers(t *testing.T) {
	need(t, "fuse")
	project := layProject(t, `
-- user/apps/a/usr/bin/prog --
one
-- user/sysconfig/etc/conf --
old
`)
	mnt, _ := mountProject(t, project)
	sh(t, mnt, `ls -lR >/dev/null; cat usr/bin/prog etc/conf; ! cat usr/bin/new; ! ls opt`)
	for _, tc := range []struct{ name, change, seen string }{
		{"written in place", `echo two >user/apps/a/usr/bin/prog`, `test "$(cat usr/bin/prog)" = two && test $(stat -c %s usr/bin/prog) = 4`},
		{"replaced", `echo three33 >x; mv x user/apps/a/usr/bin/prog`, `test "$(cat usr/bin/prog)" = three33`},
		{"new, where the kernel knows of none", `echo n >user/apps/a/usr/bin/new`, `test "$(cat usr/bin/new)" = n && ls usr/bin | grep -qx new`},
		{"removed", `rm user/apps/a/usr/bin/new`, `! test -e usr/bin/new && ! ls usr/bin | grep -x new`},
		{"another mode", `chmod 755 user/apps/a/usr/bin/prog`, `test -x usr/bin/prog`},
		{"another name of a file", `ln user/apps/a/usr/bin/prog user/apps/a/usr/bin/also`, `test "$(cat usr/bin/also)" = three33 && test "$(stat -c %h usr/bin/also)" = 2`},
		{"written by that name", `echo by-also >user/apps/a/usr/bin/also`, `test "$(cat usr/bin/prog)" = by-also && test "$(cat usr/bin/also)" = by-also`},
		{"its first name removed", `rm user/apps/a/usr/bin/prog`, `! test -e usr/bin/prog && test "$(cat usr/bin/also)" = by-also && test "$(stat -c %h usr/bin/also)" = 1`},
		{"hidden by configuration", `mkdir -p user/sysconfig/usr/bin; echo s >user/sysconfig/usr/bin/prog`, `test "$(cat usr/bin/prog)" = s`},
		{"a new package", `mkdir -p p/opt/p; echo p >p/opt/p/x; mv p user/apps/p`, `test "$(cat opt/p/x)" = p`},
		{"a package that goes", `rm -r user/apps/p`, `! test -e opt`},
	} {
		sh(t, project, tc.change)
		start := time.Now()
		var err error
		for time.Since(start) < 5*time.Second {
			cmd := exec.Command("sh", "-c", tc.seen)
			cmd.Dir = mnt
			if err = cmd.Run(); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			t.Errorf("%s: not seen", tc.name)
		}
		t.Logf("%s: seen after %v", tc.name, time.Since(start).Round(time.Millisecond))
	}
	// The edit of a file that its layer changes later stays.
	sh(t, mnt, `echo edit >>etc/conf`)
	sh(t, project, `echo layer >user/sysconfig/etc/conf; sleep .3`)
	if got, err := os.ReadFile(filepath.Join(mnt, "etc/conf")); err != nil || string(got) != "old\nedit\n" {
		t.Errorf("the edit is %q, %v", got, err)
	}
}
