package signature

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
)

// Annotations of a layer of a .sig or .att manifest (cosign, specs/SIGNATURE_SPEC.md).
const (
	annotationSignature   = "dev.cosignproject.cosign/signature"
	annotationCertificate = "dev.sigstore.cosign/certificate"
	annotationLog         = "dev.sigstore.cosign/bundle"
	annotationTimestamp   = "dev.sigstore.cosign/rfc3161timestamp"
)

const statementPayload = "application/vnd.in-toto+json"

// read makes a bundle of a layer. Nothing in it is verified.
func read(l Layer) (e *entity, err error) {
	defer func() {
		if r := recover(); r != nil {
			e, err = nil, errors.New("the verifier failed on it")
		}
	}()
	e = &entity{subject: l.Subject}
	switch {
	case l.Format == Bundle:
		e.Bundle = &bundle.Bundle{}
		err = e.UnmarshalJSON(l.Body)
	case l.Attestation:
		e.Bundle, err = legacyAttestation(l)
	default:
		e.Bundle, err = legacySignature(l)
		e.payload = append([]byte{}, l.Body...) // never nil
	}
	if err != nil {
		return nil, err
	}
	if env := e.GetDsseEnvelope(); env != nil {
		return e, e.readStatement(env)
	}
	return e, nil
}

func (e *entity) readStatement(env *protodsse.Envelope) error {
	if env.GetPayloadType() != statementPayload {
		return fmt.Errorf("its envelope holds %q, no in-toto statement", env.GetPayloadType())
	}
	var s struct {
		PredicateType string `json:"predicateType"`
	}
	if err := json.Unmarshal(env.GetPayload(), &s); err != nil {
		return errors.New("its envelope holds no JSON statement")
	}
	if s.PredicateType == "" {
		return errors.New("its statement has no predicate type")
	}
	e.statement, e.predicateType = env.GetPayload(), s.PredicateType
	return nil
}

func legacySignature(l Layer) (*bundle.Bundle, error) {
	sig, err := base64.StdEncoding.DecodeString(l.Annotations[annotationSignature])
	if err != nil || len(sig) == 0 {
		return nil, errors.New("its layer has no signature among its annotations")
	}
	sum := sha256.Sum256(l.Body)
	return legacy(l, &protobundle.Bundle{Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
		MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: sum[:]},
		Signature:     sig,
	}}})
}

func legacyAttestation(l Layer) (*bundle.Bundle, error) {
	var env struct {
		PayloadType string `json:"payloadType"`
		Payload     []byte `json:"payload"`
		Signatures  []struct {
			KeyID string `json:"keyid"`
			Sig   []byte `json:"sig"`
		} `json:"signatures"`
	}
	if err := json.Unmarshal(l.Body, &env); err != nil {
		return nil, errors.New("its layer is no DSSE envelope")
	}
	proto := &protodsse.Envelope{PayloadType: env.PayloadType, Payload: env.Payload}
	for _, s := range env.Signatures {
		proto.Signatures = append(proto.Signatures, &protodsse.Signature{Keyid: s.KeyID, Sig: s.Sig})
	}
	return legacy(l, &protobundle.Bundle{Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: proto}})
}

// legacy adds to b what stands in a layer's annotations.
func legacy(l Layer, b *protobundle.Bundle) (*bundle.Bundle, error) {
	b.MediaType = "application/vnd.dev.sigstore.bundle+json;version=0.1"
	b.VerificationMaterial = &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{}}}
	if text := l.Annotations[annotationCertificate]; text != "" {
		block, _ := pem.Decode([]byte(text))
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("its certificate is none in PEM")
		}
		b.VerificationMaterial.Content = &protobundle.VerificationMaterial_X509CertificateChain{X509CertificateChain: &protocommon.X509CertificateChain{
			Certificates: []*protocommon.X509Certificate{{RawBytes: block.Bytes}},
		}}
	}
	if text := l.Annotations[annotationLog]; text != "" && text != "null" {
		entry, err := legacyLog(text)
		if err != nil {
			return nil, err
		}
		b.VerificationMaterial.TlogEntries = []*protorekor.TransparencyLogEntry{entry}
	}
	if text := l.Annotations[annotationTimestamp]; text != "" && text != "null" {
		var ts struct {
			SignedRFC3161Timestamp []byte
		}
		if err := json.Unmarshal([]byte(text), &ts); err != nil {
			return nil, errors.New("its time stamp can't be read")
		}
		b.VerificationMaterial.TimestampVerificationData = &protobundle.TimestampVerificationData{
			Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: ts.SignedRFC3161Timestamp}},
		}
	}
	return bundle.NewBundle(b)
}

// legacyLog reads the entry of a transparency log. That its body is about this signature is
// checked where it is verified.
func legacyLog(text string) (*protorekor.TransparencyLogEntry, error) {
	var log struct {
		SignedEntryTimestamp []byte
		Payload              struct {
			Body           []byte `json:"body"`
			IntegratedTime int64  `json:"integratedTime"`
			LogIndex       int64  `json:"logIndex"`
			LogID          string `json:"logID"`
		}
	}
	if err := json.Unmarshal([]byte(text), &log); err != nil {
		return nil, errors.New("its log entry can't be read")
	}
	id, err := hex.DecodeString(log.Payload.LogID)
	if err != nil {
		return nil, errors.New("its log entry names no log")
	}
	var kind struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := json.Unmarshal(log.Payload.Body, &kind); err != nil {
		return nil, errors.New("its log entry has no body that can be read")
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex:          log.Payload.LogIndex,
		LogId:             &protocommon.LogId{KeyId: id},
		KindVersion:       &protorekor.KindVersion{Kind: kind.Kind, Version: kind.APIVersion},
		IntegratedTime:    log.Payload.IntegratedTime,
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: log.SignedEntryTimestamp},
		CanonicalizedBody: log.Payload.Body,
	}, nil
}
