package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/scan"
)

// What a person types wrong is told apart from an answer, and from no answer.
func TestUsageErrors(t *testing.T) {
	for key, value := range map[string]string{"HOME": t.TempDir(), "XDG_STATE_HOME": "", "SLUICE_CONFIG": ""} {
		t.Setenv(key, value)
	}
	for _, args := range []string{
		"scan --platform nonsense cgr.dev/acme/web:1",
		"scan --platform linux/ cgr.dev/acme/web:1",
		"verdict --platform linux/amd64/x/y acme/web:1",
		"demo -o json",
		"connection remove nowhere.example.com",
	} {
		if status := run(strings.Fields(args)); status != exitUsage {
			t.Errorf("sluice %s: exit status %d, want %d", args, status, exitUsage)
		}
	}
}

// The demo whose reader has left, as head does, removes what it has made.
func TestDemoWithoutAnAudience(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	cmd := exec.Command(self, "sluice-demo")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "HOME="+dir)
	cmd.Stdout = w
	err = cmd.Run()
	w.Close()
	if status := cmd.ProcessState.ExitCode(); status != exitUnknown {
		t.Errorf("exit status %d, %v", status, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestPrintAnswer(t *testing.T) {
	answer := func(change func(*policy.Answer)) string {
		a := policy.Answer{Image: policy.Image{Reference: "acme/web:1", Platform: "linux/amd64"}, Decision: policy.Decision{Allow: true, Mode: policy.Enforce}}
		change(&a)
		var b strings.Builder
		printAnswer(&b, a)
		return b.String()
	}
	killed := answer(func(a *policy.Answer) {
		a.Scan.State, a.Decision.Allow = scan.Unsupported, false
		a.Decision.Violations = []policy.Violation{{Policy: policy.KillList, Message: "the image is on the kill list"}}
	})
	if strings.Contains(killed, "packages") || !strings.Contains(killed, "linux/amd64, not looked into") {
		t.Errorf("a killed image:\n%s", killed)
	}
	if chart := answer(func(a *policy.Answer) { a.Scan.State = scan.Unsupported }); !strings.Contains(chart, "nothing that a runtime would run") {
		t.Errorf("a chart:\n%s", chart)
	}
	waived := answer(func(a *policy.Answer) {
		for _, name := range []string{"libssl", "libcrypto", "openssl"} {
			a.Decision.Waived = append(a.Decision.Waived, policy.Waived{Waiver: "w", Finding: "CVE-2026-1", Package: name, Owner: "ann", Reason: "why", Expires: "2026-01-01T00:00:00Z"})
		}
		a.Decision.Waived = append(a.Decision.Waived, policy.Waived{Waiver: "w", Finding: "CVE-2026-2", Owner: "ann", Reason: "why", Expires: "2026-01-01T00:00:00Z"})
	})
	if n := strings.Count(waived, "waived: CVE-2026-1"); n != 1 || !strings.Contains(waived, "waived: CVE-2026-2") {
		t.Errorf("waived %d times:\n%s", n, waived)
	}
}
