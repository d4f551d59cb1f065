package overlay

import "slices"

// linkNames are the names by which somebody has looked up a layer's files with
// several, besides the one that each is known by: a layer may lose that, and
// keep another.
type linkNames struct {
	of map[*Node][]dirName
	in map[*Node]map[string]*Node // by directory and name
}

type dirName struct {
	dir  *Node
	name string
}

func (l *linkNames) add(n, dir *Node, name string) {
	old := l.in[dir][name]
	if old == n {
		return
	}
	if old != nil {
		l.remove(old, dirName{dir, name})
	}
	if l.in == nil {
		l.in, l.of = make(map[*Node]map[string]*Node), make(map[*Node][]dirName)
	}
	if l.in[dir] == nil {
		l.in[dir] = make(map[string]*Node)
	}
	l.in[dir][name] = n
	l.of[n] = append(l.of[n], dirName{dir, name})
}

func (l *linkNames) remove(n *Node, at dirName) {
	rest := slices.DeleteFunc(l.of[n], func(d dirName) bool { return d == at })
	if l.of[n] = rest; len(rest) == 0 {
		delete(l.of, n)
	}
	delete(l.in[at.dir], at.name)
	if len(l.in[at.dir]) == 0 {
		delete(l.in, at.dir)
	}
}

// forget removes what there is of n, a file or a directory.
func (l *linkNames) forget(n *Node) {
	for _, at := range slices.Clone(l.of[n]) {
		l.remove(n, at)
	}
	for name, file := range l.in[n] {
		l.remove(file, dirName{n, name})
	}
}
