package policy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/goccy/go-yaml"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
)

const (
	// manifestPackage is what every expression of Chainguard's declares; allow is the rule.
	manifestPackage = "data.chainguard.policies"
	repoType        = "registry.chainguard.dev/Repo@v1"
	mainPackageKey  = "dev.chainguard.package.main"
	createdKey      = "org.opencontainers.image.created"
	maxManifestName = 100
)

// A manifest is one of Chainguard's policies, as `chainctl policies custom validate` takes
// it.
type manifest struct {
	Name           string      `yaml:"name"`
	Description    string      `yaml:"description"`
	ResourceType   string      `yaml:"supported_resource_type"`
	ExpressionType string      `yaml:"expression_type"`
	Parameters     []parameter `yaml:"parameters"`
	Expression     string      `yaml:"expression"`

	file   string
	line   int // of its rule allow
	query  rego.PreparedEvalQuery
	reads  needs          // of its input
	values map[string]any // of its parameters
}

// A parameter is one that a manifest declares.
type parameter struct {
	Name        string   `yaml:"name"`
	Type        string   `yaml:"type"`
	Description string   `yaml:"description"`
	Default     any      `yaml:"default"`
	Minimum     *float64 `yaml:"minimum"`
	Maximum     *float64 `yaml:"maximum"`
	Allowed     []any    `yaml:"allowed_values"`
	Required    bool     `yaml:"required"`
	Deprecated  bool     `yaml:"deprecated"`
}

// maybeManifest reports whether a file's name is one that a manifest may have.
func maybeManifest(name string) bool {
	return slices.Contains([]string{".yaml", ".yml", ".json"}, path.Ext(name)) && !isData(name)
}

// isManifest reports whether a file is to be read as a manifest: one that says so anywhere,
// since a policy that is passed over refuses nothing.
func isManifest(name string, b []byte) bool {
	return maybeManifest(name) && (bytes.Contains(b, []byte("supported_resource_type")) || bytes.Contains(b, []byte("chainguard.policies")))
}

