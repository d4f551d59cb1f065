package build

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// toolLimit is how long a program may take to tell its version.
const toolLimit = 10 * time.Second

// versions are what programs say of themselves, each asked once a run: the same
// file may be another compiler tomorrow (rustup, ccache, a script).
type versions struct {
	mu    sync.Mutex
	asked map[string]func() (string, error) // by the program's path
}

// toolVersions asks the tools of a recipe, which runs in folder.
func (b *builder) toolVersions(ctx context.Context, r *overlay.Recipe, folder string) (map[string]string, error) {
	told := make(map[string]string, len(r.Tools))
	for _, name := range r.Tools {
		file := findTool(name, folder, searchPath(environment(r, b.arch(), nil)))
		if file == "" {
			return nil, missingProgram(name)
		}
		version, err := b.versions.of(file, func() (string, error) { return b.toolVersion(ctx, file) })
		if err != nil {
			return nil, err
		}
		told[name] = version
	}
	return told, nil
}

// of asks for the version of a file unless that has been done.
func (v *versions) of(file string, ask func() (string, error)) (string, error) {
	v.mu.Lock()
	if v.asked == nil {
		v.asked = make(map[string]func() (string, error))
	}
	once, ok := v.asked[file]
	if !ok {
		once = sync.OnceValues(ask)
		v.asked[file] = once
	}
	v.mu.Unlock()
	return once()
}

// toolVersion returns what a program prints when called with --version.
func (b *builder) toolVersion(ctx context.Context, file string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, toolLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, file, "--version")
	cmd.Dir, cmd.Env = b.project.Root, environment(&overlay.Recipe{}, b.arch(), nil)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return "", fmt.Errorf("%s --version doesn't end", file)
	}
	if err == nil {
		return string(out), nil
	}
	// It doesn't know the option: its content must do.
	real, err := filepath.EvalSymlinks(file)
	if err != nil {
		return "", err
	}
	sig, err := sign(real)
	if err != nil {
		return "", err
	}
	return hashFile(real, sig)
}

// searchPath is the value of PATH in an environment.
func searchPath(env []string) string {
	for _, variable := range env {
		if path, ok := strings.CutPrefix(variable, "PATH="); ok {
			return path
		}
	}
	return ""
}

// findTool finds the program that a command in folder would run; "" when there is
// none.
func findTool(name, folder, path string) string {
	dirs := filepath.SplitList(path)
	if strings.Contains(name, "/") {
		dirs = []string{""}
	}
	for _, dir := range dirs {
		file := filepath.Join(dir, name)
		if !filepath.IsAbs(file) {
			file = filepath.Join(folder, file)
		}
		if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() && unix.Access(file, unix.X_OK) == nil {
			return file
		}
	}
	return ""
}
