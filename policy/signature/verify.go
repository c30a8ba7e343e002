package signature

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/sluicegate/sluice/policy"
)

// Formats of a policy.Signature.
const (
	CosignTag = "cosign-tag"
	Bundle    = "bundle"
)

// Kinds of a policy.Signature.
const (
	ByKey   = "key"
	Keyless = "keyless"
)

// SignType is the predicate of the statement that cosign's bundles sign an image with.
const SignType = "https://sigstore.dev/cosign/sign/v1"

const (
	maxPredicate  = 64 << 10  // bytes of one predicate that policy sees
	maxPredicates = 256 << 10 // of all of an image: each decision reads them
	maxError      = 300       // bytes of a reason
)

// A Layer is a layer of a manifest with signatures, and what it claims to sign.
type Layer struct {
	Subject     digest.Digest // the manifest whose signatures were asked for
	Format      string        // CosignTag, Bundle
	Attestation bool          // of a tag: .att; a bundle says itself what it is
	Annotations map[string]string
	Body        []byte
	Err         error // why there is no body
}

// Facts are what is known of an image's signatures, in the order in which they were
// found.
type Facts struct {
	Signatures   []policy.Signature   `json:"signatures,omitempty"`
	Attestations []policy.Attestation `json:"attestations,omitempty"`
}

// Verified reports whether anything is.
func (f Facts) Verified() bool {
	for _, s := range f.Signatures {
		if s.Verified {
			return true
		}
	}
	for _, a := range f.Attestations {
		if a.Verified {
			return true
		}
	}
	return false
}

// Join adds the facts of another subject.
func (f *Facts) Join(more Facts) {
	f.Signatures = append(f.Signatures, more.Signatures...)
	for _, a := range more.Attestations {
		f.attest(a)
	}
}

// Fail adds that something of subject could not be looked at, so that it is missing.
func (f *Facts) Fail(subject digest.Digest, format string, err error) {
	f.Signatures = append(f.Signatures, policy.Signature{Format: format, Subject: subject.String(), Error: reason(err)})
}

// attest adds an attestation, without its predicate where there are too many bytes of these.
func (f *Facts) attest(a policy.Attestation) {
	size := 0
	for _, b := range append(f.Attestations[:len(f.Attestations):len(f.Attestations)], a) {
		if b.Predicate != nil {
			raw, _ := json.Marshal(b.Predicate) // came from JSON
			size += len(raw)
		}
	}
	if size > maxPredicates {
		a.Predicate = nil
	}
	f.Attestations = append(f.Attestations, a)
}

// Add verifies a layer and adds to f what it is, verified or not: exactly one fact.
func (t *Trust) Add(f *Facts, l Layer) {
	s := policy.Signature{Format: l.Format, Subject: l.Subject.String()}
	if l.Err != nil {
		s.Error = reason(l.Err)
		f.put(l.Attestation, policy.Attestation{Signature: s})
		return
	}
	e, err := read(l)
	if err != nil {
		s.Error = reason(fmt.Errorf("it can't be read: %w", err))
		f.put(l.Attestation, policy.Attestation{Signature: s})
		return
	}
	a := policy.Attestation{Signature: s, PredicateType: e.predicateType}
	if err := t.verify(e, &a.Signature); err != nil {
		a.Error = reason(err)
	} else {
		a.Verified = true
		a.Predicate = e.predicate()
	}
	f.put(e.predicateType != "" && e.predicateType != SignType || l.Attestation, a)
}

func (f *Facts) put(attestation bool, a policy.Attestation) {
	if attestation {
		f.attest(a)
	} else {
		f.Signatures = append(f.Signatures, a.Signature)
	}
}

// An entity is a signature as it was read.
type entity struct {
	*bundle.Bundle
	subject       digest.Digest
	payload       []byte // that is signed, for a legacy signature
	statement     []byte // for an attestation
	predicateType string // as the statement says
}

// verify verifies e and fills in what is proven of s.
func (t *Trust) verify(e *entity, s *policy.Signature) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.New("it can't be read: the verifier failed on it")
		}
	}()
	content, err := e.VerificationContent()
	if err != nil {
		return err
	}
	if content.Certificate() == nil {
		s.Kind = ByKey
		return t.verifyByKey(e, s)
	}
	s.Kind = Keyless
	return t.verifyKeyless(e, s)
}

