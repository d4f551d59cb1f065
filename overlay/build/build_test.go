package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// bench is a project to build in, with what its builds said.
type bench struct {
	t       *testing.T
	root    string
	options Options
	log     bytes.Buffer
	err     error

	mu    sync.Mutex
	begun []string
}

// Begin implements [Observer].
func (b *bench) Begin(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begun = append(b.begun, name)
}

// End implements [Observer].
func (b *bench) End(Result) {}

// need skips a test where the machine can't do it, loudly; not where
// ROOTFS_TEST_REQUIRE demands it.
func need(t *testing.T, capability string, has bool) {
	t.Helper()
	switch {
	case has:
	case slices.Contains(strings.Split(os.Getenv("ROOTFS_TEST_REQUIRE"), ","), capability):
		t.Fatalf("this machine lacks %q, which ROOTFS_TEST_REQUIRE demands", capability)
	default:
		t.Skipf("SKIPPED: this machine lacks %q", capability)
	}
}

// lay makes a project of packages with the given recipes.
func lay(t *testing.T, recipes map[string]string) *bench {
	t.Helper()
	b := &bench{t: t, root: t.TempDir()}
	for name, text := range recipes {
		b.write("user/apps/"+name+"/package.toml", text)
	}
	return b
}

func (b *bench) write(name, text string) {
	b.t.Helper()
	full := filepath.Join(b.root, name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// sh runs a script in the project.
func (b *bench) sh(script string) {
	b.t.Helper()
	cmd := exec.Command("sh", "-euc", script)
	cmd.Dir = b.root
	if out, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// build runs and returns what came of each package: "a built, b unchanged".
func (b *bench) build(names ...string) string {
	b.t.Helper()
	return b.run(b.t.Context(), names...)
}

func (b *bench) run(ctx context.Context, names ...string) string {
	b.t.Helper()
	p, err := overlay.Find(b.root, "")
	if err != nil {
		b.t.Fatal(err)
	}
	b.log.Reset()
	b.begun = nil
	o := b.options
	o.Names, o.Observer, o.Logger = names, b, slog.New(slog.NewTextHandler(&b.log, nil))
	results, err := Run(ctx, p, o)
	b.err = err
	var states []string
	for _, r := range results {
		states = append(states, r.Name+" "+r.State.String())
		if (r.State == Failed) != (r.Err != nil) {
			b.t.Errorf("%s: %v with error %v", r.Name, r.State, r.Err)
		}
	}
	slices.Sort(states)
	return strings.Join(states, ", ")
}

// want compares the outcome of a step.
func (b *bench) want(step, got, want string) {
	b.t.Helper()
	if got != want {
		b.t.Errorf("%s: %s, want %s (error: %v)\n%s", step, got, want, b.err, b.log.String())
	}
}

// read returns a file of a package's output.
func (b *bench) read(name string) string {
	b.t.Helper()
	text, err := os.ReadFile(filepath.Join(b.root, ".rootfs/packages/x86_64", name))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// likeMake is a recipe that leaves files in its folder, and makes only what
// is older than its source.
const likeMake = `command = '''
mkdir -p obj
[ obj/x -nt x.c ] || { cat x.c >obj/x; cat x.c >x.o; }
cp x.o "$DESTDIR/x"
'''`

func TestOnlyWhatChangedIsBuilt(t *testing.T) {
	b := lay(t, map[string]string{
		"lib":  `command = "grep -v ^# lib.c >$DESTDIR/lib"`,
		"prog": "depends = [\"lib\"]\n" + `command = 'cat prog.c "$DEP_LIB/lib" >"$DESTDIR/prog"'`,
		"else": likeMake,
	})
	b.write("user/apps/lib/lib.c", "one\n")
	b.write("user/apps/prog/prog.c", "main\n")
	b.write("user/apps/else/x.c", "x\n")
	for _, c := range []struct{ step, change, want string }{
		{"from nothing", "", "else built, lib built, prog built"},
		{"again", "", "else unchanged, lib unchanged, prog unchanged"},
		{"touched", "touch user/apps/*/*.c", "else unchanged, lib unchanged, prog unchanged"},
		{"a source", "echo more >>user/apps/prog/prog.c", "else unchanged, lib unchanged, prog built"},
		{"taken back", "sed -i '$d' user/apps/prog/prog.c", "else unchanged, lib unchanged, prog restored"},
		{"and again", "echo more >>user/apps/prog/prog.c", "else unchanged, lib unchanged, prog restored"},
		{"what others depend on", "echo two >user/apps/lib/lib.c", "else unchanged, lib built, prog built"},
		{"to the same output", "echo '# two' >>user/apps/lib/lib.c", "else unchanged, lib built, prog unchanged"},
		{"a recipe", `printf '\nenv = { A = "b" }\n' >>user/apps/lib/package.toml`, "else unchanged, lib built, prog unchanged"},
		{"a new file", "echo n >user/apps/prog/new", "else unchanged, lib unchanged, prog built"},
		{"which made no difference", "rm user/apps/prog/new", "else unchanged, lib unchanged, prog unchanged"},
		{"execute bit", "chmod +x user/apps/prog/prog.c", "else unchanged, lib unchanged, prog built"},
		{"read bits, as a umask sets them", "chmod g-r,o-r user/apps/*/*", "else unchanged, lib unchanged, prog unchanged"},
		{"an empty folder", "mkdir user/apps/prog/tmp", "else unchanged, lib unchanged, prog built"},
		{"that is made sticky", "chmod 1777 user/apps/prog/tmp", "else unchanged, lib unchanged, prog built"},
		{"and filled", "touch user/apps/prog/tmp/file", "else unchanged, lib unchanged, prog built"},
		{"taken back", "rm -r user/apps/prog/tmp", "else unchanged, lib unchanged, prog unchanged"},
		{"set-uid bit", "chmod u+s user/apps/prog/prog.c", "else unchanged, lib unchanged, prog built"},
		{"git's own", "mkdir user/apps/prog/.git && echo >user/apps/prog/.git/index", "else unchanged, lib unchanged, prog unchanged"},
		{"another architecture", `echo 'arch = "riscv64"' >rootfs.toml`, "else built, lib built, prog built"},
		{"and back", `rm rootfs.toml`, "else unchanged, lib unchanged, prog unchanged"},
		{"without what is remembered", `rm -r .rootfs/builds`, "else built, lib built, prog built"},
		{"an output that is gone", `rm -r .rootfs/outputs/x86_64/lib-*`, "else unchanged, lib built, prog unchanged"},
	} {
		if c.change != "" {
			b.sh(c.change)
		}
		b.want(c.step, b.build(), c.want)
	}
	if got := b.read("prog/prog"); got != "main\nmore\ntwo\n" {
		t.Errorf("the program is %q", got)
	}
	b.want("named", b.build("prog"), "lib unchanged, prog unchanged")
	b.options.Force = true
	b.want("forced", b.build("prog"), "lib built, prog built")
}

// A layer shows the write bits of sticky directories, and no others.
func TestOutputsDifferInWhatIsShownOfModes(t *testing.T) {
	b := lay(t, map[string]string{"p": `command = "mkdir $DESTDIR/tmp; touch $DESTDIR/file; chmod $(cat tmp) $DESTDIR/tmp; chmod $(cat file) $DESTDIR/file"`})
	var was string
	for _, c := range []struct {
		step, tmp, file string
		other           bool
	}{
		{"first", "1755", "0644", true},
		{"another umask", "1755", "0664", false},
		{"an open /tmp", "1777", "0664", true},
		{"an execute bit", "1777", "0755", true},
	} {
		b.write("user/apps/p/tmp", c.tmp)
		b.write("user/apps/p/file", c.file)
		b.build()
		output, err := os.Readlink(filepath.Join(b.root, ".rootfs/packages/x86_64/p"))
		if err != nil || (output != was) != c.other {
			t.Errorf("%s: the output was %q and is %q, %v", c.step, was, output, err)
		}
		was = output
		b.sh(fmt.Sprintf(`[ $(stat -c %%a .rootfs/packages/x86_64/p/tmp) = %s ]`, c.tmp))
	}
}

// What a build leaves in its folder is no input, until somebody else writes
// to it.
func TestProductsInTheFolderAreNoInputs(t *testing.T) {
	b := lay(t, map[string]string{"p": likeMake})
	b.write("user/apps/p/x.c", "one\n")
	for _, c := range []struct{ step, change, want, says string }{
		{"from nothing", "", "p built", ""},
		{"again", "", "p unchanged", ""},
		{"cleaned by hand", "rm -r user/apps/p/obj user/apps/p/x.o", "p unchanged", ""},
		{"a source", "echo two >user/apps/p/x.c", "p built", ""},
		{"again", "", "p unchanged", ""},
		{"a source in a folder that the build made", "mkdir -p user/apps/p/obj; echo 1 >user/apps/p/obj/x.h", "p built", ""},
		{"product made by hand, as with make", "echo hand >user/apps/p/x.o", "p built", ""},
		{"again", "", "p unchanged", ""},
		{"a source, and the product anew with it", "echo three >user/apps/p/x.c", "p built", ""},
		{"again", "", "p unchanged", ""},
		{"a build that changes its source", `echo 'command = "date +%N >x.c; cp x.c $DESTDIR"' >user/apps/p/package.toml`, "p built", "changed while it was built"},
		{"each time", "", "p built", "x.c"},
		{"told to ignore that", `echo 'ignore = ["*.c"]' >>user/apps/p/package.toml`, "p built", ""},
		{"again", "", "p unchanged", ""},
		{"a failing build's", `echo 'command = "echo >left; exit 1"' >user/apps/p/package.toml`, "p failed", ""},
		{"mended", `echo 'command = "echo >>left; cp left $DESTDIR"' >user/apps/p/package.toml`, "p built", ""},
		{"again", "", "p unchanged", ""},
	} {
		if c.change != "" {
			b.sh(c.change)
		}
		b.want(c.step, b.build(), c.want)
		if said := b.log.String(); !strings.Contains(said, c.says) || c.says == "" && said != "" {
			t.Errorf("%s: said %q, want %q in it", c.step, said, c.says)
		}
	}
}

// Folders that a build makes or fills are no inputs either, be they empty or not.
func TestProductsThatAreFolders(t *testing.T) {
	b := lay(t, map[string]string{"p": `command = '''
mkdir -p made/deep/empty made/full
install -d -m 1777 sticky
[ ! -e x.c ] || echo >made/full/x.o
echo >filled/x.o
cp x.c "$DESTDIR"
'''`})
	b.write("user/apps/p/x.c", "one\n")
	b.sh("mkdir user/apps/p/filled")
	for _, c := range []struct{ step, change, want string }{
		{"from nothing", "", "p built"},
		{"again", "", "p unchanged"},
		{"cleaned by hand", "rm user/apps/p/made/full/x.o user/apps/p/filled/x.o", "p unchanged"},
		{"and more", "rm -r user/apps/p/made/deep user/apps/p/sticky", "p unchanged"},
		{"a source", "echo two >user/apps/p/x.c", "p built"},
		{"again", "", "p unchanged"},
		{"an input", "mkdir user/apps/p/made/deep/other", "p built"},
		{"again", "", "p unchanged"},
	} {
		if c.change != "" {
			b.sh(c.change)
		}
		b.want(c.step, b.build(), c.want)
		if said := b.log.String(); said != "" {
			t.Errorf("%s: said %q", c.step, said)
		}
	}
}

// A folder that is copied with what another build has left in it: git knows
// what is no source.
func TestProductsOfAnotherBuild(t *testing.T) {
	_, err := exec.LookPath("git")
	need(t, "git", err == nil)
	b := lay(t, map[string]string{"p": likeMake})
	b.write("user/apps/p/x.c", "one\n")
	b.sh("git init -q; printf '*.o\\nobj\\n' >.gitignore; echo old >user/apps/p/x.o")
	b.want("first", b.build(), "p built")
	b.want("again", b.build(), "p unchanged")
	b.sh("echo more >user/apps/p/obj/more")
	b.want("in a folder that git ignores", b.build(), "p unchanged")
	if said := b.log.String(); said != "" {
		t.Errorf("said %q", said)
	}
}

// make would take another architecture's objects for its own.
func TestArchitecturesDontShareProducts(t *testing.T) {
	b := lay(t, map[string]string{"p": `command = """
[ x.o -nt x.c ] || echo $ARCH >x.o
mkdir -p obj
[ obj/x -nt x.c ] || echo $ARCH >obj/x
cat x.o obj/x >$DESTDIR/x
"""`})
	b.write("user/apps/p/x.c", "one\n")
	b.want("first", b.build(), "p built")
	b.write("rootfs.toml", `arch = "riscv64"`)
	b.want("another architecture", b.build(), "p built")
	b.sh(`[ "$(xargs <.rootfs/packages/riscv64/p/x)" = "riscv64 riscv64" ]`)
	b.want("again", b.build(), "p unchanged")
	b.write("rootfs.toml", "")
	b.want("back", b.build(), "p unchanged")
	b.write("user/apps/p/unused.c", "")
	b.want("to be built again", b.build(), "p built")
	if got := b.read("p/x"); got != "x86_64\nx86_64\n" {
		t.Errorf("for x86_64 there is %q", got)
	}
}

func TestFailureLeavesWhatWasThere(t *testing.T) {
	b := lay(t, map[string]string{
		"a": `command = "cp src $DESTDIR/a"`,
		"b": "depends = [\"a\"]\n" + `command = "cp $DEP_A/a $DESTDIR/b"`,
		"c": `command = "cp src $DESTDIR/c"`,
	})
	b.options.Jobs = 1
	b.write("user/apps/a/src", "old")
	b.write("user/apps/c/src", "old")
	b.want("first", b.build(), "a built, b built, c built")
	b.write("user/apps/a/src", "new")
	b.write("user/apps/c/src", "new")
	b.write("user/apps/a/package.toml", `command = "echo half >$DESTDIR/a; echo to no avail; exit 3"`)
	b.options.KeepGoing = true
	b.want("failing", b.build(), "a failed, b skipped, c built")
	if a, c := b.read("a/a"), b.read("c/c"); a != "old" || c != "new" {
		t.Errorf("after the failure a is %q and c %q", a, c)
	}
	log, err := os.ReadFile(filepath.Join(b.root, ".rootfs/logs/a.log"))
	if err != nil || !strings.HasSuffix(string(log), "\nto no avail\n") {
		t.Errorf("the log is %q, %v", log, err)
	}
	b.write("user/apps/a/package.toml", `command = "cp src $DESTDIR/a"`)
	b.want("mended", b.build(), "a built, b built, c unchanged")
	if got := b.read("b/b"); got != "new" {
		t.Errorf("then b is %q", got)
	}
	if left, err := os.ReadDir(filepath.Join(b.root, ".rootfs/staging")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestFailuresSayWhy(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "project")
	for name, c := range map[string]struct{ recipe, want string }{
		"fails":           {`command = "exit 3"`, `p: the command failed (exit status 3): see `},
		"fails half way":  {"command = '''\nfalse\ntouch $DESTDIR/x\n'''", `p: the command failed (exit status 1)`},
		"list that fails": {`command = ["false"]`, `p: the command failed (exit status 1)`},
		"no such command": {`command = ["nonesuch-program"]`, `p: the command failed (exit status 127)`},
		"hangs":           {"timeout = \"200ms\"\ncommand = \"touch $DESTDIR/x; sleep 60 & sleep 60\"", `p: took longer than 200ms and was ended (its recipe may raise timeout): see `},
		"no tool":         {"tools = [\"nonesuch-cc\"]\ncommand = \"true\"", `p: needs the program "nonesuch-cc", which is not in PATH`},
		"makes nothing":   {"command = \"true\"\npath = \"/usr\"", `package.toml: the command put nothing into DESTDIR`},
		"takes DESTDIR":   {`command = "rmdir $DESTDIR"`, `package.toml: the command left no folder where DESTDIR was`},
		"a link for it":   {`command = "mkdir -p out; echo >out/x; rmdir $DESTDIR; ln -s $PWD/out $DESTDIR"`, `package.toml: the command left no folder where DESTDIR was`},
		"writes outside":  {`command = "touch $DESTDIR/x; echo >` + outside + `"`, `it may write only to its folder, DESTDIR and TMPDIR`},
		"in Go's words":   {`command = "echo open /x: permission denied; exit 1"`, `it may write only to its folder, DESTDIR and TMPDIR`},
		"a circle":        {"depends = [\"p\"]\ncommand = \"true\"", `in a circle: p -> p`},
		"wrong recipe":    {`comand = "true"`, `package.toml:1:1: unknown key "comand"; did you mean "command"?`},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(c.want, "may write only") {
				need(t, "landlock", canConfine())
			}
			// The project's folder decides what is outside.
			b := lay(t, map[string]string{"p": c.recipe})
			t.Setenv("HOME", b.root)
			start := time.Now()
			got := b.build()
			if b.err == nil || !strings.Contains(b.err.Error(), c.want) {
				t.Errorf("%s, error %v, want %q in it", got, b.err, c.want)
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestBuildSeesItsEnvironment(t *testing.T) {
	t.Setenv("CROSS_COMPILE", "riscv64-test-")
	t.Setenv("FROM_CALLER", "one")
	t.Setenv("SECRET", "not for builds")
	b := lay(t, map[string]string{"p": `
command = 'echo "$ARCH $CC $GIVEN ${SECRET-none} $PWD"; [ "$DESTDIR" = "$DADK_CURRENT_BUILD_DIR" ]; umask; mktemp; touch "$DESTDIR/file"'
path = "/opt/p"
env = { CC = "${CROSS_COMPILE}gcc", GIVEN = "<${FROM_CALLER}> $ORIGIN" }`})
	b.write("rootfs.toml", `arch = "riscv64"`)
	defer unix.Umask(unix.Umask(0o077))
	b.want("first", b.build(), "p built")
	log, err := os.ReadFile(filepath.Join(b.root, ".rootfs/logs/p.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\nriscv64 riscv64-test-gcc <one> $ORIGIN none " + b.root + "/user/apps/p\n", "\n0022\n", b.root + "/.rootfs/staging/p/tmp/",
	} {
		if !strings.Contains(string(log), want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	b.sh(`[ "$(stat -Lc %a .rootfs/packages/riscv64/p .rootfs/packages/riscv64/p/opt/p .rootfs/packages/riscv64/p/opt/p/file | xargs)" = "755 755 644" ]`)
	t.Setenv("SECRET", "another")
	b.want("other variables", b.build(), "p unchanged")
	t.Setenv("FROM_CALLER", "two")
	b.want("one that the recipe names", b.build(), "p built")
	t.Setenv("CROSS_COMPILE", "other-")
	b.want("another compiler", b.build(), "p built")
}

// A variable of the recipe that adds to the caller's depends on that.
func TestVariablesThatAddToTheCallers(t *testing.T) {
	b := lay(t, map[string]string{"p": `
command = 'echo "$MYFLAGS, $OTHER" >"$DESTDIR/x"'
env = { MYFLAGS = "-O2 ${MYFLAGS} ${TZ}", OTHER = "${MYFLAGS}" }`})
	for _, c := range []struct{ flags, zone, want string }{
		{"-g", "", "p built"},
		{"-g", "EST", "p unchanged"},
		{"-g1", "EST", "p built"},
	} {
		t.Setenv("MYFLAGS", c.flags)
		t.Setenv("TZ", c.zone)
		for i, want := range []string{c.want, "p unchanged", "p unchanged", "p unchanged"} {
			b.want(fmt.Sprintf("%s for the %dth time", c.flags, i+1), b.build(), want)
		}
		if got, want := b.read("p/x"), fmt.Sprintf("-O2 %s UTC, %[1]s\n", c.flags); got != want {
			t.Errorf("the build had %q, want %q", got, want)
		}
	}
}

func TestToolVersionsAreInputs(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	const recipe = "tools = [\"mycc\"]\ncommand = \"mycc >$DESTDIR/x\""
	b := lay(t, map[string]string{"p": recipe, "q": recipe})
	tool := func(version string) {
		text := fmt.Sprintf("#!/bin/sh\necho asked >>%s/asked\necho %s\n", bin, version)
		if err := os.WriteFile(filepath.Join(bin, "mycc"), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	tool("1")
	b.want("first", b.build(), "p built, q built")
	b.sh("rm " + bin + "/asked")
	b.want("again", b.build(), "p unchanged, q unchanged")
	b.sh("[ $(wc -l <" + bin + "/asked) = 1 ]") // for all packages
	tool("2")
	b.want("another version", b.build(), "p built, q built")
	tool("2; test $# = 0") // knows no --version
	b.want("known by its content", b.build(), "p built, q built")
	tool("2; test $# -lt 1")
	b.want("other content", b.build(), "p built, q built")

	// One that only calls another, as those of rustup do.
	tool("$(cat " + bin + "/real)")
	b.sh("echo 3 >" + bin + "/real")
	b.want("another file", b.build(), "p built, q built")
	b.sh("echo 4 >" + bin + "/real")
	b.want("another version of what it calls", b.build(), "p built, q built")
	t.Setenv("LANG", "de_DE.UTF-8")
	b.want("another language", b.build(), "p unchanged, q unchanged")
}

// A recipe's tools are those that its command finds.
func TestToolsOfARecipe(t *testing.T) {
	bin := t.TempDir()
	b := lay(t, map[string]string{"p": fmt.Sprintf("tools = [\"mycc\", \"./own\"]\nenv = { PATH = \"%s:${PATH}\" }\ncommand = \"mycc >$DESTDIR/x\"", bin)})
	b.write("user/apps/p/own", "#!/bin/sh\necho mine\n")
	b.sh("chmod +x user/apps/p/own; printf '#!/bin/sh\\necho 1\\n' >" + bin + "/mycc; chmod +x " + bin + "/mycc")
	b.want("first", b.build(), "p built")
	b.want("again", b.build(), "p unchanged")
	b.sh("sed -i s/1/2/ " + bin + "/mycc")
	b.want("another version", b.build(), "p built")
	b.sh("chmod -x " + bin + "/mycc")
	if b.build(); b.err == nil || !strings.Contains(b.err.Error(), `needs the program "mycc"`) {
		t.Errorf("without it: %v", b.err)
	}
}

func TestDependenciesThatAreNotBuiltHere(t *testing.T) {
	b := lay(t, map[string]string{"p": "depends = [\"tree\", \"linked\", \"packed\"]\n" +
		`command = 'cat "$DEP_TREE/usr/t" "$DEP_LINKED/usr/l" >"$DESTDIR/x"; [ -f "$DEP_PACKED" ]'`})
	b.write("user/apps/tree/usr/t", "t")
	b.write("elsewhere/usr/l", "l")
	b.sh("mkdir user/apps/linked; ln -s ../../../elsewhere user/apps/linked/result; tar cf user/apps/packed.tar elsewhere")
	b.want("first", b.build(), "p built")
	b.want("again", b.build(), "p unchanged")
	for _, change := range []string{"echo >>user/apps/tree/usr/t", "echo >>elsewhere/usr/l", "echo >>user/apps/packed.tar"} {
		b.sh(change)
		b.want(change, b.build(), "p built")
	}
	if b.build("tree"); b.err == nil || !strings.Contains(b.err.Error(), "has no recipe") {
		t.Errorf("building a tree: %v", b.err)
	}
}

func TestAlienProgramsAreTold(t *testing.T) {
	// The head of an ELF file: class, data, …, e_type, e_machine.
	head := func(machine byte) string {
		return `\177ELF\002\001\001` + strings.Repeat(`\000`, 9) + `\002\000` + fmt.Sprintf(`\%03o`, machine) + `\000`
	}
	b := lay(t, map[string]string{"p": fmt.Sprintf("command = '''\nprintf '%s' >$DESTDIR/native\nprintf '%s' >$DESTDIR/alien\nprintf x >$DESTDIR/short\n'''", head(62), head(183))})
	b.want("built", b.build(), "p built")
	if said := b.log.String(); !strings.Contains(said, "p: has programs for another machine than x86_64: alien (AARCH64)") || strings.Contains(said, "native") {
		t.Errorf("said %q", said)
	}
}

func TestOutputsAreBoundedAndUnneededLinksGo(t *testing.T) {
	b := lay(t, map[string]string{"p": `command = "cp src $DESTDIR"`, "q": `command = "echo >$DESTDIR/q"`})
	for i := range keep + 3 {
		b.write("user/apps/p/src", fmt.Sprint(i))
		b.build()
	}
	b.sh(fmt.Sprintf(`[ $(ls -d .rootfs/outputs/x86_64/p-* | wc -l) = %d ]`, keep))
	b.write("user/apps/q/package.toml", "arch = \"riscv64\"\ncommand = \"true\"")
	b.want("for another architecture", b.build(), "p unchanged")
	b.sh(`[ "$(ls .rootfs/packages/x86_64)" = p ]; ls -d .rootfs/outputs/x86_64/q-*`)
	b.sh("rm -r user/apps/q")
	b.want("gone", b.build(), "p unchanged")
}

func TestInterruptedBuildEndsItsCommand(t *testing.T) {
	b := lay(t, map[string]string{"p": `command = "echo $$ >pid; sleep 60"`})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for {
			if _, err := os.Stat(filepath.Join(b.root, "user/apps/p/pid")); err == nil {
				cancel()
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	start := time.Now()
	b.want("interrupted", b.run(ctx), "p failed")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v to end", took)
	}
	b.sh(`! kill -0 $(cat user/apps/p/pid) 2>/dev/null`)
}

// watching watches a project. sees waits until a build has made text of a file in
// an output.
func (b *bench) watching() (sees func(step, file, text string)) {
	b.t.Helper()
	p, err := overlay.Find(b.root, "")
	if err != nil {
		b.t.Fatal(err)
	}
	o := b.options
	o.Observer, o.Logger = b, slog.New(slog.DiscardHandler)
	ran := make(chan error)
	ctx, cancel := context.WithCancel(b.t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Watch(ctx, p, o, func(_ []Result, err error) {
			select {
			case ran <- err:
			case <-ctx.Done():
			}
		})
	}()
	b.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			b.t.Error(err)
		}
	})
	return func(step, file, text string) {
		b.t.Helper()
		for limit := time.After(10 * time.Second); ; {
			select {
			case err = <-ran:
				if b.read(file) == text {
					return
				}
			case err := <-ended:
				ended <- err
				b.t.Fatalf("%s: the watch has ended: %v", step, err)
			case <-limit:
				b.t.Fatalf("%s: %s is %q, not %q (error: %v)", step, file, b.read(file), text, err)
			}
		}
	}
}

// What is renamed and removed at once takes its watch along, of which fsnotify
// then complains. Looking at the packages again is the answer.
func TestWatchGoesOnWhenADirectoryGoes(t *testing.T) {
	b := lay(t, map[string]string{"p": `command = "cat $(find . -name src) >$DESTDIR/x"`})
	b.write("user/apps/p/src", "0")
	sees := b.watching()
	sees("at first", "p/x", "0")
	for i := range 3 {
		b.sh("mkdir user/apps/p/old1 user/apps/p/old2 user/apps/p/old3 user/apps/p/old4")
		b.write("user/apps/p/src", fmt.Sprint("with ", i))
		sees("with directories", "p/x", fmt.Sprint("with ", i))
		for k := range 4 {
			old, gone := filepath.Join(b.root, "user/apps/p", fmt.Sprint("old", k+1)), filepath.Join(b.root, "user/apps/p/gone")
			if err := errors.Join(os.Rename(old, gone), os.Remove(gone)); err != nil {
				t.Fatal(err)
			}
		}
		b.write("user/apps/p/src", fmt.Sprint("without ", i))
		sees("without them", "p/x", fmt.Sprint("without ", i))
	}
}

func TestWatchSeesWhatIsAnInput(t *testing.T) {
	b := &bench{t: t, root: filepath.Join(t.TempDir(), "a[b]c")}
	b.write("rootfs.toml", "")
	b.write("user/apps/p/package.toml", "depends = [\"tree\"]\n"+`command = "cat src $DEP_TREE/usr/lib/deep >$DESTDIR/x"`)
	b.write("user/apps/p/src", "0")
	b.write("user/apps/tree/usr/lib/deep", "0")
	sees := b.watching()
	sees("at first", "p/x", "00")
	sees("the state folder that has come", "p/x", "00")
	for _, c := range []struct{ step, change, want string }{
		{"in a folder with a name like a pattern", "printf 1 >user/apps/p/src", "10"},
		{"in a tree that it depends on", "printf 1 >user/apps/tree/usr/lib/deep", "11"},
		{"the manifest goes", "rm rootfs.toml; sleep .3; printf 2 >user/apps/p/src", "21"},
	} {
		b.sh(c.change)
		sees(c.step, "p/x", c.want)
	}
}

// Several projects may share a manifest and recipes by links.
func TestWatchFollowsLinkedFiles(t *testing.T) {
	b := &bench{t: t, root: t.TempDir()}
	b.write("common/p.toml", `command = "printf 1 >$DESTDIR/x"`)
	b.write("common/rootfs.toml", "[apps]\nexclude = [\"q\"]")
	b.write("user/apps/q/package.toml", `command = "printf q >$DESTDIR/x"`)
	b.sh("mkdir user/apps/p; ln -s ../../../common/p.toml user/apps/p/package.toml; ln -s common/rootfs.toml .")
	sees := b.watching()
	sees("at first", "p/x", "1")
	sees("the state folder that has come", "p/x", "1")
	b.write("common/p.toml", `command = "printf 2 >$DESTDIR/x"`)
	sees("another recipe", "p/x", "2")
	b.write("common/rootfs.toml", "")
	sees("another manifest", "q/x", "q")
}

func TestWatchFollowsFoldersThatChangePlaces(t *testing.T) {
	b := lay(t, map[string]string{"p": `command = "cat a/in/src b/in/src >$DESTDIR/x"`})
	b.write("user/apps/p/a/in/src", "a")
	b.write("user/apps/p/b/in/src", "b")
	sees := b.watching()
	sees("at first", "p/x", "ab")
	for _, move := range [][2]string{{"a", "c"}, {"b", "a"}, {"c", "b"}} {
		if err := os.Rename(filepath.Join(b.root, "user/apps/p", move[0]), filepath.Join(b.root, "user/apps/p", move[1])); err != nil {
			t.Fatal(err)
		}
	}
	sees("swapped", "p/x", "ba")
	b.write("user/apps/p/a/in/src", "1")
	sees("written to the first", "p/x", "1a")
	b.write("user/apps/p/b/in/src", "2")
	sees("written to the second", "p/x", "12")
}

// What a package's folder holds may be out of reach: another's files, or a path that
// is too long.
func TestWatchGoesOnBesideAFolderThatCantBeRead(t *testing.T) {
	b := lay(t, map[string]string{"bad": `command = "echo >$DESTDIR/x"`, "p": `command = "cat src >$DESTDIR/x"`})
	b.options.KeepGoing = true
	b.write("user/apps/p/src", "0")
	at, err := unix.Open(filepath.Join(b.root, "user/apps/bad"), unix.O_DIRECTORY, 0)
	for long := strings.Repeat("d", 250); err == nil && len(long) > 200; long = long[2:] {
		err = unix.Mkdirat(at, long, 0o755)
		if up := at; err == nil {
			at, err = unix.Openat(up, long, unix.O_DIRECTORY, 0)
			err = errors.Join(err, unix.Close(up))
		}
	}
	if err = errors.Join(err, unix.Close(at)); err != nil {
		t.Fatal(err)
	}
	sees := b.watching()
	sees("at first", "p/x", "0")
	b.write("user/apps/p/src", "1")
	sees("then", "p/x", "1")
}

// A log that grows all the time, beside the packages, holds up no build.
func TestWatchWhereSomethingAlwaysChanges(t *testing.T) {
	b := lay(t, map[string]string{"p": `command = "cat src >$DESTDIR/x"`})
	b.write("user/apps/p/src", "0")
	sees := b.watching()
	sees("at first", "p/x", "0")
	sees("the state folder that has come", "p/x", "0")
	log, err := os.Create(filepath.Join(b.root, "serial.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() //nolint:errcheck // nobody reads it
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				_, _ = log.WriteString("booting\n")
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	b.sh("while [ ! -s serial.log ]; do sleep .01; done; printf 1 >user/apps/p/src")
	sees("then", "p/x", "1")
}

// The package files of a checkout may be in folders of its folder.
func TestWatchFollowsPackageFiles(t *testing.T) {
	file := func(say string) string {
		return dadk("p", "local", "user/p", `echo `+say+` >"$DADK_CURRENT_BUILD_DIR/x"`)
	}
	b := layCheckout(t, map[string]string{
		"config/rootfs-manifests/default.toml": "", "user/p/src": "", "user/dadk/config/more/p.toml": file("one"),
	})
	sees := b.watching()
	sees("at first", "p/opt/x", "one\n")
	sees("the state folder that has come", "p/opt/x", "one\n")
	b.write("user/dadk/config/more/p.toml", file("two"))
	sees("then", "p/opt/x", "two\n")
}

// But not in one folder, of which several packages may be made.
func TestPackagesOfOneFolderTakeTurns(t *testing.T) {
	const command = `mkdir busy; [ $? = 0 ] && sleep .2 && rmdir busy && echo >"$DADK_CURRENT_BUILD_DIR/x"`
	b := layCheckout(t, map[string]string{
		"config/rootfs-manifests/default.toml": "", "user/src/x.c": "",
		"user/dadk/config/a.toml": dadk("a", "local", "user/src", command),
		"user/dadk/config/b.toml": dadk("b", "local", "user/src", command),
	})
	b.options.Jobs = 2
	b.want("first", b.build(), "a built, b built")
	b.want("again", b.build(), "a unchanged, b unchanged")
}

// Who has a new home folder, with the project in it, has no folder for caches yet.
func TestBuildInANewHome(t *testing.T) {
	need(t, "landlock", canConfine())
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CACHE_HOME", "")
	b := &bench{t: t, root: filepath.Join(home, "project")}
	b.write("user/apps/p/package.toml", `command = "mkdir ~/.cache/go-build && touch $DESTDIR/x"`)
	b.want("first", b.build(), "p built")
}

// The state may be elsewhere, on a larger disk.
func TestStateBehindALink(t *testing.T) {
	b := lay(t, map[string]string{"p": `command = "echo >$DESTDIR/x"`})
	b.sh("mkdir elsewhere; ln -s elsewhere .rootfs")
	b.want("first", b.build(), "p built")
	b.want("again", b.build(), "p unchanged")
}

func TestPackagesAreBuiltSideBySide(t *testing.T) {
	// Each waits for the other.
	const recipe = `command = "touch ../%s.there; while [ ! -e ../%s.there ]; do sleep .01; done; touch $DESTDIR/x"
timeout = "10s"
confined = false`
	b := lay(t, map[string]string{"a": fmt.Sprintf(recipe, "a", "b"), "b": fmt.Sprintf(recipe, "b", "a")})
	b.write("rootfs.toml", "[apps]\nexclude = [\"*.there\"]")
	b.options.Jobs = 2
	b.want("two at a time", b.build(), "a built, b built")
}
