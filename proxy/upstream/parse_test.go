package upstream

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestChallenges(t *testing.T) {
	for _, tt := range []struct {
		headers []string
		scheme  string
		params  map[string]string
	}{
		{[]string{`Bearer realm="https://cgr.dev/token",service="cgr.dev"`}, "bearer", map[string]string{"realm": "https://cgr.dev/token", "service": "cgr.dev"}},
		{[]string{`bearer  REALM = "https://x/t" , service=cgr.dev,scope="repository:a/b:pull,push"`}, "bearer",
			map[string]string{"realm": "https://x/t", "service": "cgr.dev", "scope": "repository:a/b:pull,push"}},
		{[]string{`Basic realm="x", Bearer realm="https://x/t"`}, "bearer", map[string]string{"realm": "https://x/t"}},
		{[]string{`Negotiate`, `Negotiate abc==, Basic realm="a \"quoted\" one"`}, "basic", map[string]string{"realm": `a "quoted" one`}},
		{[]string{`NTLM TlRMTVNTUAAB/=, Bearer realm="https://x/t"`}, "bearer", map[string]string{"realm": "https://x/t"}},
		{[]string{`Digest qop="auth, auth-int", realm=x, Bearer realm="https://x/t"`}, "bearer", map[string]string{"realm": "https://x/t"}},
		{[]string{`Bearer realm="first",realm="second"`}, "bearer", map[string]string{"realm": "first"}},
		{[]string{`Bearer`, `Basic`}, "basic", map[string]string{}},
		{[]string{`Bearer realm="unclosed`}, "", nil},
		{[]string{`realm="x"`}, "", nil},
		{[]string{`"`, `,,,`, ``, `=`, `Bearer =`}, "", nil},
		{nil, "", nil},
	} {
		c := findChallenge(http.Header{"Www-Authenticate": tt.headers})
		if c == nil {
			c = &challenge{}
		}
		if diff := cmp.Diff(tt.params, c.params); c.scheme != tt.scheme || diff != "" {
			t.Errorf("%q is %q: %s", tt.headers, c.scheme, diff)
		}
	}
	many := parseChallenges([]string{strings.Repeat("a=b,", 5000), "Bearer " + strings.Repeat("a=b,", 1000)})
	if len(many) > 0 {
		t.Errorf("headers of 24 kB are read: %d challenges", len(many))
	}
}

func FuzzChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://cgr.dev/token",service="cgr.dev"`)
	f.Add(`Negotiate abc==, Basic realm="a \"quoted\" one", Digest qop="a, b"`)
	f.Fuzz(func(t *testing.T, s string) {
		for _, c := range parseChallenges([]string{s}) {
			if c.scheme == "" || strings.ToLower(c.scheme) != c.scheme || len(c.params) > maxChallengeParams {
				t.Errorf("%q gives scheme %q with %d parameters", s, c.scheme, len(c.params))
			}
			for k, v := range c.params {
				if k == "" || strings.ContainsAny(k, "\", =") || len(v) > len(s) {
					t.Errorf("%q gives %q=%q", s, k, v)
				}
			}
		}
		// What is quoted comes back as it was, whatever it is.
		quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)
		h := "Basic x=" + `"` + quoted + `", Bearer realm="y"`
		if len(h) < maxChallenge {
			cs := parseChallenges([]string{h})
			if len(cs) != 2 || cs[0].params["x"] != s || cs[1].params["realm"] != "y" {
				t.Errorf("%q is read as %+v", h, cs)
			}
		}
	})
}

func TestLinks(t *testing.T) {
	for _, tt := range []struct {
		headers []string
		want    string // "" is none
	}{
		{[]string{`</v2/a/tags/list?n=2&last=b>; rel="next"`}, "/v2/a/tags/list?n=2&last=b"},
		{[]string{`</x>; rel="prev", </y>; title="a, <b>; c"; rel=next`}, "/y"},
		{[]string{`</x>; rel="first last"`, `</y> ; REL = "up NEXT"`}, "/y"},
		{[]string{`</x>`, `</x>; rel`, `</x; rel=next`, `x; rel=next`, `</x>; rel="next`}, ""},
		{[]string{`<%zz>; rel=next, </y>; rel=next`}, "/y"},
		{nil, ""},
	} {
		u, ok := nextLink(http.Header{"Link": tt.headers})
		got := ""
		if ok {
			got = u.String()
		}
		if got != tt.want {
			t.Errorf("%q leads to %q, want %q", tt.headers, got, tt.want)
		}
	}
}

func FuzzLink(f *testing.F) {
	f.Add(`</v2/a/tags/list?n=2&last=b>; rel="next", </y>; title="a, <b>; c"; rel=next`)
	f.Fuzz(func(t *testing.T, s string) {
		if u, ok := nextLink(http.Header{"Link": {s}}); ok && (u == nil || !strings.Contains(strings.ToLower(s), "next")) {
			t.Errorf("%q leads to %v", s, u)
		}
	})
}

func jwt(payload string) string {
	e := base64.RawURLEncoding.EncodeToString
	return e([]byte(`{"alg":"RS256"}`)) + "." + e([]byte(payload)) + "." + e([]byte("signature"))
}

