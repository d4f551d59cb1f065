package build

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
)

// adviceLog is how much of a log's end is searched for what a command lacked.
const adviceLog = 256 << 10

// What programs say of what they lack, in the locale of a build.
var (
	lacksProgram = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`(?m)^\S+: (?:line )?\d+: ([\w.+-]+): (?:command )?not found$` + // dash, bash
			`|^(?:/bin/)?[a-z]*sh: ([\w.+-]+): not found$` + // ash
			`|^make(?:\[\d+\])?: ([\w.+-]+): No such file or directory$` +
			`|^(?:/usr/bin/)?env: '([\w.+-]+)': No such file or directory$`)
	})
	lacksHeader = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`fatal error: ([^:\n]+): No such file or directory`)
	})
	lacksNetwork = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`(?i)could not resolve host|unable to resolve host|name or service not known` +
			`|temporary failure in name resolution|failed to lookup address|network is unreachable|: no such host`)
	})
)

// advice tells from a command's log what it lacked; "" where that isn't known.
func advice(log string) string {
	text := end(log, adviceLog)
	var lacks []string
	if all := lacksProgram().FindAllStringSubmatch(text, -1); len(all) > 0 {
		last := all[len(all)-1] // others may have been tried for, in vain
		lacks = append(lacks, "it "+missingProgram(strings.Join(last[1:], "")).Error())
	}
	if m := lacksHeader().FindStringSubmatch(text); m != nil {
		lacks = append(lacks, "it needs the header "+m[1])
	}
	if lacksNetwork().MatchString(text) {
		lacks = append(lacks, "it needs the network")
	}
	return strings.Join(lacks, "; ")
}

// end returns the last bytes of a file; nothing of one that can't be read.
func end(file string, most int64) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close() //nolint:errcheck // only read
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	from := max(0, st.Size()-most)
	text := make([]byte, st.Size()-from)
	n, _ := f.ReadAt(text, from) // what there is
	return string(text[:n])
}

// missingProgram is the error of a program that isn't there.
func missingProgram(name string) error {
	install := "install it"
	if pkg := debianPackage(name); pkg != "" {
		install = "on Debian, apt-get install " + pkg
	}
	return fmt.Errorf("needs the program %q, which is not in PATH: %s", name, install)
}

// debianPackages are the programs whose package has another name, and some of
// those where it is the same.
var debianPackages = map[string]string{
	"aclocal": "automake", "autoreconf": "autoconf", "c++": "g++", "cc": "gcc", "go": "golang-go",
	"libtoolize": "libtool", "makeinfo": "texinfo", "msgfmt": "gettext", "musl-gcc": "musl-tools",
	"ninja": "ninja-build", "protoc": "protobuf-compiler", "rustc": "cargo", "xz": "xz-utils",
	"autoconf": "autoconf", "automake": "automake", "bison": "bison", "bzip2": "bzip2", "cargo": "cargo",
	"clang": "clang", "cmake": "cmake", "curl": "curl", "file": "file", "flex": "flex", "g++": "g++",
	"gawk": "gawk", "gcc": "gcc", "git": "git", "gperf": "gperf", "m4": "m4", "make": "make", "meson": "meson",
	"nasm": "nasm", "patch": "patch", "pkg-config": "pkg-config", "python3": "python3", "rsync": "rsync",
	"unzip": "unzip", "wget": "wget", "zip": "zip", "zstd": "zstd",
}

// crossTool is the name of a compiler or binary utility for another machine.
var crossTool = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^([a-z0-9_]+)-linux-(gnu|musl)-([a-z+]+)$`)
})

// debianPackage names the package of Debian that has a program; "" where that
// isn't known.
func debianPackage(program string) string {
	m := crossTool().FindStringSubmatch(program)
	switch {
	case m == nil:
		return debianPackages[program]
	case m[2] == "musl" && m[1] == hostArch() && m[3] == "gcc":
		return "musl-tools"
	case m[2] == "musl":
		return "" // there are no cross compilers for it
	}
	prefix := "binutils"
	switch m[3] {
	case "gcc", "cpp":
		prefix = "gcc"
	case "g++":
		prefix = "g++"
	}
	return prefix + "-" + strings.ReplaceAll(m[1], "_", "-") + "-linux-gnu"
}
