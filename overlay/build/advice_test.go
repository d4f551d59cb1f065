package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a command lacked is said in the error, as far as its log tells, and
// which package of Debian brings it.
func TestFailuresSayWhatIsMissing(t *testing.T) {
	for name, c := range map[string]struct{ log, want string }{
		"dash":             {"sh: 1: cmake: not found", `it needs the program "cmake", which is not in PATH: on Debian, apt-get install cmake`},
		"bash":             {"bash: line 1: riscv64-linux-gnu-gcc: command not found", `"riscv64-linux-gnu-gcc", which is not in PATH: on Debian, apt-get install gcc-riscv64-linux-gnu`},
		"make":             {"cc -c a.c\nmake: x86_64-linux-gnu-objcopy: No such file or directory\nmake: *** [all] Error 127", `on Debian, apt-get install binutils-x86-64-linux-gnu`},
		"make in make":     {"make[2]: autoreconf: No such file or directory", `on Debian, apt-get install autoconf`},
		"env":              {"/usr/bin/env: 'python3': No such file or directory", `on Debian, apt-get install python3`},
		"ash":              {"sh: gawk: not found", `on Debian, apt-get install gawk`},
		"the last":         {"./configure: 17: gawk: not found\nsh: 1: flex: not found", `on Debian, apt-get install flex`},
		"a library":        {"configure: error: zlib: not found", ``},
		"in no package":    {"make: nonesuch: No such file or directory", `it needs the program "nonesuch", which is not in PATH: install it`},
		"musl":             {"make: " + hostArch() + "-linux-musl-gcc: No such file or directory", `on Debian, apt-get install musl-tools`},
		"musl for another": {"make: mips-linux-musl-gcc: No such file or directory", `"mips-linux-musl-gcc", which is not in PATH: install it`},
		"a header":         {"x.c:1:10: fatal error: zlib.h: No such file or directory\n    1 | #include <zlib.h>", `it needs the header zlib.h`},
		"the network":      {"curl: (6) Could not resolve host: example.org", `it needs the network`},
		"two things":       {"wget: unable to resolve host address 'example.org'\nsh: 1: git: not found", `on Debian, apt-get install git; it needs the network`},
		"another file":     {"cp: cannot stat 'a': No such file or directory\nmake: *** [x] Error 1\ntest: not found where it was", ``},
	} {
		log := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(log, []byte("$ make\n"+c.log+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := advice(log); !strings.Contains(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// The shells and make of this machine are understood.
func TestToolsSayWhatIsMissing(t *testing.T) {
	for name, recipe := range map[string]string{
		"sh":   `command = "nonesuch-cc -c a.c"`,
		"bash": `command = ["bash", "-c", "nonesuch-cc -c a.c"]`,
		"make": "command = \"printf 'all:\\n\\tnonesuch-cc -c a.c\\n' >$TMPDIR/m; make -f $TMPDIR/m\"",
		"env":  `command = "env nonesuch-cc"`,
	} {
		b := lay(t, map[string]string{"p": recipe})
		b.build()
		if want := `it needs the program "nonesuch-cc", which is not in PATH: install it`; b.err == nil || !strings.Contains(b.err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", name, b.err, want)
		}
	}
}
