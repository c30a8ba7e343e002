package configs

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Remote reports whether the source is elsewhere, rather than a file.
func (b Bundle) Remote() bool { return strings.Contains(b.Source, "://") }

// Artifact returns what an oci source names: one of upstreams, a repository in it, and a
// tag or digest. ok is false for every other source.
func (b Bundle) Artifact() (upstream, repository, reference string, ok bool) {
	rest, ok := strings.CutPrefix(b.Source, "oci://")
	if !ok {
		return "", "", "", false
	}
	upstream, repository, _ = strings.Cut(rest, "/")
	if name, digest, found := strings.Cut(repository, "@"); found {
		return upstream, name, digest, name != "" && digest != ""
	}
	if i := strings.LastIndex(repository, ":"); i > 0 {
		repository, reference = repository[:i], repository[i+1:]
	} else {
		reference = "latest"
	}
	return upstream, repository, reference, repository != "" && reference != ""
}

func (v *validation) bundle(c Config) {
	const key = "policy.bundle"
	b := c.Policy.Bundle
	if b.Source == "" {
		v.check(len(b.Keys) == 0 && b.CAFile == "" && b.TokenFile == "", key, "has settings and no source; set policy.bundle.source")
		return
	}
	v.check(c.Policy.Dir == "", key, "stands beside policy.dir: policies come from one of them")
	v.check(b.Every >= 10*time.Second, key+".every", "must be at least 10s, not %s", b.Every)
	web := strings.HasPrefix(b.Source, "https://") || strings.HasPrefix(b.Source, "http://")
	v.check(web || b.CAFile == "" && b.TokenFile == "", key, "has a ca_file or a token_file, which are for an https source; a registry's are those of its upstream")
	switch {
	case web:
		v.web(key+".source", b.Source, key+".token_file", "could change what is allowed")
	case strings.HasPrefix(b.Source, "oci://"):
		name, _, _, ok := b.Artifact()
		v.check(ok, key+".source", "%q is no artifact: write oci://UPSTREAM/REPOSITORY:TAG", b.Source)
		v.check(!ok || slices.ContainsFunc(c.Upstreams, func(u Upstream) bool { return u.Name == name }), key+".source", "is in %q, which is none of upstreams: add it there, with deny: [\"**\"] where nothing else is to be pulled from it", name)
	default:
		v.check(!b.Remote(), key+".source", "%q is neither a file nor https:// nor oci://", b.Source)
	}
	names := map[string]bool{}
	for i, k := range b.Keys {
		at := fmt.Sprintf("%s.keys[%d]", key, i)
		v.check(k.Name != "", at, "needs a name: signatures know the key by it")
		v.check(k.Name == "" || !names[k.Name], at, "has the name of another: %s", k.Name)
		v.check(k.File != "", at, "needs a file with the public key in PEM")
		names[k.Name] = true
	}
}

// web checks a URL that something is fetched from or sent to, tokens along with it.
func (v *validation) web(key, text, tokenKey, harm string) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		v.add(fmt.Errorf("%s: is no URL: write https://HOST/PATH", key))
		return
	}
	v.check(u.User == nil, key, "holds a password; put a bearer token into a file, and name that in %s", tokenKey)
	v.check(u.Scheme == "https" || Loopback(withPort(u)), key, "is not https: whoever is on the way %s", harm)
}

func (v *validation) decisionLog(d DecisionLog) {
	v.check(d.Allows >= 0 && d.Allows <= 1, "decision_log.allows", "must be from 0 to 1, not %v", d.Allows)
	v.check(d.AllowEvery >= 0, "decision_log.allow_every", "must not be negative")
	if d.URL == "" {
		v.check(d.CAFile == "" && d.TokenFile == "", "decision_log", "has a ca_file or a token_file and no url")
		return
	}
	v.web("decision_log.url", d.URL, "decision_log.token_file", "could read who pulls what")
}

func withPort(u *url.URL) string {
	if u.Port() == "" {
		return u.Host + ":80"
	}
	return u.Host
}
