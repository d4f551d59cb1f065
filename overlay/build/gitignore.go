package build

import (
	"os"
	"os/exec"
	"slices"
	"strings"
)

// gitIgnored returns those of names, relative to folder, that git is told to
// ignore and doesn't follow: no sources. Without git, or outside of a checkout,
// nothing is known.
func gitIgnored(folder string, names []string) []string {
	if len(names) == 0 {
		return nil
	}
	cmd := exec.Command("git", "-C", folder, "check-ignore", "-z", "--stdin")
	cmd.Env = gitEnv()
	cmd.Stdin = strings.NewReader(strings.Join(names, "\x00") + "\x00")
	out, _ := cmd.Output() // 1 when there are none, 128 outside of a checkout
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 })
}

// gitPlaces are the variables by which git tells its hooks which repository is
// theirs (git rev-parse --local-env-vars).
var gitPlaces = []string{
	"GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_NAMESPACE",
	"GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE",
}

// gitEnv is the caller's environment for a git that is to work on the repository
// of its folder: in a hook it would take the hook's.
func gitEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains(gitPlaces, name)
	})
}
