package signature

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
)

// A certificate that is over proves nothing without a time, whatever is ignored.
func TestExpiredCertificate(t *testing.T) {
	l := newLab(t)
	rootCert, rootKey, err := ca.GenerateRootCa()
	if err != nil {
		t.Fatal(err)
	}
	middle, middleKey, err := ca.GenerateFulcioIntermediate(rootCert, rootKey)
	if err != nil {
		t.Fatal(err)
	}
	authority := &root.FulcioCertificateAuthority{
		Root: rootCert, Intermediates: []*x509.Certificate{middle}, URI: "https://authority.test",
		ValidityPeriodStart: time.Now().Add(-5 * time.Hour), ValidityPeriodEnd: time.Now().Add(time.Hour),
	}
	logs := map[string]*root.TransparencyLog{}
	tr, err := root.NewTrustedRoot(root.TrustedRootMediaType01, []root.CertificateAuthority{authority}, logs, nil, logs)
	if err != nil {
		t.Fatal(err)
	}
	b, err := tr.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	l.write("root.json", b)
	signed := func(from time.Time) Layer {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := ca.GenerateLeafCert(releaser, tokens, from, key, middle, middleKey)
		if err != nil {
			t.Fatal(err)
		}
		return Layer{Subject: subject, Format: CosignTag, Body: simple(subject), Annotations: map[string]string{
			annotationSignature:   base64.StdEncoding.EncodeToString(l.sign(key, simple(subject))),
			annotationCertificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})),
		}}
	}
	current := func(c *Config) { c.CurrentTime = true }
	for _, tt := range []struct {
		name  string
		trust *Trust
		from  time.Time // of a life of ten minutes
		want  string
	}{
		{"in its life", l.trust(noTlog, current), time.Now().Add(-time.Minute), ""},
		{"over", l.trust(noTlog, current), time.Now().Add(-time.Hour), "failed to verify leaf certificate"},
		{"not begun", l.trust(noTlog, current), time.Now().Add(time.Hour), "failed to verify leaf certificate"},
		{"in its life, without a time", l.trust(noTlog), time.Now().Add(-time.Minute), "timestamps"},
		{"over, without a time", l.trust(noTlog), time.Now().Add(-time.Hour), "timestamps"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, _ := one(t, tt.trust, signed(tt.from))
			says(t, s.Signature, tt.want)
		})
	}
}
