package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
)

// A ModeRule says what becomes of the violations and warnings of some policies in some
// repositories. What is empty matches all.
type ModeRule struct {
	Policy     string // glob over the names of violations: known_exploited, scan_*
	Upstream   string // name of a registry, exactly
	Repository string // glob over acme/web or cgr.dev/acme/web; ** crosses "/"
	Mode       Mode
}

func (r *ModeRule) covers(upstream, repository string) bool {
	return (r.Upstream == "" || r.Upstream == upstream) &&
		(r.Repository == "" || MatchGlob(r.Repository, repository) || MatchGlob(r.Repository, upstream+"/"+repository))
}

// names reports whether the rule is for a policy. What the engine says itself is meant
// only where its name is written out: "*" is no reason to let pass what nobody decided.
func (r *ModeRule) names(policy string) bool {
	return r.Policy == "" || r.Policy == policy || policy != PolicyError && MatchGlob(r.Policy, policy)
}

// modes are the mode of what no rule covers, and the rules, of which the first that
// matches counts.
type modes struct {
	standard Mode
	rules    []ModeRule
}

func newModes(standard Mode, rules []ModeRule) (modes, error) {
	if standard == "" {
		standard = Enforce
	}
	for i, m := range append([]ModeRule{{Mode: standard}}, rules...) {
		if m.Mode.rank() < 0 {
			where := "policy mode"
			if i > 0 {
				where = fmt.Sprintf("policy mode of rule %d", i)
			}
			return modes{}, fmt.Errorf("%s: %q: want %s, %s, %s or %s", where, m.Mode, Enforce, Warn, DryRun, Off)
		}
	}
	return modes{standard, slices.Clone(rules)}, nil
}

// of returns the mode of a policy in a repository.
func (m modes) of(upstream, repository, policy string) Mode {
	for i := range m.rules {
		if r := &m.rules[i]; r.covers(upstream, repository) && r.names(policy) {
			return r.Mode
		}
	}
	return m.standard
}

// strictest returns the strictest mode that any policy has in a repository.
func (m modes) strictest(upstream, repository string) Mode {
	strictest := Off
	for i := range m.rules {
		r := &m.rules[i]
		if !r.covers(upstream, repository) {
			continue
		}
		strictest = stricter(strictest, r.Mode)
		if r.Policy == "" {
			return strictest
		}
	}
	return stricter(strictest, m.standard)
}

// rank orders modes from the strictest, 0; no mode is -1.
func (m Mode) rank() int { return slices.Index([]Mode{Enforce, Warn, DryRun, Off}, m) }

func stricter(a, b Mode) Mode {
	if b.rank() < a.rank() {
		return b
	}
	return a
}

// Mode returns the strictest that can become of an image in a repository of an
// upstream, before there is a decision to read it off.
func (e *Engine) Mode(upstream, repository string) Mode {
	return e.modes.strictest(upstream, repository)
}

// apply gives each violation and warning of d its mode, the strictest first, and drops
// those that are off. The decision has the mode of the strictest violation; without one,
// the strictest that there could have been.
func (m modes) apply(d *Decision, a *Image) {
	sift := func(vs []Violation) []Violation {
		kept := []Violation{}
		for _, v := range vs {
			if v.Mode = m.of(a.Registry, a.Repository, v.Policy); v.Mode != Off {
				kept = append(kept, v)
			}
		}
		slices.SortStableFunc(kept, func(a, b Violation) int { return a.Mode.rank() - b.Mode.rank() })
		return kept
	}
	d.Violations, d.Warnings = sift(d.Violations), sift(d.Warnings)
	d.Mode = m.strictest(a.Registry, a.Repository)
	if d.Allow = len(d.Violations) == 0; !d.Allow {
		d.Mode = d.Violations[0].Mode
	}
}

// binding returns the violations that make the decision what it is: those of its mode.
func (d Decision) binding() []Violation {
	return slices.DeleteFunc(slices.Clone(d.Violations), func(v Violation) bool { return d.modeOf(v) != d.Mode })
}

// modeOf returns what becomes of a violation or warning of the decision.
func (d Decision) modeOf(v Violation) Mode { return cmp.Or(v.Mode, d.Mode) }

// revision names the modes, "" where all is enforced.
func (m modes) revision() string {
	if m.standard == Enforce && len(m.rules) == 0 {
		return ""
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", m))
	return hex.EncodeToString(sum[:])[:12]
}
