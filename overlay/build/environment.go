package build

import (
	"maps"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// inherited are the variables of the caller that a build sees without being
// told to: where programs are and keep what is theirs, and how to reach the
// network. None should change what is built.
var inherited = []string{
	"PATH", "HOME", "USER", "LOGNAME", "SSH_AUTH_SOCK",
	"XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR",
	"CARGO_HOME", "RUSTUP_HOME", "GOPATH", "GOCACHE", "GOMODCACHE", "GOPROXY", "CCACHE_DIR",
	"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
}

// fixed make builds on different machines alike. The date is the first that
// a zip archive can hold (https://reproducible-builds.org/specs/source-date-epoch/).
var fixed = map[string]string{"LC_ALL": "C", "TZ": "UTC", "SOURCE_DATE_EPOCH": "315532800"}

// places are variables whose values name folders, which say nothing about what
// is built.
var places = []string{"DESTDIR", "DADK_CURRENT_BUILD_DIR", "TMPDIR"}

// reference is ${NAME} in a value of a recipe's env.
var reference = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)
})

// crossCompile returns the prefix of the compiler's names: what the caller
// says, or else that of Debian's cross compilers.
func crossCompile(arch string) string {
	if prefix, ok := os.LookupEnv("CROSS_COMPILE"); ok {
		return prefix
	}
	if hostArch() == arch {
		return ""
	}
	return arch + "-linux-gnu-"
}

// hostArch is this machine's architecture.
func hostArch() string {
	return map[string]string{"amd64": "x86_64", "arm64": "aarch64", "riscv64": "riscv64", "loong64": "loongarch64"}[runtime.GOARCH]
}

// hashedEnv lists the variables that may change what is built: the recipe's,
// with what they refer to, and those of the architecture. Where a person's
// folders are says nothing of it.
func hashedEnv(r *overlay.Recipe, arch string) []string {
	given := map[string]string{"ARCH": arch, "CROSS_COMPILE": crossCompile(arch)}
	vars := maps.Clone(given)
	for name, value := range r.Env {
		vars[name] = value
		for _, m := range reference().FindAllStringSubmatch(value, -1) {
			_, ours := given[m[1]]
			_, same := fixed[m[1]]
			if !ours && !same && !slices.Contains(places, m[1]) && !slices.Contains(inherited, m[1]) {
				// Also where the recipe has one of that name: it doesn't refer to it.
				vars["caller's "+m[1]] = os.Getenv(m[1])
			}
		}
	}
	return pairs(vars)
}

// environment is that of a recipe's command. own are the variables that
// belong to this build.
func environment(r *overlay.Recipe, arch string, own map[string]string) []string {
	vars := maps.Clone(fixed)
	for _, name := range inherited {
		if value, ok := os.LookupEnv(name); ok {
			vars[name] = value
		}
	}
	vars["ARCH"], vars["CROSS_COMPILE"] = arch, crossCompile(arch)
	maps.Copy(vars, own)
	lookup := maps.Clone(vars)
	for name, value := range r.Env {
		vars[name] = reference().ReplaceAllStringFunc(value, func(ref string) string {
			name := strings.Trim(ref, "${}")
			if value, ok := lookup[name]; ok {
				return value
			}
			return os.Getenv(name)
		})
	}
	return pairs(vars)
}

func pairs(vars map[string]string) []string {
	list := make([]string, 0, len(vars))
	for name, value := range vars {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list
}
