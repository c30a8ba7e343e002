package signature

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"

	"github.com/sluicegate/sluice/policy"
)

// one verifies a layer and returns the one fact that it makes.
func one(t *testing.T, trust *Trust, l Layer) (policy.Attestation, bool) {
	t.Helper()
	var f Facts
	trust.Add(&f, l)
	switch {
	case len(f.Signatures) == 1 && len(f.Attestations) == 0:
		return policy.Attestation{Signature: f.Signatures[0]}, false
	case len(f.Signatures) == 0 && len(f.Attestations) == 1:
		return f.Attestations[0], true
	}
	t.Fatalf("a layer made %d signatures and %d attestations, want one fact", len(f.Signatures), len(f.Attestations))
	return policy.Attestation{}, false
}

// says holds a fact against what it should say: "" is verified, all else a part of its error.
func says(t *testing.T, s policy.Signature, want string) {
	t.Helper()
	if s.Verified != (want == "") || s.Verified != (s.Error == "") || !strings.Contains(s.Error, want) {
		t.Errorf("verified %v, error %q; want %q", s.Verified, s.Error, want)
	}
}

// Signatures by key, and what is done to them.
func TestByKey(t *testing.T) {
	l := newLab(t)
	stranger := l.newKey("stranger.pub")
	good := l.keySigned(l.private, simple(subject))
	tampered := good
	tampered.Body = []byte(strings.Replace(string(good.Body), "acme/web", "evil/web", 1))
	var swapped, bare, broken Layer = good, good, good
	swapped.Body = simple(other)
	swapped.Subject = other
	bare.Annotations = nil
	broken.Annotations = map[string]string{annotationSignature: "no base64"}
	for _, tt := range []struct {
		name  string
		trust *Trust
		layer Layer
		want  string
	}{
		{"signed", l.trust(noTlog), good, ""},
		{"second of two keys", l.trust(noTlog, func(c *Config) { c.Keys = []Key{{"stranger", l.path("stranger.pub")}, {"release", l.path("key.pub")}} }), good, ""},
		{"in no log", l.trust(), good, "not enough verified log entries"},
		{"another's key", l.trust(noTlog), l.keySigned(stranger, simple(subject)), "by key release: "},
		{"nobody is trusted", l.trust(noTlog, func(c *Config) { c.Keys = nil }), good, "set trust.keys"},
		{"signature of another image", l.trust(noTlog), l.keySigned(l.private, simple(other)), "it is a signature of"},
		{"payload swapped for another image's", l.trust(noTlog), swapped, "could not verify message"},
		{"payload changed", l.trust(noTlog), tampered, "could not verify message"},
		{"payload of another kind", l.trust(noTlog), l.keySigned(l.private, []byte(strings.Replace(string(simple(subject)), "cosign container image signature", "atomic container signature", 1))), "no image"},
		{"payload that is no JSON", l.trust(noTlog), l.keySigned(l.private, []byte("hello")), "no simple signing payload"},
		{"payload of other types", l.trust(noTlog), l.keySigned(l.private, []byte(`{"critical":{"image":["x"],"type":7}}`)), "no simple signing payload"},
		{"payload null", l.trust(noTlog), l.keySigned(l.private, []byte(`null`)), "no image"},
		{"no annotations", l.trust(noTlog), bare, "no signature among its annotations"},
		{"signature that is none", l.trust(noTlog), broken, "no signature among its annotations"},
		{"not fetched", l.trust(noTlog), Layer{Subject: subject, Format: CosignTag, Err: errors.New("it is too large")}, "it is too large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, attestation := one(t, tt.trust, tt.layer)
			says(t, s.Signature, tt.want)
			if attestation || s.Subject != tt.layer.Subject.String() || s.Format != CosignTag {
				t.Errorf("attestation %v of %s as %s", attestation, s.Subject, s.Format)
			}
			if want := map[bool]string{true: "release"}[tt.want == ""]; s.Key != want {
				t.Errorf("key %q, want %q", s.Key, want)
			}
		})
	}
}

