package configs

import (
	"fmt"
	"net/url"
	"regexp"
	"time"
)

// issuerName is what may stand before a colon in names of callers.
var issuerName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

func (v *validation) auth(c Config) {
	a := c.Auth
	v.check(a.GroupsFile == "" || c.KnowsCallers(), "auth.groups_file", "has groups of callers that nobody knows: set auth.htpasswd_file, auth.oidc or tls.client_ca_file too")
	v.oneOf("auth.foreign_credentials", a.ForeignCredentials, "refuse", "ignore")
	v.between("auth.token_life", a.TokenLife, 30*time.Second, time.Hour)
	v.webURL("auth.token_url", a.TokenURL, "clients bring their own")
	names, issuers := map[string]bool{"cert": true}, map[string]bool{}
	for i, o := range a.OIDC {
		key := fmt.Sprintf("auth.oidc[%d]", i)
		v.check(issuerName.MatchString(o.Name), key+".name", "%.60q must be a short name in small letters, digits, dots and dashes, such as github", o.Name)
		v.check(!names[o.Name], key+".name", "%s is taken: two kinds of callers would have the same names", o.Name)
		v.check(!issuers[o.Issuer], key+".issuer", "%s is listed twice", o.Issuer)
		names[o.Name], issuers[o.Issuer] = true, true
		v.secureURL(key+".issuer", o.Issuer, true)
		v.secureURL(key+".keys_url", o.KeysURL, false)
		v.check(o.Audience != "", key+".audience", "is required: without it, a token that was meant for somebody else could be used here")
		v.check(o.KeysURL == "" || o.KeysFile == "", key, "has both keys_url and keys_file, keep one")
		v.check(o.KeysFile == "" || o.TokenFile == "" && o.CAFile == "", key, "reads its keys from keys_file, and asks nobody: remove token_file and ca_file")
	}
	for i, r := range a.Access {
		key := fmt.Sprintf("auth.access[%d]", i)
		v.check(len(r.Repositories) > 0, key+".repositories", "is required, such as [\"cgr.dev/acme/**\"]")
		for _, g := range r.Repositories {
			v.check(len(g) <= 512 && accessGlob.MatchString(g), key+".repositories", "%.60q is no glob over names of repositories with their upstream's, such as cgr.dev/acme/* or cgr.dev/acme/**", g)
		}
		for _, g := range append(append([]string{}, r.Callers...), r.Groups...) {
			v.check(g != "" && len(g) <= 512, key, "holds an empty glob, or one of more than 512 bytes")
		}
	}
}

// accessGlob is globForm with an upstream, which may have a port, before it.
var accessGlob = regexp.MustCompile(`^(\*\*|[a-z0-9._*?:-]+(/[a-z0-9._*?-]+)+)$`)

// secureURL checks a URL that keys come from: over plain HTTP anybody on the way could put
// in his own.
func (v *validation) secureURL(key, s string, required bool) {
	if s == "" {
		v.check(!required, key, "is required")
		return
	}
	u, err := url.Parse(s)
	ok := err == nil && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == ""
	v.check(ok && (u.Scheme == "https" || u.Scheme == "http" && Loopback(u.Hostname()+":0")), key, "must be a URL that begins with https://, without credentials, ? and #")
}

func (v *validation) limits(l CallerLimits) {
	v.check(l.Requests >= 0 && l.Burst >= 0 && l.Bytes >= 0 && l.Open >= 0 && l.OpenAll >= 0, "limits", "can't be below 0, which is no limit")
	v.check(l.Burst == 0 || l.Requests > 0, "limits.burst", "belongs to limits.requests, which is not set")
	v.check(l.Bytes == 0 || l.Bytes >= 64*KiB, "limits.bytes", "must be 0 (no limit) or at least 64KiB, not %s", l.Bytes)
	v.check(l.OpenAll == 0 || l.OpenAll >= 16, "limits.open_all", "must be 0 (no limit) or at least 16, not %d: a single pull has several requests open", l.OpenAll)
}
