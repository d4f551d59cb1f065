package overlay

import (
	"sync"

	"golang.org/x/sys/unix"
)

// fdCache keeps host descriptors open while they are useful: the least
// recently used are closed when there are more than max. A descriptor in use
// is never closed.
type fdCache struct {
	mu   sync.Mutex
	max  int
	open int
	lru  handle // ring: lru.next is the most recently used
}

// handle is a place for one descriptor in a cache. The zero value is closed.
type handle struct {
	fd         int32 // plus one, so that 0 means closed
	users      int32
	pinned     bool // not closed for want of space
	retired    bool // closed at the last put
	bare       bool // the file surely has no extended attribute that is shown
	prev, next *handle
}

func newFDCache(limit int) *fdCache {
	c := &fdCache{max: limit}
	c.lru.prev, c.lru.next = &c.lru, &c.lru
	return c
}

// get returns h's descriptor and keeps it open until put; false when it is
// closed, and then the caller opens it and calls install.
func (c *fdCache) get(h *handle) (int, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.fd == 0 {
		return -1, false
	}
	h.users++
	if c.lru.next != h {
		h.unlink()
		c.push(h)
	}
	return int(h.fd - 1), true
}

// install gives h the descriptor fd and returns the one to use, as get does:
// when somebody else was first, theirs, and fd is closed.
func (c *fdCache) install(h *handle, fd int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	h.users++
	if h.fd != 0 {
		_ = unix.Close(fd)
		return int(h.fd - 1)
	}
	h.fd = int32(fd) + 1
	c.push(h)
	c.open++
	c.evict()
	return fd
}

func (c *fdCache) put(h *handle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h.users--
	if h.users == 0 && h.retired {
		c.close(h)
	}
}

func (c *fdCache) isBare(h *handle) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return h.bare
}

func (c *fdCache) unbare(h *handle) {
	c.mu.Lock()
	h.bare = false
	c.mu.Unlock()
}

// pin keeps h's open descriptor whatever the pressure, until unpin or retire.
func (c *fdCache) pin(h *handle) {
	c.mu.Lock()
	h.pinned = true
	c.mu.Unlock()
}

func (c *fdCache) unpin(h *handle) {
	c.mu.Lock()
	h.pinned = false
	c.mu.Unlock()
}

// retire closes h now, or when its last user puts it back.
func (c *fdCache) retire(h *handle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h.retired = true
	if h.users == 0 {
		c.close(h)
	}
}

// drop closes h unless it is in use. It may be opened again.
func (c *fdCache) drop(h *handle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.users == 0 {
		c.close(h)
	}
}

// closeAll closes every descriptor; nothing may be in use.
func (c *fdCache) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.lru.next != &c.lru {
		c.close(c.lru.next)
	}
}

func (c *fdCache) evict() {
	for h := c.lru.prev; c.open > c.max && h != &c.lru; {
		prev := h.prev
		if h.users == 0 && !h.pinned {
			c.close(h)
		}
		h = prev
	}
}

func (c *fdCache) close(h *handle) {
	if h.fd == 0 {
		return
	}
	_ = unix.Close(int(h.fd - 1))
	h.fd = 0
	h.unlink()
	c.open--
}

func (c *fdCache) push(h *handle) {
	h.prev, h.next = &c.lru, c.lru.next
	h.prev.next, h.next.prev = h, h
}

func (h *handle) unlink() {
	h.prev.next, h.next.prev = h.next, h.prev
	h.prev, h.next = nil, nil
}