// A key's signature that a log has is of the log's time; one that the log has for another
// key, or another payload, is none.
func TestKeyInLog(t *testing.T) {
	l := newLab(t)
	stranger := l.newKey("stranger.pub")
	payload := simple(subject)
	for _, tt := range []struct {
		name string
		body []byte
		want string
	}{
		{"logged", l.rekord(payload, l.sign(l.private, payload), "key.pub"), ""},
		{"another's key", l.rekord(payload, l.sign(stranger, payload), "stranger.pub"), "does not match"},
		{"another payload", l.rekord(simple(other), l.sign(l.private, simple(other)), "key.pub"), "does not match"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			layer := l.keySigned(l.private, payload)
			if tt.want == "" {
				layer.Annotations[annotationSignature] = signatureOf(t, tt.body)
			}
			layer.Annotations[annotationLog] = l.logAnnotation(tt.body)
			s, _ := one(t, l.trust(), layer)
			says(t, s.Signature, tt.want)
			if (s.Time != "") != (tt.want == "") {
				t.Errorf("proven time %q", s.Time)
			}
		})
	}
}

// Keyless signatures in annotations, and what is done to them.
func TestKeyless(t *testing.T) {
	l := newLab(t)
	elsewhere, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	by := func(who, issuer string) Layer { return l.legacyKeyless(l.sigstore, who, issuer, simple(subject)) }
	good, second := by(releaser, tokens), by(releaser, tokens)
	change := func(name, value string) Layer {
		out := good
		out.Annotations = map[string]string{}
		for k, v := range good.Annotations {
			out.Annotations[k] = v
		}
		out.Annotations[name] = value
		return out
	}
	pattern := func(p string) func(*Config) {
		return func(c *Config) { c.Identities = []Identity{{Issuer: tokens, Pattern: p}} }
	}
	late, err := l.sigstore.SignAtTime(releaser, tokens, simple(subject), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	stampless := change(annotationTimestamp, "")
	stampless.Annotations[annotationLog] = ""
	for _, tt := range []struct {
		name  string
		trust *Trust
		layer Layer
		want  string
	}{
		{"signed", l.trust(), good, ""},
		{"by a pattern", l.trust(pattern(`rel[a-z]+@acme\.test`)), good, ""},
		{"time stamp alone", l.trust(noTlog), change(annotationLog, ""), ""},
		{"by another identity", l.trust(), by("mallory@acme.test", tokens), `"mallory@acme.test" of "https://tokens.acme.test" is none of trust.identities`},
		{"the same name of another issuer", l.trust(), by(releaser, "https://tokens.evil.test"), "none of trust.identities"},
		{"a pattern's match is a part at the end", l.trust(pattern(`release@acme\.test`)), by("release@acme.test.evil.test", tokens), "none of trust.identities"},
		{"a pattern's match is a part at the start", l.trust(pattern(`release@acme\.test`)), by("evil-release@acme.test", tokens), "none of trust.identities"},
		{"an alternative's match is a part", l.trust(pattern(`a@acme\.test|release@acme\.test`)), by("release@acme.test.evil.test", tokens), "none of trust.identities"},
		{"an alternative's match is a part at the start", l.trust(pattern(`a@acme\.test|release@acme\.test`)), by("evil-release@acme.test", tokens), "none of trust.identities"},
		{"no identity is trusted", l.trust(func(c *Config) { c.Identities = nil }), good, "none of trust.identities"},
		{"no root", l.trust(noTlog, func(c *Config) { c.RootFile, c.Identities = "", nil }), good, "set trust.root_file"},
		{"another authority", l.trust(), l.legacyKeyless(elsewhere, releaser, tokens, simple(subject)), "not enough verified log entries"},
		{"another authority, log ignored", l.trust(noTlog), l.legacyKeyless(elsewhere, releaser, tokens, simple(subject)), "timestamps"},
		{"certificate in no log", l.trust(func(c *Config) { c.IgnoreCTLog = false }), good, "signed certificate timestamp"},
		{"signature of another image", l.trust(), l.legacyKeyless(l.sigstore, releaser, tokens, simple(other)), "it is a signature of"},
		{"log entry of another signature", l.trust(), change(annotationLog, second.Annotations[annotationLog]), "signature does not match"},
		{"log entry without its promise", l.trust(), change(annotationLog, strings.Replace(good.Annotations[annotationLog], `"SignedEntryTimestamp":"`, `"SignedEntryTimestamp":"AAAA`, 1)), "log"},
		{"certificate of another signature", l.trust(), change(annotationCertificate, second.Annotations[annotationCertificate]), "certificate does not match"},
		{"logged when the certificate was over", l.trust(), l.annotate(l.sigstore, late, good), "integrated time outside certificate validity"},
		{"neither log nor time stamp", l.trust(noTlog), stampless, "timestamps"},
		{"current time, in its life", l.trust(noTlog, func(c *Config) { c.CurrentTime = true }), stampless, ""},
		{"certificate that is none", l.trust(), change(annotationCertificate, "hello"), "none in PEM"},
		{"log entry that is none", l.trust(), change(annotationLog, `["x"]`), "log entry can't be read"},
		{"log entry of other types", l.trust(), change(annotationLog, `{"SignedEntryTimestamp":7,"Payload":"x"}`), "log entry can't be read"},
		{"log entry without a body", l.trust(), change(annotationLog, `{}`), "no body"},
		{"time stamp that is none", l.trust(noTlog), change(annotationTimestamp, `[]`), "time stamp can't be read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, _ := one(t, tt.trust, tt.layer)
			says(t, s.Signature, tt.want)
			if tt.want == "" && (s.Issuer != tokens || s.Identity != releaser || s.Kind != Keyless) {
				t.Errorf("%s %q of %q", s.Kind, s.Identity, s.Issuer)
			}
			if tt.want == "" && (s.Time == "") != (tt.name == "current time, in its life") {
				t.Errorf("proven time %q", s.Time)
			}
		})
	}
}

