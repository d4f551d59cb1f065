package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// completions write a script for each shell that we know, made of the commands
// and flags of app: completing then starts no program.
var completions = map[string]func(w io.Writer, app *cli.App) error{
	"bash": bashCompletion,
	"fish": fishCompletion,
	"zsh":  zshCompletion,
}

func completionCommand(std streams) *cli.Command {
	shells := slices.Sorted(maps.Keys(completions))
	return &cli.Command{
		Name:      "completion",
		Usage:     "print what makes a shell complete commands and flags",
		ArgsUsage: strings.Join(shells, "|"),
		Description: "For bash: source <(rootfs completion bash), in ~/.bashrc; for zsh the same, behind\n" +
			"compinit in ~/.zshrc; for fish: rootfs completion fish | source, in config.fish.",
		Action: func(c *cli.Context) error {
			write := completions[c.Args().First()]
			if c.NArg() != 1 || write == nil {
				return usagef(c, "takes the name of a shell: %s", strings.Join(shells, ", "))
			}
			return write(std.out, c.App)
		},
	}
}

// bashCompletion writes a function that finds the verb among the words before
// the one to complete, and offers its flags, or else files; before a verb the
// verbs, but for what is a flag's value.
func bashCompletion(w io.Writer, app *cli.App) error {
	var verbs []string
	var cases strings.Builder
	for _, c := range app.VisibleCommands() {
		verbs = append(verbs, c.Name)
		fmt.Fprintf(&cases, "\t%s) flags='%s' offered='%s' ;;\n", c.Name, strings.Join(dashedFlags(c, app), " "), strings.Join(firstWords(c), " "))
	}
	_, err := fmt.Fprintf(w, `_rootfs() {
	local cur=${COMP_WORDS[COMP_CWORD]} verb= deep=1 i flags offered
	COMPREPLY=()
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		%s)
			((i++)); [[ ${COMP_WORDS[i]} == = ]] && ((i++))
			((i < COMP_CWORD)) || return 0 ;;
		-*) ;;
		*) verb=${COMP_WORDS[i]}; break ;;
		esac
	done
	((i + 1 == COMP_CWORD)) && deep=
	case $verb in
	'') flags='%s' offered='%s' deep= ;;
%s	esac
	if [[ $cur == -* ]]; then
		COMPREPLY=($(compgen -W "$flags" -- "$cur"))
	elif [[ -z $deep ]]; then
		COMPREPLY=($(compgen -W "$offered" -- "$cur"))
	fi
}
complete -o bashdefault -o default -F _rootfs rootfs
`, strings.Join(valued(app.Flags), "|"), strings.Join(allDashed(app.Flags), " "), strings.Join(verbs, " "), cases.String())
	return err
}

// zshCompletion has zsh use the function for bash, as it can.
func zshCompletion(w io.Writer, app *cli.App) error {
	if _, err := io.WriteString(w, "autoload -U +X bashcompinit && bashcompinit\n"); err != nil {
		return err
	}
	return bashCompletion(w, app)
}

func fishCompletion(w io.Writer, app *cli.App) error {
	var b strings.Builder
	fishFlags(&b, "", app.Flags)
	for _, c := range app.VisibleCommands() {
		fmt.Fprintf(&b, "complete -c rootfs -n __fish_use_subcommand -f -a %s -d %s\n", c.Name, fishQuoted(c.Usage))
		seen := "__fish_seen_subcommand_from " + c.Name
		fishFlags(&b, seen, c.Flags)
		for _, word := range firstWords(c) {
			fmt.Fprintf(&b, "complete -c rootfs -n '%s' -a %s\n", seen, word)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// fishFlags writes a line for each flag, for where the condition holds; always
// for none.
func fishFlags(b *strings.Builder, condition string, flags []cli.Flag) {
	for _, f := range flags {
		b.WriteString("complete -c rootfs")
		if condition != "" {
			b.WriteString(" -n '" + condition + "'")
		}
		for _, name := range f.Names() {
			if len(name) == 1 {
				b.WriteString(" -s " + name)
			} else {
				b.WriteString(" -l " + name)
			}
		}
		if takesValue(f) {
			b.WriteString(" -r")
		}
		if d, ok := f.(cli.DocGenerationFlag); ok {
			b.WriteString(" -d " + fishQuoted(strings.ReplaceAll(d.GetUsage(), "`", "")))
		}
		b.WriteByte('\n')
	}
}

func fishQuoted(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// firstWords are what a command's first word may be, where its usage has them all:
// "ls|cat FILE". What is to be put in place of another word is in capitals.
func firstWords(c *cli.Command) []string {
	first, _, _ := strings.Cut(c.ArgsUsage, " ")
	if !strings.Contains(first, "|") || strings.ToLower(first) != first {
		return nil
	}
	return strings.Split(first, "|")
}

// dashedFlags are a command's flags and the global ones, which may stand there
// as well.
func dashedFlags(c *cli.Command, app *cli.App) []string {
	all := append(allDashed(c.Flags), allDashed(app.Flags)...)
	slices.Sort(all)
	return slices.Compact(all)
}

// allDashed writes flags as people do.
func allDashed(flags []cli.Flag) []string {
	var all []string
	for _, f := range flags {
		for _, name := range f.Names() {
			all = append(all, dashed("-"+name))
		}
	}
	return all
}

// valued are the flags that take a value.
func valued(flags []cli.Flag) []string {
	return allDashed(slices.DeleteFunc(slices.Clone(flags), func(f cli.Flag) bool { return !takesValue(f) }))
}
