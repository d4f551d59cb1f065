package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// permute moves flags to where the flag library finds them, so that they may
// stand anywhere: global ones before the verb, a verb's own right after it,
// other words last. Words after "--" stay words.
func permute(app *cli.App, args []string) []string {
	global, rest := args[:1:1], args[1:]
	n := 0
	for n < len(rest) && isFlag(rest[n]) && rest[n] != "--" {
		n += min(flagWidth(app.Flags, rest[n]), len(rest)-n)
	}
	global, rest = append(global, rest[:n]...), rest[n:]
	if len(rest) == 0 {
		return global
	}
	verb := app.Command(rest[0])
	if verb == nil {
		return append(global, rest...)
	}
	var own, words []string
	for i := 1; i < len(rest); {
		word := rest[i]
		if word == "--" {
			words = append(words, rest[i+1:]...)
			break
		}
		if !isFlag(word) {
			words = append(words, word)
			i++
			continue
		}
		flags, to := verb.Flags, &own
		if find(flags, word) == nil && find(app.Flags, word) != nil {
			flags, to = app.Flags, &global
		}
		width := flagWidth(flags, word)
		if i+width > len(rest) {
			// Its value is missing, which the library says where nothing follows.
			if to == &global {
				return append(global, word)
			}
			return slices.Concat(global, rest[:1], own, []string{word})
		}
		*to = append(*to, rest[i:i+width]...)
		i += width
	}
	return slices.Concat(global, rest[:1], own, []string{"--"}, words)
}

func isFlag(word string) bool { return len(word) > 1 && word[0] == '-' }

// find returns the flag that word names, nil if there is none.
func find(flags []cli.Flag, word string) cli.Flag {
	name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

// flagWidth tells how many words the flag takes, its value included.
func flagWidth(flags []cli.Flag, word string) int {
	if takesValue(find(flags, word)) && !strings.Contains(word, "=") {
		return 2
	}
	return 1
}

// takesValue tells whether f is a flag with a value; nil isn't.
func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}
