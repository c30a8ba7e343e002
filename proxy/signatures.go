package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/policy/signature"
	"github.com/sluicegate/sluice/proxy/upstream"
)

// What the Store has of signatures: repository, digest, hash of what is trusted → signatureRecord.
const kindSignatures cache.Kind = "signatures"

// Bounds on the signatures of an image. Anybody who may push to its repository writes
// them; past a bound the rest counts as not there, and a fact says so.
const (
	maxSigners        = 50       // layers with a signature of one digest
	maxSignatureBlob  = 8 << 20  // bytes of one: an SBOM of 10,000 packages is an attestation of 5 MB
	maxSignatureBytes = 32 << 20 // of all of one digest
	maxSigned         = 9        // digests: an image, and the indexes used last that list it
	signaturesAtOnce  = 4        // digests whose signatures are fetched at once
	signatureTime     = 10 * time.Second
)

// How old what is known of signatures may be.
const (
	signedRefresh   = time.Minute      // of one with a verified signature, before it is looked at again in the background
	unsignedRefresh = 15 * time.Second // of others: somebody may sign the image while its deployment waits
)

// A signatureRecord is what was found of the signatures of a digest.
type signatureRecord struct {
	At     time.Time       `json:"at"`
	Facts  signature.Facts `json:"facts"`
	Failed bool            `json:"failed,omitempty"` // upstream could not be asked for all
}

// addSignatures tells of an image's signatures and attestations, and of those of the
// indexes that list it, where a policy refers to them. It waits for upstream, at most
// for signatureTime, only where nothing verified is known.
func (g *Gateway) addSignatures(ctx context.Context, p *policy.Engine, in *policy.Input, repo Repo, m *manifest) error {
	signatures, attestations := p.Needs(policy.NeedSignatures), p.Needs(policy.NeedAttestations)
	if m.kind != kindImage || !signatures && !attestations || p.Mode(repo.Upstream, repo.Name) == policy.Off {
		return nil
	}
	facts, err := g.signatures(ctx, repo, m.Digest, in.Image.Indexes)
	if err != nil {
		return err
	}
	if signatures {
		in.Image.Signatures = facts.Signatures
	}
	if attestations {
		in.Image.Attestations = facts.Attestations
	}
	return nil
}

// expectSignatures has them looked for while an image is on its way. The caller waits for
// what it returns before the image is decided.
func (g *Gateway) expectSignatures(ctx context.Context, p *pull) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		parents, err := g.parents(ctx, p.repo, p.m.Digest)
		if err == nil {
			in := policy.Input{Image: policy.Image{Indexes: parents}}
			err = g.addSignatures(ctx, g.policy(p.repo), &in, p.repo, p.m)
		}
		if err != nil {
			g.Log.Debug("signatures are not looked for ahead", "error", err)
		}
	}()
	return func() { <-done }
}

// signatures returns what is known of a digest and of the indexes that list it.
func (g *Gateway) signatures(ctx context.Context, repo Repo, d digest.Digest, parents []string) (signature.Facts, error) {
	trust, err := g.trust()
	if err != nil {
		return signature.Facts{}, err
	}
	subjects, err := g.subjects(ctx, repo, d, parents)
	if err != nil {
		return signature.Facts{}, err
	}
	found := make([]signature.Facts, min(len(subjects), maxSigned))
	looks, ctx := errgroup.WithContext(ctx)
	looks.SetLimit(signaturesAtOnce)
	for i := range found {
		looks.Go(func() (err error) {
			found[i], err = g.signaturesOf(ctx, trust, repo, subjects[i])
			return err
		})
	}
	var facts signature.Facts
	if err := looks.Wait(); err != nil {
		return facts, err
	}
	for _, f := range found {
		facts.Join(f)
	}
	if len(subjects) > maxSigned {
		facts.Fail(subjects[maxSigned], "", fmt.Errorf("more than %d indexes list the image; signatures of the others were not looked for", maxSigned-1))
	}
	return facts, nil
}

// subjects are the digests whose signatures count for an image: its own, and those of the
// indexes that list it, most recent first.
func (g *Gateway) subjects(ctx context.Context, repo Repo, d digest.Digest, parents []string) ([]digest.Digest, error) {
	if len(parents) == 0 {
		return []digest.Digest{d}, nil
	}
	recent, err := g.parentsOf(ctx, repo, d.String())
	if err != nil {
		return nil, err
	}
	subjects := []digest.Digest{d}
	for _, s := range slices.Concat(recent, parents) { // some of which list others
		if p, err := parseDigest(s); err == nil && !slices.Contains(subjects, p) {
			subjects = append(subjects, p)
		}
	}
	return subjects, nil
}

// trust returns what signatures are verified by.
func (g *Gateway) trust() (*signature.Trust, error) {
	if g.Trust == nil {
		return signature.Load(signature.Config{})
	}
	return g.Trust.Trust(), nil
}

