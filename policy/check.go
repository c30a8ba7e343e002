package policy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/tester"
)

// A Listing is one policy as its METADATA describes it.
type Listing struct {
	Package     string `json:"package"` // below sluice.policies, or the name of one of Chainguard's
	Title       string `json:"title,omitempty"`
	Description string `json:"description,omitempty"`
	File        string `json:"file"`
}

// Policies lists the policies that decide now, by package.
func (e *Engine) Policies() []Listing { return e.current.Load().program.listings }

// listingsOf describes packages. Of a package in several files it takes the first title
// that there is.
func listingsOf(modules map[string]*ast.Module, packages []string) []Listing {
	listings := make([]Listing, len(packages))
	for i, name := range packages {
		listings[i].Package = name
	}
	files := make([]string, 0, len(modules))
	for file := range modules {
		files = append(files, file)
	}
	slices.Sort(files)
	for _, file := range files {
		pkg, below := packageBelow(modules[file].Package)
		i := slices.Index(packages, pkg)
		if !below || i < 0 {
			continue
		}
		l := &listings[i]
		if l.File == "" {
			l.File = file
		}
		for _, a := range modules[file].Annotations {
			if a.Scope == "package" && l.Title == "" {
				l.Title, l.Description = a.Title, strings.TrimSpace(a.Description)
			}
		}
	}
	return listings
}

// A Test is one test of a *_test.rego as it went.
type Test struct {
	Name    string        `json:"name"` // sluice.policies_test.test_something
	File    string        `json:"file"`
	Line    int           `json:"line"`
	Pass    bool          `json:"pass"`
	Skipped bool          `json:"skipped,omitempty"`
	Error   string        `json:"error,omitempty"`
	Printed string        `json:"printed,omitempty"`
	Took    time.Duration `json:"took_ns"`
}

func (t Test) String() string {
	s := fmt.Sprintf("%s:%d: test %s", t.File, t.Line, t.Name)
	switch {
	case t.Skipped:
		return s + " is skipped"
	case t.Pass:
		return s + " passed"
	}
	s += " failed"
	if t.Error != "" {
		s += ": " + t.Error
	}
	if t.Printed != "" {
		s += " (printed: " + clip(t.Printed, 200) + ")"
	}
	return s
}

// Tests compiles the policies of a folder or a bundle as a gateway would and runs their
// tests, each of which may take 5 s. Who signed a bundle doesn't count. The error is that of
// reading or compiling; a test that fails is none.
func Tests(ctx context.Context, name string) ([]Test, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	src, err := sourcesIn(name)
	if err != nil {
		return nil, err
	}
	modules, _, err := parse(src)
	if err != nil {
		return nil, err
	}
	if _, err := compileMask(ctx, modules, src.store()); err != nil {
		return nil, err
	}
	manifests, err := src.manifests(ctx, src.store())
	if err != nil {
		return nil, err
	}
	if _, _, err := entrypoints(modules, len(manifests) > 0); err != nil {
		return nil, err
	}
	if _, err := compileModules(ctx, modules, src, src.store()); err != nil {
		return nil, err
	}
	return runTests(ctx, src)
}

// sourcesIn reads a folder or a bundle.
func sourcesIn(name string) (sources, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return sources{}, err
	}
	if fi.IsDir() {
		return readSources(os.DirFS(name), name)
	}
	b, err := readBounded(name, MaxBundle)
	if err != nil {
		return sources{}, err
	}
	return readBundle(name, b, nil, time.Now())
}

// runTests runs the policies' own tests, with the same capabilities and strictness.
func runTests(ctx context.Context, src sources) ([]Test, error) {
	modules := map[string]*ast.Module{}
	tests := 0
	for name, text := range src.texts {
		if path.Ext(name) != ".rego" {
			continue
		}
		m, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{RegoVersion: ast.RegoV1})
		if err != nil {
			return nil, err
		}
		modules[name] = m
		if isTest(name) {
			tests++
		}
	}
	if tests == 0 {
		return nil, nil
	}
	store := src.store()
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return nil, fmt.Errorf("data documents: %w", err)
	}
	defer store.Abort(ctx, txn)
	results, err := tester.NewRunner().
		SetCompiler(newCompiler().WithEnablePrintStatements(true)).
		SetStore(store).
		RaiseBuiltinErrors(true).
		CapturePrintOutput(true).
		SetTimeout(testTimeout).
		SetModules(modules).
		RunTests(ctx, txn)
	if err != nil {
		var errs ast.Errors
		if errors.As(err, &errs) {
			return nil, compileError(errs)
		}
		return nil, fmt.Errorf("run the policies' tests: %w", err)
	}
	ran := []Test{}
	for r := range results {
		if r == nil {
			continue
		}
		t := Test{Name: strings.TrimPrefix(r.Package, "data.") + "." + r.Name, Pass: r.Pass(), Skipped: r.Skip,
			Printed: strings.TrimSpace(string(r.Output)), Took: r.Duration}
		if r.Location != nil {
			t.File, t.Line = r.Location.File, r.Location.Row
		}
		if r.Error != nil {
			t.Error = r.Error.Error()
		}
		ran = append(ran, t)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("run the policies' tests: %w", err)
	}
	slices.SortFunc(ran, func(a, b Test) int { return strings.Compare(a.String(), b.String()) })
	return ran, nil
}

// failed is the error of tests that failed.
func failed(tests []Test) error {
	var lines []string
	for _, t := range tests {
		if !t.Pass && !t.Skipped {
			lines = append(lines, t.String())
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return joined(lines)
}
