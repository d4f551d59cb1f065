package overlay

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// override changes the metadata of an entry of the layers below the edits: all
// [[file]] of the manifest without a type for one path, in their order. Copy-up
// records what it shows.
type override struct{ files []*ManifestFile }

func (o *override) apply(e *Entry) {
	for _, f := range o.files {
		if f.perm != nil {
			e.Mode = e.Mode&unix.S_IFMT | *f.perm
		}
		if f.UID != nil {
			e.UID = *f.UID
		}
		if f.GID != nil {
			e.GID = *f.GID
		}
	}
}

// override makes o the manifest's word on the node n of the layers; nil for none.
func (t *Tree) override(n *Node, o *override) {
	if o == nil && !n.is(overridden) {
		return
	}
	t.rareMu.Lock()
	defer t.rareMu.Unlock()
	if o == nil {
		n.unset(overridden)
		delete(t.overridden, n)
		return
	}
	n.set(overridden)
	t.overridden[n] = o
}

// overrideOf returns the manifest's word on n, which has one.
func (t *Tree) overrideOf(n *Node) *override {
	t.rareMu.Lock()
	defer t.rareMu.Unlock()
	return t.overridden[n]
}

// checkOverrides finds the manifest's entries that change nothing.
func (t *Tree) checkOverrides() error {
	missing, err := t.findOverrides()
	if err == nil && missing != nil {
		err = fmt.Errorf("%s: [[file]] %q: no layer has it: give it a type, or take the entry out",
			t.project.Manifest.File, "/"+missing.Path)
	}
	return err
}

// findOverrides finds what the manifest changes in the layers below the edits, through
// links on the way to it. Of a file with several names a word on one is a word on
// all, whichever is looked up first. It returns the first entry that no layer has.
func (t *Tree) findOverrides() (missing *ManifestFile, err error) {
	var all *overrides
	onLinks := make(map[linkKey]*override)
	for i := range t.project.Manifest.Files {
		f := &t.project.Manifest.Files[i]
		if f.Type != "" {
			continue
		}
		dir, name := splitPath(f.Path)
		stack, dir, err := t.follow(withAttached(t.lowerRoot()), dir, t.followed)
		if err != nil {
			return nil, err
		}
		part, a, err := topmost(stack, name)
		switch {
		case err != nil:
			return nil, err
		case part == nil:
			if missing == nil {
				missing = f
			}
			dir, _ = splitPath(f.Path)
		case a.m.mode&unix.S_IFMT != unix.S_IFDIR && a.st.Nlink > 1:
			key := linkKey{part.layer, part.layer.hostIno(&a.st)}
			if onLinks[key] == nil {
				onLinks[key] = new(override)
			}
			onLinks[key].files = append(onLinks[key].files, f)
		}
		if all == nil {
			all = new(overrides)
		}
		all.add(join(dir, name), f)
	}
	t.overrides, t.onLinks = all, onLinks
	return missing, nil
}

// topmost finds the directory of a stack that has what is shown as name; nil when
// there is none.
func topmost(stack []*hostDir, name string) (part *hostDir, a attrs, err error) {
	f, err := step(stack, name)
	if err != nil || f.dir == nil {
		return nil, a, err
	}
	ok, err := f.dir.look(name, &a)
	if err != nil || !ok {
		return nil, a, err
	}
	return f.dir, a, nil
}

// wordOn is the manifest's word on n, which is name in d.
func (t *Tree) wordOn(d *directory, n *Node, name string) *override {
	if n.dir != nil {
		return n.dir.overrides.self()
	}
	if o := t.onLinks[n.linkKey()]; o != nil {
		return o
	}
	return d.overrides.child(name).self()
}

// overrides are those of a directory and what is below it.
type overrides struct {
	here *override
	sub  map[string]*overrides
}

// at returns the overrides below path, nil when there are none.
func (o *overrides) at(path string) *overrides {
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if o == nil {
			return nil
		}
		o = o.sub[name]
	}
	return o
}

// child is at for one name.
func (o *overrides) child(name string) *overrides {
	if o == nil {
		return nil
	}
	return o.sub[name]
}

// self is the override of the directory itself.
func (o *overrides) self() *override {
	if o == nil {
		return nil
	}
	return o.here
}

func (o *overrides) add(path string, f *ManifestFile) {
	for name := range strings.SplitSeq(path, "/") {
		next := o.sub[name]
		if next == nil {
			next = new(overrides)
			if o.sub == nil {
				o.sub = make(map[string]*overrides)
			}
			o.sub[name] = next
		}
		o = next
	}
	if o.here == nil {
		o.here = new(override)
	}
	o.here.files = append(o.here.files, f)
}
