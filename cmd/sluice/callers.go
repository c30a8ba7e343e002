package main

import (
	"fmt"

	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/proxy/auth/oidc"
	"github.com/sluicegate/sluice/proxy/auth/token"
	"github.com/sluicegate/sluice/proxy/limit"
)

// openAuth returns what tells who makes a request.
func (h *house) openAuth(c configs.Config) (*auth.Authenticator, error) {
	a := &auth.Authenticator{
		Anonymous:     c.AllowAnonymous || !c.KnowsCallers() && configs.Loopback(c.Listen),
		Htpasswd:      c.Auth.HtpasswdFile,
		Groups:        c.Auth.GroupsFile,
		ClientCA:      c.TLS.ClientCAFile,
		Tokens:        &token.Signer{Key: h.connections.Key},
		TokenLife:     c.Auth.TokenLife,
		Realm:         c.Auth.TokenURL,
		IgnoreForeign: c.Auth.ForeignCredentials == "ignore",
		Log:           h.log,
	}
	for _, o := range c.Auth.OIDC {
		i := &oidc.Issuer{
			Name: o.Name, URL: o.Issuer, Audience: o.Audience, KeysURL: o.KeysURL, KeysFile: o.KeysFile,
			TokenFile: o.TokenFile, NameClaim: o.NameClaim, GroupsClaim: o.GroupsClaim, Log: h.log,
		}
		var err error
		if i.RootCAs, err = certificates("auth.oidc "+o.Name, o.CAFile); err != nil {
			return nil, err
		}
		a.Issuers = append(a.Issuers, i)
	}
	if err := a.Load(); err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	return a, nil
}

func accessOf(c configs.Auth) (rules []proxy.AccessRule) {
	for _, r := range c.Access {
		rules = append(rules, proxy.AccessRule{Callers: r.Callers, Groups: r.Groups, Repositories: r.Repositories})
	}
	return rules
}

func limitsOf(c configs.CallerLimits) limit.Limits {
	return limit.Limits{Requests: float64(c.Requests), Burst: c.Burst, Bytes: int64(c.Bytes), Open: c.Open, OpenAll: c.OpenAll}
}

// upstreams returns the registries of a configuration, the default one first. One that is
// the same in before is taken from there, with what it has learned.
func (h *house) upstreams(c configs.Config, before []proxy.Upstream) (us []proxy.Upstream, err error) {
	old := h.current().Upstreams
	for _, u := range c.Upstreams {
		up := proxy.Upstream{Name: u.Name, Policy: h.policies[policyDirOf(c, u)], TagTTL: u.TagTTL, Allow: u.Allow, Deny: u.Deny}
		for _, b := range before {
			if b.Name == u.Name && sameRegistry(find(old, u.Name), u) {
				up.Registry = b.Registry
			}
		}
		if up.Registry == nil {
			if up.Registry, err = h.registry(u); err != nil {
				return nil, err
			}
		}
		if u.Name == c.DefaultUpstream {
			us = append([]proxy.Upstream{up}, us...)
		} else {
			us = append(us, up)
		}
	}
	return us, nil
}
