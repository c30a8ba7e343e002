package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/disk"
	"github.com/sluicegate/sluice/cache/spool"
	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/scan"
)

func scanCommand(g *global) *cobra.Command {
	var platform string
	cmd := &cobra.Command{
		Use:   "scan IMAGE",
		Short: "Scan an image and decide, without a gateway",
		Long: `Fetch, scan and decide as a gateway would, in this process: for CI. IMAGE is a reference
in a registry, or oci:DIR, oci-archive:FILE or docker-archive:FILE. Pull tokens that were
set for a configured upstream are used for it, and Docker's logins for other registries.
While a gateway runs on this state folder, it alone has the tokens that were set: then
give one in the environment (SLUICE_CGR_DEV_USERNAME and SLUICE_CGR_DEV_PASSWORD for
cgr.dev), or ask the gateway with sluice verdict.

The database is that of the state folder: see sluice db.
Exit status: 0 allowed, 1 denied, 2 usage, 3 could not find out.`,
		Example: "  sluice scan cgr.dev/chainguard/python:latest\n  sluice scan docker-archive:app.tar -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.load()
			if err != nil {
				return err
			}
			if err := checkPlatform(platform); err != nil {
				return err
			}
			defer outlivePipe()()
			a, err := scanImage(cmd.Context(), c, args[0], platform)
			if err != nil {
				return err
			}
			return report(cmd.OutOrStdout(), g, a)
		},
	}
	cmd.Flags().StringVar(&platform, "platform", "linux/"+runtime.GOARCH, "os/arch[/variant] of an image for several platforms")
	return cmd
}

// scanImage is the gateway's pipeline for one image.
func scanImage(ctx context.Context, c configs.Config, ref, platform string) (a policy.Answer, err error) {
	log := slog.New(slog.DiscardHandler)
	work, err := os.MkdirTemp("", "sluice-scan-")
	if err != nil {
		return a, err
	}
	defer os.RemoveAll(work)
	c.Spool.Dir = work
	c.Scan.Workers = 1
	h := &house{config: c, log: log}
	defer func() { err = errors.Join(err, h.close()) }()
	if h.store, err = scanStore(ctx, c); err != nil {
		return a, err
	}
	_, h.forgetful = h.store.(*cache.Memory)
	h.closers = append(h.closers, h.store.Close)
	if h.layers, err = spool.Open(filepath.Join(work, "layers"), int64(c.Spool.LayersQuota)); err != nil {
		return a, err
	}
	h.closers = append(h.closers, h.layers.Close)
	if err := h.openScanner(); err != nil {
		return a, err
	}
	if _, _, _, ok := c.Policy.Bundle.Artifact(); ok {
		if err := h.openConnections(); err != nil {
			return a, err
		}
	}
	if err := h.openPolicy(ctx); err != nil {
		return a, err
	}
	for _, dir := range h.policyDirs() {
		if text := h.policies[dir].Status().LastError; text != "" { // a gateway goes on and logs it
			return a, errors.New(text)
		}
	}
	img, in, err := openImage(ctx, h, ref, platform, work)
	if err != nil {
		return a, err
	}
	p := newProgress("scanning " + ref)
	defer p.done()
	v, err := h.scanOne(ctx, img, &in, p)
	if err != nil {
		return a, err
	}
	in.Scan, in.Findings, in.Now = v.Scan, v.Findings, time.Now().UTC()
	engine := h.policies[h.policyDir(in.Image.Registry)]
	if err := in.AddPackages(ctx, engine, h.scanner); err != nil {
		return a, err
	}
	if err := h.addSignatures(ctx, engine, &in); err != nil {
		return a, err
	}
	return policy.NewAnswer(in, engine.Decide(ctx, in)), nil
}

// scanStore is what a scan remembers: the gateway's own store where no gateway has it
// open, else nothing beyond this scan.
func scanStore(ctx context.Context, c configs.Config) (cache.Store, error) {
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("state_dir: %w", err)
	}
	if running(c) != nil {
		return &cache.Memory{}, nil
	}
	s, err := openStore(ctx, c, nil)
	if errors.Is(err, disk.ErrInUse) {
		return &cache.Memory{}, nil
	}
	return s, err
}

// scanOne reads every layer of an image through the scanner.
func (h *house) scanOne(ctx context.Context, img v1.Image, in *policy.Input, p *progress) (*scan.Verdict, error) {
	image, err := imageOf(img, in)
	if err != nil {
		return nil, err
	}
	class, err := scan.Classify(image.Manifest)
	if err == nil && class == scan.Artifact {
		return &scan.Verdict{Scan: scan.Summary{State: scan.Unsupported, Coverage: scan.Coverage{DistroKnown: true, Problems: []scan.Problem{}}}, Findings: []scan.Finding{}}, nil
	}
	sc, err := h.scanner.Begin(ctx, image)
	if err != nil {
		return nil, err
	}
	defer sc.Close()
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	var total, done int64
	for _, d := range image.Layers {
		total += d.Size
	}
	for i, l := range layers {
		report := func(n int64) { p.bytes(done+n, total) }
		if sc.Needs(i) {
			err = scanLayer(ctx, sc, i, l, report)
		} else { // known by its digest, which what lies here must still have
			err = checkLayer(i, l, image.Layers[i], report)
		}
		if err != nil {
			return nil, err
		}
		done += image.Layers[i].Size
	}
	p.say("cataloguing and matching")
	return sc.Finish(ctx)
}

func scanLayer(ctx context.Context, sc *scan.Scan, i int, l v1.Layer, report func(int64)) error {
	r, err := l.Compressed()
	if err != nil {
		return fmt.Errorf("layer %d: %w", i, err)
	}
	defer r.Close()
	return sc.Layer(ctx, i, &countingReader{r: r, report: report})
}

func checkLayer(i int, l v1.Layer, want ocispec.Descriptor, report func(int64)) error {
	r, err := l.Compressed()
	if err != nil {
		return fmt.Errorf("layer %d: %w", i, err)
	}
	defer r.Close()
	v := want.Digest.Verifier()
	n, err := io.Copy(v, &countingReader{r: r, report: report})
	if err != nil {
		return fmt.Errorf("layer %d: %w", i, err)
	}
	if n != want.Size || !v.Verified() {
		return fmt.Errorf("layer %d: what is there is not %s of %d bytes, which the manifest names", i, want.Digest, want.Size)
	}
	return nil
}

// imageOf gathers the exact bytes of an image, and what they claim.
func imageOf(img v1.Image, in *policy.Input) (scan.Image, error) {
	manifest, err := img.RawManifest()
	if err != nil {
		return scan.Image{}, err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return scan.Image{}, err
	}
	mediaType, err := img.MediaType()
	if err != nil {
		return scan.Image{}, err
	}
	var m ocispec.Manifest
	if err := unmarshal("manifest", manifest, &m); err != nil {
		return scan.Image{}, err
	}
	d := digest.FromBytes(manifest)
	in.Image.Digest, in.Image.MediaType = d.String(), string(mediaType)
	in.Image.Describe(manifest, config)
	return scan.Image{Reference: in.Image.Reference, Digest: d, MediaType: string(mediaType), Manifest: manifest, Config: config, Layers: m.Layers}, nil
}
