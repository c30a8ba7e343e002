package signature

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"google.golang.org/protobuf/encoding/protojson"
)

const (
	releaser = "release@acme.test"
	tokens   = "https://tokens.acme.test"
)

var (
	subject = digest.FromString("the image")
	other   = digest.FromString("another image")
)

// A lab is a sigstore of its own, with authority, log and time stamps, and a key.
type lab struct {
	*testing.T
	sigstore *ca.VirtualSigstore
	dir      string
	private  *ecdsa.PrivateKey
}

func newLab(t *testing.T) *lab {
	t.Helper()
	vs, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{T: t, sigstore: vs, dir: t.TempDir()}
	l.private = l.newKey("key.pub")
	l.writeRoot("root.json", vs)
	return l
}

func (l *lab) newKey(name string) *ecdsa.PrivateKey {
	l.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		l.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		l.Fatal(err)
	}
	l.write(name, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	return k
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *lab) write(name string, b []byte) {
	l.Helper()
	if err := os.WriteFile(l.path(name), b, 0o600); err != nil {
		l.Fatal(err)
	}
}

// writeRoot writes the trusted root of a sigstore.
func (l *lab) writeRoot(name string, vs *ca.VirtualSigstore) {
	l.Helper()
	logs := vs.RekorLogs()
	for id, log := range logs { // whose ID is hexadecimal there
		raw, err := hex.DecodeString(id)
		if err != nil {
			l.Fatal(err)
		}
		log.ID = raw
	}
	r, err := root.NewTrustedRoot(root.TrustedRootMediaType01, vs.FulcioCertificateAuthorities(), map[string]*root.TransparencyLog{}, vs.TimestampingAuthorities(), logs)
	if err != nil {
		l.Fatal(err)
	}
	b, err := r.MarshalJSON()
	if err != nil {
		l.Fatal(err)
	}
	l.write(name, b)
}

// trust is of the lab's root, key and identity; certificates of the lab are in no log of theirs.
func (l *lab) trust(changes ...func(*Config)) *Trust {
	l.Helper()
	c := Config{
		RootFile: l.path("root.json"), Keys: []Key{{"release", l.path("key.pub")}},
		Identities: []Identity{{Issuer: tokens, Subject: releaser}}, IgnoreCTLog: true,
	}
	for _, change := range changes {
		change(&c)
	}
	t, err := Load(c)
	if err != nil {
		l.Fatal(err)
	}
	return t
}

func noTlog(c *Config) { c.IgnoreTlog = true }

// simple is what a legacy signature of an image signs.
func simple(d digest.Digest) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"acme/web"},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":null}`, d)
}

