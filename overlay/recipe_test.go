package overlay

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// recipes makes a project of packages with the given recipes.
func recipes(t *testing.T, texts map[string]string) *Project {
	t.Helper()
	p := &Project{Root: t.TempDir(), Manifest: defaultManifest()}
	for name, text := range texts {
		dir := filepath.Join(p.Root, "user/apps", name)
		must(t, os.MkdirAll(dir, 0o755))
		must(t, os.WriteFile(filepath.Join(dir, RecipeName), []byte(text), 0o644))
	}
	return p
}

func TestPackagesComeAfterWhatTheyDependOn(t *testing.T) {
	p := recipes(t, map[string]string{
		"a":     `command = "x"` + "\n" + `depends = ["c", "b"]`,
		"b":     `command = "x"` + "\n" + `depends = ["d"]`,
		"c":     `command = ["make", "install"]` + "\n" + `depends = ["d"]`,
		"d":     `command = "x"`,
		"other": `command = "x"` + "\n" + `arch = "riscv64"`,
	})
	for names, want := range map[string]string{"": "d b c a", "c": "d c", "d b": "d b"} {
		got, err := p.Packages(strings.Fields(names)...)
		if err != nil {
			t.Fatal(err)
		}
		var order []string
		for _, pk := range got {
			order = append(order, pk.Name)
		}
		if strings.Join(order, " ") != want {
			t.Errorf("Packages(%s) = %s, want %s", names, strings.Join(order, " "), want)
		}
	}
}

func TestWrongRecipesSayWhere(t *testing.T) {
	const good = `command = "true"` + "\n"
	for name, c := range map[string]struct {
		texts map[string]string
		names []string
		want  string
	}{
		"unknown key":         {map[string]string{"a": good + `dependz = []`}, nil, `a/package.toml:2:1: unknown key "dependz"; did you mean "depends"?`},
		"far from every key":  {map[string]string{"a": good + `xyzzy = 1`}, nil, `a/package.toml:2:1: unknown key "xyzzy"`},
		"syntax":              {map[string]string{"a": "command = make"}, nil, `a/package.toml:1:11: `},
		"wrong type":          {map[string]string{"a": good + `timeout = 10`}, nil, `a/package.toml:2:11: a TOML integer where a string is wanted`},
		"wrong type in a key": {map[string]string{"a": good + ` arch = 1`}, nil, `a/package.toml:2:2: arch must be a text or a list of texts`},
		"mixed list":          {map[string]string{"a": `command = ["make", 1]`}, nil, `a/package.toml:1:1: command must be`},
		"no command":          {map[string]string{"a": `path = "/usr"`}, nil, `a/package.toml: command says nothing`},
		"empty command":       {map[string]string{"a": `command = " "`}, nil, `a/package.toml:1:1: command says nothing`},
		"no time":             {map[string]string{"a": good + `timeout = "soon"`}, nil, `a/package.toml:2:11: "soon": is no time`},
		"no architecture":     {map[string]string{"a": good + `arch = ["pdp11"]`}, nil, `a/package.toml:2:9: "pdp11": use one of`},
		"missing dependency":  {map[string]string{"a": good + `depends = ["zlibb"]`, "zlib": good}, nil, `a/package.toml:2:12: "zlibb": there is no such package to depend on; did you mean "zlib"?`},
		"other architecture":  {map[string]string{"a": good + `depends = ["b"]`, "b": good + `arch = "riscv64"`}, nil, `a/package.toml:2:12: "b": this package is not for x86_64`},
		"circle":              {map[string]string{"z": good + `depends = ["a"]`, "a": good + `depends = ["b"]`, "b": good + `depends = ["c"]`, "c": good + `depends = ["a"]`}, []string{"z"}, `in a circle: a -> b -> c -> a`},
		"circle of one":       {map[string]string{"a": good + `depends = ["a"]`}, nil, `in a circle: a -> a`},
		"unknown name":        {map[string]string{"hello": good}, []string{"hallo"}, `there is no package "hallo"; did you mean "hello"?`},
		"not here":            {map[string]string{"a": good + `arch = "riscv64"`}, []string{"a"}, `package "a" is not for x86_64`},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := recipes(t, c.texts).Packages(c.names...)
			if err == nil {
				t.Fatalf("no error, found %v", found)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q lacks %q", err, c.want)
			}
			if strings.Contains(err.Error(), "did you mean") != strings.Contains(c.want, "did you mean") {
				t.Errorf("error %q: an offer or none is wanted", err)
			}
		})
	}
}

func TestRecipeNotBuiltYet(t *testing.T) {
	p := recipes(t, map[string]string{"a": `command = "x"`, "other": `command = "x"` + "\n" + `arch = "riscv64"`})
	if _, err := p.packageLayers(t.Context(), nil); err == nil || !strings.Contains(err.Error(), `package "a" is not built: run rootfs build`) {
		t.Errorf("unbuilt: %v", err)
	}
	must(t, os.MkdirAll(filepath.Join(p.BuiltDir(), "a"), 0o755))
	layers, err := p.packageLayers(t.Context(), nil)
	if err != nil || len(layers) != 1 || layers[0].Name != "user/apps/a" || !layers[0].pkg {
		t.Errorf("built: %v, %v", layers, err)
	}
}

// Any text is a recipe that can be run, or one line that says what is wrong.
func FuzzRecipe(f *testing.F) {
	for _, text := range []string{
		`command = "make"`, "command = [\"a\", \"b\"]\ntimeout = \"1h\"", "command = 1", "arch = [1]",
		"command = \"x\"\npath = \"../..\"\n[env]\nA = \"b\"", "ignore = [\"[\"]", "x = {y = {z = []}}",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseRecipe("package.toml", text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "package.toml:") {
				t.Errorf("an error that doesn't name the file: %v", err)
			}
			return
		}
		if len(r.Command) == 0 || r.Timeout <= 0 || strings.HasPrefix(r.Path, "/") || strings.HasPrefix(r.Path, "../") {
			t.Errorf("%q gives %+v", text, r)
		}
	})
}