// Bundles: signatures and attestations in envelopes.
func TestBundles(t *testing.T) {
	l := newLab(t)
	const slsa = "https://slsa.dev/provenance/v1"
	provenance := statement(subject, slsa, `{"builder":{"id":"acme"}}`)
	good := l.attested(l.sigstore, releaser, provenance)
	second := l.attested(l.sigstore, releaser, statement(subject, slsa, `{"builder":{"id":"evil"}}`))
	garbage := func(s string) Layer { return Layer{Subject: subject, Format: Bundle, Body: []byte(s)} }
	for _, tt := range []struct {
		name        string
		layer       Layer
		attestation bool
		want        string
	}{
		{"provenance", l.bundled(good), true, ""},
		{"signature", l.bundled(l.attested(l.sigstore, releaser, statement(subject, SignType, `{}`))), false, ""},
		{"of another image", l.bundled(l.attested(l.sigstore, releaser, statement(other, slsa, `{}`))), true, "does not match"},
		{"signature of another image", l.bundled(l.attested(l.sigstore, releaser, statement(other, SignType, `{}`))), false, "does not match"},
		{"by another identity", l.bundled(l.attested(l.sigstore, "mallory@acme.test", provenance)), true, "none of trust.identities"},
		{"payload changed", l.bundled(good, func(b *protobundle.Bundle) { b.GetDsseEnvelope().Payload = statement(subject, slsa, `{}`) }), true, "payload hash"},
		{"log entry of another signature", l.bundled(good, func(b *protobundle.Bundle) {
			b.VerificationMaterial.TlogEntries = nil
			var o protobundle.Bundle
			l.decode(l.bundled(second), &o)
			b.VerificationMaterial.TlogEntries = o.GetVerificationMaterial().GetTlogEntries()
		}), true, "does not match"},
		{"in no log", l.bundled(good, func(b *protobundle.Bundle) { b.VerificationMaterial.TlogEntries = nil }), true, "not enough verified log entries"},
		{"envelope without a signature", l.bundled(good, func(b *protobundle.Bundle) { b.GetDsseEnvelope().Signatures = nil }), true, "signature does not match"},
		{"payload of another type", l.bundled(good, func(b *protobundle.Bundle) { b.GetDsseEnvelope().PayloadType = "text/plain" }), false, "no in-toto statement"},
		{"no material", l.bundled(good, func(b *protobundle.Bundle) { b.VerificationMaterial = nil }), false, "can't be read"},
		{"empty", garbage(``), false, "can't be read"},
		{"null", garbage(`null`), false, "can't be read"},
		{"a list", garbage(`[]`), false, "can't be read"},
		{"other types", garbage(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":null},"dsseEnvelope":{"payload":[]}}`), false, "can't be read"},
		{"deep", garbage(strings.Repeat(`{"verificationMaterial":`, 100_000)), false, "can't be read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, attestation := one(t, l.trust(), tt.layer)
			says(t, a.Signature, tt.want)
			if attestation != tt.attestation {
				t.Errorf("attestation %v, want %v", attestation, tt.attestation)
			}
			if (a.Predicate != nil) != (tt.want == "" && tt.attestation) {
				t.Errorf("predicate %v", a.Predicate)
			}
		})
	}
}

// Envelopes of .att tags, by a key.
func TestAttestationTags(t *testing.T) {
	l := newLab(t)
	e := func(body string) Layer {
		return Layer{Subject: subject, Format: CosignTag, Attestation: true, Body: []byte(body)}
	}
	const vex = "https://openvex.dev/ns/v0.2.0"
	good := l.envelope(statement(subject, vex, `{"statements":[]}`))
	a, attestation := one(t, l.trust(noTlog), e(good))
	says(t, a.Signature, "")
	if !attestation || a.PredicateType != vex || a.Key != "release" || mustJSON(t, a.Predicate) != `{"statements":[]}` {
		t.Errorf("attestation %v: %+v", attestation, a)
	}
	for name, tt := range map[string]struct{ body, want string }{
		"another image":   {l.envelope(statement(other, vex, `{}`)), "does not match"},
		"changed":         {strings.Replace(good, `"payload":"`, `"payload":"e30g`, 1), "can't be read"},
		"no envelope":     {`"hello"`, "no DSSE envelope"},
		"two signatures":  {strings.Replace(good, `"signatures":[`, `"signatures":[{"sig":"AAAA"},`, 1), "exactly one signature"},
		"no statement":    {l.envelope([]byte(`[]`)), "no JSON statement"},
		"no type":         {l.envelope([]byte(`{}`)), "no predicate type"},
		"no subject":      {l.envelope([]byte(`{"predicateType":"` + vex + `"}`)), "does not match"},
		"broken subjects": {l.envelope([]byte(`{"predicateType":"` + vex + `","subject":[{"digest":{"sha256":"zz"}}]}`)), "decode"},
	} {
		t.Run(name, func(t *testing.T) {
			a, attestation := one(t, l.trust(noTlog), e(tt.body))
			says(t, a.Signature, tt.want)
			if !attestation || a.Predicate != nil {
				t.Errorf("attestation %v with predicate %v", attestation, a.Predicate)
			}
		})
	}
}

// Predicates are facts while they are small, and all of them together are.
func TestLargePredicates(t *testing.T) {
	l := newLab(t)
	of := func(n int) Layer {
		return Layer{Subject: subject, Format: CosignTag, Attestation: true, Body: []byte(l.envelope(statement(subject, "https://spdx.dev/Document", `"`+strings.Repeat("x", n)+`"`)))}
	}
	var f Facts
	for _, n := range []int{maxPredicate, maxPredicate - 2, 1000, maxPredicate - 2, maxPredicate - 2, maxPredicate - 2, 1000} {
		l.trust(noTlog).Add(&f, of(n))
	}
	var has []bool
	for _, a := range f.Attestations {
		says(t, a.Signature, "")
		has = append(has, a.Predicate != nil)
	}
	if got := mustJSON(t, has); got != `[false,true,true,true,true,false,true]` {
		t.Errorf("predicates that are facts: %s", got)
	}
}

// What was verified by other trust says nothing; files that change are read again, and
// broken ones change nothing.
func TestTrustChanges(t *testing.T) {
	l := newLab(t)
	s, err := Open(Config{Keys: []Key{{"release", l.path("key.pub")}}, IgnoreTlog: true}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	before := s.Trust()
	good := l.keySigned(l.private, simple(subject))
	again := func() *Trust {
		s.checked = time.Time{}
		return s.Trust()
	}
	l.write("key.pub", []byte("half a key"))
	if again() != before || s.failure == "" {
		t.Error("a broken key is in force")
	}
	l.newKey("key.pub")
	now := again()
	a, _ := one(t, now, good)
	says(t, a.Signature, "by key release")
	if now.Hash() == before.Hash() || s.failure != "" {
		t.Errorf("a new key has the hash of the old one, or failed: %q", s.failure)
	}
	var hashes []string
	for _, c := range []Config{{}, {IgnoreTlog: true}, {IgnoreCTLog: true}, {CurrentTime: true}, {Identities: []Identity{{Issuer: "a", Subject: "b"}}}, {Identities: []Identity{{Issuer: "a", Pattern: "b"}}}} {
		loaded, err := Load(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range hashes {
			if h == loaded.Hash() {
				t.Errorf("%+v has the hash of another", c)
			}
		}
		hashes = append(hashes, loaded.Hash())
	}
}

// Trust that can't be read names the key, the file, and what to do.
func TestBadTrust(t *testing.T) {
	l := newLab(t)
	l.write("bad", []byte("hello"))
	for _, tt := range []struct {
		config Config
		want   string
	}{
		{Config{RootFile: l.path("none")}, "trust.root_file: "},
		{Config{RootFile: l.path("bad")}, "is no trusted root"},
		{Config{Keys: []Key{{"release", l.path("none")}}}, "trust.keys: release: "},
		{Config{Keys: []Key{{"release", l.path("bad")}}}, "no public key in PEM"},
		{Config{Identities: []Identity{{Subject: "a"}}}, "no issuer"},
		{Config{Identities: []Identity{{Issuer: "i"}}}, "a subject or a pattern"},
		{Config{Identities: []Identity{{Issuer: "i", Pattern: `a)|(b`}}}, "unexpected )"},
	} {
		if _, err := Load(tt.config); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.config, err, tt.want)
		}
	}
}

// FuzzRead holds that no bytes that anybody may push stop the gateway or are verified.
func FuzzRead(f *testing.F) {
	trust, err := Load(Config{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`, `{}`, `{"Payload":{"body":"e30=","logID":"00"}}`)
	f.Fuzz(func(t *testing.T, body, certificate, log string) {
		for _, l := range []Layer{
			{Format: Bundle}, {Format: CosignTag}, {Format: CosignTag, Attestation: true},
		} {
			l.Subject, l.Body = subject, []byte(body)
			l.Annotations = map[string]string{annotationSignature: "AAAA", annotationCertificate: certificate, annotationLog: log, annotationTimestamp: log}
			var facts Facts
			trust.Add(&facts, l)
			if facts.Verified() || len(facts.Signatures)+len(facts.Attestations) != 1 {
				t.Errorf("%+v", facts)
			}
			if _, err := json.Marshal(facts); err != nil {
				t.Error(err)
			}
		}
	})
}
