package sample

import (
	"encoding/json"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// artifacts are no images, and there is nothing in them that a runtime would run.
func artifacts() map[string]maker {
	return map[string]maker{
		"cosign-signature": {"a signature as cosign stores it: an image by its config's type", (*Oddity).signature},
		"cosign-bundle":    {"a signature as a referrer", referrer("application/vnd.dev.sigstore.bundle.v0.3+json", []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`))},
		"sbom":             {"an SBOM as a referrer", referrer("application/spdx+json", []byte(`{"spdxVersion":"SPDX-2.3","SPDXID":"SPDXRef-DOCUMENT","packages":[]}`))},
		"helm-chart":       {"a Helm chart: a tar, but no root file system", (*Oddity).chart},
		"wasm":             {"a WebAssembly module", artifact("application/vnd.wasm.config.v0+json", "application/wasm", []byte("\x00asm\x01\x00\x00\x00"))},
	}
}

// artifact has a config of its own type and one layer.
func artifact(configType, layerType string, data []byte) func(*Oddity) error {
	return func(o *Oddity) error {
		return o.image(ocispec.Manifest{Config: o.blob(configType, []byte("{}")), Layers: []ocispec.Descriptor{o.blob(layerType, data)}})
	}
}

// referrer has the empty config, an artifact type and a subject that need not exist.
func referrer(artifactType string, data []byte) func(*Oddity) error {
	return func(o *Oddity) error {
		subject := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("an image"), Size: 8}
		return o.image(ocispec.Manifest{
			ArtifactType: artifactType,
			Config:       o.blob(ocispec.MediaTypeEmptyJSON, []byte("{}")),
			Layers:       []ocispec.Descriptor{o.blob(artifactType, data)},
			Subject:      &subject,
		})
	}
}

func (o *Oddity) signature() error {
	payload, err := json.Marshal(map[string]any{"critical": map[string]any{
		"identity": map[string]any{"docker-reference": "cgr.dev/chainguard/wolfi-base"},
		"image":    map[string]any{"docker-manifest-digest": digest.FromString("an image")},
		"type":     "cosign container image signature",
	}, "optional": nil})
	if err != nil {
		return err
	}
	l := o.blob("application/vnd.dev.cosign.simplesigning.v1+json", payload)
	l.Annotations = map[string]string{"dev.cosignproject.cosign/signature": "MEUCIQDxnotarealsignature"}
	return o.imageOf(l)
}

func (o *Oddity) chart() error {
	l, err := newLayer(Options{}, []File{
		{Path: "shop/Chart.yaml", Data: []byte("apiVersion: v2\nname: shop\nversion: 1.4.0\n")},
		{Path: "shop/templates/deployment.yaml", Data: []byte("kind: Deployment\n")},
	})
	if err != nil {
		return err
	}
	config := o.blob("application/vnd.cncf.helm.config.v1+json", []byte(`{"apiVersion":"v2","name":"shop","version":"1.4.0"}`))
	return o.image(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{o.blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", l.compressed)}})
}
