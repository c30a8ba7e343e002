package proxy

import (
	"net/url"
	"strings"
	"testing"
)

// Whatever a request's address is, it names a configured upstream and a repository that
// may be asked for, or it is refused with an *Error.
func FuzzRoute(f *testing.F) {
	g := &Gateway{Upstreams: []Upstream{{Name: "cgr.test", Deny: []string{"acme/secret", "**/hidden"}}, {Name: "two.test:5000", Allow: []string{"acme/*"}}}}
	long := strings.Repeat("a", 64)
	for _, seed := range []string{
		"/v2/", "/v2", "/v2/acme/app/manifests/one", "/v2/two.test:5000/acme/app/blobs/sha256:" + long, "/v2/acme/secret/tags/list?n=1&last=x",
		"/v2/acme/app/referrers/sha512:" + long + long + "?ns=two.test:5000&artifactType=a/b", "/v2/cgr.test/x/hidden/manifests/a", "/v2/x%2f..%2fy/manifests/a?ns=a&ns=b", "/v2/acme/app/_chainguard/history/one",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.ParseRequestURI(text)
		if err != nil {
			return
		}
		rt, err := g.parseRoute(u)
		if err != nil {
			if e, ok := err.(*Error); !ok || e.Status < 400 || e.Status >= 500 || e.Code == "" || len(e.Message) > 500 {
				t.Errorf("%q: %#v", text, err)
			}
			return
		}
		if rt.resource == rPing {
			return
		}
		repo := rt.repo
		switch {
		case g.upstream(repo.Upstream) == nil, !nameForm.MatchString(repo.Name), len(repo.Name) > maxName:
			t.Errorf("%q: %+v", text, rt)
		case repo.Upstream == "cgr.test" && (repo.Name == "acme/secret" || strings.HasSuffix(repo.Name, "/hidden")):
			t.Errorf("%q: refused by deny, and passed: %+v", text, rt)
		case repo.Upstream != "cgr.test" && (!strings.HasPrefix(repo.Name, "acme/") || strings.Count(repo.Name, "/") != 1):
			t.Errorf("%q: not in allow, and passed: %+v", text, rt)
		case rt.digest != "" && rt.digest.Validate() != nil, rt.resource == rManifest && rt.digest == "" && !tagForm.MatchString(rt.reference):
			t.Errorf("%q: %+v", text, rt)
		}
	})
}
