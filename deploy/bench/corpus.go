package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"github.com/sluicegate/sluice/proxy/proxytest/sample"
)

// A corpus is what is pulled.
type corpus struct {
	small *image // like Chainguard's wolfi-base
	large *image // image A: an application on a full distribution
	big   *image // image B, nil where it isn't asked for
	ten   *image // of ten layers
	warm  *image // one large blob and many small ones, of which nothing can be compressed
	heavy *image // what a hundred clients pull at once
	light *image // a tenth of that
}

const (
	bigShare   = 2.4 // of image A with invented contents
	tenLayers  = 10
	heavyBlob  = 200e6
	largeBlob  = 256 << 20
	smallBlob  = 1 << 20
	smallBlobs = 32
)

// newCorpus makes the images. dir keeps what takes long to make.
func newCorpus(ctx context.Context, dir string, o options) (*corpus, error) {
	var c corpus
	var err error
	if c.small, err = smallImage(); err != nil {
		return nil, fmt.Errorf("make the small image: %w", err)
	}
	sizes := append([]int{largeBlob}, slices.Repeat([]int{smallBlob}, smallBlobs)...)
	if c.warm, err = noiseImage("bench/warm", "a blob of 256 MiB, and blobs of 1 MiB", sizes...); err != nil {
		return nil, fmt.Errorf("make the image of large blobs: %w", err)
	}
	if c.ten, err = tenImage(); err != nil {
		return nil, fmt.Errorf("make the image of ten layers: %w", err)
	}
	if c.heavy, err = noiseImage("bench/heavy", "an image of 200 MB", heavyBlob); err != nil {
		return nil, fmt.Errorf("make the heavy image: %w", err)
	}
	if c.light, err = noiseImage("bench/light", "an image of 20 MB", heavyBlob/10); err != nil {
		return nil, fmt.Errorf("make the light image: %w", err)
	}
	if c.large, err = largeImage(ctx, dir, o); err != nil {
		return nil, fmt.Errorf("make image A: %w", err)
	}
	if o.big {
		layers, err := inventedLayers(bigShare)
		if err == nil {
			c.big, err = newImage("bench/b", "B, Debian-like with invented contents", layers)
		}
		if err != nil {
			return nil, fmt.Errorf("make image B: %w", err)
		}
	}
	return &c, nil
}

func smallImage() (*image, error) {
	layers, err := wolfi(sample.Options{Filler: 5 << 20})
	if err != nil {
		return nil, err
	}
	return newImage("bench/small", "small, as Chainguard's wolfi-base", layers)
}

func wolfi(o sample.Options) ([]*layer, error) {
	img, err := sample.WolfiClean(o)
	if err != nil {
		return nil, err
	}
	return layersOf(img)
}

// largeImage is a real Debian where mmdebstrap can make one, and else one of invented
// contents that costs a scanner about as much.
func largeImage(ctx context.Context, dir string, o options) (*image, error) {
	if o.quick {
		layers, err := inventedLayers(0.1)
		if err != nil {
			return nil, err
		}
		return newImage("bench/a", "a tenth of A, Debian-like with invented contents", layers)
	}
	if !o.invented {
		rootfs, err := debian(ctx, filepath.Join(dir, "debian.tar"))
		if err == nil {
			layers, err := debianLayers(rootfs)
			if err != nil {
				return nil, err
			}
			return newImage("bench/a", "A, Debian with Python, Node.js and Java by mmdebstrap", layers)
		}
		if !errors.Is(err, errNoDebian) {
			return nil, err
		}
		fmt.Fprintln(os.Stderr, err)
	}
	layers, err := inventedLayers(1)
	if err != nil {
		return nil, err
	}
	return newImage("bench/a", "A, Debian-like with invented contents", layers)
}

// tenImage has layers of 12 MiB on top of what wolfi has, ten in all: so many that the
// manifest is served before they are here.
func tenImage() (*image, error) {
	base, err := wolfi(sample.Options{})
	if err != nil {
		return nil, err
	}
	return noiseImage("bench/ten", "ten layers, on Chainguard's wolfi-base", slices.Repeat([]int{12 << 20}, tenLayers-len(base))...)
}

// noiseImage has a layer of each size, of which nothing can be compressed, on top of a
// wolfi base.
func noiseImage(repo, about string, sizes ...int) (*image, error) {
	layers, err := wolfi(sample.Options{})
	if err != nil {
		return nil, err
	}
	noise := rand.NewChaCha8(sha256.Sum256([]byte(repo)))
	for i, size := range sizes {
		// Stored, not compressed: the tar and its wrapping come on top.
		p, err := newPacker(0)
		if err != nil {
			return nil, err
		}
		data := make([]byte, size)
		noise.Read(data)
		h := &tar.Header{Name: fmt.Sprintf("opt/noise/%03d", i), Mode: 0o644, Size: int64(size), Format: tar.FormatUSTAR}
		if err := p.add(h, bytes.NewReader(data)); err != nil {
			return nil, err
		}
		l, err := p.close()
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	return newImage(repo, about, layers)
}

// The blobs that warm throughput is measured with.
func (c *corpus) largeBlob() blob    { return c.warm.blobs[len(c.warm.blobs)-smallBlobs-1] }
func (c *corpus) smallBlobs() []blob { return c.warm.blobs[len(c.warm.blobs)-smallBlobs:] }
