package overlay

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

// A merged directory is a stack of host directories, the topmost first. The
// rules of merging are here and in listing.go, which applies them to all names
// of a directory at once:
//
//   - the topmost entry wins; directories merge with the directories below
//     them, down to the first other thing;
//   - a whiteout or an opaque directory hides everything below;
//   - a redirect says where the part below came from;
//   - a package's directory over a symlink is part of the link's target
//     (links.go).

// found is what a name stands for in a stack.
type found struct {
	dir  *hostDir   // holds the topmost entry; nil when there is none
	dirs []*hostDir // the entry's own stack, for a directory

	// redirect is where in the layers below the lower part of a directory
	// comes from; "" when it is the same path.
	redirect string
}

// step finds name in a stack.
func step(stack []*hostDir, name string) (found, error) { return stepKnowing(stack, name, nil, nil) }

// stepKnowing is step, which need not ask for name in part again: st is what the
// host has just said of it.
func stepKnowing(stack []*hostDir, name string, part *hostDir, st *unix.Stat_t) (found, error) {
	var f found
	var asked unix.Stat_t
	for _, d := range stack {
		st := st
		if d != part {
			st = &asked
			ok, err := d.stat(name, st)
			if err != nil {
				return found{}, fmt.Errorf("%s/%s/%s: %w", d.layer.Dir, d.path(), name, err)
			}
			if !ok {
				continue
			}
		}
		if d.layer.isWhiteout(st) {
			break
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if f.dir == nil {
				f.dir = d
			}
			break
		}
		if d.hides(name) {
			continue
		}
		if f.dir == nil {
			f.dir = d
		}
		done, err := f.push(d, name, st)
		if err != nil {
			return found{}, err
		}
		if done {
			break
		}
	}
	f.dirs = withAttached(f.dirs)
	return f, nil
}

// push adds the directory name of parent to the stack; done when nothing
// further below merges into it.
func (f *found) push(parent *hostDir, name string, st *unix.Stat_t) (done bool, err error) {
	d := &hostDir{layer: parent.layer, parent: parent, name: name}
	f.dirs = append(f.dirs, d)
	if d.layer.asIs {
		return d.foreignMarks()
	}
	if !d.layer.recorded || st.Mode&metaFlag == 0 {
		return false, nil
	}
	opaque, err := d.mark(xattrOpaque)
	if err != nil || opaque != "" {
		return true, err
	}
	redirect, err := d.mark(xattrRedirect)
	if err != nil || redirect == "" {
		return false, err
	}
	below, redirect, err := resolve(d.layer.tree.stackBelow(d.layer.rank), redirect)
	f.dirs = append(f.dirs, below...)
	if f.redirect == "" {
		f.redirect = redirect
	}
	return true, err
}

// resolve follows path, separated by slashes, through directories of a stack, to
// the path without the redirects on the way, as the layers below the edits have it.
// It returns nothing when one of them is missing.
func resolve(stack []*hostDir, path string) ([]*hostDir, string, error) {
	at := ""
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if name == "" || name == "." {
			continue
		}
		f, err := step(stack, name)
		if err != nil {
			return nil, "", err
		}
		if at != "" {
			closeWalked(stack)
		}
		stack = f.dirs
		if at += "/" + name; f.redirect != "" {
			at = f.redirect
		}
	}
	return stack, at, nil
}

// closeWalked closes directories that no node has, or would have to open again.
func closeWalked(dirs []*hostDir) {
	for _, d := range dirs {
		d.layer.tree.dirs.drop(&d.h)
	}
}

// stackBelow is the root directory's stack of the layers below rank.
func (t *Tree) stackBelow(rank int) []*hostDir {
	stack := make([]*hostDir, 0, rank)
	for i := rank - 1; i >= 0; i-- {
		stack = append(stack, t.layers[i].root)
	}
	return stack
}

// mark reads one of the directory's own overlay attributes, "" when it has
// none.
func (d *hostDir) mark(name string) (string, error) {
	fd, err := d.open()
	if err != nil {
		return "", err
	}
	defer d.close()
	v, err := xattr.LGet(procPath(fd, "."), name)
	if errors.Is(err, xattr.ENOATTR) {
		return "", nil
	}
	return string(v), err
}

// hides tells whether the directory name of d is shown elsewhere.
func (d *hostDir) hides(name string) bool {
	if d.layer.hidden == nil {
		return false
	}
	return d.layer.hidden[join(d.path(), name)]
}

// withAttached adds the directories that merge into those of the stack from
// elsewhere, each at its layer's rank, behind the layer's own.
func withAttached(stack []*hostDir) []*hostDir {
	own := len(stack)
	for i := 0; i < len(stack); i++ { // what is added may have more added to it
		if d := stack[i]; d.layer.attach != nil {
			stack = append(stack, d.layer.attach[d.path()]...)
		}
	}
	if len(stack) == own {
		return stack
	}
	slices.SortStableFunc(stack, func(a, b *hostDir) int { return b.layer.rank - a.layer.rank })
	return stack
}

// join joins a directory's path and a name, without a leading "./".
func join(dir, name string) string {
	if dir == "." || dir == "" {
		return name
	}
	return dir + "/" + name
}

// splitPath cuts a path into its directory, "." for the root, and its name.
func splitPath(path string) (dir, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return ".", path
}

// splitAll returns the names of a path.
func splitAll(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}
