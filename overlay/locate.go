package overlay

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/pelletier/go-toml/v2"
)

// wrongType is how the TOML library tells a value of another type.
var wrongType = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^cannot decode TOML (\w+) into (?:a |struct field ).*?(?: of type )?(\S+)$`)
})

// locate says where in a TOML file an error is. shape is what the file is
// decoded into.
func locate(file string, text []byte, err error, shape any) error {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
		row, col := unknown.Errors[0].Position()
		key := unknown.Errors[0].Key()
		near := didYouMean(key[len(key)-1], knownKeys(shape, key[:len(key)-1]))
		return fmt.Errorf("%s:%d:%d: unknown key %q%s", file, row, col, strings.Join(key, "."), near)
	}
	var syntax *toml.DecodeError
	if errors.As(err, &syntax) {
		row, col := syntax.Position()
		what := strings.TrimPrefix(syntax.Error(), "toml: ")
		if m := wrongType().FindStringSubmatch(what); m != nil {
			what = fmt.Sprintf("a TOML %s where a %s is wanted", m[1], m[2])
		}
		return fmt.Errorf("%s:%d:%d: %s", file, row, col, what)
	}
	lines := strings.Split(string(text), "\n")
	var value *valueError
	if errors.As(err, &value) {
		for i, line := range lines {
			if col := strings.Index(line, strconv.Quote(value.value)); col >= 0 {
				return fmt.Errorf("%s:%d:%d: %w", file, i+1, col+1, err)
			}
		}
	}
	var key *keyError
	if errors.As(err, &key) {
		for i, line := range lines {
			bare := strings.TrimLeft(line, " \t")
			if after, ok := strings.CutPrefix(bare, key.key); ok && strings.HasPrefix(strings.TrimLeft(after, " \t"), "=") {
				return fmt.Errorf("%s:%d:%d: %w", file, i+1, len(line)-len(bare)+1, err)
			}
		}
	}
	return fmt.Errorf("%s: %w", file, err)
}
