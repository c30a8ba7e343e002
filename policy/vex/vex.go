package vex

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Bounds on one document.
const (
	maxDocument = 32 << 20 // bytes; the largest in public use have a few MiB
	maxProducts = 200_000  // products of all its statements together
	maxText     = 500      // bytes of an ID, an author, a justification
)

// A Status is one of the four of VEX.
type Status string

const (
	NotAffected        Status = "not_affected"
	Affected           Status = "affected"
	Fixed              Status = "fixed"
	UnderInvestigation Status = "under_investigation"
)

// Suppresses reports whether a finding of this status is set aside.
func (s Status) Suppresses() bool { return s == NotAffected || s == Fixed }

// A Document is one that was read and found to be well formed. It is never changed.
type Document struct {
	ID       string
	Author   string
	Name     string // of the file it is from; "" for an attestation
	Revision string // names its content

	statements []statement
	bound      bool // it is an attestation, so that whoever has it has its product
}

// A statement says what becomes of vulnerabilities in products.
type statement struct {
	document        *Document
	line            int // of the document, where it begins
	vulnerabilities []string
	status          Status
	why             string
	at              time.Time
	products        []product
}

// A product is an image, a package, or, with both, a package within an image.
type product struct{ image, pkg *component }

// Parse reads an OpenVEX or a CSAF document. Its errors say what is wrong and begin with
// name, which says where it is from.
func Parse(name string, data []byte) (*Document, error) {
	d, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	d.Name = name
	return d, nil
}

// FromPredicate reads the predicate of an attestation, which must be OpenVEX. Whoever
// calls it has verified the signature, and that the subject is the image or an index of it.
func FromPredicate(predicate any) (*Document, error) {
	data, err := json.Marshal(predicate)
	if err != nil {
		return nil, err
	}
	d, err := parse(data)
	if err != nil {
		return nil, err
	}
	d.bound = true
	return d, nil
}

// IsPredicate reports whether attestations of this predicate type hold OpenVEX.
func IsPredicate(predicateType string) bool {
	return predicateType == context || strings.HasPrefix(predicateType, context+"/")
}

const context = "https://openvex.dev/ns" // of OpenVEX, with or without a version behind it

func parse(data []byte) (*Document, error) {
	if len(data) > maxDocument {
		return nil, fmt.Errorf("larger than %d MiB; split the document", maxDocument>>20)
	}
	var head struct {
		Context  string          `json:"@context"`
		Document json.RawMessage `json:"document"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, jsonError(data, err)
	}
	d := &Document{}
	var err error
	switch {
	case IsPredicate(head.Context):
		err = d.openVEX(data)
	case head.Context == "" && head.Document != nil:
		err = d.csaf(data)
	default:
		err = errors.New("neither OpenVEX (@context " + context + "/v0.2.0) nor CSAF (document.csaf_version 2.0): remove it, or convert it")
	}
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	d.Revision = hex.EncodeToString(sum[:])[:12]
	n := 0
	for i := range d.statements {
		d.statements[i].document = d
		n += len(d.statements[i].products)
	}
	if n > maxProducts {
		return nil, fmt.Errorf("its statements name %d products, at most %d are kept; split the document", n, maxProducts)
	}
	return d, nil
}

// jsonError names the line.
func jsonError(data []byte, err error) error {
	var syntax *json.SyntaxError
	var shape *json.UnmarshalTypeError
	at := int64(-1)
	switch {
	case errors.As(err, &syntax):
		at = syntax.Offset
	case errors.As(err, &shape):
		at = shape.Offset
	}
	if at < 0 || at > int64(len(data)) {
		return fmt.Errorf("not well formed: %w", err)
	}
	return fmt.Errorf("line %d: not well formed: %w", 1+bytes.Count(data[:at], []byte("\n")), err)
}

// lines returns the line on which a member of a document begins, and those of the elements
// where it is a list; 1 where it can't be told.
func lines(data []byte, member string) (at int, elements []int) {
	dec := json.NewDecoder(bytes.NewReader(data))
	line, counted := 1, 0
	here := func() int { // where the next value begins
		rest := data[dec.InputOffset():]
		from := len(data) - len(bytes.TrimLeft(rest, ":, \t\r\n"))
		line, counted = line+bytes.Count(data[counted:from], []byte("\n")), from
		return line
	}
	if _, err := dec.Token(); err != nil {
		return 1, nil
	}
	var skipped json.RawMessage
	for dec.More() {
		at = here()
		key, err := dec.Token()
		if err != nil {
			return 1, nil
		}
		if key != member {
			if dec.Decode(&skipped) != nil {
				return 1, nil
			}
			continue
		}
		if open, err := dec.Token(); err != nil || open != json.Delim('[') {
			return at, nil
		}
		for dec.More() {
			elements = append(elements, here())
			if dec.Decode(&skipped) != nil {
				break
			}
		}
		return at, elements
	}
	return 1, nil
}

// lineOf returns the line of element i, as lines found them.
func lineOf(elements []int, i int) int {
	if i < len(elements) {
		return elements[i]
	}
	return 1
}

// clip keeps a stranger's text short.
func clip(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.ToValidUTF8(s, "?")
}
