package policy

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicegate/sluice/scan"
)

func open(t testing.TB, c Config) *Engine {
	t.Helper()
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second // a busy machine is not what is tested
	}
	e, err := Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// clean is a complete image without findings.
func clean() Input {
	in := sampleFull()
	in.Findings, in.Scan.Coverage.DistroEOL, in.Scan.Counts = []scan.Finding{}, "", scan.Counts{}
	return in
}

func with(in Input, fs ...scan.Finding) Input {
	in.Findings = fs
	return in
}

func finding(id, severity, fixedOn string) scan.Finding {
	f := scan.Finding{
		ID: id, Severity: severity, Aliases: []string{}, FirstSeen: "2025-12-31",
		Package: scan.Package{Name: "openssl", Version: "3.0.1", Type: "apk"},
		Fix:     scan.Fix{State: "not-fixed", Versions: []string{}},
	}
	if fixedOn != "" {
		f.Fix = scan.Fix{State: "fixed", Versions: []string{"3.0.2"}, Available: fixedOn}
	}
	return f
}

func policies(vs []Violation) []string {
	names := []string{}
	for _, v := range vs {
		names = append(names, v.Policy)
	}
	slices.Sort(names)
	return names
}

// TestDefaults decides through the whole engine; the rules' own boundaries are in
// default/defaults_test.rego.
func TestDefaults(t *testing.T) {
	kev := finding("CVE-1", "low", "")
	kev.KEV = "2025-12-30"
	unsupported := clean()
	unsupported.Scan = scan.Summary{State: scan.Unsupported, Coverage: scan.Coverage{Problems: []scan.Problem{}}}
	eol := clean()
	eol.Scan.Coverage.DistroEOL = "2025-12-31"
	cases := []struct {
		name             string
		in               Input
		denied, warnings []string
	}{
		{"nothing found", clean(), nil, nil},
		{"known to be exploited", with(clean(), kev), []string{"known_exploited"}, nil},
		{"critical, fix overdue", with(clean(), finding("CVE-1", "critical", "2025-12-01")), []string{"critical_fix_overdue"}, nil},
		{"critical, fix is new", with(clean(), finding("CVE-1", "critical", "2025-12-30")), nil, nil},
		{"critical, no fix", with(clean(), finding("CVE-1", "critical", "")), nil, nil},
		{"high, fix overdue", with(clean(), finding("CVE-1", "high", "2025-12-01")), nil, []string{"high_fix_overdue"}},
		{"severity unknown", with(clean(), finding("CVE-1", "unknown", "")), nil, []string{"severity_unknown"}},
		{"end of life", eol, nil, []string{"end_of_life"}},
		{"not runnable", unsupported, nil, nil},
		{"the zero Input", Input{}, []string{"scan_failed"}, nil},
		{"a date that is none", with(clean(), finding("CVE-1", "critical", "soon")), []string{PolicyError}, nil},
	}
	e := open(t, Config{})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := e.Decide(context.Background(), c.in)
			if diff := cmp.Diff(c.denied, policies(d.Violations), emptyIsNil); diff != "" {
				t.Errorf("violations (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.warnings, policies(d.Warnings), emptyIsNil); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if d.Allow != (len(c.denied) == 0) || d.Blocks() == d.Allow {
				t.Errorf("allow %v, blocks %v", d.Allow, d.Blocks())
			}
		})
	}
}

