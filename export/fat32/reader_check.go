package fat32

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
)

// checker looks for what fsck.fat would complain about.
type checker struct {
	r      *Reader
	ctx    context.Context
	report func(problem string) error
	used   []byte // a bit for each cluster that something was found in
	free   uint32
}

// Check reports everything in the filesystem that contradicts itself: the boot
// sector and its copy, FSInfo, the FATs, chains that are too short, too long or
// shared, directories and long names, and clusters that belong to nothing.
// Each problem is one line. It returns an error of reading, of ctx or report.
func (r *Reader) Check(ctx context.Context, report func(problem string) error) error {
	c := &checker{r: r, ctx: ctx, report: report, used: make([]byte, (r.clusters+rootCluster+7)/8)}
	for _, pass := range []func() error{c.checkCopies, c.checkTree, c.checkFAT, c.checkInfo} {
		if err := pass(); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) problem(format string, args ...any) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	return c.report(fmt.Sprintf(format, args...))
}

// checkCopies compares the boot sector with its copy.
func (c *checker) checkCopies() error {
	r := c.r
	if r.boot[65]&1 != 0 {
		if err := c.problem("boot sector: the filesystem was not unmounted cleanly"); err != nil {
			return err
		}
	}
	at := int64(le.Uint16(r.boot[50:]))
	if at == 0 || at == 0xffff {
		return nil // there is none
	}
	b := make([]byte, sectorSize)
	if err := readFull(r.src, b, at*r.sector); err != nil {
		return c.problem("copy of the boot sector: %v", err)
	}
	b[65] = r.boot[65]
	if !bytes.Equal(b, r.boot) {
		return c.problem("the boot sector and its copy in sector %d differ", at)
	}
	return nil
}

// dirToCheck is a directory whose clusters are its own.
type dirToCheck struct {
	path   string // "" is the root
	record record
	parent uint32 // what ".." says
}

// checkTree reads all directories.
func (c *checker) checkTree() error {
	root, err := c.r.record(rootNumber)
	if err != nil {
		return err
	}
	if _, err := c.checkChain("/", root); err != nil {
		return err
	}
	for todo := []dirToCheck{{record: root}}; len(todo) > 0; {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		subdirs, err := c.checkDir(d)
		if err != nil {
			return err
		}
		todo = append(todo, subdirs...)
	}
	return nil
}

// checkDir reads a directory and returns those in it. Errors are of report.
func (c *checker) checkDir(d dirToCheck) (subdirs []dirToCheck, err error) {
	up := d.record.start()
	if d.path == "" {
		up = 0
	}
	names := make(map[string]bool)
	count := 0
	var failed error
	err = c.r.readDir(d.record, func(f found) error {
		if count++; d.path != "" && count <= 2 {
			failed = c.checkDots(d, f, count)
			return failed
		}
		var own bool
		if own, failed = c.checkFile(d.path+"/"+f.name, f, names); own && f.record.isDir() {
			subdirs = append(subdirs, dirToCheck{d.path + "/" + f.name, bytes.Clone(f.record), up})
		}
		return failed
	})
	if failed != nil || err == nil {
		return subdirs, failed
	}
	return subdirs, c.problem("%q: %v", d.path+"/", err)
}

// checkDots checks the first two records of a directory.
func (c *checker) checkDots(d dirToCheck, f found, count int) error {
	name, cluster := ".", d.record.start()
	if count == 2 {
		name, cluster = "..", d.parent
	}
	if f.name == name && f.record.isDir() && f.record.start() == cluster {
		return nil
	}
	return c.problem("%q: record %d is %q with cluster %d, not %q with %d", d.path+"/", count, f.name, f.record.start(), name, cluster)
}

// checkFile checks a file, names being those before it in its directory. It
// tells whether all its clusters are its own.
func (c *checker) checkFile(path string, f found, names map[string]bool) (own bool, err error) {
	short, long := "short "+string(f.record[:11]), strings.ToUpper(f.name)
	var errs []error
	if f.orphan {
		errs = append(errs, c.problem("%q: the long name before it belongs to another file", path))
	}
	if names[short] || names[long] {
		errs = append(errs, c.problem("%q: the name is there twice", path))
	}
	names[short], names[long] = true, true
	if !validShort(f.record[:11]) {
		errs = append(errs, c.problem("%q: %q can't be a short name", path, f.record[:11]))
	}
	if f.record.isDir() && f.record.size() != 0 {
		errs = append(errs, c.problem("%q: a directory with a size of %d", path, f.record.size()))
	}
	if err := errors.Join(errs...); err != nil {
		return false, err
	}
	return c.checkChain(path, f.record)
}

