package sample

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An Oddity is a manifest with the blobs that belong to it, as raw as they come.
type Oddity struct {
	Name      string // a word to choose it by, and a valid tag
	Why       string // what is odd about it
	MediaType string
	Digest    digest.Digest // under which the manifest is pushed
	Manifest  []byte
	Blobs     map[digest.Digest][]byte // by the digest under which each is pushed
}

// Registry takes blobs and manifests under any digest. proxytest.Server is one.
type Registry interface {
	PutBlobAs(repository string, d digest.Digest, data []byte)
	PutManifestAs(repository, tag, mediaType string, d digest.Digest, data []byte)
}

// Push stores the oddity and tags it with its name.
func (o Oddity) Push(r Registry, repository string) {
	for d, data := range o.Blobs {
		r.PutBlobAs(repository, d, data)
	}
	r.PutManifestAs(repository, o.Name, o.MediaType, o.Digest, o.Manifest)
}

// Oddities returns all of them, in the order of their names. It takes some hundred
// milliseconds.
func Oddities() ([]Oddity, error) {
	var list []Oddity
	for _, makers := range []map[string]maker{oddLayers(), oddManifests(), artifacts()} {
		for name, m := range makers {
			o := &Oddity{Name: name, Why: m.why, MediaType: ocispec.MediaTypeImageManifest, Blobs: map[digest.Digest][]byte{}}
			if err := m.make(o); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if o.Digest == "" {
				o.Digest = digest.FromBytes(o.Manifest)
			}
			list = append(list, *o)
		}
	}
	slices.SortFunc(list, func(a, b Oddity) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Odd returns the oddity of that name.
func Odd(name string) (Oddity, error) {
	list, err := Oddities()
	if err != nil {
		return Oddity{}, err
	}
	for _, o := range list {
		if o.Name == name {
			return o, nil
		}
	}
	return Oddity{}, fmt.Errorf("no oddity is called %q", name)
}

type maker struct {
	why  string
	make func(*Oddity) error
}

// blob adds a blob and returns its descriptor.
func (o *Oddity) blob(mediaType string, data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	o.Blobs[d] = data
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

// rootfs adds a good gzip layer that holds a small Wolfi image, and returns its diff
// ID with it.
func (o *Oddity) rootfs() (ocispec.Descriptor, digest.Digest, error) {
	layers, err := wolfiLayers(Options{}, o.Name, clean())
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	l, err := newLayer(Options{}, layers[len(layers)-1])
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	return o.blob(ocispec.MediaTypeImageLayerGzip, l.compressed), digest.Digest(l.diffID.String()), nil
}

// config adds an image config.
func (o *Oddity) config(diffIDs ...digest.Digest) (ocispec.Descriptor, error) {
	data, err := json.Marshal(ocispec.Image{
		Created:  &Created,
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: diffIDs},
		Config:   ocispec.ImageConfig{User: "65532", Labels: describe(o.Name)},
	})
	return o.blob(ocispec.MediaTypeImageConfig, data), err
}

// image writes the manifest.
func (o *Oddity) image(m ocispec.Manifest) error {
	m.Versioned = specs.Versioned{SchemaVersion: 2}
	m.MediaType = o.MediaType
	var err error
	o.Manifest, err = json.Marshal(m)
	return err
}

// imageOf writes the manifest of an image whose layers are said to unpack to what
// they are.
func (o *Oddity) imageOf(layers ...ocispec.Descriptor) error {
	var diffIDs []digest.Digest
	for _, l := range layers {
		diffIDs = append(diffIDs, digest.FromBytes(inflate(o.Blobs[l.Digest])))
	}
	config, err := o.config(diffIDs...)
	if err != nil {
		return err
	}
	return o.image(ocispec.Manifest{Config: config, Layers: layers})
}

// inflate returns what data unpacks to, or data where it is not packed, or broken.
func inflate(data []byte) []byte {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return data
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return data
	}
	return text
}

func gzipped(data []byte) ([]byte, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	err := w.Close()
	return b.Bytes(), err
}

// oddManifests lie in the manifest or the config.
func oddManifests() map[string]maker {
	return map[string]maker{
		"schema1":        {"Docker's schema 1, which has neither a config nor digests that can be trusted", (*Oddity).schema1},
		"large-manifest": {"a manifest of more than 4 MiB", edit(func(m map[string]any) { m["annotations"] = map[string]string{"padding": strings.Repeat("x", 4<<20)} })},
		"invalid-json":   {"a manifest that is no JSON", func(o *Oddity) error { o.Manifest = []byte(`{"schemaVersion":2,`); return nil }},
		"unknown-type": {"a manifest of a type that nobody knows", func(o *Oddity) error {
			o.MediaType = "application/vnd.example.manifest.v9+json"
			return o.good()
		}},
		"lying-manifest": {"a manifest under a digest that is not its own", func(o *Oddity) error {
			o.Digest = digest.FromString("another manifest")
			return o.good()
		}},
		"manifests-beside-layers": {"an empty list of manifests beside layers: an index to some, an image to others", edit(func(m map[string]any) { m["manifests"] = []any{} })},
		"index-with-layers":       {"an index by its type, with an image's config and layers", editAs(ocispec.MediaTypeImageIndex, func(m map[string]any) { m["manifests"] = []any{} })},
		"empty-index": {"an index of nothing", func(o *Oddity) error {
			o.MediaType = ocispec.MediaTypeImageIndex
			o.Manifest = []byte(`{"schemaVersion":2,"mediaType":"` + o.MediaType + `","manifests":[]}`)
			return nil
		}},
		"zero-layers":      {"an image without layers", func(o *Oddity) error { return o.imageOf() }},
		"inline-data":      {"config and layer inline in the manifest, so that nobody needs to fetch them", (*Oddity).inline},
		"foreign-urls":     {"a layer that is to be fetched from elsewhere", (*Oddity).foreign},
		"wrong-diff-ids":   {"a config that names another diff ID than the layer has", func(o *Oddity) error { return o.withDiffIDs(digest.FromString("another layer")) }},
		"short-diff-ids":   {"a config with fewer diff IDs than layers", func(o *Oddity) error { return o.withDiffIDs() }},
		"config-no-json":   {"a config that is no JSON", func(o *Oddity) error { return o.withConfig(ocispec.MediaTypeImageConfig, []byte("FROM scratch\n")) }},
		"config-type-lies": {"a root file system under a Helm chart's config type", func(o *Oddity) error { return o.withConfig("application/vnd.cncf.helm.config.v1+json", []byte("{}")) }},
		"missing-layer":    {"a layer that is not there", (*Oddity).missing},
		"lying-layer":      {"a layer whose bytes are not its digest's", (*Oddity).lying},
		"short-layer":      {"a layer that is said to be longer than it is", resize(+1000)},
		"long-layer":       {"a layer that is said to be shorter than it is", resize(-1000)},
		"huge-layer":       {"a layer that is said to have an exabyte", resize(1 << 60)},
		"sha512":           {"an image all of whose digests are SHA-512", (*Oddity).sha512},
		"repeated-layer":   {"the same layer twice", (*Oddity).repeated},
	}
}

// good writes the manifest of an image in which nothing is odd.
func (o *Oddity) good() error {
	l, diffID, err := o.rootfs()
	if err != nil {
		return err
	}
	config, err := o.config(diffID)
	if err != nil {
		return err
	}
	return o.image(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{l}})
}

