package sbom

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/anchore/syft/syft/file"
	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/scan"
)

// maxProblems bounds what one image can make us write down.
const maxProblems = 100

// Kinds of problems.
const (
	kindUnknown = "cataloguer_failed" // a cataloguer could not read a file that it should have read
	kindRead    = "read_failed"       // a file or a search failed in a way that cataloguers hide
)

// harmless lists what cataloguers say of files in which there is nothing to find, or
// which no program could use either. What is not listed is a Problem. Each has the
// cataloguer ("" for any) and a part of what it says: syft gives only text.
var harmless = []struct{ cataloguer, text string }{
	// An archive without a manifest or a pom: read, and nobody's package.
	{"", "no package identified in archive"},
	// Archives in archives that the grype command does not open by default either.
	{"", "nested archives not cataloged"},
	// A file that is of a package type by its name, and names no package.
	{"", "unable to determine packages"},
	// Executables of a form that the loader of a Rust binary doesn't know hold no list of crates.
	{"cargo-auditable-binary-cataloger", "unknown file format"},
	// A file too short to be a kernel, whatever its name says.
	{"linux-kernel-cataloger", "unable to get magic type for file: EOF"},
	// Fixtures of JavaScript packages are broken on purpose, and node can't load them.
	{"javascript-package-cataloger", "invalid character"},
	{"javascript-package-cataloger", "unexpected end of JSON input"},
	{"javascript-package-cataloger", "unexpected EOF"},
	{"javascript-package-cataloger", "EOF"},
}

// problems turns syft's unknowns and the errors of the file system into Problems,
// sorted, at most maxProblems of them. layers maps diff IDs to compressed digests.
func problems(unknowns map[file.Coordinates][]string, errs map[string]error, layers map[string]digest.Digest) []scan.Problem {
	var out []scan.Problem
	for at, reasons := range unknowns {
		for _, reason := range reasons {
			if isHarmless(reason) {
				continue
			}
			out = append(out, scan.Problem{
				Kind: kindUnknown, Layer: layers[at.FileSystemID], Path: clean(at.FullNestedPath(), 1024), Detail: clean(reason, 300),
			})
		}
	}
	for path, err := range maps.All(errs) {
		out = append(out, scan.Problem{Kind: kindRead, Path: clean(path, 1024), Detail: clean(err.Error(), 300)})
	}
	slices.SortFunc(out, func(a, b scan.Problem) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Detail, b.Detail))
	})
	if more := len(out) - maxProblems; more > 0 {
		out = append(out[:maxProblems], scan.Problem{Kind: kindUnknown, Detail: fmt.Sprintf("and %d more", more)})
	}
	return out
}

// isHarmless reports whether an unknown, "cataloguer: reason", hides no package.
func isHarmless(unknown string) bool {
	cataloguer, text, _ := strings.Cut(unknown, ": ")
	return slices.ContainsFunc(harmless, func(h struct{ cataloguer, text string }) bool {
		return (h.cataloguer == "" || h.cataloguer == cataloguer) && strings.Contains(text, h.text)
	})
}

// clean returns s on one line of printable characters and at most limit bytes: it
// comes from a stranger's image.
func clean(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit-3], "") + "..."
	}
	return s
}
