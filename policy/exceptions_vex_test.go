package policy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicegate/sluice/scan"
)

// vexFor is an OpenVEX document about all images.
func vexFor(advisory, status, product string) string {
	return `{"@context": "https://openvex.dev/ns/v0.2.0", "@id": "doc", "author": "vendor", "timestamp": "2026-01-01T00:00:00Z", "version": 1, "statements": [
	{"vulnerability": {"name": "` + advisory + `"}, ` + status + `, "products": [{"@id": "` + product + `"}]}]}`
}

const absent = `"status": "not_affected", "justification": "component_not_present"`

// TestVEX: a statement about the image sets a finding aside, and says so wherever findings
// are shown; it touches neither causes nor the kill list.
func TestVEX(t *testing.T) {
	in := with(clean(), finding("CVE-1", "critical", "2025-12-01"))
	in.Scan.Counts.Critical = 1
	repo := in.Image.Registry + "/" + in.Image.Repository
	for name, c := range map[string]struct {
		doc   string
		allow bool
	}{
		"not affected":        {vexFor("CVE-1", absent, repo), true},
		"fixed":               {vexFor("CVE-1", `"status": "fixed"`, repo+"@"+in.Image.Digest), true},
		"fixed some time":     {vexFor("CVE-1", `"status": "fixed"`, repo), false},
		"affected":            {vexFor("CVE-1", `"status": "affected", "action_statement": "update"`, repo), false},
		"under investigation": {vexFor("CVE-1", `"status": "under_investigation"`, repo), false},
		"another product":     {vexFor("CVE-1", absent, "cgr.dev/other/image"), false},
		"another advisory":    {vexFor("CVE-2", absent, repo), false},
	} {
		x := &Exceptions{VEX: []string{write(t, t.TempDir(), "v.json", c.doc)}}
		e := replica(t, x)
		d := e.Decide(context.Background(), in)
		if d.Allow != c.allow || (len(d.Waived) == 1) != c.allow {
			t.Errorf("%s: allow %v, waived %+v", name, d.Allow, d.Waived)
		}
		text := fmt.Sprint(e.Explain(context.Background(), in, d).Rules)
		if told := strings.Contains(text, "v.json:2 says that CVE-1 is not_affected, of cgr.dev/other/image: that is not openssl in this image"); told != (name == "another product") {
			t.Errorf("%s: explained as %s", name, text)
		}
		if name != "not affected" {
			continue
		}
		a := NewAnswer(in, d)
		if by := a.Findings[0].SuppressedBy; by == nil || *by != "vex doc not_affected: component_not_present" || a.Scan.Counts.Critical != 0 {
			t.Errorf("answer: %v, %+v", by, a.Scan.Counts)
		}
		if w := d.Waived[0]; w.VEX != "doc" || w.Status != "not_affected" || w.Owner != "vendor" || w.Reason != "component_not_present" || w.Expires != "" {
			t.Errorf("waived %+v", w)
		}
		failed := in
		failed.Scan.State, failed.Scan.Cause = scan.Failed, scan.CauseScanFailed
		if allows(e, failed) {
			t.Error("VEX serves what could not be scanned")
		}
		wrong := with(in, finding("CVE-1", "critical", "2025-12-01"), finding("CVE-7", "critical", "someday"))
		if d := e.Decide(context.Background(), wrong); d.Cause != scan.CausePolicyError {
			t.Errorf("decision %+v", d)
		}
		if s := e.Status(); s.VEX != 1 {
			t.Errorf("status %+v", s)
		}
	}
}

