package export

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"regexp"
	"strings"
	"sync"
)

// The JSON form of SPDX 2.3 (https://spdx.github.io/spdx-spec/v2.3/, and the
// schema in the spdx-spec repository, schemas/spdx-schema.json).

const (
	spdxDocumentID  = "SPDXRef-DOCUMENT"
	spdxNoAssertion = "NOASSERTION"
	spdxTime        = "2006-01-02T15:04:05Z"
)

type spdxPackage struct {
	Name          string            `json:"name"`
	ID            string            `json:"SPDXID"`
	Version       string            `json:"versionInfo,omitempty"`
	Download      string            `json:"downloadLocation"`
	FilesAnalyzed bool              `json:"filesAnalyzed"`
	Verification  *spdxVerification `json:"packageVerificationCode,omitempty"` // where files are analyzed
	License       string            `json:"licenseDeclared,omitempty"`
	LicenseSaid   string            `json:"licenseComments,omitempty"`
	Purpose       string            `json:"primaryPackagePurpose,omitempty"`
	Refs          []spdxRef         `json:"externalRefs,omitempty"`
	Comment       string            `json:"comment,omitempty"`
}

// spdxVerification is a hash of the hashes of a package's files (§7.9).
type spdxVerification struct {
	Value string `json:"packageVerificationCodeValue"`
}

// spdxRef names a package as others do (annex F).
type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxFile struct {
	Name      string         `json:"fileName"`
	ID        string         `json:"SPDXID"`
	Types     []string       `json:"fileTypes,omitempty"`
	Checksums []spdxChecksum `json:"checksums"`
	Comment   string         `json:"comment,omitempty"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxRelationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

// purlRef is a reference by package URL
// (https://github.com/package-url/purl-spec).
func purlRef(purl string) []spdxRef { return []spdxRef{{"PACKAGE-MANAGER", "purl", purl}} }

// licenseExpression is the form of an SPDX license expression (annex D).
var licenseExpression = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^\(*[A-Za-z0-9.+-]+\)*( (AND|OR|WITH) \(*[A-Za-z0-9.+-]+\)*)*$`)
})

// setLicense notes what somebody says of the license: in their words, where
// those are no expression.
func (p *spdxPackage) setLicense(said string) {
	switch {
	case said == "":
	case licenseExpression().MatchString(said):
		p.License = said
	default:
		p.LicenseSaid = said
	}
}

// notInID are the characters that an identifier can't have (§3.2).
var notInID = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`[^A-Za-z0-9.-]+`)
})

// spdxID makes an identifier of a name, which no other name of its kind has.
func spdxID(kind, name string) string {
	id := notInID().ReplaceAllString(name, "-")
	if id != name {
		sum := sha256.Sum256([]byte(name))
		id += "-" + hex.EncodeToString(sum[:4])
	}
	return "SPDXRef-" + kind + "-" + id
}

// spdxWriter writes a document piece by piece, an object a line, so that two
// documents can be compared by lines.
type spdxWriter struct {
	out   *bufio.Writer
	sum   hash.Hash // of all that was written
	line  bytes.Buffer
	items int // in the list that is open
	err   error
}

func newSPDXWriter(w io.Writer) *spdxWriter {
	sum := sha256.New()
	return &spdxWriter{out: bufio.NewWriterSize(io.MultiWriter(w, sum), 64<<10), sum: sum}
}

func (w *spdxWriter) text(s string) {
	if w.err == nil {
		_, w.err = w.out.WriteString(s)
	}
}

func (w *spdxWriter) json(v any) {
	w.line.Reset()
	enc := json.NewEncoder(&w.line)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil && w.err == nil {
		w.err = err
	}
	w.text(strings.TrimSuffix(w.line.String(), "\n"))
}

// begin writes the document's head.
func (w *spdxWriter) begin(name string, c spdxCreation) {
	w.text("{\n")
	for _, m := range [][2]string{
		{"spdxVersion", "SPDX-2.3"}, {"dataLicense", "CC0-1.0"}, {"SPDXID", spdxDocumentID}, {"name", name},
	} {
		w.member(m[0], m[1])
		w.text(",\n")
	}
	w.member("creationInfo", c)
}

func (w *spdxWriter) member(name string, v any) {
	w.text(fmt.Sprintf("%q: ", name))
	w.json(v)
}

// list begins a list, whose elements add writes.
func (w *spdxWriter) list(name string) {
	w.text(fmt.Sprintf(",\n%q: [", name))
	w.items = 0
}

func (w *spdxWriter) add(v any) {
	sep := ",\n"
	if w.items == 0 {
		sep = "\n"
	}
	w.text(sep)
	w.json(v)
	w.items++
}

func (w *spdxWriter) endList() { w.text("\n]") }

// end writes the document's namespace, which must be its own: it is made of
// the hash of all the rest, in the form of a UUID of version 8 (RFC 9562).
func (w *spdxWriter) end(name string) error {
	if w.err == nil {
		w.err = w.out.Flush()
	}
	u := w.sum.Sum(nil)[:16]
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	w.text(",\n")
	w.member("documentNamespace", fmt.Sprintf("https://spdx.org/spdxdocs/%s-%x-%x-%x-%x-%x",
		strings.Trim(notInID().ReplaceAllString(name, "-"), "-"), u[:4], u[4:6], u[6:8], u[8:10], u[10:]))
	w.text("\n}\n")
	if w.err == nil {
		w.err = w.out.Flush()
	}
	return w.err
}
