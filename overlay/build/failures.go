package build

import "sync"

// failures are those of earlier runs, by package. A nil one has none.
type failures struct {
	mu   sync.Mutex
	keys map[string]string // of the inputs that failed
	errs map[string]error
}

// of returns how a package with these inputs has failed.
func (f *failures) of(name, key string) error {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keys[name] != key {
		return nil
	}
	return f.errs[name]
}

func (f *failures) add(name, key string, err error) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys[name], f.errs[name] = key, err
}