// TestCauses holds every cause of a missing verdict to a denial that tells the
// reader what to do.
func TestCauses(t *testing.T) {
	e := open(t, Config{})
	for cause, do := range map[scan.Cause]string{
		scan.CauseScanTimeout:  "Try again",
		scan.CauseScanFailed:   "sluice scan",
		scan.CauseScanLimit:    "smaller",
		scan.CauseDBMissing:    "sluice db import",
		scan.CauseDBStale:      "sluice db update",
		scan.CauseNoRoom:       "spool",
		scan.CauseStoreDown:    "sluice healthcheck --ready",
		scan.CauseUpstreamDown: "Try again",
	} {
		t.Run(string(cause), func(t *testing.T) {
			in := clean()
			in.Scan.State, in.Scan.Cause, in.Scan.Detail = scan.Failed, cause, "the very detail"
			d := e.Decide(context.Background(), in)
			if d.Allow || len(d.Violations) != 1 || d.Violations[0].Policy != string(cause) {
				t.Fatalf("decision %+v", d)
			}
			v := d.Violations[0]
			if !strings.Contains(v.Remediation, do) || !strings.Contains(v.Message, "the very detail") {
				t.Errorf("message %q, remediation %q", v.Message, v.Remediation)
			}
			if m := Message(d, in.Image, nil); !strings.HasPrefix(m, "blocked by policy "+string(cause)+": ") || !strings.Contains(m, do) {
				t.Errorf("line %q", m)
			}
		})
	}
}

func TestSameFindingInManyPackagesIsNamedOnce(t *testing.T) {
	a, b, c := finding("CVE-2", "critical", "2025-12-01"), finding("CVE-1", "critical", "2025-12-01"), finding("CVE-2", "critical", "2025-12-01")
	c.Package.Name = "libssl"
	d := open(t, Config{}).Decide(context.Background(), with(clean(), a, b, c))
	if diff := cmp.Diff([]string{"CVE-2", "CVE-1"}, d.Violations[0].Findings); diff != "" {
		t.Errorf("findings in the order of the input (-want +got):\n%s", diff)
	}
}

const tame = "package sluice.policies.tame\nviolations contains {\"policy\": \"tame\", \"message\": \"no\"} if input.request.caller == \"denied\"\n"

