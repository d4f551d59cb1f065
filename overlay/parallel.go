package overlay

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// inParallel calls do with each number below n, on all processors, and returns
// when all calls have.
func inParallel(n int, do func(i int)) {
	var next atomic.Int64
	var done sync.WaitGroup
	for range min(n, runtime.NumCPU()) {
		done.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	done.Wait()
}
