package export

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha1" //nolint:gosec // SPDX demands it
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"path"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Document is what the head of a list of contents says.
type Document struct {
	Name    string // of the system that it is about
	Creator string // the program and its version, "rootfs-1.0"
}

// WriteSBOM lists what is in the tree as an SPDX 2.3 document in JSON: each
// layer is a package that contains the files it brought, with their digests;
// what a Debian or Alpine base has installed are packages too. The same tree
// makes the same bytes. Of the request it takes what isn't about outputs.
//
// Memory is 32 bytes a file, besides what a walk needs.
func WriteSBOM(ctx context.Context, t *overlay.Tree, out io.Writer, d Document, r *Request) error {
	s := &sbom{tree: t, request: r.complete(t), document: d, spdx: newSPDXWriter(out), byLayer: make(map[string]int), base: -1}
	if err := s.describe(ctx); err != nil {
		return err
	}
	created := r.created()
	if created.IsZero() {
		created = time.Unix(0, 0)
	}
	s.spdx.begin(d.Name, spdxCreation{created.UTC().Format(spdxTime), []string{"Tool: " + d.Creator}})
	s.request.Progress.Step("reading files", 0)
	if err := s.writeFiles(ctx); err != nil {
		return err
	}
	s.writeRelationships()
	s.writePackages()
	if err := s.spdx.end(d.Name); err != nil {
		return err
	}
	return s.request.machines.report(s.request.Log, s.request.Strict)
}

// sbom is a list of contents under way.
type sbom struct {
	tree     *overlay.Tree
	request  Request
	document Document
	spdx     *spdxWriter

	system    spdxPackage
	layers    []spdxPackage // bottom to top
	byLayer   map[string]int
	base      int           // among the layers; -1 for none
	installed []spdxPackage // by a package manager, in the base
	depends   []spdxRelationship

	files []sbomFile
}

// sbomFile is what is kept of a file: for its relationship, and for the
// verification code of its package.
type sbomFile struct {
	id    fileID
	layer uint16
	sha1  [sha1.Size]byte
}

// fileID is the part of a file's identifier that is its own: of the hash of its
// path, so that it stays when other files come and go.
type fileID [10]byte

func (id fileID) String() string { return "SPDXRef-File-" + hex.EncodeToString(id[:]) }

// describe collects the packages.
func (s *sbom) describe(ctx context.Context) error {
	release := readOSRelease(s.tree)
	s.system = spdxPackage{
		Name: s.document.Name, ID: "SPDXRef-System", Version: release["VERSION_ID"],
		Download: spdxNoAssertion, Purpose: "OPERATING_SYSTEM",
	}
	for _, l := range s.tree.Layers() {
		if _, known := s.byLayer[l.Name]; known {
			continue // of an image with several, or of a checkpoint
		}
		s.byLayer[l.Name] = len(s.layers)
		if l.Part() == overlay.PartBase {
			s.base = len(s.layers)
		}
		s.layers = append(s.layers, spdxPackage{
			Name: l.Name, ID: spdxID("Layer", l.Name), Download: spdxNoAssertion, FilesAnalyzed: true,
			Comment: "layer: " + l.Part().String(),
		})
	}
	if err := s.describeBase(ctx); err != nil {
		return err
	}
	s.installed = installedPackages(s.tree, release)
	return s.describePackages()
}

// describeBase adds to the base which image it is.
func (s *sbom) describeBase(ctx context.Context) error {
	project := s.tree.Project()
	digest, is, err := project.BaseImage(ctx)
	if err != nil || !is || s.base < 0 {
		return err
	}
	ref, err := name.ParseReference(project.Manifest.Base.Source)
	if err != nil {
		return err
	}
	repo := ref.Context()
	s.layers[s.base].Version = ref.Identifier()
	s.layers[s.base].Refs = purlRef(fmt.Sprintf("pkg:oci/%s@%s?repository_url=%s",
		purlEscape(path.Base(repo.RepositoryStr())), url.QueryEscape(digest.String()), url.QueryEscape(repo.Name())))
	return nil
}

// describePackages adds to packages what their recipes say.
func (s *sbom) describePackages() error {
	project := s.tree.Project()
	pkgs, err := project.Packages()
	if err != nil {
		return err
	}
	find := func(name string) *spdxPackage {
		if i, ok := s.byLayer[project.Manifest.Apps.Path+"/"+name]; ok {
			return &s.layers[i]
		}
		return nil // used by other packages only
	}
	for _, pk := range pkgs {
		p := find(pk.Name)
		if p == nil {
			continue
		}
		p.Name = pk.Name
		if pk.Recipe == nil {
			continue
		}
		p.Version = pk.Recipe.Version
		p.setLicense(pk.Recipe.License)
		if from := pk.Recipe.Source; from != nil {
			p.Download = downloadLocation(from)
		}
		for _, need := range pk.Recipe.Depends {
			if n := find(need); n != nil {
				s.depends = append(s.depends, spdxRelationship{p.ID, "DEPENDS_ON", n.ID})
			}
		}
	}
	return nil
}

// downloadLocation is where a package's sources are from (§7.7).
func downloadLocation(from *overlay.Source) string {
	if from.Git != "" {
		return "git+" + from.Git + "@" + cmp.Or(from.Revision, from.Branch)
	}
	return from.Archive
}

func (s *sbom) writeRelationships() {
	relate := func(from, typ, to string) { s.spdx.add(spdxRelationship{from, typ, to}) }
	s.spdx.list("relationships")
	relate(spdxDocumentID, "DESCRIBES", s.system.ID)
	for i := range s.layers {
		relate(s.system.ID, "CONTAINS", s.layers[i].ID)
	}
	owner := s.system.ID
	if s.base >= 0 {
		owner = s.layers[s.base].ID
	}
	for i := range s.installed {
		relate(owner, "CONTAINS", s.installed[i].ID)
	}
	for _, d := range s.depends {
		s.spdx.add(d)
	}
	for i := range s.files {
		relate(s.layers[s.files[i].layer].ID, "CONTAINS", s.files[i].id.String())
	}
	s.spdx.endList()
}

func (s *sbom) writePackages() {
	s.verify()
	s.spdx.list("packages")
	s.spdx.add(&s.system)
	for i := range s.layers {
		s.spdx.add(&s.layers[i])
	}
	for i := range s.installed {
		s.spdx.add(&s.installed[i])
	}
	s.spdx.endList()
}

// verify computes the packages' verification codes (§7.9): the SHA-1 of the
// SHA-1s of their files, in hexadecimal and sorted.
func (s *sbom) verify() {
	slices.SortFunc(s.files, func(a, b sbomFile) int {
		return cmp.Or(cmp.Compare(a.layer, b.layer), bytes.Compare(a.sha1[:], b.sha1[:]))
	})
	files := s.files
	for i := range s.layers {
		sum := sha1.New() //nolint:gosec // SPDX demands it
		for len(files) > 0 && int(files[0].layer) == i {
			_, _ = fmt.Fprintf(sum, "%x", files[0].sha1)
			files = files[1:]
		}
		s.layers[i].Verification = &spdxVerification{hex.EncodeToString(sum.Sum(nil))}
	}
}