// TestAttestedVEX counts where it is asked for, verified, and about the image.
func TestAttestedVEX(t *testing.T) {
	in := with(clean(), finding("CVE-1", "critical", "2025-12-01"))
	in.Image.Indexes = []string{indexDigest}
	statement := Attestation{
		Signature: Signature{Verified: true, Subject: in.Image.Digest}, PredicateType: "https://openvex.dev/ns/v0.2.0",
		Predicate: map[string]any{"@context": "https://openvex.dev/ns/v0.2.0", "@id": "doc", "author": "vendor", "timestamp": "2026-01-01T00:00:00Z",
			"statements": []any{map[string]any{"vulnerability": map[string]any{"name": "CVE-1"}, "status": "fixed",
				"products": []any{map[string]any{"@id": in.Image.Digest}}}}},
	}
	yes, no := &Exceptions{Attested: true}, &Exceptions{}
	attested, deaf := replica(t, yes), replica(t, no)
	if !attested.Needs(NeedAttestations) || deaf.Needs(NeedAttestations) {
		t.Error("attestations are asked for where they don't count, or not where they do")
	}
	for name, c := range map[string]struct {
		change func(*Attestation)
		allow  bool
	}{
		"verified":          {func(*Attestation) {}, true},
		"of an index":       {func(a *Attestation) { a.Subject = indexDigest }, true},
		"not verified":      {func(a *Attestation) { a.Verified = false }, false},
		"of another image":  {func(a *Attestation) { a.Subject = killedDigest }, false},
		"of another type":   {func(a *Attestation) { a.PredicateType = "https://example.com/vex" }, false},
		"without predicate": {func(a *Attestation) { a.Predicate = nil }, false},
		"garbage":           {func(a *Attestation) { a.Predicate = "VEX" }, false},
	} {
		a := statement
		c.change(&a)
		in.Image.Attestations = []Attestation{a}
		if got := allows(attested, in); got != c.allow {
			t.Errorf("%s: allow %v", name, got)
		}
		if allows(deaf, in) {
			t.Errorf("%s: counts where nobody asked for it", name)
		}
	}
}

// TestVEXFilesAreFollowed: garbage leaves what was good, and what is taken away no longer
// holds.
func TestVEXFilesAreFollowed(t *testing.T) {
	dir := t.TempDir()
	in := with(clean(), finding("CVE-1", "critical", "2025-12-01"))
	good := vexFor("CVE-1", absent, in.Image.Registry+"/"+in.Image.Repository)
	h := make(heard, 1000)
	x := &Exceptions{VEX: []string{dir}, Log: newHeard(h)}
	e := replica(t, x)
	defer run(t, x)()
	until := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal(what)
			}
		}
	}
	if allows(e, in) {
		t.Fatal("allowed without VEX")
	}
	write(t, dir, "a.json", good)
	until("a document is not read", func() bool { return allows(e, in) })
	write(t, dir, "b.json", good[:40])
	until("garbage is not told of", func() bool { return strings.Contains(e.Status().LastError, "b.json: line 1") })
	if !allows(e, in) {
		t.Error("garbage undid what was good")
	}
	if err := os.Remove(filepath.Join(dir, "b.json")); err != nil {
		t.Fatal(err)
	}
	until("the error stays", func() bool { return e.Status().LastError == "" })
	write(t, dir, "a.json", vexFor("CVE-2", absent, "cgr.dev/acme/web"))
	until("what is no longer said still holds", func() bool { return !allows(e, in) })
	if err := (&Exceptions{VEX: []string{filepath.Join(dir, "none")}}).Open(context.Background()); err == nil {
		t.Error("opened without its documents")
	}
}

// A file that is being written can be well formed and half there: it counts once it has
// stayed the same from one look to the next.
func TestVEXFilesSettleFirst(t *testing.T) {
	dir := t.TempDir()
	x := &Exceptions{VEX: []string{dir}}
	if err := x.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	looks := func(want int) {
		t.Helper()
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.lookAtFiles(context.Background()); len(x.docs) != want {
			t.Errorf("%d documents, want %d", len(x.docs), want)
		}
	}
	write(t, dir, "a.json", vexFor("CVE-1", absent, "cgr.dev/acme/web"))
	looks(0)
	write(t, dir, "a.json", vexFor("CVE-1", absent, "cgr.dev/acme/web-2"))
	looks(0)
	looks(1)
}

// TestVEXOfOneVersion: of two versions of a package in one image only the one that the
// document is about is marked.
func TestVEXOfOneVersion(t *testing.T) {
	old, current := finding("CVE-1", "critical", "2025-12-01"), finding("CVE-1", "critical", "2025-12-01")
	old.Package.PURL, current.Package.PURL = "pkg:npm/openssl@1", "pkg:npm/openssl@2"
	in := with(clean(), old, current)
	e := replica(t, &Exceptions{VEX: []string{write(t, t.TempDir(), "v.json", vexFor("CVE-1", absent, "pkg:npm/openssl@2"))}})
	d := e.Decide(context.Background(), in)
	a := NewAnswer(in, d)
	if d.Allow || a.Findings[0].SuppressedBy != nil || a.Findings[1].SuppressedBy == nil {
		t.Errorf("allow %v, findings %+v", d.Allow, a.Findings)
	}
	if m := Message(d, in.Image, in.Findings); !strings.Contains(m, "CVE-1") {
		t.Errorf("the client reads %q", m)
	}
}
