package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/scan"
)

const (
	maxWaivers    = 5000
	maxWaiverFile = 4 << 20 // bytes
	maxField      = 500     // bytes of one field
	expiringSoon  = 7 * 24 * time.Hour
)

// A Waiver sets findings or violations aside, for a reason and until a time.
type Waiver struct {
	ID      string    `yaml:"id" json:"id"`
	Owner   string    `yaml:"owner" json:"owner"`
	Reason  string    `yaml:"reason" json:"reason"`
	Ticket  string    `yaml:"ticket" json:"ticket,omitempty"`
	Scope   Scope     `yaml:"scope" json:"scope"`
	Expires string    `yaml:"expires" json:"expires"`     // RFC 3339, or a date, whose end in UTC is meant
	Created string    `yaml:"-" json:"created,omitempty"` // RFC 3339; of those in the Store
	until   time.Time // Expires; at this instant the waiver is over
	stored  bool      // in the Store
}

// A Scope says what a Waiver is for. All fields that are set must match, and at
// least one is set.
//
// With Advisory or Package it sets findings aside. With Policy it sets aside the
// violations and warnings of that policy. With neither it sets aside all findings
// and all violations of the images that it is for.
type Scope struct {
	Advisory   string `yaml:"advisory" json:"advisory,omitempty"`     // ID or alias of a finding
	Package    string `yaml:"package" json:"package,omitempty"`       // glob over the package's name
	Repository string `yaml:"repository" json:"repository,omitempty"` // glob over acme/web or cgr.dev/acme/web
	Digest     string `yaml:"digest" json:"digest,omitempty"`         // of the image, or of an index that lists it
	Namespace  string `yaml:"namespace" json:"namespace,omitempty"`   // Kubernetes namespace, exactly
	Policy     string `yaml:"policy" json:"policy,omitempty"`         // name of a policy, exactly
}

// String is for people: advisory=CVE-2026-1 repository=acme/*.
func (s Scope) String() string {
	var parts []string
	for _, f := range [...]struct{ name, value string }{
		{"advisory", s.Advisory}, {"package", s.Package}, {"repository", s.Repository},
		{"digest", s.Digest}, {"namespace", s.Namespace}, {"policy", s.Policy},
	} {
		if f.value != "" {
			parts = append(parts, f.name+"="+f.value)
		}
	}
	return strings.Join(parts, " ")
}

// images reports whether the scope covers the image and the caller.
func (s *Scope) images(in *Input) bool {
	if s.Digest != "" && s.Digest != in.Image.Digest && !slices.Contains(in.Image.Indexes, s.Digest) {
		return false
	}
	if s.Namespace != "" && s.Namespace != in.Request.Namespace {
		return false
	}
	return s.Repository == "" || MatchGlob(s.Repository, in.Image.Repository) ||
		MatchGlob(s.Repository, in.Image.Registry+"/"+in.Image.Repository)
}

// violation reports whether the scope covers what a policy says of an image that it
// covers.
func (s *Scope) violation(v *Violation) bool {
	return s.Advisory == "" && s.Package == "" && (s.Policy == "" || s.Policy == v.Policy)
}

// A waiverSet is what one waiver file holds. The zero value holds none.
type waiverSet struct {
	all      []Waiver
	revision string // "" where there is no file
}

// activeWaivers are those of a set that hold for one input, the one that holds longest
// first: of several for one thing, it is the one that counts.
type activeWaivers []*Waiver

// active returns the waivers that hold at in.Now for its image and caller.
func (w *waiverSet) active(in *Input) activeWaivers {
	var active activeWaivers
	for i := range w.all {
		if x := &w.all[i]; in.Now.Before(x.until) && x.Scope.images(in) {
			active = append(active, x)
		}
	}
	slices.SortStableFunc(active, func(a, b *Waiver) int { return b.until.Compare(a.until) })
	return active
}

