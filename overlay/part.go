package overlay

// Part is one of the parts that a project's stack consists of, bottom to top.
type Part int

// The parts of a stack.
const (
	PartBase          Part = iota + 1
	PartPackages           // user/apps
	PartConfiguration      // user/sysconfig, more layers, and the manifest's own entries
	PartEdits              // with the checkpoints
)

// String names the part for people.
func (p Part) String() string {
	return [...]string{"", "base", "packages", "configuration", "edits"}[p]
}

// Part tells which part of the stack the layer belongs to.
func (l *Layer) Part() Part {
	switch {
	case l.edit:
		return PartEdits
	case l.pkg:
		return PartPackages
	case l.base:
		return PartBase
	}
	return PartConfiguration
}

// has tells whether a tree opened so has the part.
func (o *Options) has(p Part) bool { return o.UpTo == 0 || o.UpTo >= p }
