package policy

import (
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"

	"github.com/sluicegate/sluice/cache"
)

//go:embed default/*.rego
var defaults embed.FS

//go:embed input.schema.json
var inputSchema []byte

const (
	maxPolicyFiles = 500
	maxPolicyBytes = 16 << 20         // data documents included
	testTimeout    = 5 * time.Second  // of one test in a *_test.rego
	loadTimeout    = 60 * time.Second // of all of them
	maxLoadErrors  = 5                // that one error spells out
)

// root is where policies live: data.sluice.policies.
var root = []string{"sluice", "policies"}

// sources are what policies are made from.
type sources struct {
	texts    map[string]string // of *.rego files and of Chainguard's manifests, by the name that errors use
	data     map[string]any    // data documents, merged
	revision string            // that a bundle says of itself
}

// readSources reads the *.rego files and the data documents of a file system. Names that
// start with a dot are skipped, as are the versioned directories of a Kubernetes
// ConfigMap.
func readSources(fsys fs.FS, prefix string) (sources, error) {
	s, total := sources{texts: map[string]string{}}, 0
	err := WalkFiles(fsys, func(name string) error {
		switch ext := path.Ext(name); {
		case ext != ".rego" && strings.EqualFold(ext, ".rego"):
			return fmt.Errorf("%s would not be read: name it *.rego", name)
		case ext != ".rego" && !isData(name) && !maybeManifest(name):
			return nil
		}
		info, err := fs.Stat(fsys, name)
		if err != nil {
			return err
		}
		if total += int(min(info.Size(), maxPolicyBytes+1)); total > maxPolicyBytes || len(s.texts) == maxPolicyFiles {
			return fmt.Errorf("more than %d files or %d MiB of policies and data", maxPolicyFiles, maxPolicyBytes>>20)
		}
		b, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		if isData(name) {
			return s.addData(prefix, name, b)
		}
		if path.Ext(name) == ".rego" || isManifest(name, b) {
			s.texts[path.Join(prefix, name)] = string(b)
		}
		return nil
	})
	if err != nil {
		return sources{}, fmt.Errorf("read policies in %s: %w", prefix, err)
	}
	return s, nil
}