// findings splits the findings of in into those that policies see and those that
// waivers set aside. What was suppressed before stays out of sight of both.
func (w activeWaivers) findings(in *Input) (active []scan.Finding, waived []Waived) {
	ws := byAdvisory(w)
	active = make([]scan.Finding, 0, len(in.Findings))
	seen := map[[2]string]bool{}
	for i := range in.Findings {
		f := &in.Findings[i]
		if f.SuppressedBy != nil {
			continue
		}
		x := ws.find(f)
		if x == nil {
			active = append(active, *f)
			continue
		}
		if id := [2]string{f.ID, f.Package.Name}; !seen[id] {
			seen[id] = true
			m := x.mark()
			m.Finding, m.Package = f.ID, f.Package.Name
			waived = append(waived, m)
		}
	}
	return active, waived
}

// findingWaivers are waivers for findings, by lower-case advisory; those for any
// advisory are under "".
type findingWaivers map[string][]*Waiver

func byAdvisory(ws activeWaivers) findingWaivers {
	m := findingWaivers{}
	for _, x := range ws {
		if x.Scope.Policy == "" {
			id := strings.ToLower(x.Scope.Advisory)
			m[id] = append(m[id], x)
		}
	}
	return m
}

// find returns the waiver that covers f for the longest time, or nil.
func (m findingWaivers) find(f *scan.Finding) *Waiver {
	if len(m) == 0 {
		return nil
	}
	names := func(id string) *Waiver {
		for _, x := range m[strings.ToLower(id)] {
			if x.Scope.Package == "" || MatchGlob(x.Scope.Package, f.Package.Name) {
				return x
			}
		}
		return nil
	}
	var longest *Waiver
	for _, id := range append([]string{"", f.ID}, f.Aliases...) {
		if x := names(id); x != nil && (longest == nil || x.until.After(longest.until)) {
			longest = x
		}
	}
	return longest
}

// violations splits what policies said into what stays and what waivers set aside.
func (w activeWaivers) violations(vs []Violation) (stay []Violation, waived []Waived) {
	stay = []Violation{}
	for i := range vs {
		j := slices.IndexFunc(w, func(x *Waiver) bool { return x.Scope.violation(&vs[i]) })
		if j < 0 {
			stay = append(stay, vs[i])
			continue
		}
		m := w[j].mark()
		m.Policy = vs[i].Policy
		waived = append(waived, m)
	}
	return stay, waived
}

func (x *Waiver) mark() Waived {
	return Waived{Waiver: x.ID, Owner: x.Owner, Reason: x.Reason, Expires: x.until.Format(time.RFC3339)}
}

// nextExpiry returns when the next of the waivers that hold at now ends.
func (w *waiverSet) nextExpiry(now time.Time) (next time.Time, ok bool) {
	for i := range w.all {
		if u := w.all[i].until; now.Before(u) && (!ok || u.Before(next)) {
			next, ok = u, true
		}
	}
	return next, ok
}

