package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/scan"
)

const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	schema1        = "application/vnd.docker.distribution.manifest.v1+json"
	schema1Signed  = "application/vnd.docker.distribution.manifest.v1+prettyjws"

	maxManifest = 4 << 20 // bytes; the least that the distribution specification asks of registries, and what clients accept
	maxConfig   = 8 << 20 // bytes; real ones are a few kB
	maxLayers   = 1000    // descriptors in a manifest; overlayfs stops at 500
	maxChildren = 1000    // descriptors in an index
	maxBlob     = 1 << 40 // bytes that a descriptor may declare
)

type manifestKind int

const (
	kindImage    manifestKind = iota // must be scanned before it is allowed
	kindArtifact                     // nothing that a runtime would run
	kindIndex
)

// A manifest is a parsed manifest or index, and the exact bytes that its digest is of.
type manifest struct {
	Digest    digest.Digest
	MediaType string
	Body      []byte

	kind     manifestKind
	config   ocispec.Descriptor
	layers   []ocispec.Descriptor // of an image or artifact
	children []ocispec.Descriptor // of an index
	inline   bool                 // config or a layer carries its content in "data"
	names    []string             // what it is killed by: its digests by either algorithm, and those of its blobs
	foreign  string               // the blob that is fetched past the gateway, empty where none is
}

// descriptors returns the blobs that m lists, its config first.
func (m *manifest) descriptors() []ocispec.Descriptor {
	if m.kind == kindIndex {
		return nil
	}
	return append([]ocispec.Descriptor{m.config}, m.layers...)
}