// sum identifies the content: names, texts and data.
func (s sources) sum() string {
	h := sha256.New()
	add := func(part []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write(part)
	}
	for _, name := range slices.Sorted(maps.Keys(s.texts)) {
		add([]byte(path.Base(name)))
		add([]byte(s.texts[name]))
	}
	if len(s.data) > 0 {
		b, _ := json.Marshal(s.data) // it came from JSON; keys are sorted
		add(b)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// A program is a set of policies, compiled and ready.
type program struct {
	query     rego.PreparedEvalQuery
	packages  []string // below data.sluice.policies, in the order of the query's variables
	listings  []Listing
	spots     []ruleSpot
	needs     needs                         // of the input
	manifests []*manifest                   // Chainguard's, by name
	data      map[string]any                // of data documents
	mask      *rego.PreparedEvalQuery       // of the decision log; nil for none
	converted cache.Memo[uint64, *ast.Term] // findings, by their sum
	revision  string
	given     string // that a bundle says of itself
	hints     []string
	words     map[string]bool // every name and string in what decides: those of its policies are among them
}

// compile parses and compiles policies, runs their tests and evaluates them once.
func compile(ctx context.Context, src sources, timeout time.Duration) (*program, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	modules, tests, err := parse(src)
	if err != nil {
		return nil, err
	}
	store := src.store()
	mask, err := compileMask(ctx, modules, store)
	if err != nil {
		return nil, err
	}
	manifests, err := src.manifests(ctx, store)
	if err != nil {
		return nil, err
	}
	if _, _, err := entrypoints(modules, len(manifests) > 0); err != nil {
		return nil, err
	}
	if err := closed(modules, src); err != nil {
		return nil, err
	}
	packages, query, err := entrypoints(modules, len(manifests) > 0)
	if err != nil {
		return nil, err
	}
	listings := listingsOf(modules, packages)
	for _, m := range manifests {
		listings = append(listings, Listing{Package: m.Name, Title: clip(m.Description, 100), File: m.file})
	}
	c, err := compileModules(ctx, modules, src, store)
	if err != nil {
		return nil, err
	}
	if tests > 0 {
		ran, err := runTests(ctx, src)
		if err := cmp.Or(err, failed(ran)); err != nil {
			return nil, err
		}
	}
	q, err := rego.New(
		rego.Compiler(c),
		rego.Store(store),
		rego.Query(query),
		rego.Capabilities(capabilities()),
		rego.SetRegoVersion(ast.RegoV1),
		rego.StrictBuiltinErrors(true),
	).PrepareForEval(ctx)
	if err != nil {
		return nil, fmt.Errorf("prepare policies: %w", err)
	}
	p := &program{
		query: q, packages: packages, listings: listings, spots: spotsOf(modules, listings), needs: needsOf(modules),
		manifests: manifests, words: mentioned(modules), data: src.data, mask: mask, revision: src.sum(), given: src.revision,
	}
	if p.hints, err = absences(modules); err != nil {
		return nil, err
	}
	return p, p.smoke(ctx, timeout)
}

// compileModules compiles what decides against the schema of its input. Where a rule and a
// data document have the same path that is an error. store holds the data of src.
func compileModules(ctx context.Context, modules map[string]*ast.Module, src sources, store storage.Store) (*ast.Compiler, error) {
	var schema any
	if err := json.Unmarshal(inputSchema, &schema); err != nil {
		return nil, fmt.Errorf("input schema: %w", err)
	}
	schemas := ast.NewSchemaSet()
	schemas.Put(ast.SchemaRootRef, schema)
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return nil, fmt.Errorf("data documents: %w", err)
	}
	defer store.Abort(ctx, txn)
	c := newCompiler().WithSchemas(schemas).WithPathConflictsCheck(storage.NonEmpty(ctx, store, txn))
	if c.Compile(modules); c.Failed() {
		return nil, compileError(c.Errors)
	}
	return c, cmp.Or(src.missing(c), misspelt(modules), unheard(modules))
}

func newCompiler() *ast.Compiler {
	return ast.NewCompiler().
		WithCapabilities(capabilities()).
		WithDefaultRegoVersion(ast.RegoV1).
		WithStrict(true)
}

// capabilities are what a policy may call: everything that computes, and nothing
// that reaches outside, is random, handles keys or reflects on policies. What is
// not deterministic is refused by OPA's own mark, so that a new version of OPA
// doesn't open a door; time.now_ns is the decision's time here.
func capabilities() *ast.Capabilities {
	denied := []string{
		"http.", "net.", "opa.", "providers.", "rego.parse_module", "trace",
		"crypto.x509.", "crypto.parse_private_keys", "io.jwt.",
		"json.match_schema", "json.verify_schema", // follow references to other hosts
	}
	c := ast.CapabilitiesForThisVersion()
	c.AllowNet = []string{}
	c.Builtins = slices.DeleteFunc(slices.Clone(c.Builtins), func(b *ast.Builtin) bool {
		if b.Nondeterministic && b.Name != ast.NowNanos.Name {
			return true
		}
		return slices.ContainsFunc(denied, func(d string) bool {
			return b.Name == d || strings.HasSuffix(d, ".") && strings.HasPrefix(b.Name, d)
		})
	})
	return c
}

// parse returns the modules that decide, and how many modules hold tests.
func parse(src sources) (modules map[string]*ast.Module, tests int, err error) {
	modules = map[string]*ast.Module{}
	var errs ast.Errors
	for _, name := range slices.Sorted(maps.Keys(src.texts)) {
		if path.Ext(name) != ".rego" {
			continue
		}
		m, err := ast.ParseModuleWithOpts(name, src.texts[name], ast.ParserOptions{
			RegoVersion: ast.RegoV1, Capabilities: capabilities(), ProcessAnnotation: true,
		})
		var more ast.Errors
		switch {
		case errors.As(err, &more):
			errs = append(errs, more...)
		case err != nil:
			return nil, 0, fmt.Errorf("%s: %w", name, err)
		case isTest(name):
			tests++
			if err := testsOnly(m); err != nil {
				return nil, 0, err
			}
		default:
			modules[name] = m
		}
	}
	if len(errs) > 0 {
		return nil, 0, compileError(errs)
	}
	return modules, tests, nil
}

// testsOnly returns an error where a file of tests has what would decide if it were in
// another.
func testsOnly(m *ast.Module) error {
	if _, below := packageBelow(m.Package); !below {
		return nil
	}
	if r := firstRule(m, "violations", "warnings"); r != nil {
		return fmt.Errorf("%s: a file named *_test.rego holds tests and takes no part in deciding, but this one defines %s; rename it, or its package", r.Loc(), r.Head.Ref())
	}
	return nil
}

func isTest(name string) bool { return strings.HasSuffix(name, "_test.rego") }

// entrypoints finds the packages that count, and writes the query that asks each of
// them by itself, so that an undefined one can be told. A package that looks like a
// policy and would not count is an error: it would else be silently ignored. others says
// that there are policies of another kind, so that there may be none.
func entrypoints(modules map[string]*ast.Module, others bool) (packages []string, query string, err error) {
	defines := map[string]map[string]bool{} // package → rule names
	refs := map[string]string{}             // package → reference
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		m := modules[name]
		pkg, below := packageBelow(m.Package)
		if m.Package.Path.String() == manifestPackage {
			return nil, "", fmt.Errorf("%s: package chainguard.policies counts in a manifest: put the text under expression in a YAML file, with a name and supported_resource_type: %s", m.Package.Loc(), repoType)
		}
		if !below {
			if r := firstRule(m, "violations", "warnings"); r != nil {
				return nil, "", fmt.Errorf("%s: package %s defines %s, but only packages below sluice.policies are asked; name it sluice.policies.NAME",
					r.Loc(), strings.TrimPrefix(m.Package.Path.String(), "data."), r.Head.Ref())
			}
			continue
		}
		if defines[pkg] == nil {
			defines[pkg] = map[string]bool{}
			refs[pkg] = m.Package.Path.String()
		}
		for _, kind := range []string{"violations", "warnings"} {
			if firstRule(m, kind) != nil {
				defines[pkg][kind] = true
			}
		}
	}
	var q []string
	for _, pkg := range slices.Sorted(maps.Keys(defines)) {
		if len(defines[pkg]) == 0 {
			return nil, "", fmt.Errorf("package sluice.policies.%s defines neither violations nor warnings; put helpers below sluice.lib", pkg)
		}
		for _, kind := range []string{"violations", "warnings"} {
			v := fmt.Sprintf("%s%d", kind, len(packages))
			if defines[pkg][kind] {
				q = append(q, fmt.Sprintf("%s = [x | x := %s.%s]", v, refs[pkg], kind))
			}
		}
		packages = append(packages, pkg)
	}
	if len(packages) == 0 && others {
		return nil, "true", passedOver(modules)
	}
	if len(packages) == 0 {
		return nil, "", errors.New("no policies: no package below sluice.policies defines violations or warnings")
	}
	return packages, strings.Join(q, "; "), passedOver(modules)
}

