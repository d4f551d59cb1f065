package build

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"
)

// toolRecord is what a program said of itself when it had a signature.
type toolRecord struct {
	Path      string // links followed
	Signature signature
	Version   string
}

// toolLimit is how long a program may take to tell its version.
const toolLimit = 10 * time.Second

// toolVersion returns what a program prints when called with --version,
// remembered as long as its file is the same. fresh tells that it was asked.
func toolVersion(ctx context.Context, name string, cache map[string]toolRecord) (version string, fresh bool, err error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", false, missingProgram(name)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", false, err
	}
	sig, err := sign(path)
	if err != nil {
		return "", false, err
	}
	if known, ok := cache[name]; ok && known.Path == path && known.Signature == sig {
		return known.Version, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, toolLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return "", false, fmt.Errorf("%s --version doesn't end", name)
	}
	version = string(out)
	if err != nil { // it doesn't know the option: its content must do
		if version, err = hashFile(path, sig); err != nil {
			return "", false, err
		}
	}
	cache[name] = toolRecord{path, sig, version}
	return version, true, nil
}
