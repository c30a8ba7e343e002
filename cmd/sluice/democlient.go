package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
)

// pullProgress counts what a pull has received.
type pullProgress struct {
	mu    sync.Mutex // guards all
	got   int64
	total int64
	blobs []v1.Descriptor
}

func (p *pullProgress) add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got += n
}

func (p *pullProgress) expect(d v1.Descriptor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total += d.Size
	p.blobs = append(p.blobs, d)
}

func (p *pullProgress) sum() (got, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got, p.total
}

// largest returns the blob that has the most bytes.
func (p *pullProgress) largest() digest.Digest {
	p.mu.Lock()
	defer p.mu.Unlock()
	var most v1.Descriptor
	for _, b := range p.blobs {
		if b.Size > most.Size {
			most = b
		}
	}
	return digest.Digest(most.Digest.String())
}

// pullImage pulls an image as docker does: the manifest, then config and layers side
// by side, and checks every digest. Of several failures it returns one that says why,
// where there is one.
func pullImage(ctx context.Context, ref string, p *pullProgress) (map[v1.Hash]int64, error) {
	if p == nil {
		p = &pullProgress{}
	}
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	puller, err := remote.NewPuller(remote.WithContext(ctx), remote.WithTransport(noProxy()))
	if err != nil {
		return nil, err
	}
	got, err := puller.Get(ctx, r)
	if err != nil {
		return nil, err
	}
	img, err := got.Image()
	if err != nil {
		return nil, err
	}
	m, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	blobs := append([]v1.Descriptor{m.Config}, m.Layers...)
	errs := make([]error, len(blobs))
	var wg sync.WaitGroup
	for i, d := range blobs {
		p.expect(d)
		wg.Go(func() { errs[i] = pullBlob(ctx, puller, r, d, p) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && strings.Contains(err.Error(), "DENIED") {
			return nil, err
		}
	}
	sizes := map[v1.Hash]int64{}
	for _, d := range blobs {
		sizes[d.Digest] = d.Size
	}
	return sizes, errors.Join(errs...)
}

func pullBlob(ctx context.Context, puller *remote.Puller, r name.Reference, d v1.Descriptor, p *pullProgress) error {
	layer, err := puller.Layer(ctx, r.Context().Digest(d.Digest.String()))
	if err != nil {
		return err
	}
	body, err := layer.Compressed() // verifies the digest at its end
	if err != nil {
		return err
	}
	defer body.Close()
	n, err := io.Copy(countingWriter{p}, body)
	if err == nil && n != d.Size {
		err = fmt.Errorf("blob %s: %d bytes of %d", d.Digest, n, d.Size)
	}
	return err
}

type countingWriter struct{ p *pullProgress }

func (w countingWriter) Write(b []byte) (int, error) {
	w.p.add(int64(len(b)))
	return len(b), nil
}

// otherClient repeats the two pulls with a client that people use, where one is here.
func (d *demo) otherClient(ctx context.Context) {
	c := findClient(ctx)
	if c == nil {
		return
	}
	d.step("8. The same with " + c.name)
	out, err := c.pull(ctx, d.gateway+"/acme/web:1", d.dir)
	d.expect(err == nil, "%s could not pull acme/web:1: %v\n%s", c.name, err, out)
	if err == nil {
		d.say("   %s acme/web:1", d.p.good("pulled"))
	}
	out, err = c.pull(ctx, d.gateway+"/acme/orders:1", d.dir)
	d.expect(err != nil && strings.Contains(out, "CVE-2021-44228"), "%s should have been told why acme/orders:1 is denied:\n%s", c.name, out)
	d.say("   %s %s", d.p.bad("denied:"), d.p.dim(clean(lastLine(out))))
}

// An outsider is a client that may be on the machine.
type outsider struct {
	name string
	args func(ref, dir string) []string
}

// findClient returns the first client that is here and works.
func findClient(ctx context.Context) *outsider {
	for _, c := range []outsider{
		{"docker", func(ref, _ string) []string { return []string{"docker", "pull", "--quiet", ref} }},
		{"skopeo", func(ref, dir string) []string {
			return []string{"skopeo", "copy", "--src-tls-verify=false", "docker://" + ref, "dir:" + dir + "/skopeo"}
		}},
		{"crane", func(ref, dir string) []string { return []string{"crane", "pull", ref, dir + "/crane.tar"} }},
	} {
		check := []string{c.name, "version"}
		if c.name == "skopeo" {
			check[1] = "--version"
		}
		probe, cancel := context.WithTimeout(ctx, 5*time.Second) // docker's client waits for an engine
		err := exec.CommandContext(probe, check[0], check[1:]...).Run()
		cancel()
		if err == nil {
			return &c
		}
	}
	return nil
}

func (c *outsider) pull(ctx context.Context, ref, dir string) (string, error) {
	args := c.args(ref, dir)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	return string(out), err
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
