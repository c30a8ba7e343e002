package policy

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/scan"
)

// Parts of the input that cost something to have, for Engine.Needs. They are absent where
// no policy refers to them.
const (
	NeedPackages     = "packages"
	NeedLicenses     = "findings.package.licenses"
	NeedSignatures   = "image.signatures"
	NeedAttestations = "image.attestations"
	NeedBaseLatest   = "image.base.latest_digest"
	NeedBaseOutdated = "image.base.outdated"
	NeedBaseVerified = "image.base.verified"
)

// Needs reports whether a policy may read a part of the input, named by its path:
// image.signatures. Who can't tell is told yes: a policy that takes a whole object reads
// all of it.
func (e *Engine) Needs(path string) bool {
	s := e.snapshot()
	return s.program.needs.has(path) || s.attested && path == NeedAttestations
}

// needs is what of the input a set of modules refers to.
type needs struct {
	paths    [][]string // as far as they are constant
	licenses bool       // something is called so: findings are reached through variables
}

func (n needs) has(path string) bool {
	if path == NeedLicenses {
		return n.licenses
	}
	want := strings.Split(path, ".")
	return slices.ContainsFunc(n.paths, func(p []string) bool {
		shared := min(len(p), len(want))
		return slices.Equal(p[:shared], want[:shared])
	})
}

// needsOf reads what modules refer to. They must be as they were parsed: a compiler
// breaks up what is looked for here.
func needsOf(modules map[string]*ast.Module) needs {
	var n needs
	note := func(ref ast.Ref) {
		p := constant(ref[1:])
		if !slices.ContainsFunc(n.paths, func(q []string) bool { return slices.Equal(p, q) }) {
			n.paths = append(n.paths, p)
		}
	}
	var visit func(x any) bool
	visit = func(x any) bool {
		switch x := x.(type) {
		case *ast.Package, *ast.Annotations:
			return true
		case ast.String:
			n.licenses = n.licenses || x == "licenses"
		case ast.Var:
			if x.Equal(ast.InputRootDocument.Value) {
				note(ast.InputRootRef)
			}
		case ast.Ref:
			if !x.HasPrefix(ast.InputRootRef) {
				return false
			}
			note(x)
			for _, t := range x[1:] { // one of which may refer to the input again
				ast.NewGenericVisitor(visit).Walk(t)
			}
			return true
		case ast.Call:
			return got(x, note, visit)
		case *ast.Expr:
			if terms, ok := x.Terms.([]*ast.Term); ok && got(terms, note, visit) {
				for _, w := range x.With {
					ast.NewGenericVisitor(visit).Walk(w)
				}
				return true
			}
		}
		return false
	}
	for _, m := range modules {
		ast.NewGenericVisitor(visit).Walk(m)
	}
	return n
}

// got notes what object.get reads of the input, so that it isn't taken for a reader of
// the whole object. It is false for any other call.
func got(call []*ast.Term, note func(ast.Ref), visit func(any) bool) bool {
	if len(call) < 4 || call[0].String() != ast.ObjectGet.Name {
		return false
	}
	ref, ok := call[1].Value.(ast.Ref)
	if !ok {
		if v, isVar := call[1].Value.(ast.Var); isVar && v.Equal(ast.InputRootDocument.Value) {
			ref, ok = ast.InputRootRef, true
		}
	}
	if _, isString := call[2].Value.(ast.String); !ok || !isString || !ref.HasPrefix(ast.InputRootRef) || len(constant(ref[1:])) != len(ref)-1 {
		return false
	}
	note(slices.Concat(ref, ast.Ref{call[2]}))
	for _, t := range call[2:] {
		ast.NewGenericVisitor(visit).Walk(t)
	}
	return true
}

// constant returns the names at the head of a reference, up to the first that is none.
func constant(ref ast.Ref) (path []string) {
	for _, t := range ref {
		s, ok := t.Value.(ast.String)
		if !ok {
			break
		}
		path = append(path, string(s))
	}
	return path
}

// AddPackages adds to an input the packages of its image and the licences in its
// findings, where the policies of e refer to them, from what scanner remembers. Where
// that has no SBOM they stay absent: Scan.Packages then tells that there is a list which
// is not at hand. An error is the scanner's Store's.
func (in *Input) AddPackages(ctx context.Context, e *Engine, scanner *scan.Scanner) error {
	list, licenses := e.Needs(NeedPackages), e.Needs(NeedLicenses) && len(in.Findings) > 0
	if in.Scan.Packages == 0 || !list && !licenses {
		return nil
	}
	packages, err := scanner.Packages(ctx, digest.Digest(in.Image.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if list {
		in.Packages = packages
	}
	if licenses {
		in.Findings = scan.Licensed(in.Findings, packages)
	}
	return nil
}
