package proxy_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/bcrypt"

	"github.com/sluicegate/sluice/proxy/proxytest/sample"
	"github.com/sluicegate/sluice/scan"
)

// The callers, and what is held against an image: what nobody may have, and what only
// the one may.
const (
	admin = "admin"
	guest = "guest"

	exploited = "CVE-2021-44228"
	internal  = "CVE-2020-11023"
)

const propertyPolicy = `package sluice.policies.property

violations contains {
	"policy": name,
	"message": sprintf("it is %s", [input.scan.state]),
	"findings": [],
	"remediation": "Wait.",
} if {
	not input.scan.state in {"complete", "unsupported"}
	name := {true: "scan_timeout", false: "scan_failed"}[input.scan.state == "pending"]
}

violations contains {
	"policy": "findings",
	"message": sprintf("%s is not for %s", [f.id, input.request.caller]),
	"findings": [f.id],
	"remediation": "Ask for a waiver.",
} if {
	some f in input.findings
	not tolerated(f)
}

tolerated(f) if {
	f.id == "CVE-2020-11023"
	input.request.caller == "admin"
}
`

// A member of the cast is a manifest of the origin.
type member struct {
	name      string
	repos     []string
	mediaType string
	raw       []byte
	digest    digest.Digest

	// Of an image: config first. A thief's last layer is another image's config.
	blobs   []ocispec.Descriptor
	subject string // the image whose findings it has
	broken  bool   // no scan of it is ever complete
	// Of an index.
	children []*member
	artifact bool
}

// A cast is what every origin of a property test holds. It is made once, and never
// changed.
type cast struct {
	images, indexes, decoys []*member
	content                 map[digest.Digest][]byte
	has                     map[string]map[digest.Digest]bool // repository → blobs that upstream has there
	htpasswd                []byte
}

const (
	appRepo   = "acme/app"
	otherRepo = "acme/other"
)

func newCast(tb testing.TB) *cast {
	tb.Helper()
	c := &cast{content: map[digest.Digest][]byte{}, has: map[string]map[digest.Digest]bool{appRepo: {}, otherRepo: {}}}
	for _, name := range []string{admin, guest} {
		hash, err := bcrypt.GenerateFromPassword([]byte(name), bcrypt.MinCost)
		if err != nil {
			tb.Fatal(err)
		}
		c.htpasswd = fmt.Appendf(c.htpasswd, "%s:%s\n", name, hash)
	}
	both := []string{appRepo, otherRepo}
	shared := sample.File{Path: "opt/shared", Data: noiseOf("shared", 200_000)}
	c.build(tb, "good", both, shared, sample.File{Path: "opt/good", Data: noiseOf("good", 3000)})
	bad := c.build(tb, "bad", both, shared, sample.File{Path: "opt/bad", Data: noiseOf("bad", 150_000)}, sample.File{Path: "opt/end", Data: noiseOf("end", 900)})
	inner := c.build(tb, "inner", []string{appRepo}, sample.File{Path: "opt/inner", Data: noiseOf("inner", 120_000)}, shared)
	flip := c.build(tb, "flip", both, sample.File{Path: "opt/flip", Data: noiseOf("flip", 180_000)}, sample.File{Path: "opt/small", Data: noiseOf("small", 70_000)})
	waived := c.build(tb, "waived", both, sample.File{Path: "opt/waived", Data: noiseOf("waived", 100_000)}, shared)
	good := c.images[0]

	twin := c.list(tb, "twin", []string{appRepo}, bad.blobs, "again")
	twin.subject = "bad"
	large := slices.Clone(bad.blobs)
	large[2].Size *= 40
	liar := c.list(tb, "liar", both, append(slices.Clone(good.blobs[:1]), large[2]), "")
	liar.broken = true
	stolen := bad.blobs[0]
	stolen.MediaType = bad.blobs[1].MediaType
	thief := c.list(tb, "thief", []string{appRepo}, append(slices.Clone(good.blobs), stolen), "")
	thief.broken = true

	c.index(tb, "pair", appRepo, bad, inner)
	c.index(tb, "mixed", appRepo, good, bad, flip)
	c.index(tb, "others", otherRepo, flip, waived)
	c.decoy(tb, "decoy", appRepo, 1<<20, bad, flip, waived)
	own := *bad // without the layer that it shares
	own.blobs = []ocispec.Descriptor{bad.blobs[0], bad.blobs[2], bad.blobs[3]}
	c.decoy(tb, "exact", appRepo, 0, &own)
	c.decoy(tb, "decoy", otherRepo, 3, bad, inner, flip)
	return c
}

func noiseOf(name string, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8(sha256.Sum256([]byte(name))).Read(b)
	return b
}