// parseManifest reads a manifest and prepares its expression.
func parseManifest(ctx context.Context, name, text string, store storage.Store, data map[string]any) (*manifest, error) {
	m := &manifest{file: name}
	dec := yaml.NewDecoder(strings.NewReader(text), yaml.Strict())
	if err := dec.Decode(m); err != nil {
		return nil, manifestYAML(name, err)
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: more than one document; give each manifest a file of its own", name)
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var err error
	if m.values, err = m.valuesFrom(data); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := m.prepare(ctx, text, store); err != nil {
		return nil, err
	}
	return m, nil
}

// manifests returns those of the sources, by name.
func (s sources) manifests(ctx context.Context, store storage.Store) (all []*manifest, err error) {
	names := map[string]string{}
	for _, file := range slices.Sorted(maps.Keys(s.texts)) {
		if path.Ext(file) == ".rego" {
			continue
		}
		m, err := parseManifest(ctx, file, s.texts[file], store, s.data)
		if err != nil {
			return nil, err
		}
		if names[m.Name] != "" {
			return nil, fmt.Errorf("%s: the name %s is that of %s too", file, quote(m.Name), names[m.Name])
		}
		names[m.Name] = file
		all = append(all, m)
	}
	given, _ := lookup(s.data, "chainguard", "parameters").(map[string]any)
	for name := range given {
		if names[name] == "" {
			return nil, fmt.Errorf("data.chainguard.parameters[%s]: there is no such policy", quote(name))
		}
	}
	return all, nil
}

func manifestYAML(name string, err error) error {
	var y yaml.Error
	if !errors.As(err, &y) {
		return fmt.Errorf("%s: %w", name, err)
	}
	line := 0
	if t := y.GetToken(); t != nil && t.Position != nil {
		line = t.Position.Line
	}
	return fmt.Errorf("%s:%d: %s", name, line, y.GetMessage())
}

func (m *manifest) check() error {
	odd := strings.ContainsFunc(m.Name, func(r rune) bool { return unicode.IsControl(r) || r > unicode.MaxASCII })
	switch {
	case m.Name == "" || len(m.Name) > maxManifestName || odd || strings.TrimSpace(m.Name) != m.Name:
		return fmt.Errorf("name %s: want up to %d ASCII characters", quote(m.Name), maxManifestName)
	case m.Name == PolicyError || m.Name == KillList:
		return fmt.Errorf("name %s belongs to the gateway", quote(m.Name))
	case m.ResourceType != repoType && m.ResourceType != "Repo":
		return fmt.Errorf("supported_resource_type is %s, and this gateway serves images: only %s is decided here", quote(m.ResourceType), repoType)
	case m.ExpressionType != "" && m.ExpressionType != "EXPRESSION_TYPE_REGO":
		return fmt.Errorf("expression_type is %s, want EXPRESSION_TYPE_REGO", quote(m.ExpressionType))
	case strings.TrimSpace(m.Expression) == "":
		return errors.New("expression is missing")
	}
	seen := map[string]bool{}
	for i := range m.Parameters {
		p := &m.Parameters[i]
		switch {
		case p.Name == "" || seen[p.Name]:
			return fmt.Errorf("parameters[%d].name %s is missing or used twice", i, quote(p.Name))
		case parameterSchema[p.Type] == "":
			return fmt.Errorf("parameters[%d].type is %s, want one of %s", i, quote(p.Type), strings.Join(slices.Sorted(maps.Keys(parameterSchema)), ", "))
		}
		seen[p.Name] = true
	}
	return nil
}

// parameterSchema is what the types of parameters are in JSON.
var parameterSchema = map[string]string{
	"PARAMETER_TYPE_STRING":      `{"type": "string"}`,
	"PARAMETER_TYPE_INTEGER":     `{"type": "integer"}`,
	"PARAMETER_TYPE_BOOLEAN":     `{"type": "boolean"}`,
	"PARAMETER_TYPE_STRING_LIST": `{"type": "array", "items": {"type": "string"}}`,
}

// valuesFrom returns the parameters' values: those of data.chainguard.parameters[name],
// else the defaults.
func (m *manifest) valuesFrom(data map[string]any) (map[string]any, error) {
	given, _ := lookup(data, "chainguard", "parameters", m.Name).(map[string]any)
	values := map[string]any{}
	for i := range m.Parameters {
		p := &m.Parameters[i]
		v, where := given[p.Name], "data.chainguard.parameters["+quote(m.Name)+"]."+p.Name
		if v == nil {
			v, where = p.Default, "the default of parameter "+p.Name
		}
		if v == nil {
			if p.Required {
				return nil, fmt.Errorf("parameter %s is required: give it a value in a data document, as data.chainguard.parameters[%s].%s", p.Name, quote(m.Name), p.Name)
			}
			continue
		}
		v, err := p.value(v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		values[p.Name] = v
	}
	for name := range given {
		if !slices.ContainsFunc(m.Parameters, func(p parameter) bool { return p.Name == name }) {
			return nil, fmt.Errorf("data.chainguard.parameters[%s].%s: it declares no such parameter", quote(m.Name), name)
		}
	}
	return values, nil
}

// value checks a value against the parameter's type and bounds, and returns it as JSON has
// it.
func (p *parameter) value(v any) (any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var number float64
	var list []string
	ok := false
	switch p.Type {
	case "PARAMETER_TYPE_STRING":
		_, ok = v.(string)
	case "PARAMETER_TYPE_BOOLEAN":
		_, ok = v.(bool)
	case "PARAMETER_TYPE_STRING_LIST":
		ok = json.Unmarshal(b, &list) == nil
	case "PARAMETER_TYPE_INTEGER":
		var whole int64
		ok = json.Unmarshal(b, &whole) == nil
		number = float64(whole)
	}
	switch {
	case !ok:
		return nil, fmt.Errorf("%s is no %s", clip(string(b), 100), p.Type)
	case p.Minimum != nil && number < *p.Minimum && p.Type == "PARAMETER_TYPE_INTEGER":
		return nil, fmt.Errorf("%s is under the minimum, %v", b, *p.Minimum)
	case p.Maximum != nil && number > *p.Maximum && p.Type == "PARAMETER_TYPE_INTEGER":
		return nil, fmt.Errorf("%s is over the maximum, %v", b, *p.Maximum)
	}
	var out any
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, err
	}
	all, isList := out.([]any)
	if !isList {
		all = []any{out}
	}
	for _, x := range all {
		if len(p.Allowed) > 0 && !slices.ContainsFunc(p.Allowed, func(a any) bool { return fmt.Sprint(a) == fmt.Sprint(x) }) {
			return nil, fmt.Errorf("%s is none of allowed_values", clip(fmt.Sprint(x), 100))
		}
	}
	return out, nil
}

func lookup(at any, path ...string) any {
	for _, key := range path {
		m, _ := at.(map[string]any)
		at = m[key]
	}
	return at
}

// versionFields are those of input.main_package_version, with their types.
const versionFields = `{"version": {"type": "string"}, "latestVersion": {"type": "string"}, "eolDate": {"type": "string"}, "releaseDate": {"type": "string"},
	"exists": {"type": "boolean"}, "fips": {"type": "boolean"}, "lts": {"type": "boolean"}, "eolBroken": {"type": "boolean"},
	"versionSource": {"type": "object", "properties": {"ref": {"type": "string"}, "sha": {"type": "string"}}, "additionalProperties": false}}`

// schema is that of the manifest's input: a reference to anything else is an error.
func (m *manifest) schema() (schema any, err error) {
	properties := map[string]json.RawMessage{}
	for _, p := range m.Parameters {
		properties[p.Name] = json.RawMessage(parameterSchema[p.Type])
	}
	parameters, err := json.Marshal(properties)
	if err != nil {
		return nil, err
	}
	text := `{"type": "object", "additionalProperties": false, "properties": {"main_package": {"type": "string"}, "create_time": {"type": "string"},
		"main_package_version": {"type": "object", "additionalProperties": false, "properties": ` + versionFields + `},
		"parameters": {"type": "object", "additionalProperties": false, "properties": ` + string(parameters) + `}}}`
	return schema, json.Unmarshal([]byte(text), &schema)
}

// prepare compiles the expression. Lines in errors are those of the manifest. Unlike ours it
// is not held to strict mode, in which Chainguard's own don't have to compile.
func (m *manifest) prepare(ctx context.Context, text string, store storage.Store) error {
	before, _, _ := strings.Cut(text, "\nexpression:")
	expression := strings.Repeat("\n", strings.Count(before, "\n")+2) + m.Expression
	module, err := ast.ParseModuleWithOpts(m.file, expression, ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities()})
	var errs ast.Errors
	if errors.As(err, &errs) {
		return compileError(errs)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", m.file, err)
	}
	switch {
	case module.Package.Path.String() != manifestPackage:
		return fmt.Errorf("%s: the expression's package is %s, want chainguard.policies", module.Package.Loc(), strings.TrimPrefix(module.Package.Path.String(), "data."))
	case firstRule(module, "allow") == nil:
		return fmt.Errorf("%s: the expression has no rule named allow", m.file)
	}
	m.line = firstRule(module, "allow").Loc().Row
	m.reads = needsOf(map[string]*ast.Module{m.file: module})
	schema, err := m.schema()
	if err != nil {
		return err
	}
	schemas := ast.NewSchemaSet()
	schemas.Put(ast.SchemaRootRef, schema)
	c := ast.NewCompiler().WithCapabilities(capabilities()).WithDefaultRegoVersion(ast.RegoV1).WithSchemas(schemas)
	if c.Compile(map[string]*ast.Module{m.file: module}); c.Failed() {
		return compileError(c.Errors)
	}
	m.query, err = rego.New(
		rego.Compiler(c),
		rego.Store(store),
		rego.Query("allow = "+manifestPackage+".allow"),
		rego.Capabilities(capabilities()),
		rego.SetRegoVersion(ast.RegoV1),
		rego.StrictBuiltinErrors(true),
	).PrepareForEval(ctx)
	return err
}

