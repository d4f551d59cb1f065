package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// A package whose folder the project doesn't have is fetched into the state
// folder, once: its sources stay what they are until its definition changes
// or a forced build. A file beside the folder says what was fetched.

// fetchedMark ends the name of that file.
const fetchedMark = ".fetched"

// fetch makes the package's folder be there, where it has to be fetched.
func (w *work) fetch(ctx context.Context) error {
	source := w.Recipe.Source
	if source == nil {
		return nil
	}
	want := fmt.Sprintf("%q\n", *source)
	mark := w.Path + fetchedMark
	have, err := os.ReadFile(mark)
	if _, statErr := os.Stat(w.Path); err == nil && statErr == nil && string(have) == want && !w.options.Force {
		return nil
	}
	w.options.Logger.Info("fetching "+w.Name, "from", source.Archive+source.Git)
	temp := w.Path + ".new"
	if err := overlay.RemoveTree(temp); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(temp), 0o755); err != nil {
		return err
	}
	if source.Git != "" {
		err = clone(ctx, source, temp)
	} else {
		err = w.unpack(ctx, source, temp)
	}
	if err != nil {
		return errors.Join(err, overlay.RemoveTree(temp))
	}
	// Not before there is something else: what was fetched is good offline.
	if err := os.Remove(mark); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := overlay.RemoveTree(w.Path); err != nil {
		return err
	}
	if err := os.Rename(temp, w.Path); err != nil {
		return err
	}
	return os.WriteFile(mark, []byte(want), 0o644)
}

// clone gets a repository with its submodules.
func clone(ctx context.Context, s *overlay.Source, dir string) error {
	from := []string{"clone", "--quiet", "--recursive"}
	if s.Branch != "" {
		from = append(from, "--depth", "1", "--branch", s.Branch)
	}
	if err := runTool(ctx, "git", append(from, "--", s.Git, dir)...); err != nil {
		return fmt.Errorf("%s: can't be fetched: %w; it needs the network", s.Git, err)
	}
	if s.Revision == "" {
		return nil
	}
	for _, args := range [][]string{
		{"-C", dir, "checkout", "--quiet", s.Revision},
		{"-C", dir, "submodule", "--quiet", "update", "--init", "--recursive"},
	} {
		if err := runTool(ctx, "git", args...); err != nil {
			return fmt.Errorf("%s: revision %s: %w", s.Git, s.Revision, err)
		}
	}
	return nil
}

// unpack makes dir of an archive, or of a folder in it.
func (w *work) unpack(ctx context.Context, s *overlay.Source, dir string) error {
	file, release, err := fetchFile(ctx, w.project, s.Archive)
	if err != nil {
		return err
	}
	defer release()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if strings.HasSuffix(strings.ToLower(s.Archive), ".zip") {
		err = runTool(ctx, "unzip", "-q", file, "-d", dir)
	} else {
		err = runTool(ctx, "tar", "--extract", "--no-same-owner", "--file", file, "--directory", dir)
	}
	if err != nil {
		err = fmt.Errorf("%s: can't be unpacked: %w", s.Archive, err)
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			// Such as the page of a network that wants a login: not to be kept.
			err = errors.Join(err, os.Remove(addressFile(w.project, s.Archive)))
		}
		return err
	}
	if s.RootDir == "" || filepath.Clean(s.RootDir) == "." {
		return nil
	}
	// An archive's link could lead anywhere; a Root doesn't follow it out.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // only a way to the folder
	if st, err := root.Lstat(filepath.Clean(s.RootDir)); err != nil || !st.IsDir() {
		return fmt.Errorf("%s: has no folder %q", s.Archive, s.RootDir)
	}
	picked := dir + ".root"
	if err := overlay.RemoveTree(picked); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, s.RootDir), picked); err != nil {
		return err
	}
	if err := overlay.RemoveTree(dir); err != nil {
		return err
	}
	return os.Rename(picked, dir)
}

// toolTrouble is how much of what a failing program says is kept.
const toolTrouble = 400