// edit changes the JSON of a good manifest.
func edit(change func(map[string]any)) func(*Oddity) error {
	return editAs(ocispec.MediaTypeImageManifest, change)
}

func editAs(mediaType string, change func(map[string]any)) func(*Oddity) error {
	return func(o *Oddity) error {
		o.MediaType = mediaType
		if err := o.good(); err != nil {
			return err
		}
		var m map[string]any
		if err := json.Unmarshal(o.Manifest, &m); err != nil {
			return err
		}
		change(m)
		var err error
		o.Manifest, err = json.Marshal(m)
		return err
	}
}

// resize changes what the manifest says of the layer's size.
func resize(by int64) func(*Oddity) error {
	return edit(func(m map[string]any) {
		l := m["layers"].([]any)[0].(map[string]any)
		l["size"] = int64(l["size"].(float64)) + by
	})
}

func (o *Oddity) schema1() error {
	l, _, err := o.rootfs()
	if err != nil {
		return err
	}
	o.MediaType = string(types.DockerManifestSchema1)
	o.Manifest = fmt.Appendf(nil, `{"schemaVersion":1,"name":"odd/schema1","tag":"schema1","architecture":"amd64",`+
		`"fsLayers":[{"blobSum":%q}],"history":[{"v1Compatibility":"{\"id\":\"a\",\"os\":\"linux\"}"}]}`, l.Digest)
	return nil
}

