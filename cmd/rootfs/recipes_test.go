package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// greeting is a package whose program says what its source does.
const greeting = `
-- user/apps/greet/package.toml --
command = '''
test -s greeting
mkdir -p "$DESTDIR/usr/bin"
{ echo '#!/bin/sh'; echo "echo $(cat greeting)"; } >"$DESTDIR/usr/bin/greet"
chmod +x "$DESTDIR/usr/bin/greet"
'''
-- user/apps/greet/greeting --
one
-- user/apps/other/package.toml --
command = "mkdir -p $DESTDIR/opt; cp file $DESTDIR/opt"
-- user/apps/other/file --
other
`

// sees waits until a script in a folder succeeds, for at most a second, and
// returns how long it took.
func sees(t *testing.T, dir, script string) time.Duration {
	t.Helper()
	start := time.Now()
	for {
		cmd := exec.Command("sh", "-euc", script)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		took := time.Since(start)
		switch {
		case err == nil:
			return took
		case took > time.Second:
			t.Fatalf("%s: not after %v: %v\n%s", script, took, err, out)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// A mount that was made before shows a rebuilt program, and only what changed
// is built.
func TestMountShowsWhatIsBuilt(t *testing.T) {
	need(t, "fuse")
	project := layProject(t, greeting)
	mnt, _ := mountProject(t, project) // which builds first
	sh(t, mnt, `[ "$(usr/bin/greet)" = one ] && [ "$(cat opt/file)" = other ]`)
	sh(t, project, `echo two >user/apps/greet/greeting`)
	if out := rootfs(t, project, "build"); strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, "built ") {
		t.Errorf("one source was touched, and rootfs build says %q", out)
	}
	t.Logf("seen after %v", sees(t, mnt, `[ "$(usr/bin/greet)" = two ]`))

	// A failure shows nothing new.
	sh(t, project, `mv user/apps/greet/greeting saved; ! rootfs build 2>err; grep -q '^rootfs: build: greet: ' err`)
	sh(t, mnt, `sleep .3; [ "$(usr/bin/greet)" = two ]`)
	sh(t, project, `mv saved user/apps/greet/greeting`)

	// A new recipe is a new layer.
	sh(t, project, `mkdir user/apps/late; echo 'command = "echo late >$DESTDIR/late"' >user/apps/late/package.toml; rootfs -q build`)
	t.Logf("new package seen after %v", sees(t, mnt, `[ "$(cat late)" = late ]`))
}

// A recipe that comes while the project is mounted holds up nothing, and shows
// when it is built.
func TestFirstRecipeOfAMount(t *testing.T) {
	need(t, "fuse")
	project := layProject(t, "-- user/apps/tree/opt/file --\none\n")
	mnt, _ := mountProject(t, project)
	sh(t, mnt, `[ "$(cat opt/file)" = one ]`)
	sh(t, project, `mkdir user/apps/new; echo 'command = ' >user/apps/new/package.toml; sleep .1`)
	sh(t, project, `mkdir user/apps/tree/srv; echo two >user/apps/tree/srv/file`)
	sees(t, mnt, `[ "$(cat srv/file)" = two ]`)
	sh(t, project, `echo 'command = "echo new >$DESTDIR/new"' >user/apps/new/package.toml; rootfs -q build`)
	sees(t, mnt, `[ "$(cat new)" = new ]`)
	sh(t, project, `rm -r user/apps/new; rootfs -q build`)
	sees(t, mnt, `! test -e new`)
}

// startWatch starts rootfs watch on a project; end ends it by Ctrl-C and
// returns what it said.
func startWatch(t *testing.T, project string) (end func() string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("rootfs", "-C", project, "watch")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	t.Cleanup(func() {
		if !ended {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		text, _ := os.ReadFile(log.Name())
		t.Logf("rootfs watch said:\n%s", text)
	})
	return func() string {
		ended = true
		if err := cmd.Process.Signal(unix.SIGINT); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("ended by Ctrl-C: %v", err)
		}
		said, err := os.ReadFile(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(said)
	}
}

// A copy of what nobody may write to, as of the Nix store.
func TestBuildOfWriteProtectedTrees(t *testing.T) {
	asEachUser(t, func(t *testing.T) {
		project := layProject(t, `
-- user/apps/p/package.toml --
command = "mkdir $DESTDIR/usr; echo one >$DESTDIR/usr/x; chmod -R a-w $DESTDIR"
`)
		giveAway(t, project)
		rootfs(t, project, "build")
		sh(t, project, `[ "$(cat .rootfs/packages/x86_64/p/usr/x)" = one ]; [ -z "$(ls .rootfs/staging)" ]`)
	})
}

// A terminal that is closed ends what a build has started, too: nobody watches
// over it any more.
func TestBuildEndsWithItsTerminal(t *testing.T) {
	project := layProject(t, `
-- user/apps/slow/package.toml --
command = "echo $$ >pid; sleep 60"
`)
	for _, c := range []struct{ command, want string }{
		{`exec rootfs build`, "gone"},
		{`trap '' HUP; exec rootfs build`, "there"}, // as nohup does
	} {
		cmd := exec.Command("sh", "-c", c.command)
		cmd.Dir = project
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		sees(t, project, `test -s user/apps/slow/pid`)
		if err := cmd.Process.Signal(unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if c.want == "there" {
			sh(t, project, `sleep .2; kill -0 $(cat user/apps/slow/pid)`)
			_ = cmd.Process.Signal(unix.SIGTERM)
		}
		_ = cmd.Wait()
		sh(t, project, `! kill -0 $(cat user/apps/slow/pid) 2>/dev/null; rm user/apps/slow/pid; [ -z "$(ls .rootfs/staging)" ]`)
	}
}

// watchStep is a change to a project, and how a mount shows what is built then.
type watchStep struct{ change, seen string }

func watchSteps(t *testing.T, project, mnt string, steps ...watchStep) {
	t.Helper()
	for _, step := range steps {
		sh(t, project, step.change)
		t.Logf("%s: seen after %v", step.change, sees(t, mnt, step.seen))
	}
}

func TestWatchBuildsWhatChanges(t *testing.T) {
	need(t, "fuse")
	project := layProject(t, greeting)
	mnt, _ := mountProject(t, project)
	end := startWatch(t, project)
	watchSteps(
		t, project, mnt,
		watchStep{`sleep .2; echo two >user/apps/greet/greeting`, `[ "$(usr/bin/greet)" = two ]`},
		watchStep{`mkdir user/apps/other/more; sed -i 's/file/more\/*/' user/apps/other/package.toml; echo m >user/apps/other/more/m`, `[ "$(cat opt/m)" = m ]`},
		watchStep{`echo n >user/apps/other/more/m`, `[ "$(cat opt/m)" = n ]`},
		watchStep{`mkdir user/apps/late; echo 'command = "echo late >$DESTDIR/late"' >user/apps/late/package.toml`, `[ "$(cat late)" = late ]`},
	)
	// A failing build is told once and not run again by itself.
	sh(t, project, `cp -a user/apps/late/package.toml saved; echo 'command = "date >>tried; exit 9"' >user/apps/late/package.toml; sleep .6
		[ "$(wc -l <user/apps/late/tried)" = 1 ] && [ "$(cat mnt/late)" = late ]`)
	sh(t, project, `echo 'command = "echo later >$DESTDIR/late"' >user/apps/late/package.toml`)
	sees(t, mnt, `[ "$(cat late)" = later ]`)
	if n := strings.Count(end(), "the command failed (exit status 9)"); n != 1 {
		t.Errorf("one failure was told %d times", n)
	}
}

func TestWatchFollowsTheManifest(t *testing.T) {
	need(t, "fuse")
	project := layProject(t, greeting+`
-- rootfs.toml --
[apps]
exclude = ["late"]
-- user/apps/late/package.toml --
command = "cp file $DESTDIR/late"
-- user/apps/late/file --
one
`)
	mnt, _ := mountProject(t, project)
	end := startWatch(t, project)
	watchSteps(
		t, project, mnt,
		watchStep{`sleep .2; test ! -e mnt/late; echo 'apps = 1' >rootfs.toml; sleep .2; : >rootfs.toml`, `[ "$(cat late)" = one ]`},
		watchStep{`echo two >user/apps/late/file`, `[ "$(cat late)" = two ]`},
		watchStep{`echo 'apps = 1' >rootfs.toml; sleep .2; : >rootfs.toml; echo three >user/apps/late/file`, `[ "$(cat late)" = three ]`},
	)
	if said := end(); strings.Count(said, "rootfs.toml:1:8: ") != 2 {
		t.Error("the manifest was wrong twice, and that was not told")
	}
}

// dadkPackage is a package file of DADK whose package is a copy of a file.
const dadkPackage = `
name = "NAME"
version = "0.1"
target-arch = ["x86_64", "aarch64", "riscv64", "loongarch64"]
[task-source]
type = "build-from-source"
source = "local"
source-path = "user/apps/NAME"
[build]
build-command = "cat src/* >$DADK_CURRENT_BUILD_DIR/NAME; echo $SAID >>$DADK_CURRENT_BUILD_DIR/NAME"
[install]
in-dragonos-path = "/bin"
[[envs]]
key = "SAID"
value = "told"
`

func TestWatchFollowsACheckout(t *testing.T) {
	need(t, "fuse")
	for _, name := range []string{"ARCH", "ROOTFS_MANIFEST", "ROOTFS_BASE"} {
		t.Setenv(name, "")
	}
	project := layProject(t, `
-- config/rootfs-manifests/default.toml --
[user]
config_dir = "user/dadk/config/sets/default"
-- user/dadk/config/sets/default/.keep --
-- user/dadk/config/all/one.toml --`+strings.ReplaceAll(dadkPackage, "NAME", "one")+`
-- user/dadk/config/all/two.toml --`+strings.ReplaceAll(dadkPackage, "NAME", "two")+`
-- user/apps/one/src/a --
one
-- user/apps/two/src/a --
two
`)
	sh(t, project, `ln -s ../../all/one.toml user/dadk/config/sets/default`)
	mnt, _ := mountProject(t, project)
	end := startWatch(t, project)
	watchSteps(
		t, project, mnt,
		watchStep{`sleep .2; echo more >user/apps/one/src/b`, `[ "$(echo $(cat bin/one))" = "one more told" ]`},
		watchStep{`sed -i s/told/heard/ user/dadk/config/all/one.toml`, `[ "$(echo $(cat bin/one))" = "one more heard" ]`},
		watchStep{`ln -s ../../all/two.toml user/dadk/config/sets/default`, `[ "$(echo $(cat bin/two))" = "two told" ]`},
		watchStep{`echo again >user/apps/two/src/a`, `[ "$(echo $(cat bin/two))" = "again told" ]`},
		watchStep{`echo 'blocked_apps = [ { name = "one" } ]' >config/app-blocklist.toml`, `test ! -e bin/one`},
	)
	end()
}

// The sample project, from nothing: what the demo shows.
func TestSampleBuildsWhatChanged(t *testing.T) {
	project := sampleProject(t)
	sh(t, project, `rm -r .rootfs; cd user/apps/hello; make clean`)
	if out := rootfs(t, project, "build"); strings.Count(out, "built ") != 2 {
		t.Errorf("from nothing: %q", out)
	}
	mnt, _ := mountProject(t, project)
	wantUnchanged(t, project, "nothing to build: 2 packages are unchanged\n")
	sh(t, project, `sed -i 's/hello from/greetings from/' user/apps/hello/hello.c`)
	if out := rootfs(t, project, "build"); !strings.HasSuffix(out, "/hello\n") || strings.Count(out, "\n") != 1 {
		t.Errorf("one source was touched: %q", out)
	}
	t.Logf("seen after %v", sees(t, mnt, `usr/bin/hello | grep '^greetings from'`))
}

// wantUnchanged runs rootfs build, which must say so and not be felt. A machine
// that is busy with other tests gets more tries.
func wantUnchanged(t *testing.T, project, want string) {
	t.Helper()
	const bound = 100 * time.Millisecond
	best, tries := time.Hour, 0
	for end := time.Now().Add(5 * time.Minute); tries < 5 || best > bound && time.Now().Before(end); tries++ {
		cmd := exec.Command("rootfs", "-C", project, "build")
		start := time.Now()
		out, err := cmd.CombinedOutput()
		best = min(best, time.Since(start))
		if err != nil || string(out) != want {
			t.Fatalf("%q, %v", out, err)
		}
	}
	t.Logf("took %v, best of %d", best, tries)
	if best > bound {
		t.Errorf("took %v at best", best)
	}
}

// A run that finds nothing to do must not be felt.
func TestUnchangedPackagesCostNothing(t *testing.T) {
	project := layProject(t, greeting)
	sh(t, project, `
		for n in $(seq 40); do mkdir -p user/apps/p$n/src; for f in $(seq 50); do echo $f >user/apps/p$n/src/$f; done
		echo 'command = "cp -r src $DESTDIR"' >user/apps/p$n/package.toml; done
		sleep .05; rootfs -q build`)
	wantUnchanged(t, project, "nothing to build: 42 packages are unchanged\n")
}

// What a mount shows stays, though nothing else says that it is used.
func TestGcLeavesWhatIsMounted(t *testing.T) {
	need(t, "fuse")
	project := layProject(t, "-- rootfs.toml --\n[base]\nsource = 'base.tar'\n"+greeting)
	sh(t, project, `mkdir -p tree/etc; echo base >tree/etc/base; tar -C tree -cf base.tar .; rm -r tree`)
	mnt, umount := mountProject(t, project)
	elsewhere := t.TempDir()
	sh(t, project, `rm -r "$XDG_CACHE_HOME/rootfs/projects"; cd "$1"; rootfs gc 2>err; ! grep removed err`, elsewhere)
	sh(t, mnt, `[ "$(cat etc/base)" = base ]`)
	umount()
	// The daemon lets go of it with its last step.
	sees(t, elsewhere, `rootfs gc 2>err; grep -q '^unpacked images removed: 1, ' err`)
}
