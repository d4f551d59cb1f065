package fusefs

import (
	"math/rand/v2"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// ledger counts the references that the table gives back.
type ledger struct {
	mu   sync.Mutex
	back map[*overlay.Node]uint64
}

func (l *ledger) release(n *overlay.Node, refs uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.back[n] += refs
}

func newTable() (*nodes, *ledger) {
	l := &ledger{back: map[*overlay.Node]uint64{}}
	return newNodes(new(overlay.Node), l.release), l
}

func TestTheRootIsNodeOneAndStays(t *testing.T) {
	ns, l := newTable()
	ns.forget(rootID, 1000)
	if ns.get(rootID) != ns.root || len(l.back) != 0 {
		t.Error("the root was forgotten")
	}
}

func TestANodeKeepsItsIDUntilAllItsLookupsAreForgotten(t *testing.T) {
	ns, l := newTable()
	n := new(overlay.Node)
	id, gen := ns.add(n)
	if again, g := ns.add(n); again != id || g != gen {
		t.Errorf("the same node got %d/%d, then %d/%d", id, gen, again, g)
	}
	ns.forget(id, 1)
	if ns.get(id) != n {
		t.Fatal("forgotten with a lookup left")
	}
	ns.forget(id, 1)
	if ns.get(id) != nil || n.Tag.Load() != 0 || l.back[n] != 2 {
		t.Errorf("after the last: node %v, tag %d, %d references back", ns.get(id), n.Tag.Load(), l.back[n])
	}
	other := new(overlay.Node)
	if reused, g := ns.add(other); reused != id || g == gen {
		t.Errorf("reused %d/%d after %d/%d: want the slot with another generation", reused, g, id, gen)
	}
}

func TestUnknownNodesAreNil(t *testing.T) {
	ns, _ := newTable()
	for _, id := range []uint64{0, 2, chunkSize, chunkSize + 1, 1 << 40, ^uint64(0)} {
		if ns.get(id) != nil {
			t.Errorf("node %d exists", id)
		}
		ns.forget(id, 1)
	}
}

func TestMemoryOfForgottenNodesReturns(t *testing.T) {
	ns, _ := newTable()
	var ids []uint64
	for range 100 * chunkSize {
		id, _ := ns.add(new(overlay.Node))
		ids = append(ids, id)
	}
	for _, id := range ids {
		ns.forget(id, 1)
	}
	left := 0
	for _, holder := range *ns.chunks.Load() {
		if holder.Load() != nil {
			left++
		}
	}
	if left != 1 {
		t.Errorf("%d chunks are left, want the root's", left)
	}
	for range 100 * chunkSize {
		ns.add(new(overlay.Node))
	}
	if n := len(*ns.chunks.Load()); n != 101 {
		t.Errorf("the table grew to %d chunks, want 101 again", n)
	}
}

func TestUnmountGivesAllBack(t *testing.T) {
	ns, l := newTable()
	n := new(overlay.Node)
	ns.add(n)
	ns.add(n)
	ns.clear()
	if l.back[n] != 2 || n.Tag.Load() != 0 || ns.root.Tag.Load() != 0 {
		t.Errorf("%d references back, tags %d and %d", l.back[n], n.Tag.Load(), ns.root.Tag.Load())
	}
}

// Lookups and FORGETs of few nodes race; in the end the books must balance,
// and no id may ever have stood for two nodes at a time.
func TestLookupsRaceWithForgets(t *testing.T) {
	ns, l := newTable()
	shared := make([]overlay.Node, 5)
	added := make([]atomic.Uint64, len(shared))
	var wg sync.WaitGroup
	for seed := range uint64(4) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 1))
			for range 20000 {
				i := rnd.IntN(len(shared))
				times := 1 + rnd.Uint64N(3)
				var id uint64
				for range times {
					id, _ = ns.add(&shared[i])
				}
				added[i].Add(times)
				if ns.get(id) != &shared[i] {
					t.Errorf("id %d is another node", id)
					return
				}
				ns.forget(id, times)
			}
		})
	}
	wg.Wait()
	for i := range shared {
		if got, want := l.back[&shared[i]], added[i].Load(); got != want {
			t.Errorf("node %d: %d references back of %d", i, got, want)
		}
	}
}

// go-fuse's default implementation answers some requests with success without
// doing anything; an embedded one would hide a method that we forgot.
func TestEveryRequestIsAnsweredHere(t *testing.T) {
	typ := reflect.TypeFor[filesystem]()
	for i := range typ.NumField() {
		if typ.Field(i).Anonymous {
			t.Errorf("filesystem embeds %s", typ.Field(i).Name)
		}
	}
}