// statement is what an attestation signs.
func statement(d digest.Digest, predicateType, predicate string) []byte {
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"acme/web","digest":{"sha256":"%s"}}],"predicateType":"%s","predicate":%s}`, d.Encoded(), predicateType, predicate)
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// keySigned is a layer of a .sig manifest signed by a key, in no log.
func (l *lab) keySigned(k *ecdsa.PrivateKey, payload []byte) Layer {
	l.Helper()
	return Layer{Subject: subject, Format: CosignTag, Body: payload, Annotations: map[string]string{annotationSignature: base64.StdEncoding.EncodeToString(l.sign(k, payload))}}
}

func (l *lab) sign(k *ecdsa.PrivateKey, b []byte) []byte {
	l.Helper()
	sum := sha256.Sum256(b)
	sig, err := k.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		l.Fatal(err)
	}
	return sig
}

// legacyKeyless is a layer of a .sig manifest signed by an identity.
func (l *lab) legacyKeyless(vs *ca.VirtualSigstore, who, issuer string, payload []byte) Layer {
	l.Helper()
	e, err := vs.Sign(who, issuer, payload)
	if err != nil {
		l.Fatal(err)
	}
	return l.annotate(vs, e, Layer{Subject: subject, Format: CosignTag, Body: payload})
}

// annotate describes a signature in annotations.
func (l *lab) annotate(vs *ca.VirtualSigstore, e *ca.TestEntity, layer Layer) Layer {
	l.Helper()
	content, err := e.VerificationContent()
	if err != nil {
		l.Fatal(err)
	}
	sig, err := e.SignatureContent()
	if err != nil {
		l.Fatal(err)
	}
	entries, err := e.TlogEntries()
	if err != nil {
		l.Fatal(err)
	}
	stamps, err := e.Timestamps()
	if err != nil {
		l.Fatal(err)
	}
	tle := l.logged(vs, entries[0].TransparencyLogEntry())
	layer.Annotations = map[string]string{
		annotationSignature:   base64.StdEncoding.EncodeToString(sig.Signature()),
		annotationCertificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: content.Certificate().Raw})),
		annotationLog: mustJSON(l, map[string]any{
			"SignedEntryTimestamp": tle.GetInclusionPromise().GetSignedEntryTimestamp(),
			"Payload":              map[string]any{"body": tle.GetCanonicalizedBody(), "integratedTime": tle.GetIntegratedTime(), "logIndex": tle.GetLogIndex(), "logID": hex.EncodeToString(tle.GetLogId().GetKeyId())},
		}),
		annotationTimestamp: mustJSON(l, map[string]any{"SignedRFC3161Timestamp": stamps[0]}),
	}
	return layer
}

// attested is an envelope signed by an identity, logged.
func (l *lab) attested(vs *ca.VirtualSigstore, who string, payload []byte) *ca.TestEntity {
	l.Helper()
	e, err := vs.AttestAtTime(who, tokens, payload, time.Now().Add(5*time.Minute), true)
	if err != nil {
		l.Fatal(err)
	}
	return e
}

// bundled is the layer of a bundle that refers to the subject.
func (l *lab) bundled(e *ca.TestEntity, changes ...func(*protobundle.Bundle)) Layer {
	l.Helper()
	content, err := e.VerificationContent()
	if err != nil {
		l.Fatal(err)
	}
	sig, err := e.SignatureContent()
	if err != nil {
		l.Fatal(err)
	}
	entries, err := e.TlogEntries()
	if err != nil {
		l.Fatal(err)
	}
	env := sig.EnvelopeContent().RawEnvelope()
	payload, err := base64.StdEncoding.DecodeString(env.Payload)
	if err != nil {
		l.Fatal(err)
	}
	b := &protobundle.Bundle{
		MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json",
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content:     &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: content.Certificate().Raw}},
			TlogEntries: []*protorekor.TransparencyLogEntry{l.logged(l.sigstore, entries[0].TransparencyLogEntry())},
		},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			PayloadType: env.PayloadType, Payload: payload, Signatures: []*protodsse.Signature{{Sig: sig.Signature()}},
		}},
	}
	for _, change := range changes {
		change(b)
	}
	body, err := protojson.Marshal(b)
	if err != nil {
		l.Fatal(err)
	}
	return Layer{Subject: subject, Format: Bundle, Body: body}
}

func (l *lab) decode(layer Layer, b *protobundle.Bundle) {
	l.Helper()
	if err := protojson.Unmarshal(layer.Body, b); err != nil {
		l.Fatal(err)
	}
}

// envelope is a DSSE envelope signed by the lab's key.
func (l *lab) envelope(payload []byte) string {
	l.Helper()
	sig := l.sign(l.private, dsse.PAE(statementPayload, payload))
	return mustJSON(l, map[string]any{"payloadType": statementPayload, "payload": payload, "signatures": []any{map[string]any{"sig": sig}}})
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// logged completes the entry of a log as the log would give it.
func (l *lab) logged(vs *ca.VirtualSigstore, e *protorekor.TransparencyLogEntry) *protorekor.TransparencyLogEntry {
	l.Helper()
	body := e.GetCanonicalizedBody()
	set, err := vs.RekorSignPayload(tlog.RekorPayload{
		Body: base64.StdEncoding.EncodeToString(body), IntegratedTime: e.GetIntegratedTime(), LogIndex: e.GetLogIndex(), LogID: hex.EncodeToString(e.GetLogId().GetKeyId()),
	})
	if err != nil {
		l.Fatal(err)
	}
	proof, err := vs.GetInclusionProof(body)
	if err != nil {
		l.Fatal(err)
	}
	rootHash, err := hex.DecodeString(*proof.RootHash)
	if err != nil {
		l.Fatal(err)
	}
	var kind struct{ APIVersion, Kind string }
	if err := json.Unmarshal(body, &kind); err != nil {
		l.Fatal(err)
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex: e.GetLogIndex(), LogId: e.GetLogId(), IntegratedTime: e.GetIntegratedTime(), CanonicalizedBody: body,
		KindVersion:      &protorekor.KindVersion{Kind: kind.Kind, Version: kind.APIVersion},
		InclusionPromise: &protorekor.InclusionPromise{SignedEntryTimestamp: set},
		InclusionProof: &protorekor.InclusionProof{
			LogIndex: *proof.LogIndex, TreeSize: *proof.TreeSize, RootHash: rootHash, Checkpoint: &protorekor.Checkpoint{Envelope: *proof.Checkpoint},
		},
	}
}

// rekord is the body of a log's entry for a signature by a key.
func (l *lab) rekord(payload, sig []byte, key string) []byte {
	l.Helper()
	pub, err := os.ReadFile(l.path(key))
	if err != nil {
		l.Fatal(err)
	}
	return fmt.Appendf(nil, `{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"sha256","value":"%x"}},"signature":{"content":"%s","publicKey":{"content":"%s"}}}}`,
		sha256.Sum256(payload), base64.StdEncoding.EncodeToString(sig), base64.StdEncoding.EncodeToString(pub))
}

func signatureOf(t *testing.T, rekord []byte) string {
	t.Helper()
	var body struct {
		Spec struct{ Signature struct{ Content string } }
	}
	if err := json.Unmarshal(rekord, &body); err != nil {
		t.Fatal(err)
	}
	return body.Spec.Signature.Content
}

// logAnnotation is a log's promise to hold a body.
func (l *lab) logAnnotation(body []byte) string {
	l.Helper()
	id, err := l.sigstore.RekorLogID()
	if err != nil {
		l.Fatal(err)
	}
	raw, err := hex.DecodeString(id)
	if err != nil {
		l.Fatal(err)
	}
	e := l.logged(l.sigstore, &protorekor.TransparencyLogEntry{LogIndex: 7, LogId: &protocommon.LogId{KeyId: raw}, IntegratedTime: time.Now().Unix(), CanonicalizedBody: body})
	return mustJSON(l, map[string]any{
		"SignedEntryTimestamp": e.GetInclusionPromise().GetSignedEntryTimestamp(),
		"Payload":              map[string]any{"body": body, "integratedTime": e.GetIntegratedTime(), "logIndex": e.GetLogIndex(), "logID": id},
	})
}