// packageBelow returns the name of a package below data.sluice.policies.
func packageBelow(p *ast.Package) (string, bool) {
	if len(p.Path) < len(root)+2 {
		return "", false
	}
	var parts []string
	for _, t := range p.Path[1:] {
		s, ok := t.Value.(ast.String)
		if !ok {
			return "", false
		}
		parts = append(parts, string(s))
	}
	if !slices.Equal(parts[:len(root)], root) {
		return "", false
	}
	return strings.Join(parts[len(root):], "."), true
}

func firstRule(m *ast.Module, names ...string) *ast.Rule {
	for _, r := range m.Rules {
		if t := r.Head.Ref(); len(t) > 0 && slices.Contains(names, strings.Trim(t[0].String(), `"`)) {
			return r
		}
	}
	return nil
}

func compileError(errs ast.Errors) error {
	errs = slices.Clone(errs)
	slices.SortStableFunc(errs, func(a, b *ast.Error) int {
		if a.Location == nil || b.Location == nil {
			return 0
		}
		return cmp.Or(cmp.Compare(a.Location.File, b.Location.File), cmp.Compare(a.Location.Row, b.Location.Row))
	})
	var lines []string
	for _, e := range errs {
		lines = append(lines, strings.ReplaceAll(e.Error(), "\n", " "))
	}
	return joined(slices.Compact(lines))
}

func joined(lines []string) error {
	if n := len(lines); n > maxLoadErrors {
		lines = append(lines[:maxLoadErrors:maxLoadErrors], fmt.Sprintf("and %d more", n-maxLoadErrors))
	}
	return errors.New(strings.Join(lines, "; "))
}