// TestRefusedAtLoad names what never gets as far as deciding.
func TestRefusedAtLoad(t *testing.T) {
	cases := []struct{ name, text, want string }{
		{"syntax", "package sluice.policies.x\nviolations contains {", "x.rego:2"},
		{"http.send", "package sluice.policies.x\nviolations contains v if v := http.send({\"url\": \"http://127.0.0.1\", \"method\": \"GET\"}).body", "x.rego:2: rego_type_error: undefined function http.send"},
		{"environment", "package sluice.policies.x\nviolations contains v if v := opa.runtime().env", "undefined function opa.runtime"},
		{"lookup", "package sluice.policies.x\nviolations contains v if v := net.lookup_ip_addr(\"a\")", "undefined function net.lookup_ip_addr"},
		{"chance", "package sluice.policies.x\nviolations contains v if v := rand.intn(\"a\", 2)", "undefined function rand.intn"},
		{"misspelt field", "package sluice.policies.x\nviolations contains {\"policy\": \"x\", \"message\": \"m\"} if input.scan.stat == \"failed\"", "x.rego:2: rego_type_error: undefined ref: input.scan.stat"},
		{"misspelt field of a finding", "package sluice.policies.x\nviolations contains {\"policy\": \"x\", \"message\": \"m\"} if {\n some f in input.findings\n f.sevrity == \"high\"\n}", "x.rego:4: rego_type_error: undefined ref"},
		{"unused variable", "package sluice.policies.x\nviolations contains {\"policy\": \"x\", \"message\": \"m\"} if y := 1", "x.rego:2: rego_compile_error: assigned var y unused"},
		{"not below policies", "package mine\nviolations contains {\"policy\": \"x\", \"message\": \"m\"}", "x.rego:2: package mine defines violations, but only"},
		{"the root itself", "package sluice.policies\nwarnings contains {\"policy\": \"x\", \"message\": \"m\"}", "only packages below sluice.policies are asked"},
		{"no rule that counts", "package sluice.policies.x\ndeny contains \"m\"", "sluice.policies.x defines neither violations nor warnings"},
		{"no policy", "package sluice.lib\na := 1", "no policies"},
		{"own test fails", tame + "test_it if 1 == 2", ""}, // a test in a policy file is not run
		{"always of the wrong shape", "package sluice.policies.x\nviolations contains \"text\"", "sluice.policies.x: violations: an element is a string"},
		{"always a built-in error", "package sluice.policies.x\nviolations contains {\"policy\": \"x\", \"message\": \"m\"} if time.parse_rfc3339_ns(\"soon\") > 1", "x.rego:2: eval_builtin_error"},
		{"a loop without end", "package sluice.policies.x\nviolations contains {\"policy\": \"x\", \"message\": \"m\"} if {\n n := numbers.range(1, 100000)\n some a in n\n some b in n\n a * b == 7\n}", "x.rego:"},
		{"always undefined", "package sluice.policies.x\nviolations := set() if input.image.digest == \"never\"", "sluice.policies.x: violations is undefined"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "x.rego", c.text)
			_, err := Open(context.Background(), Config{Dir: dir})
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Fatalf("error %v, want %q", err, c.want)
			}
		})
	}
	t.Run("a failing test", func(t *testing.T) {
		dir := t.TempDir()
		write(t, dir, "a.rego", tame)
		write(t, dir, "sub/a_test.rego", "package sluice.policies_test\n\ntest_it if {\n\tprint(\"here\")\n\t1 == 2\n}")
		_, err := Open(context.Background(), Config{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), "sub/a_test.rego:3: test sluice.policies_test.test_it failed") || !strings.Contains(err.Error(), "here") {
			t.Fatalf("error %v", err)
		}
	})
	for name, c := range map[string]Config{
		"no such directory":   {Dir: "/does/not/exist"},
		"an empty directory":  {Dir: t.TempDir()},
		"no such waiver file": {WaiverFile: "/does/not/exist"},
		"no such kill file":   {KillFile: "/does/not/exist"},
		"an unknown mode":     {Mode: "maybe"},
		"a digest that isn't": {Kill: []string{"sha256:12"}},
	} {
		if _, err := Open(context.Background(), c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestFailsClosed runs policies that are well on the samples and fail on one caller.
func TestFailsClosed(t *testing.T) {
	cases := []struct{ name, text, want string }{
		{"undefined", `violations := set() if input.request.caller != "bad"`, "violations is undefined"},
		{"built-in error", `violations contains {"policy": "x", "message": "m"} if {
			input.request.caller == "bad"
			time.parse_rfc3339_ns(input.request.caller) > 1
		}`, "x.rego:4: eval_builtin_error"},
		{"conflict", `a := 1 if input.request.caller == "bad"
			a := 2 if input.request.caller == "bad"
			violations contains {"policy": "x", "message": "m"} if a == 3`, "eval_conflict_error"},
		{"too slow", `violations contains {"policy": "x", "message": "m"} if {
			input.request.caller == "bad"
			some i in numbers.range(1, 100000)
			some j in numbers.range(1, 100000)
			i * j == -1
		}`, "no answer within 800ms"},
		{"a text", `violations contains "no" if input.request.caller == "bad"`, "an element is a string"},
		{"an object for the set", `violations := {"a": 1} if input.request.caller == "bad"
			else := set()`, "violations is an object"},
		{"true for the set", `warnings := true if input.request.caller == "bad"
			else := set()`, "warnings is a boolean"},
		{"message of the wrong type", `violations contains {"policy": "x", "message": 1} if input.request.caller == "bad"`, "message is a number"},
		{"no message", `violations contains {"policy": "x"} if input.request.caller == "bad"`, "message is missing"},
		{"no policy", `violations contains {"message": "x"} if input.request.caller == "bad"`, "policy is missing"},
		{"findings of the wrong type", `violations contains {"policy": "x", "message": "m", "findings": "CVE-1"} if input.request.caller == "bad"`, "findings is a string"},
		{"a finding of the wrong type", `violations contains {"policy": "x", "message": "m", "findings": [1]} if input.request.caller == "bad"`, "findings holds a number"},
		{"an unknown key", `violations contains {"policy": "x", "message": "m", "remedy": "r"} if input.request.caller == "bad"`, `unknown key "remedy"`},
		{"a reserved name", `violations contains {"policy": "kill_list", "message": "m"} if input.request.caller == "bad"`, "belongs to the engine"},
		{"a thousand violations", `violations contains {"policy": "x", "message": sprintf("%d", [i])} if {
			input.request.caller == "bad"
			some i in numbers.range(0, 1000)
		}`, "more than 1000"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "x.rego", "package sluice.policies.x\n"+c.text)
			write(t, dir, "tame.rego", tame)
			timeout := 10 * time.Second
			if c.name == "too slow" {
				timeout = 200 * time.Millisecond
			}
			h := make(heard, 100)
			e := open(t, Config{Dir: dir, Timeout: timeout, Log: slog.New(h)})
			in := clean()
			if d := e.Decide(context.Background(), in); !d.Allow {
				t.Fatalf("a good caller is denied: %+v", d.Violations)
			}
			in.Request.Caller = "bad"
			d := e.Decide(context.Background(), in)
			if d.Allow || !d.Blocks() || d.Cause != scan.CausePolicyError || len(d.Violations) != 1 || d.Violations[0].Policy != PolicyError {
				t.Fatalf("decision %+v", d)
			}
			select {
			case r := <-h:
				text := ""
				r.Attrs(func(a slog.Attr) bool { text += a.String() + " "; return true })
				if !strings.Contains(text, c.want) {
					t.Errorf("logged %q, want %q", text, c.want)
				}
			default:
				t.Error("nothing is logged")
			}
			if m := d.Violations[0].Message; strings.Contains(m, "rego") || !strings.HasPrefix(m, "policy could not decide") {
				t.Errorf("message %q", m)
			}
		})
	}
}