// signaturesOf returns what is known of one digest: as remembered, or as upstream has it
// now. An error is the Store's.
func (g *Gateway) signaturesOf(ctx context.Context, trust *signature.Trust, repo Repo, d digest.Digest) (signature.Facts, error) {
	key := cache.Name(kindSignatures, repo.String(), d.String(), trust.Hash())
	rec, known, err := g.signatureRecord(ctx, key)
	if err != nil {
		return signature.Facts{}, err
	}
	age := g.now().Sub(rec.At)
	verified := rec.Facts.Verified()
	if known && (age < unsignedRefresh || verified && age < signedRefresh) {
		return rec.Facts, nil
	}
	if verified && g.noted.fresh("signatures "+key.String(), g.now(), unsignedRefresh) {
		return rec.Facts, nil
	}
	ctx, cancel := context.WithTimeout(ctx, signatureTime)
	defer cancel()
	result := g.flyForSignatures(key, func() (any, error) { return g.refreshSignatures(key, trust, repo, d, rec) })
	if verified {
		return rec.Facts, nil
	}
	select {
	case r := <-result:
		if r.Err != nil {
			return signature.Facts{}, r.Err
		}
		return r.Val.(signature.Facts), nil //nolint:forcetypeassert // what refreshSignatures returns
	case <-ctx.Done():
		var late signature.Facts
		late.Fail(d, "", errors.New("the registry did not tell of the signatures in time; try again"))
		return late, nil
	}
}

// flyForSignatures has a record refreshed once for all who ask, and waited for when the
// gateway closes. One that closes refreshes only for who waits.
func (g *Gateway) flyForSignatures(key cache.Key, refresh func() (any, error)) <-chan singleflight.Result {
	flight := g.flights.DoChan("signatures "+key.String(), refresh)
	out := make(chan singleflight.Result, 1)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return flight
	}
	g.running.Go(func() { out <- <-flight })
	return out
}

func (g *Gateway) signatureRecord(ctx context.Context, key cache.Key) (rec signatureRecord, known bool, err error) {
	b, err := g.Store.Get(ctx, key)
	if errors.Is(err, cache.ErrNotExist) {
		return rec, false, nil
	}
	if err != nil {
		return rec, false, err
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		g.damaged(key, err)
		return signatureRecord{}, false, nil
	}
	return rec, true, nil
}

// refreshSignatures looks at upstream, on the gateway's own time: whoever waits may give
// up. What was verified stays for a day while upstream can't be asked.
func (g *Gateway) refreshSignatures(key cache.Key, trust *signature.Trust, repo Repo, d digest.Digest, before signatureRecord) (signature.Facts, error) {
	ctx, cancel := context.WithTimeout(g.ctx, signatureTime)
	defer cancel()
	rec := signatureRecord{At: g.now()}
	select {
	case g.signing <- struct{}{}:
		f := &finder{registry: g.upstream(repo.Upstream).Registry, log: g.Log, repo: repo, subject: d, trust: trust}
		f.find(ctx)
		<-g.signing
		rec.Facts, rec.Failed = f.facts, f.failed
	case <-ctx.Done():
		rec.Facts.Fail(d, "", errors.New("this gateway looks for the signatures of too many images at once; try again"))
		rec.Failed = true
	}
	if rec.Failed && before.Facts.Verified() {
		return before.Facts, nil // until they are too old for the Store
	}
	b, err := json.Marshal(rec)
	if err != nil {
		return rec.Facts, err
	}
	storing, done := context.WithTimeout(g.ctx, signatureTime) // the other may be over
	defer done()
	return rec.Facts, g.Store.Put(storing, key, b, g.Gate.StaleTags+time.Minute)
}

// FindSignatures looks for the signatures and attestations of digests at their registry, and
// verifies them, without remembering any. It takes up to 10 s; what can't be fetched until
// then is told of as not verified.
func FindSignatures(ctx context.Context, r *upstream.Registry, repo Repo, trust *signature.Trust, log *slog.Logger, subjects ...digest.Digest) (facts signature.Facts) {
	ctx, cancel := context.WithTimeout(ctx, signatureTime)
	defer cancel()
	for _, d := range subjects {
		f := &finder{registry: r, log: log, repo: repo, subject: d, trust: trust}
		f.find(ctx)
		facts.Join(f.facts)
	}
	return facts
}

// A finder looks for the signatures of one digest at upstream, and verifies them one after
// the other.
type finder struct {
	registry *upstream.Registry
	log      *slog.Logger
	repo     Repo
	subject  digest.Digest
	trust    *signature.Trust

	facts  signature.Facts
	failed bool
	layers int   // looked at
	bytes  int64 // fetched
}

// find goes through the places where signatures lie: those first that there can only be
// one of.
func (f *finder) find(ctx context.Context) {
	tag := f.subject.Algorithm().String() + "-" + f.subject.Encoded()
	f.tagged(ctx, tag+".sig", false)
	f.referrers(ctx)
	f.tagged(ctx, tag+".att", true)
}

