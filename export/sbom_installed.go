package export

import (
	"iter"
	"net/url"
	"slices"
	"strings"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// readOSRelease returns what os-release(5) says; empty where there is none.
func readOSRelease(t *overlay.Tree) map[string]string {
	release := make(map[string]string)
	for line := range strings.Lines(readEither(t, "usr/lib/os-release", "etc/os-release")) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			release[key] = strings.Trim(value, `"'`)
		}
	}
	return release
}

// readEither returns the first of some files that is there.
func readEither(t *overlay.Tree, paths ...string) string {
	for _, path := range paths {
		if text, err := t.ReadFile(path); err == nil {
			return string(text)
		}
	}
	return ""
}

// installedPackages lists what package managers have noted in the tree, by
// name: dpkg (dpkg(1), deb-control(5)) and apk (apk-package(5)).
func installedPackages(t *overlay.Tree, release map[string]string) []spdxPackage {
	var all []spdxPackage
	for fields := range paragraphs(readEither(t, "var/lib/dpkg/status"), ": ") {
		if strings.HasSuffix(fields["Status"], " installed") {
			p := installedPackage("deb", fields["Package"], fields["Version"], fields["Architecture"], release)
			p.LicenseSaid = debianLicenses(t, p.Name)
			all = append(all, p)
		}
	}
	for fields := range paragraphs(readEither(t, "lib/apk/db/installed", "usr/lib/apk/db/installed"), ":") {
		p := installedPackage("apk", fields["P"], fields["V"], fields["A"], release)
		p.setLicense(fields["L"])
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b spdxPackage) int { return strings.Compare(a.ID, b.ID) })
	return slices.CompactFunc(all, func(a, b spdxPackage) bool { return a.ID == b.ID })
}

// debianLicenses lists what a package's copyright file names, in Debian's
// words, if it is in the form for machines
// (https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/).
func debianLicenses(t *overlay.Tree, pkg string) string {
	text := readEither(t, "usr/share/doc/"+pkg+"/copyright")
	if !strings.HasPrefix(text, "Format:") {
		return ""
	}
	var all []string
	for line := range strings.Lines(text) {
		if license, ok := strings.CutPrefix(line, "License:"); ok {
			all = append(all, strings.TrimSpace(license))
		}
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), "; ")
}

func installedPackage(typ, name, version, arch string, release map[string]string) spdxPackage {
	purl := "pkg:" + typ + "/"
	if release["ID"] != "" {
		purl += purlEscape(release["ID"]) + "/"
	}
	purl += purlEscape(name) + "@" + purlEscape(version) + "?arch=" + url.QueryEscape(arch)
	if id := release["VERSION_ID"]; id != "" {
		purl += "&distro=" + url.QueryEscape(release["ID"]+"-"+id)
	}
	// Debian can have a package for several architectures.
	return spdxPackage{
		Name: name, ID: spdxID("Package-"+typ, name+"-"+arch), Version: version,
		Download: spdxNoAssertion, Refs: purlRef(purl),
	}
}

// purlEscape writes a part of a package URL, whose colons stay.
func purlEscape(s string) string { return strings.ReplaceAll(url.PathEscape(s), "+", "%2B") }

// paragraphs yields the fields of each paragraph of a text, without those that
// go on over more lines.
func paragraphs(text, sep string) iter.Seq[map[string]string] {
	return func(yield func(map[string]string) bool) {
		for paragraph := range strings.SplitSeq(text, "\n\n") {
			fields := make(map[string]string)
			for line := range strings.Lines(paragraph) {
				if key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), sep); ok {
					fields[key] = value
				}
			}
			if len(fields) > 0 && !yield(fields) {
				return
			}
		}
	}
}
