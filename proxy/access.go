package proxy

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/auth"
)

// An AccessRule lets callers see repositories. All its parts are globs (policy.MatchGlob); in
// those of callers and groups, whose names are no paths, "*" stands for any text.
type AccessRule struct {
	Callers      []string // names; with none, and no Groups, it is for everyone, those without a name too
	Groups       []string
	Repositories []string // cgr.dev/acme/web
}

// matches reports whether the rule is for a caller.
func (r AccessRule) matches(c auth.Caller) bool {
	if len(r.Callers) == 0 && len(r.Groups) == 0 {
		return true
	}
	anyText := func(glob string) string { return strings.ReplaceAll(glob, "*", "**") }
	name := func(glob string) bool { return c.Name != "" && policy.MatchGlob(anyText(glob), c.Name) }
	group := func(glob string) bool {
		return slices.ContainsFunc(c.Groups, func(g string) bool { return policy.MatchGlob(anyText(glob), g) })
	}
	return slices.ContainsFunc(r.Callers, name) || slices.ContainsFunc(r.Groups, group)
}

// May reports whether a caller may see a repository, written as cgr.dev/acme/web: where
// there are rules, one must say so.
func (g *Gateway) May(c auth.Caller, repository string) bool {
	rules := g.live().Access
	if len(rules) == 0 {
		return true
	}
	return slices.ContainsFunc(rules, func(r AccessRule) bool {
		return r.matches(c) && slices.ContainsFunc(r.Repositories, func(glob string) bool { return policy.MatchGlob(glob, repository) })
	})
}

// admit returns the denial of a repository that isn't for the caller. It is the same
// whether there is such a repository or not, and upstream isn't asked.
func (g *Gateway) admit(c auth.Caller, repo Repo) error {
	if g.May(c, repo.String()) {
		return nil
	}
	who := "callers without a login"
	if c.Name != "" {
		who = printable(c.Name, 100)
	}
	return &Error{Status: http.StatusForbidden, Code: codeDenied,
		Message: fmt.Sprintf("blocked by policy: %s is not open to %s; ask this gateway's operator (auth.access)", printable(repo.String(), 160), who),
		Detail:  map[string]string{"repository": repo.String(), "key": "auth.access"}}
}
