package build

import (
	"os/exec"
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
	cmd.Stdin = strings.NewReader(strings.Join(names, "\x00") + "\x00")
	out, _ := cmd.Output() // 1 when there are none, 128 outside of a checkout
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 })
}
