package proxy

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	_ "crypto/sha256" // the digest algorithms that repositories use
	_ "crypto/sha512"
	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/policy"
)

// Distribution specification, "Pulling manifests": the form of names and tags.
var (
	nameForm = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagForm  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

const maxName = 255 // bytes; what registries accept for host and name together

// A Repo is a repository of an upstream.
type Repo struct {
	Upstream string // configured name, such as cgr.dev
	Name     string // acme/web
}

// String returns the repository as people write it: cgr.dev/acme/web.
func (r Repo) String() string { return r.Upstream + "/" + r.Name }

type resource string

const (
	rPing      resource = "ping"
	rManifest  resource = "manifest"
	rBlob      resource = "blob"
	rTags      resource = "tags"
	rReferrers resource = "referrers"
	rHistory   resource = "history"
	rOther     resource = "other" // what is no path of the API, for the metrics
)

// A route is what a request of the distribution API asks for.
type route struct {
	resource  resource
	repo      Repo
	reference string        // tag or digest, of a manifest; the tag, of a history
	digest    digest.Digest // of a blob, of a referrers' subject, of a manifest asked for by digest
	place     *place        // of a manifest's HEAD
	namespace string        // ?ns=, where that named the upstream
}

// parseRoute reads a request for /v2/…. The upstream is ?ns=, else a first path
// element that is a configured upstream's name, else the default one. Only
// configured names count as hosts, since Chainguard organisations look like host
// names, and so that the gateway is no open relay.
func (g *Gateway) parseRoute(u *url.URL) (route, error) {
	path, ok := strings.CutPrefix(u.Path, "/v2/")
	switch {
	case u.Path == "/v2" || ok && path == "":
		return route{resource: rPing}, nil
	case !ok:
		return route{}, unknownPath(u.Path)
	}
	rt, name, err := splitPath(path)
	if err != nil {
		return route{}, err
	}
	if rt.namespace, err = namespaceOf(u); err != nil {
		return route{}, err
	}
	if rt.repo, err = g.repo(name, rt.namespace); err != nil {
		return route{}, err
	}
	return rt, nil
}

// namespaceOf returns what ?ns= says. A query that can't be read whole is refused: what
// is left out of it could have named another upstream.
func namespaceOf(u *url.URL) (string, error) {
	q, err := url.ParseQuery(u.RawQuery)
	ns := q["ns"]
	switch {
	case err != nil:
		return "", badQuery("the query can't be read: " + printable(u.RawQuery, 100))
	case len(ns) > 1:
		return "", badQuery("ns is given more than once")
	case len(ns) == 0:
		return "", nil
	}
	return ns[0], nil
}

func badQuery(why string) *Error {
	return &Error{Status: http.StatusBadRequest, Code: codeUnsupported, Message: why}
}

func splitPath(path string) (route, string, error) {
	unknown := unknownPath("/v2/" + path)
	if name, ok := strings.CutSuffix(path, "/tags/list"); ok {
		return route{resource: rTags}, name, nil
	}
	if rt, name, ok, err := historyRoute(path); ok {
		return rt, name, err
	}
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return route{}, "", unknown
	}
	last := path[i+1:]
	j := strings.LastIndexByte(path[:i], '/')
	if j < 0 {
		return route{}, "", unknown
	}
	name, kind := path[:j], path[j+1:i]
	switch kind {
	case "manifests":
		rt, err := manifestRoute(last)
		return rt, name, err
	case "blobs", "referrers":
		d, err := parseDigest(last)
		if err != nil {
			return route{}, "", err
		}
		if kind == "blobs" {
			return route{resource: rBlob, digest: d}, name, nil
		}
		return route{resource: rReferrers, digest: d}, name, nil
	}
	return route{}, "", unknown
}

func unknownPath(path string) *Error {
	return &Error{Status: http.StatusNotFound, Code: codeUnsupported, Message: "no such path in the registry API: " + printable(path, 200)}
}

func manifestRoute(ref string) (route, error) {
	if strings.Contains(ref, ":") {
		d, err := parseDigest(ref)
		return route{resource: rManifest, reference: ref, digest: d}, err
	}
	if !tagForm.MatchString(ref) {
		return route{}, &Error{Status: http.StatusNotFound, Code: codeManifestUnknown, Message: "not a valid tag: " + printable(ref, 130)}
	}
	return route{resource: rManifest, reference: ref}, nil
}

func parseDigest(s string) (digest.Digest, error) {
	d := digest.Digest(s)
	if err := d.Validate(); err != nil || (d.Algorithm() != digest.SHA256 && d.Algorithm() != digest.SHA512) {
		return "", &Error{Status: http.StatusBadRequest, Code: codeDigestInvalid,
			Message: "not a sha256 or sha512 digest: " + printable(s, 140)}
	}
	return d, nil
}

// repo finds the upstream of a name, checks the name's form, and refuses repositories
// that the upstream's configuration does.
func (g *Gateway) repo(name, ns string) (Repo, error) {
	repo := Repo{Upstream: g.live().Upstreams[0].Name, Name: name}
	switch first, rest, ok := strings.Cut(name, "/"); {
	case ns != "":
		if g.upstream(ns) == nil {
			return Repo{}, &Error{Status: http.StatusForbidden, Code: codeDenied,
				Message: "this gateway does not front " + printable(ns, 100) + "; its operator can add it under upstreams"}
		}
		repo.Upstream = ns
	case ok && g.upstream(first) != nil:
		repo = Repo{Upstream: first, Name: rest}
	}
	if len(repo.Name) > maxName || !nameForm.MatchString(repo.Name) {
		return Repo{}, &Error{Status: http.StatusBadRequest, Code: codeNameInvalid, Message: "not a valid repository name: " + printable(repo.Name, 100)}
	}
	return repo, g.upstream(repo.Upstream).permit(repo)
}

// permit returns the denial of a repository that the configuration doesn't let through.
// It names the key: nobody else than the operator can do something about it.
func (u *Upstream) permit(repo Repo) error {
	matches := func(glob string) bool { return policy.MatchGlob(glob, repo.Name) }
	why, key := "is refused by", "upstreams.deny"
	if !slices.ContainsFunc(u.Deny, matches) {
		if len(u.Allow) == 0 || slices.ContainsFunc(u.Allow, matches) {
			return nil
		}
		why, key = "is not listed in", "upstreams.allow"
	}
	return &Error{Status: http.StatusForbidden, Code: codeDenied,
		Message: fmt.Sprintf("blocked by policy: the repository %s of %s %s %s of this gateway's configuration; ask its operator", printable(repo.Name, 100), u.Name, why, key),
		Detail:  map[string]string{"upstream": u.Name, "repository": repo.Name, "key": key}}
}

// upstream returns the configured upstream of that name, nil where there is none.
func (g *Gateway) upstream(name string) *Upstream {
	us := g.live().Upstreams
	if i := slices.IndexFunc(us, func(u Upstream) bool { return u.Name == name }); i >= 0 {
		return &us[i]
	}
	return nil
}

// printable makes a stranger's text fit for one line of an error: ASCII, at most n bytes.
func printable(s string, n int) string {
	if len(s) > n {
		s = s[:n] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