func TestClaims(t *testing.T) {
	c, err := ReadClaims(jwt(`{"aud":"https://issuer.enforce.dev","iss":"https://x","sub":"pull","iat":1700000000,"exp":1702592000.5}`))
	want := Claims{"https://x", "pull", time.Unix(1700000000, 0).UTC(), time.Unix(1702592000, 0).UTC()}
	if diff := cmp.Diff(want, c); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
	for _, s := range []string{`{}`, `{"exp":"tomorrow","iss":5}`, `{"exp":-1}`, `{"exp":1e300}`, `{"exp":null}`} {
		if c, err := ReadClaims(jwt(s)); err != nil || c != (Claims{}) {
			t.Errorf("%s: %+v, %v", s, c, err)
		}
	}
	for _, s := range []string{"", "a.b", "a.b.c", "..", jwt("[]"), jwt("x"), strings.Repeat("a", 100<<10), "dckr_pat_abc"} {
		if _, err := ReadClaims(s); err == nil || len(s) > 4 && strings.Contains(err.Error(), s) {
			t.Errorf("%.20q: %v", s, err)
		}
	}
}

func FuzzClaims(f *testing.F) {
	f.Add(jwt(`{"iss":"https://x","iat":1700000000,"exp":1702592000}`))
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ReadClaims(s)
		if err != nil && c != (Claims{}) || !utf8.ValidString(c.Issuer) || c.Expires.Year() > 6000 {
			t.Errorf("%q: %+v, %v", s, c, err)
		}
	})
}

func TestTokenAnswers(t *testing.T) {
	now := time.Now()
	at := func(d time.Duration) string { return now.Add(d).UTC().Format(time.RFC3339) }
	for _, tt := range []struct {
		body  string
		value string
		life  time.Duration
	}{
		{`{"token":"a"}`, "a", time.Minute},
		{`{"access_token":"b","expires_in":300}`, "b", 5 * time.Minute},
		{`{"token":"a","access_token":"b","expires_in":0}`, "a", time.Minute},
		{`{"token":"a","expires_in":300,"issued_at":"` + at(-time.Minute) + `"}`, "a", 4 * time.Minute},
		{`{"token":"a","expires_in":300,"issued_at":"` + at(time.Hour) + `"}`, "a", 5 * time.Minute},
		{`{"token":"a","expires_in":300,"issued_at":"` + at(-time.Hour) + `"}`, "a", leastLife},
		{`{"token":"a","expires_in":1e12}`, "a", mostLife},
		{`{"token":"a","expires_in":"soon"}`, "a", time.Minute},
		{`{"token":"` + jwt(fmt.Sprintf(`{"iat":%d,"exp":%d}`, now.Unix(), now.Unix()+600)) + `"}`, "", 10 * time.Minute},
		{`{"token":"` + jwt(fmt.Sprintf(`{"iat":%d,"exp":%d}`, now.Unix()+7200, now.Unix()+7800)) + `"}`, "", 10 * time.Minute}, // their clock is wrong
	} {
		tok, err := parseToken([]byte(tt.body), now)
		if err != nil || tt.value != "" && tok.value != tt.value || (tok.expires.Sub(now)-tt.life).Abs() > time.Second+time.Millisecond {
			t.Errorf("%.60s: %.10s for %v, %v; want %v", tt.body, tok.value, tok.expires.Sub(now), err, tt.life)
		}
		if !tok.renew.Before(tok.expires) || !tok.renew.After(now) {
			t.Errorf("%.60s is renewed after %v of %v", tt.body, tok.renew.Sub(now), tok.expires.Sub(now))
		}
	}
	for _, body := range []string{``, `{}`, `[]`, `{"token":5}`, `{"token":"a b"}`, `{"token":"a\r\nX: y"}`, `<html>`} {
		if tok, err := parseToken([]byte(body), now); err == nil {
			t.Errorf("%s gives token %q", body, tok.value)
		}
	}
}

func TestContentRange(t *testing.T) {
	for s, want := range map[string][4]int64{
		"bytes 5-9/10": {5, 9, 10, 1}, "bytes 0-0/*": {0, 0, -1, 1}, "bytes 5-10/10": {0, 0, 0, 0}, "bytes 9-5/10": {}, "bytes */10": {},
		"": {}, "bytes 5-9": {}, "items 5-9/10": {}, "bytes -5-9/10": {}, "bytes 5-9/x": {}, "bytes 0-99999999999999999999/*": {},
	} {
		start, end, total, ok := parseContentRange(s)
		if ok != (want[3] == 1) || ok && [3]int64{start, end, total} != [3]int64(want[:3]) {
			t.Errorf("%q: %d-%d/%d, %t", s, start, end, total, ok)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"": 0, "5": 5 * time.Second, "-5": 0, "99999": time.Hour, "soon": 0, "99999999999999999999": 0,
		now.Add(time.Minute).Format(http.TimeFormat): time.Minute, now.Add(-time.Minute).Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(s, now); got != want {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
	}
}

func TestClean(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"a\r\nb\x1b[31m c\x00", "a b [31m c"},
		{"see https://user:pw@x.example:5/a/b?sig=1#f, or ftp://y?z", "see https://x.example:5 or ftp://y"},
		{strings.Repeat("é", 300), strings.Repeat("é", 150) + "…"},
		{"a\xffb", "a?b"},
		{"the password hunter22 is wrong", "the password … is wrong"},
	} {
		if got := clean(tt.in, 300, []string{"", "hunter22"}); got != tt.want {
			t.Errorf("%q becomes %q, want %q", tt.in, got, tt.want)
		}
	}
}