// parseWaivers reads a YAML or JSON file: {waivers: [{id, owner, reason, ticket,
// scope, expires}]}. It is strict: an unknown or repeated key, a missing field, a
// scope that can't match are errors that name file and line.
func parseWaivers(name string, data []byte) (*waiverSet, error) {
	sum := sha256.Sum256(data)
	set := &waiverSet{revision: hex.EncodeToString(sum[:])[:12]}
	if len(data) > maxWaiverFile {
		return nil, fmt.Errorf("%s: larger than %d MiB", name, maxWaiverFile>>20)
	}
	var tokens token.Tokens = lexer.Tokenize(string(data))
	for _, t := range tokens {
		if t.Type == token.AliasType || t.Type == token.AnchorType || t.Type == token.MergeKeyType {
			return nil, fmt.Errorf("%s:%d: anchors, aliases and merge keys are not allowed here", name, t.Position.Line)
		}
	}
	var file struct {
		Waivers []Waiver `yaml:"waivers"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict())
	if err := dec.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, yamlError(name, err)
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: more than one document", name)
	}
	if len(file.Waivers) > maxWaivers {
		return nil, fmt.Errorf("%s: %d waivers, at most %d are kept", name, len(file.Waivers), maxWaivers)
	}
	ids := map[string]bool{}
	for i := range file.Waivers {
		x := &file.Waivers[i]
		err := x.check()
		if err == nil && ids[x.ID] {
			err = errors.New("the id is used twice")
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: waiver %d (%s): %w", name, waiverLine(data, i), i+1, clip(x.ID, 100), err)
		}
		ids[x.ID] = true
	}
	set.all = file.Waivers
	return set, nil
}

// waiverLine returns the line on which the waiver with an index begins.
func waiverLine(data []byte, i int) int {
	path, err := yaml.PathString(fmt.Sprintf("$.waivers[%d]", i))
	if err != nil {
		return 1
	}
	node, err := path.ReadNode(bytes.NewReader(data))
	if err != nil || node.GetToken() == nil {
		return 1
	}
	return node.GetToken().Position.Line
}

func (x *Waiver) check() error {
	for _, f := range [...]struct{ name, value string }{{"id", x.ID}, {"owner", x.Owner}, {"reason", x.Reason}, {"expires", x.Expires}} {
		if strings.TrimSpace(f.value) != "" {
			continue
		}
		if f.name == "expires" {
			return errors.New("expires is missing: give a date (2026-12-31, through its end in UTC) or RFC 3339 (2026-12-31T18:00:00Z)")
		}
		return fmt.Errorf("%s is missing: set it", f.name)
	}
	for _, v := range [...]string{x.ID, x.Owner, x.Reason, x.Ticket, x.Scope.Advisory, x.Scope.Package, x.Scope.Repository, x.Scope.Namespace, x.Scope.Policy} {
		if len(v) > maxField {
			return fmt.Errorf("a field is longer than %d bytes", maxField)
		}
	}
	s := &x.Scope
	switch {
	case *s == Scope{}:
		return errors.New("scope is missing; set at least one of advisory, package, repository, digest, namespace, policy")
	case s.Policy != "" && (s.Advisory != "" || s.Package != ""):
		return errors.New("scope.policy can't stand beside advisory or package: it sets a whole policy aside")
	case s.Policy == PolicyError || s.Policy == KillList:
		return fmt.Errorf("%s can't be waived", s.Policy)
	}
	if s.Digest != "" {
		if _, err := digest.Parse(s.Digest); err != nil {
			return fmt.Errorf("scope.digest %s: %w", quote(s.Digest), err)
		}
	}
	var err error
	x.until, err = parseExpiry(x.Expires)
	return err
}

// parseExpiry returns the instant at which a waiver is over.
func parseExpiry(s string) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t.UTC(), nil
	}
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t.AddDate(0, 0, 1), nil
	}
	return time.Time{}, fmt.Errorf("expires %s: want a date (2026-12-31, through its end in UTC) or RFC 3339 (2026-12-31T18:00:00Z)", quote(s))
}

var unknownField = regexp.MustCompile(`unknown field "(.*)"`)

// yamlError names file, line and, for an unknown key, the nearest one.
func yamlError(name string, err error) error {
	var y yaml.Error
	if !errors.As(err, &y) {
		return fmt.Errorf("%s: %w", name, err)
	}
	line := 0
	if t := y.GetToken(); t != nil && t.Position != nil {
		line = t.Position.Line
	}
	msg := y.GetMessage()
	if m := unknownField.FindStringSubmatch(msg); m != nil {
		msg = fmt.Sprintf("unknown key %s", quote(m[1]))
		if near := nearest(m[1], "waivers", "id", "owner", "reason", "ticket", "scope", "expires",
			"advisory", "package", "repository", "digest", "namespace", "policy"); near != "" {
			msg += fmt.Sprintf("; did you mean %q?", near)
		}
	}
	return fmt.Errorf("%s:%d: %s", name, line, msg)
}

// nearest returns the word that s is most likely a slip of, or "".
func nearest(s string, words ...string) string {
	best, at := "", 3
	for _, w := range words {
		if d := distance(strings.ToLower(clip(s, 50)), w); d < at && d < len(w) {
			best, at = w, d
		}
	}
	return best
}

// distance is the number of insertions, deletions and replacements between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diag
			if a[i] != b[j] {
				d = 1 + min(diag, row[j], row[j+1])
			}
			diag, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}