func (o *Oddity) inline() error {
	l, diffID, err := o.rootfs()
	if err != nil {
		return err
	}
	config, err := o.config(diffID)
	if err != nil {
		return err
	}
	config.Data, l.Data = o.Blobs[config.Digest], o.Blobs[l.Digest]
	return o.image(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{l}})
}

func (o *Oddity) foreign() error {
	l, diffID, err := o.rootfs()
	if err != nil {
		return err
	}
	away := digest.FromString("a layer that lies elsewhere")
	config, err := o.config(diffID, away)
	if err != nil {
		return err
	}
	return o.image(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{l, {
		MediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		Digest:    away, Size: 123456, URLs: []string{"https://layers.example.com/away"},
	}}})
}

func (o *Oddity) withDiffIDs(diffIDs ...digest.Digest) error {
	l, _, err := o.rootfs()
	if err != nil {
		return err
	}
	config, err := o.config(diffIDs...)
	if err != nil {
		return err
	}
	return o.image(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{l}})
}

func (o *Oddity) withConfig(mediaType string, data []byte) error {
	l, _, err := o.rootfs()
	if err != nil {
		return err
	}
	return o.image(ocispec.Manifest{Config: o.blob(mediaType, data), Layers: []ocispec.Descriptor{l}})
}

func (o *Oddity) missing() error {
	l, diffID, err := o.rootfs()
	if err != nil {
		return err
	}
	away := digest.FromString("a layer that is nowhere")
	config, err := o.config(diffID, away)
	if err != nil {
		return err
	}
	return o.image(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{l, {
		MediaType: ocispec.MediaTypeImageLayerGzip, Digest: away, Size: 4096,
	}}})
}

func (o *Oddity) lying() error {
	l, diffID, err := o.rootfs()
	if err != nil {
		return err
	}
	config, err := o.config(diffID)
	if err != nil {
		return err
	}
	// Under a digest of its own, so that no good image loses its bytes.
	data := slices.Clone(o.Blobs[l.Digest])
	delete(o.Blobs, l.Digest)
	l.Digest = digest.FromString("a layer of other bytes")
	o.Blobs[l.Digest] = data
	return o.image(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{l}})
}

func (o *Oddity) sha512() error {
	if err := o.good(); err != nil {
		return err
	}
	text := string(o.Manifest)
	for _, d := range slices.Collect(maps.Keys(o.Blobs)) {
		long := digest.SHA512.FromBytes(o.Blobs[d])
		text = strings.ReplaceAll(text, d.String(), long.String())
		o.Blobs[long] = o.Blobs[d]
		delete(o.Blobs, d)
	}
	o.Manifest = []byte(text)
	o.Digest = digest.SHA512.FromBytes(o.Manifest)
	return nil
}

func (o *Oddity) repeated() error {
	l, _, err := o.rootfs()
	if err != nil {
		return err
	}
	return o.imageOf(l, l)
}
