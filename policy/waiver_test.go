package policy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicegate/sluice/scan"
)

const indexDigest = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

// one returns a file with one waiver of the scope.
func one(scope string) string {
	return "waivers:\n  - id: W-1\n    owner: anna\n    reason: not reachable\n    expires: 2026-06-30\n    scope: {" + scope + "}\n"
}

func TestParseWaiversErrors(t *testing.T) {
	valid := one("advisory: CVE-1")
	cases := []struct{ name, text, want string }{
		{"unknown key", strings.Replace(valid, "reason:", "raeson:", 1), `w.yaml:4: unknown key "raeson"; did you mean "reason"?`},
		{"unknown key of scope", one("advisry: CVE-1"), `w.yaml:6: unknown key "advisry"; did you mean "advisory"?`},
		{"unknown key at the top", "waiver:\n  - id: x\n", `w.yaml:1: unknown key "waiver"; did you mean "waivers"?`},
		{"a key like none", "xyzzy: 1\n", `w.yaml:1: unknown key "xyzzy"`},
		{"a key twice", strings.Replace(valid, "owner: anna", "owner: anna\n    owner: bob", 1), "w.yaml:4:"},
		{"no owner", strings.Replace(valid, "owner: anna", "owner: ''", 1), "w.yaml:2: waiver 1 (W-1): owner is missing"},
		{"no id", strings.Replace(valid, "id: W-1", "id: ' '", 1), "id is missing"},
		{"no reason", strings.Replace(valid, "    reason: not reachable\n", "", 1), "reason is missing"},
		{"no expiry", strings.Replace(valid, "    expires: 2026-06-30\n", "", 1), "expires is missing"},
		{"a date that is none", strings.Replace(valid, "2026-06-30", "2026-06-31", 1), "want a date (2026-12-31"},
		{"never", strings.Replace(valid, "2026-06-30", "never", 1), "want a date"},
		{"no scope", strings.Replace(valid, "    scope: {advisory: CVE-1}\n", "", 1), "scope is missing; set at least one of"},
		{"an empty scope", one(""), "scope is missing"},
		{"policy and advisory", one("policy: scan_failed, advisory: CVE-1"), "can't stand beside"},
		{"the kill list", one("policy: kill_list"), "kill_list can't be waived"},
		{"policy_error", one("policy: policy_error"), "policy_error can't be waived"},
		{"a short digest", one("digest: 'sha256:12'"), "scope.digest"},
		{"the same id", valid + strings.TrimPrefix(valid, "waivers:\n"), "w.yaml:7: waiver 2 (W-1): the id is used twice"},
		{"a long field", strings.Replace(valid, "anna", strings.Repeat("a", maxField+1), 1), "longer than 500 bytes"},
		{"an alias", "waivers: &a []\nb: *a\n", "w.yaml:1: anchors"},
		{"two documents", valid + "---\n" + valid, "more than one document"},
		{"a list", "- id: x\n", "w.yaml:1:"},
		{"syntax", "waivers: [", "w.yaml"},
		{"a number for a scope", one("") + "      x", "w.yaml"},
		{"too large", strings.Repeat("#", maxWaiverFile+1), "larger than 4 MiB"},
		{"too many", "waivers:\n" + strings.Repeat("  - {id: x}\n", maxWaivers+1), "5001 waivers, at most 5000"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseWaivers("w.yaml", []byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestParseWaivers(t *testing.T) {
	for name, text := range map[string]string{
		"empty":    "",
		"comment":  "# none yet\n",
		"no items": "waivers: []\n",
		"null":     "waivers:\n",
	} {
		if set, err := parseWaivers("w.yaml", []byte(text)); err != nil || len(set.all) != 0 {
			t.Errorf("%s: %v, %v", name, set, err)
		}
	}
	json := `{"waivers": [{"id": "W-1", "owner": "o", "reason": "r", "ticket": "T", "scope": {"digest": "` + indexDigest + `"}, "expires": "2026-06-30T12:00:00+02:00"}]}`
	set, err := parseWaivers("w.json", []byte(json))
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Date(2026, 6, 30, 10, 0, 0, 0, time.UTC); len(set.all) != 1 || !set.all[0].until.Equal(want) {
		t.Errorf("got %+v", set.all)
	}
}

// TestWaiverScopes decides about one image with one waiver each: two findings that
// are denied for two reasons, in one namespace, listed by one index.
func TestWaiverScopes(t *testing.T) {
	in := clean()
	in.Image.Registry, in.Image.Repository, in.Image.Indexes, in.Request.Namespace = "cgr.dev", "acme/web", []string{indexDigest}, "payments"
	critical := finding("CVE-1", "critical", "2025-12-01")
	critical.Aliases = []string{"GHSA-1"}
	kev := finding("CVE-2", "low", "")
	kev.KEV, kev.Package.Name = "2025-12-30", "libxml2"
	other := finding("CVE-1", "critical", "2025-12-01")
	other.Package.Name = "libssl"
	in = with(in, critical, kev, other)
	both := []string{"critical_fix_overdue", "known_exploited"}
	cases := []struct {
		scope  string
		left   []string
		waived []string // finding@package or the policy
	}{
		{"advisory: CVE-1", []string{"known_exploited"}, []string{"CVE-1@openssl", "CVE-1@libssl"}},
		{"advisory: ghsa-1", both, []string{"CVE-1@openssl"}},
		{"advisory: CVE-3", both, nil},
		{"package: 'libx*'", []string{"critical_fix_overdue"}, []string{"CVE-2@libxml2"}},
		{"advisory: CVE-1, package: libxml2", both, nil},
		{"advisory: CVE-1, package: openssl", both, []string{"CVE-1@openssl"}},
		{"policy: known_exploited", []string{"critical_fix_overdue"}, []string{"known_exploited"}},
		{"digest: '" + indexDigest + "'", nil, []string{"CVE-1@openssl", "CVE-2@libxml2", "CVE-1@libssl"}},
		{"digest: '" + killedDigest + "'", both, nil},
		{"advisory: CVE-2, digest: '" + killedDigest + "'", both, nil},
		{"repository: acme/*", nil, []string{"CVE-1@openssl", "CVE-2@libxml2", "CVE-1@libssl"}},
		{"advisory: CVE-2, repository: cgr.dev/acme/web", []string{"critical_fix_overdue"}, []string{"CVE-2@libxml2"}},
		{"repository: '*'", both, nil},
		{"repository: other.dev/acme/web", both, nil},
		{"advisory: CVE-2, namespace: payments", []string{"critical_fix_overdue"}, []string{"CVE-2@libxml2"}},
		{"namespace: payment", both, nil},
	}
	for _, c := range cases {
		t.Run(c.scope, func(t *testing.T) {
			e := open(t, Config{WaiverFile: write(t, t.TempDir(), "w.yaml", one(c.scope))})
			d := e.Decide(context.Background(), in)
			if diff := cmp.Diff(c.left, policies(d.Violations), emptyIsNil); diff != "" {
				t.Errorf("violations (-want +got):\n%s", diff)
			}
			var waived []string
			for _, w := range d.Waived {
				name := w.Policy
				if w.Finding != "" {
					name = w.Finding + "@" + w.Package
				}
				waived = append(waived, name)
				if w.Waiver != "W-1" || w.Owner != "anna" || w.Reason != "not reachable" || w.Expires != "2026-07-01T00:00:00Z" {
					t.Errorf("waived %+v", w)
				}
			}
			if diff := cmp.Diff(c.waived, waived); diff != "" {
				t.Errorf("waived (-want +got):\n%s", diff)
			}
			if d.Allow != (len(c.left) == 0) {
				t.Errorf("allow %v", d.Allow)
			}
		})
	}
}

func TestWaiverOfACause(t *testing.T) {
	in := clean()
	in.Scan.State, in.Scan.Cause = scan.Failed, scan.CauseScanFailed
	for scope, allow := range map[string]bool{
		"policy: scan_failed":                    true,
		"policy: scan_failed, repository: 'a/*'": true,
		"policy: scan_failed, repository: 'b/*'": false,
		"policy: db_missing":                     false,
		"advisory: CVE-1":                        false,
		"package: '**'":                          false,
		"digest: '" + clean().Image.Digest + "'": true,
	} {
		e := open(t, Config{WaiverFile: write(t, t.TempDir(), "w.yaml", one(scope))})
		if d := e.Decide(context.Background(), in); d.Allow != allow {
			t.Errorf("%s: allow %v: %+v", scope, d.Allow, d.Violations)
		}
	}
}

func TestNoWaiverReachesTheKillListOrAnError(t *testing.T) {
	file := write(t, t.TempDir(), "w.yaml", one("repository: '**'"))
	e := open(t, Config{WaiverFile: file, Kill: []string{killedDigest}})
	in := clean()
	in.Image.Digest = killedDigest
	if d := e.Decide(context.Background(), in); !d.Blocks() {
		t.Errorf("killed, waived and served: %+v", d)
	}
	in = with(clean(), finding("CVE-1", "critical", "soon"))
	if d := e.Decide(context.Background(), in); !d.Allow {
		t.Errorf("policies saw a finding that is waived: %+v", d)
	}
	in.Now = time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	if d := e.Decide(context.Background(), in); d.Cause != scan.CausePolicyError {
		t.Errorf("decision %+v", d)
	}
}

// TestWaiverEndsToTheSecond asks on both sides of the end, with the decision before
// it remembered.
func TestWaiverEndsToTheSecond(t *testing.T) {
	for expires, end := range map[string]time.Time{
		"2026-06-30":                time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC),
		"2026-06-30T18:00:00Z":      time.Date(2026, 6, 30, 18, 0, 0, 0, time.UTC),
		"2026-06-30T18:00:00+02:00": time.Date(2026, 6, 30, 16, 0, 0, 0, time.UTC),
	} {
		text := strings.Replace(one("advisory: CVE-1"), "2026-06-30", expires, 1)
		e := open(t, Config{WaiverFile: write(t, t.TempDir(), "w.yaml", text)})
		in := with(clean(), finding("CVE-1", "critical", "2025-12-01"))
		for _, c := range []struct {
			before time.Duration
			allow  bool
		}{{30 * time.Second, true}, {time.Second, true}, {time.Nanosecond, true}, {0, false}, {-time.Second, false}} {
			in.Now = end.Add(-c.before)
			if d := e.Decide(context.Background(), in); d.Allow != c.allow {
				t.Errorf("%s: %v before its end: allow %v", expires, c.before, d.Allow)
			}
		}
	}
}

func TestStatus(t *testing.T) {
	now := time.Date(2026, 6, 30, 12, 0, 0, 0, time.UTC)
	var b strings.Builder
	b.WriteString("waivers:\n")
	for id, expires := range map[string]string{"over": "2026-06-29", "soon": "2026-07-06", "later": "2026-07-07"} {
		fmt.Fprintf(&b, "  - {id: %s, owner: o, reason: r, expires: %s, scope: {advisory: CVE-1}}\n", id, expires)
	}
	e := open(t, Config{
		WaiverFile: write(t, t.TempDir(), "w.yaml", b.String()), Kill: []string{killedDigest},
		Now: func() time.Time { return now },
	})
	got := e.Status()
	if !strings.Contains(got.Revision, "-") || got.Revision != e.Revision() {
		t.Errorf("revision %q", got.Revision)
	}
	got.Revision = ""
	want := Status{
		Source: "embedded defaults", Mode: Enforce, LoadedAt: now, Policies: 5, Waivers: 2, Killed: 1,
		Expired: []string{"over"}, Expiring: []string{"soon"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

func TestParseKillFile(t *testing.T) {
	k, err := parseKillFile("kill", []byte("# all\n\n"+killedDigest+"\n  "+indexDigest+"  # leaked: key\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(killList{killedDigest: "", indexDigest: "leaked: key"}, k); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	k, err = parseKillFile("kill", []byte("sha256:1\n"+killedDigest+"\nnginx:latest # bad\n"))
	if err == nil || !strings.Contains(err.Error(), `kill:1: "sha256:1" is no digest`) || !strings.Contains(err.Error(), `kill:3: "nginx:latest"`) {
		t.Errorf("error %v", err)
	}
	if _, ok := k.find(killedDigest); !ok {
		t.Error("a bad line spoils a good one")
	}
}

func TestMatchGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"", "a", false}, {"a", "a", true}, {"a", "ab", false},
		{"acme/*", "acme/web", true}, {"acme/*", "acme/web/x", false}, {"acme/*", "acme/", true}, {"acme/*", "acme", false},
		{"acme/**", "acme/web/x", true}, {"**", "", true}, {"**", "a/b", true}, {"**/web", "a/b/web", true}, {"**/web", "web", false},
		{"*", "a", true}, {"*", "a/b", false}, {"a?c", "abc", true}, {"a?c", "a/c", false}, {"a?c", "ac", false},
		{"a*b*c", "axxbyyc", true}, {"a*b*c", "axxbyy", false}, {"***", "a/b", true}, {"[a]", "a", false}, {"a.c", "abc", false},
	} {
		if got := MatchGlob(c.pattern, c.s); got != c.want {
			t.Errorf("%q on %q: %v", c.pattern, c.s, got)
		}
	}
	if MatchGlob(strings.Repeat("*a", 200), strings.Repeat("a", 199)) {
		t.Error("two hundred of them match less")
	}
}

// FuzzParseWaivers holds what the parser accepts to what a waiver must have.
func FuzzParseWaivers(f *testing.F) {
	f.Add(one("advisory: CVE-1"))
	f.Add(one("policy: scan_failed, repository: acme/**"))
	f.Add(`{"waivers": [{"id": "a", "owner": "b", "reason": "c", "expires": "2026-01-01", "scope": {"namespace": "d"}}]}`)
	f.Add("waivers: &a [*a]\n")
	f.Add("waivers:\n- {id: ~}\n")
	f.Fuzz(func(t *testing.T, text string) {
		set, err := parseWaivers("w", []byte(text))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "w:") {
				t.Fatalf("the error doesn't name the file: %v", err)
			}
			return
		}
		for _, w := range set.all {
			if w.ID == "" || w.Owner == "" || w.Reason == "" || w.until.IsZero() || w.Scope == (Scope{}) {
				t.Fatalf("accepted: %+v", w)
			}
		}
	})
}

// Of several waivers for one thing the one that holds longest is named: nobody hurries
// to renew one that another outlives.
func TestTheLongestWaiverCounts(t *testing.T) {
	const file = `
waivers:
- {id: short, owner: a, reason: b, expires: 2026-04-01, scope: {advisory: CVE-2026-0001}}
- {id: long, owner: a, reason: b, expires: 2026-09-01, scope: {advisory: GHSA-AAAA}}
- {id: middle, owner: a, reason: b, expires: 2026-05-01, scope: {package: openssl}}
- {id: policy-short, owner: a, reason: b, expires: 2026-04-01, scope: {policy: no_root}}
- {id: policy-long, owner: a, reason: b, expires: 2026-06-01, scope: {policy: no_root}}
`
	set, err := parseWaivers("w.yaml", []byte(file))
	if err != nil {
		t.Fatal(err)
	}
	in := clean()
	in.Findings = []scan.Finding{{ID: "CVE-2026-0001", Aliases: []string{"GHSA-aaaa"}, Package: scan.Package{Name: "openssl"}}}
	in.Now = set.all[0].until.AddDate(0, 0, -10)
	active := set.active(&in)
	if _, waived := active.findings(&in); len(waived) != 1 || waived[0].Waiver != "long" {
		t.Errorf("finding: %+v", waived)
	}
	if _, waived := active.violations([]Violation{{Policy: "no_root"}}); len(waived) != 1 || waived[0].Waiver != "policy-long" {
		t.Errorf("violation: %+v", waived)
	}
}