func (t *Trust) verifyKeyless(e *entity, s *policy.Signature) error {
	if t.config.RootFile == "" {
		return errors.New("no authority is trusted: set trust.root_file")
	}
	options := []verify.VerifierOption{verify.WithoutStatementPredicate()}
	if !t.config.IgnoreTlog {
		options = append(options, verify.WithTransparencyLog(1))
	}
	if !t.config.IgnoreCTLog {
		options = append(options, verify.WithSignedCertificateTimestamps(1))
	}
	if t.config.CurrentTime {
		options = append(options, verify.WithCurrentTime())
	} else {
		options = append(options, verify.WithObserverTimestamps(1))
	}
	result, err := check(e, t.root, verify.WithoutIdentitiesUnsafe(), options...) // identities are ours to check, below
	if err != nil {
		return err
	}
	if result.Signature == nil || result.Signature.Certificate == nil {
		return errors.New("it has no certificate")
	}
	s.Issuer, s.Identity = result.Signature.Certificate.Issuer, result.Signature.Certificate.SubjectAlternativeName
	if !t.trusts(s.Issuer, s.Identity) {
		return fmt.Errorf("%q of %q is none of trust.identities", s.Identity, s.Issuer)
	}
	if !t.config.CurrentTime {
		s.Time = first(result.VerifiedTimestamps)
	}
	return nil
}

// first returns the earliest of the proven times, "" where there is none.
func first(ts []verify.TimestampVerificationResult) string {
	var at time.Time
	for _, t := range ts {
		if at.IsZero() || t.Timestamp.Before(at) {
			at = t.Timestamp
		}
	}
	if at.IsZero() {
		return ""
	}
	return at.UTC().Format(time.RFC3339)
}

// verifyByKey verifies by each of the keys: who pushed a signature wrote which it is of.
func (t *Trust) verifyByKey(e *entity, s *policy.Signature) error {
	if len(t.keys) == 0 {
		return errors.New("no key is trusted: set trust.keys")
	}
	options := []verify.VerifierOption{verify.WithNoObserverTimestamps(), verify.WithoutStatementPredicate()}
	if !t.config.IgnoreTlog {
		options = append(options, verify.WithTransparencyLog(1))
	}
	var errs []string
	for _, k := range t.keys {
		var err error
		for _, material := range k.materials {
			if _, err = check(e, material, verify.WithKey(), options...); err != nil {
				continue
			}
			s.Key = k.name
			if !t.config.IgnoreTlog {
				s.Time = logged(e, material)
			}
			return nil
		}
		errs = append(errs, fmt.Sprintf("by key %s: %v", k.name, err))
	}
	return errors.New(strings.Join(errs, "; "))
}

// logged is when a log had the signature, "" where the log doesn't prove it.
func logged(e *entity, material root.TrustedMaterial) string {
	ts, err := verify.VerifyTlogEntry(e, material, 1, true)
	if err != nil || len(ts) == 0 {
		return ""
	}
	return ts[0].Time.UTC().Format(time.RFC3339)
}

// check verifies e by what is trusted, and that it is of its subject.
func check(e *entity, material root.TrustedMaterial, who verify.PolicyOption, options ...verify.VerifierOption) (*verify.VerificationResult, error) {
	verifier, err := verify.NewVerifier(material, options...)
	if err != nil {
		return nil, err
	}
	what := verify.WithArtifact(bytes.NewReader(e.payload))
	if e.payload == nil {
		sum, err := hex.DecodeString(e.subject.Encoded())
		if err != nil {
			return nil, err
		}
		what = verify.WithArtifactDigest(string(e.subject.Algorithm()), sum)
	}
	result, err := verifier.Verify(e, verify.NewPolicy(what, who))
	if err != nil {
		return nil, err
	}
	if e.payload != nil {
		return result, checkPayload(e.payload, e.subject)
	}
	return result, nil
}

// checkPayload looks at what was signed in simple signing format: it must be a signature of
// an image, and of this one.
func checkPayload(payload []byte, subject digest.Digest) error {
	var p struct {
		Critical struct {
			Type  string `json:"type"`
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
		} `json:"critical"`
	}
	if err := json.Unmarshal(payload, &p); err != nil {
		return errors.New("what it signs is no simple signing payload")
	}
	if kind := p.Critical.Type; kind != "cosign container image signature" && kind != "https://sigstore.dev/cosign/sign/v1" {
		return fmt.Errorf("what it signs is a %q, no image", kind)
	}
	if p.Critical.Image.Digest != subject.String() {
		return fmt.Errorf("it is a signature of %q", p.Critical.Image.Digest)
	}
	return nil
}

// predicate returns what an attestation states, nil where that is too large to be a fact.
func (e *entity) predicate() any {
	var s struct {
		Predicate json.RawMessage `json:"predicate"`
	}
	if json.Unmarshal(e.statement, &s) != nil || len(s.Predicate) > maxPredicate {
		return nil
	}
	var v any
	if json.Unmarshal(s.Predicate, &v) != nil {
		return nil
	}
	return v
}

// reason is the text of an error, which may quote a stranger: one line of printable text.
func reason(err error) string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, err.Error())
	if len(text) > maxError {
		text = text[:maxError] + "..."
	}
	return cmp.Or(text, "it can't be verified")
}
