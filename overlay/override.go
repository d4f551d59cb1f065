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
	missing, err := t.findOverridden()
	if err == nil && missing != nil {
		err = fmt.Errorf("%s: [[file]] %q: no layer has it: give it a type, or take the entry out",
			t.project.Manifest.File, "/"+missing.Path)
	}
	return err
}

// findOverridden looks for what the manifest changes in the layers below the edits.
// Of a file with several names a word on one is a word on all, whichever is looked
// up first. It returns the first entry that no layer has.
func (t *Tree) findOverridden() (missing *ManifestFile, err error) {
	t.onLinks = nil
	for i := range t.project.Manifest.Files {
		f := &t.project.Manifest.Files[i]
		if f.Type != "" {
			continue
		}
		part, a, err := t.lowerEntry(f.Path)
		switch {
		case err != nil:
			return nil, err
		case part == nil && missing == nil:
			missing = f
		case part == nil || a.st.Mode&unix.S_IFMT == unix.S_IFDIR || a.st.Nlink == 1:
			continue
		default:
			key := linkKey{part.layer, part.layer.hostIno(&a.st)}
			if t.onLinks == nil {
				t.onLinks = make(map[linkKey]*override)
			}
			if t.onLinks[key] == nil {
				t.onLinks[key] = new(override)
			}
			t.onLinks[key].files = append(t.onLinks[key].files, f)
		}
	}
	return missing, nil
}

// lowerEntry finds the directory of a layer below the edits that has the entry
// which is shown at path; nil when there is none.
func (t *Tree) lowerEntry(path string) (part *hostDir, a attrs, err error) {
	dir, name := splitPath(path)
	stack, err := resolve(t.lowerRoot(), dir)
	if err != nil {
		return nil, a, err
	}
	if dir != "." {
		defer closeWalked(stack)
	}
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

// overridesOf collects the manifest's; nil when there are none.
func overridesOf(m *Manifest) *overrides {
	var all *overrides
	for i := range m.Files {
		if m.Files[i].Type != "" {
			continue
		}
		if all == nil {
			all = new(overrides)
		}
		all.add(m.Files[i].Path, &m.Files[i])
	}
	return all
}