// TestNoNetwork holds the capabilities to the built-ins' own marks.
func TestNoNetwork(t *testing.T) {
	for _, b := range capabilities().Builtins {
		if b.Nondeterministic && b.Name != "time.now_ns" {
			t.Errorf("%s is allowed and not deterministic", b.Name)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	write(t, dir, "x.rego", "package sluice.policies.x\n# METADATA\n# schemas:\n#   - input: {\"$ref\": \"http://"+l.Addr().String()+"/x\"}\nviolations contains {\"policy\": \"x\", \"message\": \"m\"} if input.x")
	if _, err := Open(context.Background(), Config{Dir: dir}); err == nil {
		t.Error("a remote schema is accepted")
	}
}

func TestCallerLeaves(t *testing.T) {
	e := open(t, Config{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if d := e.Decide(ctx, clean()); d.Allow {
		t.Error("allowed without deciding")
	}
	if d := e.Decide(context.Background(), clean()); !d.Allow {
		t.Errorf("the next caller is denied for it: %+v", d.Violations)
	}
}

func TestModes(t *testing.T) {
	bad := with(clean(), finding("CVE-1", "critical", "2025-12-01"))
	for mode, want := range map[Mode]struct{ allow, blocks, header bool }{
		Enforce: {false, true, false},
		Warn:    {false, false, true},
		DryRun:  {false, false, false},
		Off:     {true, false, false},
	} {
		e := open(t, Config{Mode: mode, Kill: []string{killedDigest + " # stolen key"}})
		d := e.Decide(context.Background(), bad)
		if d.Mode != mode || d.Allow != want.allow || d.Blocks() != want.blocks || (Warnings(d) != "") != want.header {
			t.Errorf("%s: allow %v, blocks %v, header %q", mode, d.Allow, d.Blocks(), Warnings(d))
		}
		for _, in := range []Input{{Image: Image{Digest: killedDigest}}, {Image: Image{Digest: "sha256:x", Indexes: []string{killedDigest}}}} {
			d = e.Decide(context.Background(), in)
			if !d.Blocks() || policies(d.Violations)[0] != KillList {
				t.Errorf("%s: a killed digest passes: %+v", mode, d)
			}
		}
		if reason, ok := e.Killed("sha256:x", killedDigest); !ok || reason != "stolen key" {
			t.Errorf("%s: Killed is %q, %v", mode, reason, ok)
		}
		if _, ok := e.Killed("", "sha256:x"); ok {
			t.Errorf("%s: a digest is killed that nobody listed", mode)
		}
	}
}

const killedDigest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// TestRemembered tells by the decision's ID whether it was made anew.
func TestRemembered(t *testing.T) {
	e := open(t, Config{})
	base := with(clean(), finding("CVE-1", "high", "2025-12-01"))
	first := e.Decide(context.Background(), base)
	cases := []struct {
		name   string
		change func(*Input)
		same   bool
	}{
		{"nothing", func(*Input) {}, true},
		{"59 seconds later", func(in *Input) { in.Now = in.Now.Add(59 * time.Second) }, true},
		{"last allowed", func(in *Input) { in.History.LastAllowed = "2026-01-01T00:00:00Z" }, true},
		{"60 seconds later", func(in *Input) { in.Now = in.Now.Add(60 * time.Second) }, false},
		{"earlier", func(in *Input) { in.Now = in.Now.Add(-time.Second) }, false},
		{"caller", func(in *Input) { in.Request.Caller = "other" }, false},
		{"group", func(in *Input) { in.Request.Groups = []string{"other"} }, false},
		{"namespace", func(in *Input) { in.Request.Namespace = "other" }, false},
		{"action", func(in *Input) { in.Request.Action = "admission" }, false},
		{"repository", func(in *Input) { in.Image.Repository = "other" }, false},
		{"label", func(in *Input) { in.Image.Labels = map[string]string{"a": "c"} }, false},
		{"database", func(in *Input) { in.Scan.Database = &scan.Database{Checksum: "other"} }, false},
		{"state", func(in *Input) { in.Scan.State = scan.Partial }, false},
		{"severity of a finding", func(in *Input) { in.Findings = []scan.Finding{finding("CVE-1", "low", "2025-12-01")} }, false},
		{"another finding", func(in *Input) { in.Findings = append(slices.Clone(in.Findings), finding("CVE-2", "low", "")) }, false},
		{"previously allowed", func(in *Input) { in.History.PreviouslyAllowed = !in.History.PreviouslyAllowed }, false},
	}
	for _, c := range cases {
		in := base
		c.change(&in)
		if same := e.Decide(context.Background(), in).ID == first.ID; same != c.same {
			t.Errorf("%s changed: remembered %v, want %v", c.name, same, c.same)
		}
		e.Decide(context.Background(), base) // keep it the one used last
		first = e.Decide(context.Background(), base)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	m := newMemory()
	now := time.Now()
	d := Decision{Violations: []Violation{{Findings: make([]string, 998)}}} // costs 1000
	for i := range 1000 {
		m.put(key{byte(i), byte(i >> 8)}, d, now, now.Add(time.Minute))
	}
	if m.cost > maxCost || len(m.byKey) != maxCost/1000 || m.used.Len() != len(m.byKey) {
		t.Errorf("cost %d in %d entries (%d listed)", m.cost, len(m.byKey), m.used.Len())
	}
	if _, ok := m.get(key{byte(999 % 256), byte(999 >> 8)}, now); !ok {
		t.Error("the last one put is gone")
	}
	if _, ok := m.get(key{0, 0}, now); ok {
		t.Error("the first one put is still there")
	}
	m.put(key{1, 1, 1}, Decision{Waived: make([]Waived, maxCost)}, now, now.Add(time.Minute))
	if _, ok := m.get(key{1, 1, 1}, now); ok {
		t.Error("a decision larger than the bound is kept")
	}
}

// TestManyAtOnce makes more decisions at once than there are places; with -race it
// also watches what they share.
func TestManyAtOnce(t *testing.T) {
	e := open(t, Config{Timeout: 5 * time.Second})
	in := inputWith(50)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			in := in
			in.Request.Caller = string(rune('a' + i%8))
			if d := e.Decide(context.Background(), in); d.Cause != "" {
				t.Errorf("%+v", d.Violations)
			}
			e.Status()
		})
	}
	wg.Wait()
}
