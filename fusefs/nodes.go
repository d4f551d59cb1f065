package fusefs

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// nodes is the table of the nodes that the kernel knows, by the id that it
// calls them. An id is a slot's place; a slot that the kernel has forgotten is
// used again with another generation.
//
// Each entry that the kernel is told about carries one reference of the tree's
// into the table, and FORGET gives them back, so the tree holds a node at least
// as long as the table does.
type nodes struct {
	root    *overlay.Node
	release func(n *overlay.Node, refs uint64) // Tree.Release

	// chunks is read without the lock, since every request looks its node up
	// here. An empty chunk is nil: the memory of a million forgotten nodes
	// returns.
	chunks atomic.Pointer[[]*atomic.Pointer[chunk]]

	memory    *tidier
	forgotten atomic.Int64

	mu         sync.Mutex // guards all below, and every slot but for slot.node
	open       []uint32   // places of the chunks that have a free slot, or are nil
	generation uint32
}

const chunkSize = 64

type chunk struct {
	used  uint64 // a bit a slot
	slots [chunkSize]slot
}

type slot struct {
	node       atomic.Pointer[overlay.Node] // nil in a free slot
	refs       uint32                       // what the kernel has been told and has not forgotten
	generation uint32
}

// maxRefs bounds the references that are kept for one node. The kernel forgets
// all that it was told at once, so those beyond are given back right away.
const maxRefs = 1 << 30

// rootID is what the kernel calls the root (FUSE_ROOT_ID). It is never
// forgotten.
const rootID = 1

func newNodes(root *overlay.Node, release func(*overlay.Node, uint64)) *nodes {
	ns := &nodes{root: root, release: release, memory: newTidier()}
	ns.chunks.Store(new([]*atomic.Pointer[chunk]))
	root.Tag.Store(uint32(ns.place(root)))
	return ns
}

// get returns the node of an id, or nil.
func (ns *nodes) get(id uint64) *overlay.Node {
	if s := ns.slot(id); s != nil {
		return s.node.Load()
	}
	return nil
}

func (ns *nodes) slot(id uint64) *slot {
	place := id - 1
	chunks := *ns.chunks.Load()
	if place/chunkSize >= uint64(len(chunks)) {
		return nil
	}
	c := chunks[place/chunkSize].Load()
	if c == nil {
		return nil
	}
	return &c.slots[place%chunkSize]
}

// add takes over one reference to n for an entry that the kernel is about to
// be told.
func (ns *nodes) add(n *overlay.Node) (id, generation uint64) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	id = uint64(n.Tag.Load())
	if id == 0 {
		id = ns.place(n)
		n.Tag.Store(uint32(id))
	}
	s := ns.slot(id)
	if s.refs == maxRefs {
		ns.release(n, 1) // not the last: nobody waits for a lock in it
	} else {
		s.refs++
	}
	return id, uint64(s.generation)
}

// place puts n into a free slot.
func (ns *nodes) place(n *overlay.Node) (id uint64) {
	if len(ns.open) == 0 {
		old := *ns.chunks.Load()
		// Readers of the old slice end at its length, so its spare capacity
		// may be written.
		grown := append(old, new(atomic.Pointer[chunk]))
		ns.open = append(ns.open, uint32(len(old)))
		ns.chunks.Store(&grown)
	}
	at := ns.open[len(ns.open)-1]
	holder := (*ns.chunks.Load())[at]
	c := holder.Load()
	if c == nil {
		c = new(chunk)
		holder.Store(c)
	}
	i := bits.TrailingZeros64(^c.used)
	ns.generation++
	c.slots[i].generation = ns.generation
	c.slots[i].node.Store(n)
	if c.used |= 1 << i; ^c.used == 0 {
		ns.open = ns.open[:len(ns.open)-1]
	}
	return uint64(at)*chunkSize + uint64(i) + 1
}

// forget gives back refs references to the node of an id.
func (ns *nodes) forget(id, refs uint64) {
	if id == rootID {
		return
	}
	if n, refs := ns.drop(id, refs); n != nil {
		ns.release(n, refs)
		if ns.forgotten.Add(1)%manyNodes == 0 { // forgetting alone needs no collection
			ns.memory.soon()
		}
	}
}

const manyNodes = 1 << 14 // some 4 MiB

// drop takes refs references out of the table. The caller releases them
// outside the lock. A lookup may find the node again before that: it then
// holds a reference of its own and gets a new id.
func (ns *nodes) drop(id, refs uint64) (*overlay.Node, uint64) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	s := ns.slot(id)
	if s == nil || s.node.Load() == nil {
		return nil, 0
	}
	n := s.node.Load()
	refs = min(refs, uint64(s.refs))
	if s.refs -= uint32(refs); s.refs == 0 {
		n.Tag.Store(0)
		s.node.Store(nil)
		ns.vacate(id - 1)
	}
	return n, refs
}

// vacate notes that the slot at a place became free.
func (ns *nodes) vacate(place uint64) {
	at := place / chunkSize
	holder := (*ns.chunks.Load())[at]
	c := holder.Load()
	if ^c.used == 0 {
		ns.open = append(ns.open, uint32(at))
	}
	if c.used &^= 1 << (place % chunkSize); c.used == 0 {
		holder.Store(nil)
	}
}

// clear gives back all references and forgets all ids.
func (ns *nodes) clear() {
	for at, holder := range *ns.chunks.Load() {
		if holder.Load() == nil {
			continue
		}
		for i := range uint64(chunkSize) {
			ns.forget(uint64(at)*chunkSize+i+1, ^uint64(0))
		}
	}
	ns.root.Tag.Store(0)
}