// lifecycle fills Chainguard's input from what is known of an image. unknown are the fields
// that the gateway can't know: a policy that reads one of them has no outcome.
func lifecycle(in *Input, data map[string]any) (input map[string]any, unknown []string) {
	input = map[string]any{}
	main := cmp.Or(in.Image.Annotations[mainPackageKey], in.Image.Labels[mainPackageKey])
	version, known := lookup(data, "chainguard", "lifecycle", main).(map[string]any)
	created := cmp.Or(in.Image.Annotations[createdKey], in.Image.Created)
	_, err := time.Parse(time.RFC3339, created)
	for _, f := range []struct {
		name  string
		known bool
		value any
	}{{"main_package", main != "", main}, {"main_package_version", main != "" && known, version}, {"create_time", err == nil, created}} {
		if f.known {
			input[f.name] = f.value
		} else {
			unknown = append(unknown, f.name)
		}
	}
	return input, unknown
}

// judge returns what the manifest says against an image, nil where it allows it. An error is
// that of the time running out.
func (m *manifest) judge(ctx context.Context, in *Input, data map[string]any) (*Violation, error) {
	input, unknown := lifecycle(in, data)
	for _, f := range unknown {
		if m.reads.has(f) {
			return m.violation("ERROR: the gateway doesn't know input."+f+" of this image", missingFields[f]), nil
		}
	}
	input["parameters"] = m.values
	rs, err := m.query.Eval(ctx, rego.EvalInput(input), rego.EvalTime(in.Now))
	switch {
	case topdown.IsCancel(err) || err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		where := m.file // what exactly went wrong is not for clients
		var e *topdown.Error
		if errors.As(err, &e) && e.Location != nil {
			where = fmt.Sprintf("line %d of %s", e.Location.Row, path.Base(m.file))
		}
		return m.violation("ERROR: the policy can't be evaluated for this image ("+where+")", "Tell who keeps the policies."), nil
	case len(rs) == 1 && rs[0].Bindings["allow"] == true:
		return nil, nil
	}
	return m.violation(cmp.Or(strings.Join(strings.Fields(m.Description), " "), m.Name+" does not allow the image"), "Use a version that the policy allows, or ask who keeps it."), nil
}

// missingFields says what to do about what the gateway can't know.
var missingFields = map[string]string{
	"main_package":         "Pull an image with the annotation or label " + mainPackageKey + ", or give the policy another mode here.",
	"main_package_version": "Add the main package to data.chainguard.lifecycle, in a data document beside the policy.",
	"create_time":          "Pull an image with the annotation " + createdKey + ", or give the policy another mode here.",
}

func (m *manifest) violation(message, remediation string) *Violation {
	return &Violation{Policy: m.Name, Message: clip(message, maxMessage), Findings: []string{}, Remediation: remediation}
}
