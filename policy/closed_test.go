package policy

import (
	"strings"
	"testing"

	"github.com/sluicegate/sluice/scan"
)

// askless says nothing of scans, and has a package of the name that the embedded one has.
const askless = `package sluice.policies.scanned

violations contains {"policy": "root", "message": "m"} if object.get(input.image, "user", "") == "root"

cause := "none of theirs"
`

// TestUnscannedIsRefusedByForgetfulPolicies: that nothing was found in an image that could
// not be scanned lets it pass by no set of policies but one that asks for the cause.
func TestUnscannedIsRefusedByForgetfulPolicies(t *testing.T) {
	unread := map[scan.State]scan.Cause{
		scan.Failed: scan.CauseScanFailed, scan.Partial: scan.CauseScanFailed, scan.Limit: scan.CauseScanLimit, scan.Pending: scan.CauseScanTimeout,
	}
	for name, files := range map[string]map[string]string{
		"of the image alone": {"a.rego": askless},
		"that look at what would run": {"a.rego": `package sluice.policies.a

violations contains {"policy": "a", "message": "m"} if {
	input.scan.state != "unsupported"
	object.get(input.image, "user", "") == "root"
}`},
		"of Chainguard's alone": {"ripe.yaml": ripe},
	} {
		dir := t.TempDir()
		for file, text := range files {
			write(t, dir, file, text)
		}
		e := open(t, Config{Dir: dir, Modes: []ModeRule{{Policy: string(scan.CauseScanLimit), Mode: Warn}}})
		for state, cause := range unread {
			in := aged(30)
			in.Scan.State, in.Scan.Cause = state, cause
			d := e.Decide(t.Context(), in)
			if d.Allow || d.Violations[0].Policy != string(cause) || d.Blocks() != (state != scan.Limit) {
				t.Errorf("policies %s, %s: %+v", name, state, d)
			}
		}
		if d := e.Decide(t.Context(), aged(30)); !d.Allow {
			t.Errorf("policies %s refuse what was scanned: %+v", name, d)
		}
		if l := e.Policies(); !strings.Contains(l[len(l)-1].File+l[0].File+l[1].File, "embedded/scanned.rego") {
			t.Errorf("policies %s: %+v", name, l)
		}
	}
	dir := t.TempDir()
	write(t, dir, "a.rego", `package sluice.policies.a

violations contains {"policy": "a", "message": "m"} if input.scan.cause == "scan_timeout"
`)
	e, in := open(t, Config{Dir: dir}), aged(30)
	in.Scan.State, in.Scan.Cause = scan.Failed, scan.CauseScanFailed
	if d := e.Decide(t.Context(), in); !d.Allow || len(e.Policies()) != 1 {
		t.Errorf("policies that choose by cause: %+v", d)
	}
}