// validShort tells whether a short name has only bytes that it may have.
func validShort(name []byte) bool {
	for i, b := range name {
		switch {
		case b >= 0x80, b == ' ' && i > 0, b == escapedName && i == 0:
		case b >= 'a' && b <= 'z', !isShort(b):
			return false
		}
	}
	return true
}

// checkChain takes down the clusters of a file. It tells whether they are its
// own, all of them.
func (c *checker) checkChain(path string, rec record) (own bool, err error) {
	clusters := (rec.size() + c.r.clusterSize - 1) / c.r.clusterSize
	most := int64(c.r.clusters) // to see what is beyond the end, too
	if rec.isDir() {
		clusters = 1
	}
	if rec.start() == 0 {
		if clusters > 0 {
			return false, c.problem("%q: it has %d bytes and no clusters", path, rec.size())
		}
		return true, nil
	}
	var count int64
	errTwice := errors.New("in use twice")
	err = c.r.chain(rec.start(), most, func(cluster uint32) error {
		if c.used[cluster/8]&(1<<(cluster%8)) != 0 {
			return fmt.Errorf("cluster %d is %w", cluster, errTwice)
		}
		c.used[cluster/8] |= 1 << (cluster % 8)
		count++
		return nil
	})
	switch {
	case err != nil:
		return false, c.problem("%q: %v", path, err)
	case count < clusters:
		return false, c.problem("%q: it has %d bytes, but its clusters end at %d", path, rec.size(), count*c.r.clusterSize)
	case !rec.isDir() && count > clusters:
		return true, c.problem("%q: it has %d bytes and %d clusters too many", path, rec.size(), count-clusters)
	}
	return true, nil
}

// checkFAT looks for clusters that belong to nothing, counts those that are
// free, and compares the FATs.
func (c *checker) checkFAT() error {
	r := c.r
	var lost, first uint32
	for cluster := uint32(rootCluster); cluster-rootCluster < r.clusters; cluster++ {
		next, err := r.next(cluster)
		if err != nil {
			return c.problem("FAT: %v", err)
		}
		if next == 0 {
			c.free++
		} else if next != badCluster && c.used[cluster/8]&(1<<(cluster%8)) == 0 {
			if lost++; lost == 1 {
				first = cluster
			}
		}
	}
	if lost > 0 {
		if err := c.problem("FAT: %d clusters belong to no file, the first is %d", lost, first); err != nil {
			return err
		}
	}
	start := make([]byte, 8)
	if err := readFull(r.src, start, r.fat); err != nil {
		return c.problem("FAT: %v", err)
	}
	if start[0] != r.boot[21] {
		if err := c.problem("FAT: it begins with the medium %#x, not %#x", start[0], r.boot[21]); err != nil {
			return err
		}
	}
	if le.Uint32(start[4:])&0x0c000000 != 0x0c000000 {
		if err := c.problem("FAT: it says that the filesystem was not unmounted cleanly, or has errors"); err != nil {
			return err
		}
	}
	return c.compareFATs()
}

// compareFATs compares all FATs with the first, unless only one is in use.
func (c *checker) compareFATs() error {
	r := c.r
	if le.Uint16(r.boot[40:])&0x80 != 0 {
		return nil
	}
	a, b := make([]byte, windowSize), make([]byte, windowSize)
	for fat := int64(1); fat < int64(r.boot[16]); fat++ {
		for at := int64(0); at < r.fatSize; at += windowSize {
			n := min(windowSize, r.fatSize-at)
			err := errors.Join(readFull(r.src, a[:n], r.fat+at), readFull(r.src, b[:n], r.fat+fat*r.fatSize+at))
			if err != nil {
				return c.problem("FAT %d: %v", fat+1, err)
			}
			if bytes.Equal(a[:n], b[:n]) {
				continue
			}
			i := int64(0)
			for a[i] == b[i] {
				i++
			}
			if err := c.problem("FAT %d differs from the first at cluster %d", fat+1, (at+i)/4); err != nil {
				return err
			}
			break
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// checkInfo compares FSInfo with what was found.
func (c *checker) checkInfo() error {
	r := c.r
	at := int64(le.Uint16(r.boot[48:]))
	if at == 0 || at == 0xffff {
		return nil
	}
	b := make([]byte, sectorSize)
	if err := readFull(r.src, b, at*r.sector); err != nil {
		return c.problem("FSInfo: %v", err)
	}
	if string(b[:4]) != "RRaA" || string(b[484:488]) != "rrAa" || b[510] != 0x55 || b[511] != 0xaa {
		return c.problem("FSInfo: sector %d has no signature", at)
	}
	if free := le.Uint32(b[488:]); free != 0xffffffff && free != c.free {
		return c.problem("FSInfo: %d clusters are free, not %d", c.free, free)
	}
	return nil
}