// runTool runs a program that asks nobody anything; its last line tells why it
// failed.
func runTool(ctx context.Context, name string, args ...string) error {
	if _, err := exec.LookPath(name); err != nil {
		return missingProgram(name)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(gitEnv(), "LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_HTTP_LOW_SPEED_LIMIT=1", "GIT_HTTP_LOW_SPEED_TIME=30")
	cmd.WaitDelay = grace
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	last := lines[len(lines)-1]
	return fmt.Errorf("%s: %s (%w)", name, last[:min(len(last), toolTrouble)], err)
}

// client gives up on what doesn't answer, not on what takes long.
var client = &http.Client{Transport: &http.Transport{
	Proxy:                 http.ProxyFromEnvironment,
	DialContext:           (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
	TLSHandshakeTimeout:   15 * time.Second,
	ResponseHeaderTimeout: 30 * time.Second,
}}

// stallLimit is for how long nothing may come of what is being fetched.
var stallLimit = 30 * time.Second

var errStalled = errors.New("the server sends no more")

// impatient is a reader of an answer that ends when nothing comes any more.
type impatient struct {
	io.Reader
	alarm *time.Timer
}

func (i impatient) Read(p []byte) (int, error) {
	i.alarm.Reset(stallLimit)
	return i.Reader.Read(p)
}

// fetchFile returns a file that an address stands for, out of the cache where
// it is there; it stays until release is called. The cache holds contents by
// their SHA-256, and for each address the SHA-256 of what it gave.
func fetchFile(ctx context.Context, p *overlay.Project, address string) (file string, release func(), err error) {
	cache, index := p.FetchDir(), addressFile(p, address)
	if release, err = p.HoldCache(ctx); err != nil {
		return "", nil, err
	}
	if sum, err := os.ReadFile(index); err == nil && filepath.IsLocal(string(sum)) {
		file := filepath.Join(cache, string(sum))
		if got, err := sumFile(file); err == nil && got == string(sum) {
			return file, release, nil
		}
	}
	release() // it may take long
	if err := os.MkdirAll(filepath.Dir(index), 0o755); err != nil {
		return "", nil, err
	}
	temp, err := os.CreateTemp(cache, ".fetch-")
	if err != nil {
		return "", nil, err
	}
	defer temp.Close() //nolint:errcheck // it was synced
	// So that nobody takes it for a leftover.
	_ = unix.Flock(int(temp.Fd()), unix.LOCK_SH)
	sum, err := download(ctx, address, temp)
	if err == nil {
		release, err = p.HoldCache(ctx)
	}
	if err != nil {
		return "", nil, errors.Join(err, os.Remove(temp.Name()))
	}
	file = filepath.Join(cache, sum)
	if err := errors.Join(os.Rename(temp.Name(), file), writeWhole(index, sum)); err != nil {
		release()
		return "", nil, err
	}
	return file, release, nil
}

// addressFile has the SHA-256 of what an address gave.
func addressFile(p *overlay.Project, address string) string {
	return filepath.Join(p.FetchDir(), "addresses", overlay.FetchName(address))
}

// download writes what an address gives and returns its SHA-256.
func download(ctx context.Context, address string, to *os.File) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	answer, err := client.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", fmt.Errorf("%s: can't be fetched: %w; it needs the network", address, reason(err))
	}
	defer answer.Body.Close() //nolint:errcheck // only read
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: can't be fetched: the server says %s", address, answer.Status)
	}
	alarm := time.AfterFunc(stallLimit, func() { cancel(errStalled) })
	defer alarm.Stop()
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(to, hash), impatient{answer.Body, alarm})
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		err = errStalled
	}
	if err != nil {
		return "", fmt.Errorf("%s: can't be fetched: it broke off after %d bytes: %w", address, n, err)
	}
	if err := errors.Join(to.Chmod(0o644), to.Sync()); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// reason takes off what names the address again.
func reason(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}

func sumFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// writeWhole makes a small file appear at once.
func writeWhole(name, text string) error {
	temp, err := os.CreateTemp(filepath.Dir(name), ".new-")
	if err != nil {
		return err
	}
	_, err = temp.WriteString(text)
	err = errors.Join(err, temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return nil
}

// archives lists the addresses of archives that packages are fetched from.
func archives(pkgs []overlay.Package) (addresses []string) {
	for _, pk := range pkgs {
		if pk.Recipe != nil && pk.Recipe.Source != nil && pk.Recipe.Source.Archive != "" {
			addresses = append(addresses, pk.Recipe.Source.Archive)
		}
	}
	return addresses
}
