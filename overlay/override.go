package overlay

import (
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