// parseManifest reads a manifest as a hostile runtime might: whatever two clients
// could read differently is refused. The error is an *Error with a reason for people.
func parseManifest(mediaType string, d digest.Digest, body []byte) (*manifest, error) {
	m := &manifest{Digest: d, MediaType: mediaType, Body: body}
	if len(body) > maxManifest {
		return nil, refuse("its manifest is larger than 4 MiB")
	}
	m.names = []string{digest.SHA256.FromBytes(body).String(), digest.SHA512.FromBytes(body).String()}
	switch mediaType {
	case schema1, schema1Signed:
		return nil, refuse("its manifest is of Docker schema 1, which no scanner can vouch for; push it again with a current client")
	case ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, dockerManifest, dockerList:
	default:
		return nil, refuse("its manifest has the media type " + printable(mediaType, 100) + ", which this gateway does not know")
	}
	if err := uniqueKeys(body); err != nil {
		return nil, refuse("its manifest is no plain JSON object: " + err.Error())
	}
	var doc struct {
		SchemaVersion int                  `json:"schemaVersion"`
		MediaType     string               `json:"mediaType"`
		Config        *ocispec.Descriptor  `json:"config"`
		Layers        []ocispec.Descriptor `json:"layers"`
		Manifests     []ocispec.Descriptor `json:"manifests"`
		FSLayers      json.RawMessage      `json:"fsLayers"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, refuse("its manifest can't be read: " + printable(err.Error(), 120))
	}
	switch {
	case doc.FSLayers != nil || doc.SchemaVersion != 2:
		return nil, refuse("its manifest is not of schema version 2")
	case doc.MediaType != "" && doc.MediaType != mediaType:
		return nil, refuse("its manifest calls itself " + printable(doc.MediaType, 100) + " but was served as " + mediaType)
	}
	isIndex := mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerList
	hasLayers, hasManifests := topKeys(body)
	if isIndex != (doc.Config == nil) || isIndex == hasLayers || isIndex != hasManifests {
		return nil, refuse("its manifest mixes an image (config, layers) with an index (manifests), so clients would read it differently")
	}
	if isIndex {
		m.kind, m.children = kindIndex, doc.Manifests
		if err := checkDescriptors("manifests", m.children, maxChildren); err != nil {
			return nil, err
		}
		return m, checkChildren(m.children)
	}
	m.config, m.layers = *doc.Config, doc.Layers
	if err := checkDescriptors("config", []ocispec.Descriptor{m.config}, 1); err != nil {
		return nil, err
	}
	if err := checkDescriptors("layers", m.layers, maxLayers); err != nil {
		return nil, err
	}
	for i, desc := range m.descriptors() {
		m.names = append(m.names, desc.Digest.String())
		m.inline = m.inline || len(desc.Data) > 0
		switch {
		case len(desc.URLs) == 0 || m.foreign != "":
		case i == 0:
			m.foreign = "its config"
		default:
			m.foreign = fmt.Sprintf("layers[%d] of its manifest", i-1)
		}
	}
	m.kind = kindArtifact
	class, err := scan.Classify(body)
	if err != nil || class == scan.Candidate {
		m.kind = kindImage
	}
	return m, nil
}

func checkDescriptors(field string, ds []ocispec.Descriptor, most int) error {
	if len(ds) > most {
		return refuse(fmt.Sprintf("its manifest lists %d %s, more than %d", len(ds), field, most))
	}
	for i, d := range ds {
		switch {
		case d.Digest.Validate() != nil || (d.Digest.Algorithm() != digest.SHA256 && d.Digest.Algorithm() != digest.SHA512):
			return refuse(fmt.Sprintf("%s[%d] of its manifest has no sha256 or sha512 digest", field, i))
		case d.Size < 0 || d.Size > maxBlob:
			return refuse(fmt.Sprintf("%s[%d] of its manifest declares a size of %d bytes", field, i, d.Size))
		}
	}
	return nil
}

// checkChildren refuses an index whose children needn't be asked for: a child that
// stands in the index, or elsewhere, never passes the gate, and may itself hold config
// and layers.
func checkChildren(ds []ocispec.Descriptor) error {
	for i, d := range ds {
		switch {
		case len(d.Data) > 0:
			return refuse(fmt.Sprintf("manifests[%d] of its index carries its content inline", i))
		case len(d.URLs) > 0:
			return refuse(fmt.Sprintf("manifests[%d] of its index is fetched from a foreign address, past the gateway", i))
		}
	}
	return nil
}

// refuse denies an image whose manifest can't be gated.
func refuse(why string) *Error {
	return &Error{Status: http.StatusForbidden, Code: codeDenied, Message: "blocked by policy: this image can't be scanned: " + why,
		Detail: map[string]any{"cause": scan.CauseScanFailed}}
}

// topKeys reports which keys the JSON object body has at its top, even with null in
// them, and in whatever case.
func topKeys(body []byte) (layers, manifests bool) {
	var keys map[string]json.RawMessage
	if json.Unmarshal(body, &keys) != nil {
		return false, false
	}
	for k := range keys {
		layers = layers || strings.EqualFold(k, "layers")
		manifests = manifests || strings.EqualFold(k, "manifests")
	}
	return layers, manifests
}

// uniqueKeys reports an object in body, at any depth, with two keys that a client
// might take for one: Go matches names whatever their case and lets the last win,
// others match exactly or let the first win.
func uniqueKeys(body []byte) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	t, err := dec.Token()
	if err != nil {
		return errors.New("not JSON")
	}
	if t != json.Delim('{') {
		return errors.New("not an object")
	}
	if err := uniqueObject(dec, 0, true); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something follows the object")
	}
	return nil
}

const maxJSONDepth = 32

// uniqueObject reads an object whose opening brace has been read. fold is false in
// annotations, whose keys are free text.
func uniqueObject(dec *json.Decoder, depth int, fold bool) error {
	if depth > maxJSONDepth {
		return errors.New("nested too deeply")
	}
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return errors.New("not JSON")
		}
		key := t.(string)
		if fold && strings.ContainsFunc(key, func(r rune) bool { return r > unicode.MaxASCII }) {
			return fmt.Errorf("the key %q holds letters that some clients take for others", printable(key, 40))
		}
		if fold {
			key = strings.ToLower(key)
		}
		if seen[key] {
			return fmt.Errorf("the key %q stands twice in one object", printable(key, 40))
		}
		seen[key] = true
		if err := uniqueValue(dec, depth, key != "annotations"); err != nil {
			return err
		}
	}
	_, err := dec.Token()
	return err
}

func uniqueValue(dec *json.Decoder, depth int, fold bool) error {
	t, err := dec.Token()
	if err != nil {
		return errors.New("not JSON")
	}
	switch t {
	case json.Delim('{'):
		return uniqueObject(dec, depth+1, fold)
	case json.Delim('['):
		if depth > maxJSONDepth {
			return errors.New("nested too deeply")
		}
		for dec.More() {
			if err := uniqueValue(dec, depth+1, fold); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	}
	return err
}