// fail tells that something could not be looked at. Upstream's own words stay in the log.
func (f *finder) fail(what, format string, err error) {
	f.log.Info("signatures can't be looked at", "image", f.repo.String()+"@"+f.subject.String(), "what", what, "error", err)
	f.noteFailure(err)
	f.facts.Fail(f.subject, format, fmt.Errorf("%s can't be fetched (%s); try again", what, upstreamReason(err)))
}

// noteFailure notes that upstream could not be asked. What it lacks, or has wrong, it has
// told.
func (f *finder) noteFailure(err error) {
	f.failed = f.failed || !upstream.NotFound(err) && !errors.Is(err, upstream.ErrContent)
}

func (f *finder) tagged(ctx context.Context, tag string, attestation bool) {
	if !tagForm.MatchString(tag) { // as of a sha512 digest
		return
	}
	got, err := f.registry.Manifest(ctx, f.repo.Name, tag)
	if upstream.NotFound(err) {
		return
	}
	if err != nil {
		f.fail("the tag "+tag, signature.CosignTag, err)
		return
	}
	f.manifest(ctx, got, signature.Layer{Format: signature.CosignTag, Attestation: attestation}, func(mediaType string) bool {
		if attestation {
			return mediaType == "application/vnd.dsse.envelope.v1+json"
		}
		return mediaType == "application/vnd.dev.cosign.simplesigning.v1+json"
	})
}

// bundleType is how the media types of bundles begin, of any version.
const bundleType = "application/vnd.dev.sigstore.bundle"

// referrers reads the bundles that refer to the subject. The registry filters by type if it
// can; other artifacts may be there by the thousand.
func (f *finder) referrers(ctx context.Context) {
	refs, err := f.registry.Referrers(ctx, f.repo.Name, f.subject, bundleType+".v0.3+json")
	if err != nil {
		f.fail("the list of what refers to it", signature.Bundle, err)
		return
	}
	var index struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(refs.Index, &index); err != nil {
		f.facts.Fail(f.subject, signature.Bundle, errors.New("the list of what refers to it can't be read"))
		return
	}
	for _, desc := range index.Manifests {
		if !strings.HasPrefix(desc.ArtifactType, bundleType) {
			continue
		}
		if f.full(signature.Bundle) {
			return
		}
		got, err := f.registry.Manifest(ctx, f.repo.Name, desc.Digest.String())
		if err != nil {
			f.layers++
			f.fail("the bundle "+shortDigests(printable(desc.Digest.String(), 100)), signature.Bundle, err)
			continue
		}
		f.manifest(ctx, got, signature.Layer{Format: signature.Bundle}, func(mediaType string) bool { return strings.HasPrefix(mediaType, bundleType) })
	}
}

// full reports whether a bound is reached, and says so once.
func (f *finder) full(format string) bool {
	if f.layers < maxSigners && f.bytes < maxSignatureBytes {
		return false
	}
	text := fmt.Sprintf("it has more than %d signatures and attestations, or more than %d bytes of them; the others were not looked at", maxSigners, maxSignatureBytes)
	if !slices.ContainsFunc(f.facts.Signatures, func(s policy.Signature) bool { return s.Error == text }) {
		f.facts.Fail(f.subject, format, errors.New(text))
	}
	return true
}

// manifest verifies every layer of a manifest that is of a type that signs.
func (f *finder) manifest(ctx context.Context, got upstream.Manifest, as signature.Layer, signs func(mediaType string) bool) {
	as.Subject = f.subject
	var m ocispec.Manifest
	if err := json.Unmarshal(got.Body, &m); err != nil || len(m.Layers) == 0 {
		as.Err = errors.New("its manifest can't be read, or has no layers")
		f.layers++
		f.trust.Add(&f.facts, as)
		return
	}
	for _, desc := range m.Layers {
		if !signs(desc.MediaType) {
			continue
		}
		if f.full(as.Format) {
			return
		}
		f.layers++
		l := as
		l.Annotations = desc.Annotations
		var up *upstream.Error
		if l.Body, l.Err = f.blob(ctx, desc); errors.As(l.Err, &up) {
			f.log.Info("a signature can't be fetched", "image", f.repo.String()+"@"+f.subject.String(), "blob", desc.Digest, "error", l.Err)
			f.noteFailure(l.Err)
			l.Err = fmt.Errorf("its layer can't be fetched (%s)", upstreamReason(l.Err))
		}
		f.trust.Add(&f.facts, l)
	}
}

// blob returns a layer of at most maxSignatureBlob bytes, verified.
func (f *finder) blob(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > maxSignatureBlob || desc.Size < 0 {
		return nil, fmt.Errorf("its layer has %d bytes, more than %d", desc.Size, maxSignatureBlob)
	}
	if f.bytes += desc.Size; f.bytes > maxSignatureBytes {
		return nil, fmt.Errorf("the layers before it had %d bytes", maxSignatureBytes)
	}
	r, err := f.registry.Blob(ctx, f.repo.Name, desc)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r) // no more than desc.Size
}