// build makes an image of one layer a file.
func (c *cast) build(tb testing.TB, name string, repos []string, files ...sample.File) *member {
	tb.Helper()
	var layers [][]sample.File
	for _, f := range files {
		layers = append(layers, []sample.File{f})
	}
	img, err := sample.Build(sample.Options{}, name, layers...)
	if err != nil {
		tb.Fatal(err)
	}
	raw, err := img.RawManifest()
	if err != nil {
		tb.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		tb.Fatal(err)
	}
	if c.content[m.Config.Digest], err = img.RawConfigFile(); err != nil {
		tb.Fatal(err)
	}
	parts, err := img.Layers()
	if err != nil {
		tb.Fatal(err)
	}
	for i, layer := range parts {
		r, err := layer.Compressed()
		if err != nil {
			tb.Fatal(err)
		}
		if c.content[m.Layers[i].Digest], err = io.ReadAll(r); err != nil {
			tb.Fatal(err)
		}
	}
	p := &member{name: name, repos: repos, mediaType: string(m.MediaType), raw: raw, digest: digest.FromBytes(raw),
		blobs: append([]ocispec.Descriptor{m.Config}, m.Layers...), subject: name}
	if p.mediaType == "" {
		p.mediaType = ocispec.MediaTypeImageManifest
	}
	c.add(p)
	return p
}

// list makes an image of blobs that others have.
func (c *cast) list(tb testing.TB, name string, repos []string, blobs []ocispec.Descriptor, note string) *member {
	tb.Helper()
	m := manifestOf(blobs[0], blobs[1:]...)
	m.Annotations = map[string]string{"name": name + note}
	p := &member{name: name, repos: repos, mediaType: m.MediaType, blobs: blobs, subject: name}
	p.encode(tb, m)
	c.add(p)
	return p
}

func (c *cast) add(p *member) {
	c.images = append(c.images, p)
	for _, repo := range p.repos {
		for _, d := range p.blobs {
			c.has[repo][d.Digest] = true
		}
	}
}

func (c *cast) index(tb testing.TB, name, repo string, children ...*member) {
	tb.Helper()
	m := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for i, p := range children {
		m.Manifests = append(m.Manifests, ocispec.Descriptor{MediaType: p.mediaType, Digest: p.digest, Size: int64(len(p.raw)),
			Platform: &ocispec.Platform{OS: "linux", Architecture: []string{"amd64", "arm64", "riscv64"}[i]}})
	}
	p := &member{name: name, repos: []string{repo}, mediaType: m.MediaType, children: children}
	p.encode(tb, m)
	c.indexes = append(c.indexes, p)
}

// decoy makes an artifact that lists the blobs of images, off by some bytes.
func (c *cast) decoy(tb testing.TB, name, repo string, lie int64, of ...*member) {
	tb.Helper()
	empty := ocispec.DescriptorEmptyJSON
	empty.Data = nil
	c.content[empty.Digest] = []byte("{}")
	c.has[repo][empty.Digest] = true
	m := manifestOf(empty)
	m.ArtifactType = "application/x-decoy"
	p := &member{name: name, repos: []string{repo}, mediaType: m.MediaType, artifact: true}
	listed := map[digest.Digest]bool{}
	for _, img := range of {
		for _, d := range as("application/x-decoy", img.blobs...) {
			if !listed[d.Digest] {
				listed[d.Digest] = true
				d.Size += lie
				p.blobs = append(p.blobs, d)
				m.Layers = append(m.Layers, d)
			}
		}
	}
	p.encode(tb, m)
	c.decoys = append(c.decoys, p)
}

func (p *member) encode(tb testing.TB, v any) {
	tb.Helper()
	var err error
	if p.raw, err = json.Marshal(v); err != nil {
		tb.Fatal(err)
	}
	p.digest = digest.FromBytes(p.raw)
}

func (p *member) in(repo string) bool { return slices.Contains(p.repos, repo) }

// findings are what a database says of each subject.
type findings map[string]string

// An oracle is an engine whose findings come with its database.
type oracle struct {
	*engine
	subjects map[string]string // image digest → subject

	facts  sync.Map // database checksum → findings
	builds int
	held   bool
}

func newOracle(c *cast) *oracle {
	o := &oracle{engine: newEngine(), subjects: map[string]string{}}
	for _, p := range c.images {
		o.subjects[p.digest.String()] = p.subject
	}
	return o
}

// publish makes a new database.
func (o *oracle) publish(f findings) {
	o.builds++
	sum := fmt.Sprintf("xxh64:%d", o.builds)
	o.facts.Store(sum, maps.Clone(f))
	o.mu.Lock()
	defer o.mu.Unlock()
	o.build = sum
}

// pause lets no scan that begins from now on end before resume.
func (o *oracle) pause() {
	if !o.held {
		o.held = true
		o.hold()
	}
}

func (o *oracle) resume() {
	o.held = false
	o.release()
}

func (o *oracle) Match(ctx context.Context, sbom []byte, db scan.Database) (*scan.Matches, error) {
	o.mu.Lock()
	broken, gate := o.broken, o.gate
	o.mu.Unlock()
	select {
	case <-gate:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if broken != nil {
		return nil, broken
	}
	m := &scan.Matches{Findings: []scan.Finding{}, DistroKnown: true}
	facts, ok := o.facts.Load(db.Checksum)
	if !ok {
		return nil, fmt.Errorf("no database %s", db.Checksum)
	}
	if id := facts.(findings)[o.subjects[string(sbom)]]; id != "" {
		f := scan.Finding{ID: id, Aliases: []string{}, Severity: "critical", Package: scan.Package{Name: "log4j-core", Version: "2.14.1", Type: "java-archive"}, Fix: scan.Fix{Versions: []string{}}}
		if id == exploited {
			f.KEV = "2021-12-10"
		}
		m.Findings = append(m.Findings, f)
	}
	return m, nil
}
